"""Fits and predictions with embeddings: the formats of their files, errors, and features that hold their values."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from support.bio_tables import settings, table

from subquad.bio import BioModel, ScanSettings, fit, predict, read_table
from subquad.bio.commands.design import design
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.guides import guides
from subquad.bio.commands.scan import scan
from subquad.bio.data.dataset import Dataset, InputSchema, with_both_strands
from subquad.bio.data.embeddings import Embeddings, read_embeddings, sequences_fingerprint, write_embeddings
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.models.baselines import Baseline, fit_baseline
from subquad.bio.models.training_data import check_trainable, prepare
from subquad.errors import SubquadError
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

DIMENSIONS = 5


@pytest.fixture
def rows(tmp_path):
    """Return a table with embeddings whose first two numbers determine the score, and the embeddings."""
    frame, random = table(tmp_path / "t.csv"), np.random.default_rng(1)
    mean = random.normal(size=(len(frame), DIMENSIONS)).astype(np.float32) * [1, 2, 3, 100, 0.01] + [0, 5, 0, 1000, 0]
    frame["score"] = (mean[:, 0] - mean[:, 1]).round(4)
    frame.to_csv(tmp_path / "t.csv", index=False)
    return frame, mean.astype(np.float32)


def own_file(path, frame, mean, **more):
    write_embeddings(path, Embeddings(mean=mean, model="esm/small", **more), frame["sequence"].tolist())
    return str(path)


def written(path, values):
    match path.suffix:
        case ".npy":
            np.save(path, values)
        case ".npz":
            np.savez(path, vectors=values)
        case ".h5":
            with h5py.File(path, "w") as file:
                file["group/vectors"] = values
    return str(path)


def test_a_file_with_other_arrays_than_embeddings_is_refused(rows, tmp_path):
    frame, mean = rows
    path = own_file(tmp_path / "e.safetensors", frame, mean)
    tensors, header = read_tensors_and_metadata(Path(path))
    write_tensors(path, {**tensors, "extra": tensors["mean"]}, header)
    with pytest.raises(SubquadError, match="cannot be read as embeddings"):
        read_table(tmp_path / "t.csv", settings(embeddings=path))
    residues, lengths = torch.zeros(8, DIMENSIONS, dtype=torch.float16), torch.tensor([8])
    write_tensors(path, {**tensors, "residues": residues, "lengths": lengths}, header)
    with pytest.raises(SubquadError, match="the lengths of the rows do not fit the vectors of letters"):
        read_table(tmp_path / "t.csv", settings(embeddings=path))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_plain_arrays_are_read_in_the_order_of_the_table(rows, tmp_path, ending):
    _, mean = rows
    path = written(tmp_path / f"e{ending}", mean.astype(np.float64))
    read = read_table(tmp_path / "t.csv", settings(embeddings=path))
    np.testing.assert_array_equal(read.inputs.embedding, mean)
    assert read.schema.embedding.dimensions == DIMENSIONS
    assert read.remarks[-1] == f"{path}: embeddings by another program (5 numbers) are inputs of the models"
    assert InputSchema.from_dict(read.schema.as_dict()) == read.schema


def test_scores_are_the_last_covariate_and_missing_ones_get_the_median(rows, tmp_path):
    frame, mean = rows
    scores = np.arange(len(frame), dtype=np.float32)
    scores[[3, 7]] = np.nan
    path = own_file(tmp_path / "e.safetensors", frame, mean, scores=scores)
    frame.assign(gc=frame["sequence"].str.count("G")).to_csv(tmp_path / "t.csv", index=False)
    read = read_table(tmp_path / "t.csv", settings(embeddings=path, covariates=("gc",)))
    assert read.inputs.covariates.shape == (len(frame), 2)
    median = np.nanmedian(scores)
    np.testing.assert_array_equal(read.inputs.covariates[:, 1], np.where(np.isnan(scores), median, scores))
    assert read.schema.embedding.median_score == median
    assert any("2 variants without a score (stop codons) get the median, 106" in remark for remark in read.remarks)


def test_features_hold_the_embedding_centred_and_scaled_by_the_training_rows(rows, tmp_path):
    frame, mean = rows
    mean[:, 2] = 7.0
    path = written(tmp_path / "e.npy", mean)
    inputs = read_table(tmp_path / "t.csv", settings(embeddings=path)).inputs
    train = inputs.take(np.arange(0, len(frame), 2))
    features = SequenceFeatures.for_inputs(train)
    own = features.of_block("embedding")
    # the constant number is left out
    kept = [0, 1, 3, 4]
    expected = (mean - mean[::2].mean(0, dtype=np.float64))[:, kept] / mean[::2].std(0, dtype=np.float64)[kept]
    np.testing.assert_allclose(own.matrix(inputs).toarray(), expected, atol=1e-5)
    assert own.names() == [f"embedding {k + 1}" for k in kept]
    everything = features.matrix(inputs).toarray()
    np.testing.assert_array_equal(everything[:, features.blocks == "embedding"], own.matrix(inputs).toarray())
    assert features.count > len(kept)
    assert SequenceFeatures.from_dict(features.as_dict()) == features


def test_a_baseline_on_the_embedding_alone_finds_what_only_the_embedding_says(rows, tmp_path):
    frame, mean = rows
    path = written(tmp_path / "e.npy", mean)
    read = read_table(tmp_path / "t.csv", settings(embeddings=path))
    split = {"train": np.arange(0, 120), "validation": np.arange(120, 160), "test": np.arange(160, len(frame))}
    dataset = read.with_split(split)
    found = fit_baseline("embedding-ridge", dataset)
    found.save(tmp_path / "e.safetensors")
    inputs, truth = dataset.part("test")
    predicted = Baseline.load(tmp_path / "e.safetensors").predict(inputs)
    np.testing.assert_allclose(predicted, found.predict(inputs))
    assert np.corrcoef(predicted[:, 0], truth.y[:, 0])[0, 1] > 0.99
    np.testing.assert_allclose(predicted, truth.y, atol=0.2)
    # other letters change nothing
    other = Baseline.load(tmp_path / "e.safetensors").predict(replace(inputs, codes=inputs.codes[::-1].copy()))
    np.testing.assert_array_equal(other, predicted)


def test_both_strands_of_a_row_have_its_embedding(rows, tmp_path):
    _, mean = rows
    path = written(tmp_path / "e.npy", mean)
    read = read_table(tmp_path / "t.csv", settings(embeddings=path, strands="both"))
    train = np.array([4, 9])
    dataset = Dataset(inputs=read.inputs, target=read.target, split={"train": train, "validation": train[:0]})
    both = with_both_strands(dataset)
    np.testing.assert_array_equal(both.inputs.embedding[both.split["train"]], mean[[4, 9, 4, 9]])


def test_equal_sequences_with_different_embeddings_are_something_to_learn_from(rows, tmp_path):
    _, mean = rows
    read = read_table(tmp_path / "t.csv", settings(embeddings=written(tmp_path / "e.npy", mean)))
    same = replace(read.inputs, codes=np.ones_like(read.inputs.codes))
    dataset = Dataset(inputs=same, target=read.target, split={"train": np.arange(20)})
    assert prepare(dataset).positions.tolist() == [0]
    for more in ({}, {"is_double_stranded": True}):
        alone = replace(dataset, inputs=replace(same, embedding=None, **more))
        with pytest.raises(SubquadError, match="all training sequences are the same"):
            check_trainable(alone)


@pytest.mark.long
def test_a_saved_run_predicts_the_values_that_were_measured_in_the_fit(rows, tmp_path):
    frame, mean = rows
    scores = np.random.default_rng(2).normal(size=len(frame)).astype(np.float32)
    path = own_file(tmp_path / "e.safetensors", frame, mean, scores=scores)
    chosen = settings(embeddings=path, models=("ridge", "embedding-ridge", "boosting", "gp", "mlp", "lyra"))
    metrics = fit(tmp_path / "t.csv", chosen, out=tmp_path / "run", quiet=True)
    assert {name for name, own in metrics["test"].items() if own["r2"] > 0.8} >= {
        "ridge",
        "embedding-ridge",
        "gp",
        "lyra",
    }
    assert "embeddings by esm/small (5 numbers, with scores)" in (tmp_path / "run" / "report.html").read_text()
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    for model in ("ridge", "embedding-ridge", "boosting", "gp", "mlp", "lyra", "ensemble"):
        out = tmp_path / f"{model}.csv"
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=out, model=model, embeddings=path, quiet=True)
        np.testing.assert_allclose(got["prediction"][test["row"] - 1], test[model], atol=1e-5, err_msg=model)
    # the first half as a table of its own, with embeddings of its own
    half = frame.head(100)
    half[["sequence"]].to_csv(tmp_path / "half.csv", index=False)
    own = own_file(tmp_path / "half.safetensors", half, mean[:100], scores=scores[:100])
    ours = predict(tmp_path / "run", tmp_path / "half.csv", out=tmp_path / "half_out.csv", embeddings=own, quiet=True)
    np.testing.assert_allclose(ours["prediction"], got["prediction"][:100], atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run with embeddings and scores, its table and its file of embeddings."""
    folder = tmp_path_factory.mktemp("run")
    frame, random = table(folder / "t.csv"), np.random.default_rng(1)
    mean = random.normal(size=(len(frame), DIMENSIONS)).astype(np.float32)
    path = own_file(folder / "e.safetensors", frame, mean, scores=mean[:, 0])
    chosen = settings(embeddings=path, models=("ridge",))
    fit(folder / "t.csv", chosen, out=folder / "run", quiet=True)
    return folder / "run", frame, mean


