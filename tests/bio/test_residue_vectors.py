"""Vectors of letters by a language model: their places, as channels of Lyra, and as features of residues."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support.bio_tables import settings

from subquad.bio import FitSettings, fit, predict, read_table
from subquad.bio.data.dataset import Dataset, Inputs, Target, reverse_complement
from subquad.bio.data.embeddings import Embeddings, read_embeddings, write_embeddings
from subquad.bio.data.residue_vectors import ResidueVectors
from subquad.bio.features.base import vector_statistics
from subquad.bio.features.residues import ResidueFeatures
from subquad.bio.models import networks
from subquad.bio.models.baselines import fit_ridge
from subquad.bio.models.batches import net_inputs
from subquad.bio.models.fit import fit_network
from subquad.bio.models.lyra import BioNet, NetSpec
from subquad.bio.models.networks import select_positions
from subquad.bio.models.training_data import prepare
from subquad.errors import SubquadError

DIMENSIONS = 3
LENGTHS = np.array([5, 0, 7, 2])


def vectors_of(lengths=LENGTHS, seed=0):
    values = np.random.default_rng(seed).normal(size=(lengths.sum(), DIMENSIONS)).astype(np.float16)
    return ResidueVectors.of_rows(values, lengths)


def test_padded_vectors_are_those_of_each_row_in_order_and_nan_beyond():
    vectors = vectors_of()
    padded = vectors.padded(np.array([2, 1, 0]), 6)
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded[0], vectors.values[5:11])
    np.testing.assert_array_equal(padded[2, :5], vectors.values[:5])
    assert np.isnan(padded[1]).all()
    assert np.isnan(padded[2, 5]).all()
    np.testing.assert_array_equal(vectors.at(np.array([3, 0]), np.array([1, 4])), vectors.values[[13, 4]])


def test_rows_are_taken_reversed_joined_and_cut_to_positions():
    vectors, rows = vectors_of(), np.arange(4)
    taken = vectors.take(np.array([3, 0]))
    np.testing.assert_array_equal(taken.padded(np.arange(2), 5), vectors.padded(np.array([3, 0]), 5))
    turned = vectors.reversed()
    for row, length in enumerate(LENGTHS):
        own = turned.padded(np.array([row]), 7)[0]
        np.testing.assert_array_equal(own[:length], vectors.padded(np.array([row]), length)[0][::-1])
        assert np.isnan(own[length:]).all()
    np.testing.assert_array_equal(turned.reversed().padded(rows, 7), vectors.padded(rows, 7))
    both = vectors.followed_by(turned)
    np.testing.assert_array_equal(both.padded(np.arange(8), 7)[4:], turned.padded(rows, 7))
    chosen = vectors.select(np.array([1, 4, 6])).select(np.array([0, 2]))
    np.testing.assert_array_equal(chosen.padded(rows, 2), vectors.padded(rows, 7)[:, [1, 6]])


def test_mean_and_scale_are_those_of_the_letters_of_the_rows():
    vectors = vectors_of(np.array([50, 3, 47]))
    constant = replace(vectors, values=np.concatenate([vectors.values[:, :2], np.ones((100, 1), np.float16)], axis=1))
    mean, scale = vector_statistics(constant.take(np.array([0, 2])))
    own = np.delete(constant.values.astype(np.float64), np.arange(50, 53), axis=0)
    np.testing.assert_allclose(mean, own.mean(0), atol=1e-6)
    np.testing.assert_allclose(scale[:2], 1 / own.std(0)[:2], rtol=1e-5)
    assert scale[2] == 0.0


def inputs_of(lengths, *, letters=4, seed=1, **more):
    random = np.random.default_rng(seed)
    codes = random.integers(0, letters, (len(lengths), lengths.max())).astype(np.int8)
    codes[np.arange(lengths.max()) >= lengths[:, None]] = -1
    covariates = np.zeros((len(lengths), 0))
    return Inputs(
        codes=codes, letters=letters, covariates=covariates, is_aligned=False, vectors=vectors_of(lengths), **more
    )


@torch.no_grad()
def test_lyra_reads_the_vectors_and_its_output_does_not_depend_on_the_batch():
    inputs = inputs_of(np.array([11, 5, 7]))
    torch.manual_seed(0)
    net = BioNet(NetSpec(task_type="residue_regression", letters=4, outputs=2, kind="lyra", vectors=DIMENSIONS)).eval()
    torch.nn.init.normal_(net.lyra.head[-1].weight)
    options = {"task_type": "residue_regression", "device": torch.device("cpu")}
    together = net(*net_inputs(inputs, np.arange(3), None, None, **options))
    alone = net(*net_inputs(inputs, np.array([1]), None, None, **options))
    torch.testing.assert_close(together[1, :5], alone[0])
    other = replace(inputs, vectors=vectors_of(np.array([11, 5, 7]), seed=5))
    changed = net(*net_inputs(other, np.array([1]), None, None, **options))
    assert not torch.allclose(changed, alone, atol=1e-2)
    # standardised vectors enter: shift and scale of all of them cancel
    net.standardize(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 1.0, 0.25]))
    values = inputs.vectors.values.astype(np.float32)
    moved = replace(inputs.vectors, values=values / [4.0, 1.0, 0.25] + [1.0, 2.0, 3.0])
    torch.testing.assert_close(
        net(*net_inputs(replace(inputs, vectors=moved), np.array([1]), None, None, **options)), alone
    )


def test_positions_and_strands_of_letters_and_vectors_stay_together():
    inputs = inputs_of(np.array([6, 6]))
    cut = select_positions(inputs, np.array([0, 3]))
    np.testing.assert_array_equal(
        cut.vectors.padded(np.arange(2), 2), inputs.vectors.padded(np.arange(2), 6)[:, [0, 3]]
    )
    other = inputs.reverse_complement()
    np.testing.assert_array_equal(other.codes, reverse_complement(inputs.codes))
    np.testing.assert_array_equal(
        other.vectors.padded(np.arange(2), 6), inputs.vectors.padded(np.arange(2), 6)[:, ::-1]
    )


def test_residue_features_hold_the_standardised_vector_of_the_residue():
    inputs = inputs_of(np.array([30, 20, 25]), letters=20)
    features = ResidueFeatures.for_inputs(inputs)
    rows, positions = np.array([2, 0, 2, 1]), np.array([24, 0, 3, 19])
    mean, scale = vector_statistics(inputs.vectors)
    expected = (inputs.vectors.at(rows, positions) - mean) * scale
    for found in (features.matrix(inputs, rows, positions).toarray(), features.numbers(inputs, rows, positions)):
        np.testing.assert_allclose(found[:, -DIMENSIONS:], expected, atol=1e-6)
    assert features.matrix(inputs, rows, positions).shape[1] == features.count == len(features.names())
    assert features.numbers(inputs, rows, positions).shape[1] == features.numbers_count
    assert features.names()[-1] == "embedding 3"
    assert ResidueFeatures.from_dict(features.as_dict()) == features


def write(folder, frame, values, **more):
    """Write a table and vectors of its letters, whose mean is that over each row."""
    frame.to_csv(folder / "t.csv", index=False)
    lengths = frame["sequence"].str.len().to_numpy()
    mean = np.stack([part.mean(0) for part in np.split(values, lengths.cumsum()[:-1])]).astype(np.float32)
    found = Embeddings(mean=mean, residues=values.astype(np.float16), lengths=lengths, model="esm", **more)
    write_embeddings(folder / "e.safetensors", found, frame["sequence"].tolist())
    return str(folder / "e.safetensors")


def labelled(rows=60, seed=0):
    """Return proteins whose labels depend on vectors of their letters only, and these vectors."""
    random = np.random.default_rng(seed)
    lengths = random.integers(20, 31, rows)
    values = random.normal(size=(lengths.sum(), DIMENSIONS)) + np.array([0, 50, 0])
    labels = np.split((values[:, 0] + values[:, 1] > 50).astype(int), lengths.cumsum()[:-1])
    sequences = ["".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in lengths]
    return pd.DataFrame({"sequence": sequences, "label": ["".join(map(str, own)) for own in labels]}), values


def test_training_residues_start_at_predictions_of_ridge_that_has_not_read_their_labels(monkeypatch):
    random = np.random.default_rng(0)
    lengths = np.full(23, 11)
    inputs = replace(inputs_of(lengths, letters=20), codes=random.integers(0, 20, (23, 11)).astype(np.int8))
    vectors = random.normal(size=(lengths.sum(), 131)).astype(np.float32)
    inputs = replace(inputs, vectors=ResidueVectors.of_rows(vectors, lengths))
    target = Target(task_type="residue_regression", y=random.normal(size=(23, 11)))
    parts = {"train": np.arange(15), "validation": np.arange(15, 19), "test": np.arange(19, 23)}
    starts = {}

    def train_net(net, dataset, settings, options, **given):
        starts["given"] = given["priors"]
        raise KeyboardInterrupt

    monkeypatch.setattr(networks, "train_net", train_net)
    dataset = Dataset(inputs=inputs, target=target, split=parts)
    # nearly without a penalty ridge repeats the labels of its training residues
    monkeypatch.setattr("subquad.bio.models.linear.PENALTIES", (1e-6,))
    ridge = fit_ridge(dataset)
    with pytest.raises(KeyboardInterrupt):
        fit_network("lyra", prepare(dataset), FitSettings(), ridge=ridge, seed=0)
    fitted = np.concatenate([own[:11, 0] for own in ridge.predict(inputs)[:15]])
    start = np.concatenate([own[:, 0] for own in starts["given"][:15]])
    truth = target.y[:15].ravel()
    assert np.corrcoef(fitted, truth)[0, 1] > 0.9
    assert abs(np.corrcoef(start, truth)[0, 1]) < 0.3
    # all others start at the ridge regression of all training rows
    np.testing.assert_allclose(
        np.concatenate([own[:, 0] for own in starts["given"][15:]]) * truth.std() + truth.mean(),
        np.concatenate([own[:11, 0] for own in ridge.predict(inputs)[15:]]),
        atol=1e-4,
    )


@pytest.mark.long
def test_residues_are_predicted_from_their_vectors_and_a_saved_run_predicts_the_same(tmp_path):
    frame, values = labelled()
    path = write(tmp_path, frame, values)
    chosen = FitSettings(target=("label",), embeddings=path, epochs=1.0, boosting_iterations=10, ensemble_size=1)
    metrics = fit(tmp_path / "t.csv", chosen, out=tmp_path / "run", quiet=True)
    assert {name: own["auroc"] > 0.95 for name, own in metrics["test"].items()} == dict.fromkeys(metrics["test"], True)
    plain = replace(chosen, embeddings=None, models=("ridge",))
    assert fit(tmp_path / "t.csv", plain, out=tmp_path / "plain", quiet=True)["test"]["ridge"]["auroc"] < 0.65
    # five rows as a table of their own
    few = tmp_path / "few"
    few.mkdir()
    own = write(
        few,
        frame.iloc[5:10],
        values[frame["sequence"].str.len()[:5].sum() :][: frame["sequence"].str.len()[5:10].sum()],
    )
    options = {"model": "lyra", "quiet": True}
    some = predict(tmp_path / "run", few / "t.csv", out=few / "p.csv", embeddings=own, **options)
    all_rows = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", embeddings=path, **options)
    assert some["prediction"].tolist() == all_rows["prediction"][5:10].tolist()
    mean = Embeddings(mean=np.ones((60, DIMENSIONS), np.float32), model="esm")
    write_embeddings(tmp_path / "mean.safetensors", mean, frame["sequence"].tolist())
    with pytest.raises(SubquadError, match="the model was trained with embeddings by esm"):
        predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "q.csv", embeddings=tmp_path / "mean.safetensors")


@pytest.mark.long
def test_lyra_alone_learns_rows_from_vectors_at_varying_positions(tmp_path):
    random = np.random.default_rng(3)
    letters = random.choice(list("ACDEF"), (300, 9))
    # the first and the last positions never vary
    letters[:, [0, 8]] = "M"
    frame = pd.DataFrame({"sequence": ["".join(row) for row in letters]})
    values = random.normal(size=(300, 9, DIMENSIONS))
    frame["score"] = values[:, 4, 1].round(4)
    path = write(tmp_path, frame, values.reshape(-1, DIMENSIONS))
    chosen = settings(embeddings=path, models=("lyra-alone",), epochs=15.0)
    metrics = fit(tmp_path / "t.csv", chosen, out=tmp_path / "run", quiet=True)
    assert metrics["test"]["lyra-alone"]["spearman"] > 0.8
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    options = {"model": "lyra-alone", "embeddings": path, "quiet": True}
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", **options)
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["lyra-alone"], atol=1e-5)


def test_a_vector_that_is_not_finite_names_its_row(tmp_path):
    frame, values = labelled(rows=4)
    values[frame["sequence"].str.len()[0] + 2, 1] = np.nan
    path = write(tmp_path, frame, values)
    with pytest.raises(SubquadError, match=r"not finite numbers; .*\n  row 2$"):
        read_embeddings(path, frame["sequence"].tolist(), table="t.csv")


def test_base_pairs_have_no_use_for_embeddings(tmp_path):
    frame = pd.DataFrame({"sequence": ["GGGAAACCC", "GGCAAAGCC"] * 6, "structure": ["(((...)))"] * 12})
    path = write(tmp_path, frame, np.ones((108, DIMENSIONS)))
    with pytest.raises(SubquadError, match="the task pairs takes no embeddings"):
        read_table(tmp_path / "t.csv", FitSettings(target=("structure",), embeddings=path))