@pytest.mark.slow
def test_a_prediction_needs_embeddings_of_the_same_kind(run, tmp_path):
    folder, frame, mean = run
    frame[["sequence"]].to_csv(tmp_path / "new.csv", index=False)
    options = {"out": tmp_path / "out.csv", "quiet": True}
    with pytest.raises(
        SubquadError,
        match=r"new.csv: the model was trained with embeddings by esm/small \(5 numbers, with scores\); name",
    ):
        predict(folder, tmp_path / "new.csv", **options)
    for name, values, more, message in [
        (
            "wide",
            np.ones((len(frame), 6)),
            {},
            r"embeddings by esm/small \(6 numbers\), but the model was trained with emb",
        ),
        (
            "plain",
            mean,
            {},
            r"\(5 numbers\), but the model was trained with embeddings by esm/small \(5 numbers, with sc",
        ),
    ]:
        path = own_file(tmp_path / f"{name}.safetensors", frame, values.astype(np.float32), **more)
        with pytest.raises(SubquadError, match=message):
            predict(folder, tmp_path / "new.csv", embeddings=path, **options)
    found = Embeddings(mean=mean, scores=mean[:, 0], model="esm/large")
    write_embeddings(tmp_path / "large.safetensors", found, frame["sequence"].tolist())
    with pytest.raises(
        SubquadError, match=r"embeddings by esm/large \(5 numbers, with scores\), but the model was trained with"
    ):
        predict(folder, tmp_path / "new.csv", embeddings=tmp_path / "large.safetensors", **options)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_commands_that_make_new_sequences_refuse_a_model_with_embeddings(run, tmp_path):
    folder, _, _ = run
    (tmp_path / "genes.fa").write_text(">gene\n" + "ACGT" * 50 + "\n")
    message = r"embeddings by esm/small \(5 numbers, with scores\), which new sequences do not have"
    for call in (
        lambda out: scan(folder, ScanSettings(sequence="ACGTACG"), out=out, quiet=True),
        lambda out: design(folder, DesignSettings(start="ACGTACG"), out=out, quiet=True),
        lambda out: epistasis(str(folder), out=out, quiet=True),
        lambda out: guides(tmp_path / "genes.fa", model=folder, out=out.with_suffix(".csv"), quiet=True),
    ):
        with pytest.raises(SubquadError, match=message):
            call(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(SubquadError, match="which sequences alone do not have"):
        BioModel.load(folder).predict_sequences(["ACGTACG"])


def test_a_file_of_another_table_or_with_invalid_values_is_an_error_that_names_them(rows, tmp_path):
    frame, mean = rows
    sequences = frame["sequence"].tolist()

    def error(path):
        with pytest.raises(SubquadError) as caught:
            read_embeddings(path, sequences, table="t.csv")
        return str(caught.value)

    other = own_file(tmp_path / "other.safetensors", frame.iloc[::-1], mean)
    assert "embeddings of another table: its sequences are not those of t.csv, row by row" in error(other)
    assert "has 100 rows, but t.csv has 211" in error(written(tmp_path / "few.npy", mean[:100]))
    wrong = mean.copy()
    wrong[2, 3], wrong[2, 4], wrong[8, 0] = np.nan, np.nan, np.inf
    assert error(written(tmp_path / "nan.npy", wrong)).endswith(
        "values that are not finite numbers; remove or replace them\n  row 3\n  row 9"
    )
    scores = np.where(np.arange(211) == 5, np.inf, 0).astype(np.float32)
    assert "row 6" in error(own_file(tmp_path / "inf.safetensors", frame, mean, scores=scores))
    assert "the shape (211,) and the type float32" in error(written(tmp_path / "flat.npy", mean[:, 0]))
    np.save(tmp_path / "objects.npy", mean.astype(object), allow_pickle=True)
    assert "cannot be read as embeddings" in error(tmp_path / "objects.npy")
    np.savez(tmp_path / "two.npz", a=mean, b=mean)
    assert "it has 2 arrays" in error(tmp_path / "two.npz")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_group("empty")
    assert "it has 0 arrays" in error(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    assert "cannot be read as embeddings" in error(tmp_path / "text.h5")
    (tmp_path / "e.csv").write_text("1,2\n")
    assert "embeddings end in .safetensors (of `subquad bio embed`), .npy, .npz or .h5" in error(tmp_path / "e.csv")
    assert "no such file" in error(tmp_path / "missing.npy")


def npy(header, data=b""):
    """Return a file of NumPy with a header as it is."""
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_a_damaged_file_of_embeddings_is_refused_whatever_its_library_says(rows, tmp_path):
    frame, mean = rows
    sequences, damaged = frame["sequence"].tolist(), {}
    np.savez(tmp_path / "sum.npz", mean=mean)
    data = (tmp_path / "sum.npz").read_bytes()
    # zipfile's own errors: of the checksum, and of the directory
    damaged["sum.npz"] = data[:2_000] + bytes([data[2_000] ^ 255]) + data[2_001:]
    damaged["directory.npy"] = data[:-30]
    # a header that is no Python, and an array of 56 TB
    damaged["header.npy"] = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (211, 7), '''")
    damaged["large.npy"] = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000000, 7), }")
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["mean"] = mean
    damaged["tree.h5"] = (tmp_path / "whole.h5").read_bytes().replace(b"TREE", b"TREF").replace(b"SNOD", b"SNOE")
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SubquadError, match=f"{name}: cannot be read as embeddings"):
            read_embeddings(tmp_path / name, sequences, table="t.csv")


def test_fingerprints_depend_on_the_order_and_not_on_the_spelling_of_rna():
    assert sequences_fingerprint(["ACGU", "GG"]) == sequences_fingerprint(["ACGT", "GG"])
    assert sequences_fingerprint(["ACGU", "GG"]) != sequences_fingerprint(["GG", "ACGU"])
    assert sequences_fingerprint(["ACGU", "GG"]) != sequences_fingerprint(["ACGUGG"])
    # a guide is not read, nor what follows a stop codon
    assert sequences_fingerprint(["GA|ACGT", "MK*LL"]) == sequences_fingerprint(["ACGT", "MK***"])


def test_a_model_without_embeddings_needs_none(rows, tmp_path):
    _, mean = rows
    path = written(tmp_path / "e.npy", mean)
    fit(tmp_path / "t.csv", settings(models=("ridge",)), out=tmp_path / "run", quiet=True)
    with pytest.raises(SubquadError, match="the model was trained without embeddings"):
        predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", embeddings=path, quiet=True)


def test_values_along_the_sequence_need_a_vector_per_letter(rows, tmp_path):
    _, mean = rows
    path = written(tmp_path / "e.npy", mean)
    message = "the task residue_binary takes one vector per letter"
    with pytest.raises(SubquadError, match=message):
        read_table(tmp_path / "t.csv", settings(embeddings=path, target=("residues",)))
