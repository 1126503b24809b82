"""Embeddings by language models: equal to direct computations, resumable, and errors that name rows and files."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from support.bio_language_models import TOKENS, esm, t5_with_pairs, t5_with_spaces
from transformers import AutoTokenizer, EsmForMaskedLM, EsmModel, T5EncoderModel

from subquad.bio import EmbedSettings, embed
from subquad.bio.cli import embed as embed_cli
from subquad.bio.commands import embed as embed_command
from subquad.bio.data.embeddings import read_embeddings
from subquad.bio.language_models import embedding
from subquad.bio.language_models.checkpoint import LanguageModel
from subquad.cli import main
from subquad.errors import MissingExtra, SubquadError
from subquad.runs.options import OutputOptions
from subquad.runs.storage import read_tensors_and_metadata

# of different lengths, the first one twice
PROTEINS = ["MKTAYIAKQR", "GSHMLEDPVW", "MKT", "MKTAYIAKQR", "CCFYNQAW"]
WILD = "MKTAYIAKQRQISFVKSHFSRQ"
VARIANTS = ["K2A", "T3L:Y5F", "", "Q22R", "K2W:Q9E:H18C"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return esm(tmp_path_factory.mktemp("models") / "esm")


@pytest.fixture
def proteins(tmp_path):
    pd.DataFrame({"sequence": PROTEINS}).to_csv(tmp_path / "proteins.csv", index=False)
    return tmp_path / "proteins.csv"


@pytest.fixture
def variants(tmp_path):
    pd.DataFrame({"mutant": VARIANTS}).to_csv(tmp_path / "variants.csv", index=False)
    return tmp_path / "variants.csv"


def run(table, model, out, **more):
    return embed(table, EmbedSettings(model=str(model), **more), out=out, quiet=True)


@torch.no_grad()
def direct(model, sequence):
    """Return the vectors of the letters of one sequence, without a batch."""
    ids = [0, *(TOKENS.index(letter) for letter in sequence), 2]
    return EsmModel.from_pretrained(model)(torch.tensor([ids])).last_hidden_state[0, 1:-1].numpy()


def test_the_mean_over_letters_equals_a_direct_computation_without_padding_and_special_tokens(
    model, proteins, tmp_path
):
    found = run(proteins, model, tmp_path / "out.safetensors")
    expected = np.stack([direct(model, sequence).mean(0) for sequence in PROTEINS])
    np.testing.assert_allclose(found.mean, expected, atol=2e-6)
    assert found.mean.dtype == np.float32
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("mean"), found.mean)
        assert set(file.keys()) == {"mean"}
        assert len(file.metadata()["sequences"]) == 64


def test_each_letter_has_its_vector_with_residues(model, proteins, tmp_path):
    run(proteins, model, tmp_path / "out.safetensors", residues=True, batch_tokens=21)
    found = read_embeddings(tmp_path / "out.safetensors", PROTEINS, table=proteins)
    assert found.lengths.tolist() == [len(sequence) for sequence in PROTEINS]
    assert found.residues.dtype == np.float16
    ends = found.lengths.cumsum()
    for sequence, end in zip(PROTEINS, ends, strict=True):
        np.testing.assert_allclose(found.residues[end - len(sequence) : end], direct(model, sequence), atol=2e-3)


@torch.no_grad()
def test_scores_are_masked_marginals_of_the_wild_type(model, variants, tmp_path):
    found = run(variants, model, tmp_path / "out.safetensors", wild_type=WILD, scores=True, batch_tokens=50)
    network = EsmForMaskedLM.from_pretrained(model).eval()

    def masked(position):
        ids = [0, *(TOKENS.index(letter) for letter in WILD), 2]
        ids[position] = TOKENS.index("<mask>")
        return network(torch.tensor([ids])).logits[0, position].log_softmax(0)

    def score(variant):
        changes = [(part[0], int(part[1:-1]), part[-1]) for part in variant.split(":") if part]
        return sum(float(masked(t)[TOKENS.index(b)] - masked(t)[TOKENS.index(a)]) for a, t, b in changes)

    np.testing.assert_allclose(found.scores, [score(variant) for variant in VARIANTS], atol=1e-5)
    assert found.scores[2] == 0.0
    assert np.abs(found.scores).max() > 0.5
    # variants are embedded as full sequences, and a head in front of the encoder does not change them
    np.testing.assert_allclose(found.mean[0], direct(model, "MA" + WILD[2:]).mean(0), atol=2e-6)


def test_variants_with_a_stop_codon_have_no_score_and_are_embedded_up_to_it(model, tmp_path):
    pd.DataFrame({"mutant": ["K2A", "A4*", "M1*"]}).to_csv(tmp_path / "t.csv", index=False)
    found = run(tmp_path / "t.csv", model, tmp_path / "out.safetensors", wild_type=WILD, scores=True, residues=True)
    assert np.isnan(found.scores).tolist() == [False, True, True]
    assert found.lengths.tolist() == [22, 3, 0]
    np.testing.assert_allclose(found.mean[1], direct(model, "MKT").mean(0), atol=2e-6)
    np.testing.assert_array_equal(found.mean[2], 0.0)


def test_each_distinct_sequence_is_read_once_and_rows_keep_their_order(model, proteins, tmp_path, monkeypatch):
    read = []
    vectors = LanguageModel.vectors
    monkeypatch.setattr(LanguageModel, "vectors", lambda self, texts: read.append(texts) or vectors(self, texts))
    found = run(proteins, model, tmp_path / "out.safetensors", batch_tokens=20)
    assert sorted(text for texts in read for text in texts) == sorted(set(PROTEINS))
    assert all(len(texts) == 1 or len(texts) * max(map(len, texts)) <= 20 for texts in read)
    assert len(read) == 2
    np.testing.assert_array_equal(found.mean[0], found.mean[3])
    assert not np.allclose(found.mean[0], found.mean[1])


def test_an_interrupted_command_keeps_its_shards_and_ends_with_the_same_file(model, variants, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TOKENS", 1)
    options = {"wild_type": WILD, "scores": True, "residues": True, "batch_tokens": 44}
    run(variants, model, tmp_path / "whole.safetensors", **options)
    vectors, read = LanguageModel.vectors, []

    def interrupted(self, texts):
        if read:
            raise KeyboardInterrupt
        read.append(texts)
        return vectors(self, texts)

    out = tmp_path / "out.safetensors"
    monkeypatch.setattr(LanguageModel, "vectors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(variants, model, out, **options)
    assert not out.exists()
    assert (tmp_path / ".subquad-out.safetensors.partial" / "embeddings-00000.safetensors").is_file()
    with pytest.raises(SubquadError, match=r"unfinished run with other settings \(residues was True and is False\)"):
        run(variants, model, out, **options | {"residues": False})
    again = []
    monkeypatch.setattr(LanguageModel, "vectors", lambda self, texts: again.append(texts) or vectors(self, texts))
    run(variants, model, out, **options)
    assert len(again) == 2
    assert read[0] not in again
    (tensors, header), (other, expected) = map(read_tensors_and_metadata, (out, tmp_path / "whole.safetensors"))
    assert header == expected
    assert set(tensors) == {"mean", "residues", "lengths", "scores"}
    assert all(torch.equal(tensor, other[name]) for name, tensor in tensors.items())
    assert not (tmp_path / ".subquad-out.safetensors.partial").exists()


def test_an_existing_file_is_kept_without_force(model, proteins, tmp_path):
    out = tmp_path / "out.safetensors"
    run(proteins, model, out)
    with pytest.raises(SubquadError, match="exists already"):
        run(proteins, model, out)
    embed(proteins, EmbedSettings(model=str(model)), out=out, force=True, quiet=True)


def test_a_file_that_another_process_writes_meanwhile_is_kept(model, proteins, tmp_path, monkeypatch):
    out, found = tmp_path / "out.safetensors", embed_command.open_language_model

    def open_slowly(*arguments, **options):
        out.write_bytes(b"of another process")
        return found(*arguments, **options)

    monkeypatch.setattr(embed_command, "open_language_model", open_slowly)
    with pytest.raises(SubquadError, match="exists already"):
        run(proteins, model, out)
    assert out.read_bytes() == b"of another process"


@torch.no_grad()
def test_letters_are_separated_for_tokenizers_that_need_spaces(proteins, tmp_path):
    folder = t5_with_spaces(tmp_path / "t5")
    found = run(proteins, folder, tmp_path / "out.safetensors", residues=True)
    ids = AutoTokenizer.from_pretrained(folder)(" ".join(PROTEINS[0]), return_tensors="pt").input_ids
    assert ids.shape == (1, len(PROTEINS[0]) + 1)
    expected = T5EncoderModel.from_pretrained(folder)(ids).last_hidden_state[0, :-1].numpy()
    np.testing.assert_allclose(found.mean[0], expected.mean(0), atol=2e-6)
    assert found.lengths.tolist() == [len(sequence) for sequence in PROTEINS]


@torch.no_grad()
def test_tokens_of_several_letters_have_a_mean_and_no_vector_per_letter(tmp_path):
    folder = t5_with_pairs(tmp_path / "t5")
    sequences = ["ACGTACGTAC", "GTGTCAACGT", "TTGACCAGTACA"]
    pd.DataFrame({"sequence": sequences}).to_csv(tmp_path / "t.csv", index=False)
    found = run(tmp_path / "t.csv", folder, tmp_path / "out.safetensors")
    ids = AutoTokenizer.from_pretrained(folder)(sequences[0], return_tensors="pt").input_ids
    assert ids.shape == (1, 4)
    expected = T5EncoderModel.from_pretrained(folder)(ids).last_hidden_state[0, :-1].mean(0).numpy()
    np.testing.assert_allclose(found.mean[0], expected, atol=2e-6)
    # 31 tokens with the special one: forty letters of ten tokens are read, forty letters of forty tokens are not
    pd.DataFrame({"sequence": ["ACGT" * 10, "T" * 40]}).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(SubquadError, match=r"longer than the 30 tokens .*\n  row 2: 40 tokens$"):
        run(tmp_path / "long.csv", folder, tmp_path / "long.safetensors")
    with pytest.raises(SubquadError, match="tokens are of several letters"):
        run(tmp_path / "t.csv", folder, tmp_path / "other.safetensors", residues=True)


def test_a_model_of_the_other_nucleic_acid_reads_u_as_t(tmp_path):
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"ACGTN", "<mask>"]
    folder = esm(tmp_path / "dna", tokens=tokens)
    for name, sequences in {"dna": ["ACGTTGCAN", "GGATTC"], "rna": ["ACGUUGCAN", "GGAUUC"]}.items():
        pd.DataFrame({"sequence": sequences}).to_csv(tmp_path / f"{name}.csv", index=False)
        run(tmp_path / f"{name}.csv", folder, tmp_path / f"{name}.safetensors")
    found = [read_embeddings(tmp_path / f"{name}.safetensors", sequences, table=name).mean for name in ("dna", "rna")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read as a checkpoint of transformers"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "cannot be read as a checkpoint of transformers",
        ),
        (lambda folder: (folder / "vocab.txt").unlink(), "cannot be read as a checkpoint of transformers"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read as a checkpoint of transformers"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "cannot be read as a checkpoint"),
        (
            lambda folder: with_config(folder, model_type="esm9000"),
            "cannot be read as a checkpoint of transformers (transformers: The check",
        ),
        (
            lambda folder: with_config(folder, model_type="other", auto_map={"AutoConfig": "code.Config"}),
            "is defined by Python code of its own, which is not run",
        ),
        (
            lambda folder: with_config(folder, num_hidden_layers=3),
            " weights are missing or have another shape, such as encoder.layer.2.",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_an_error_that_names_what_is_missing(proteins, tmp_path, change, message):
    folder = esm(tmp_path / "model", with_head=False)
    change(folder)
    with pytest.raises(SubquadError, match=re.escape(str(folder)) + ".*" + re.escape(message)):
        run(proteins, folder, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def with_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_what_a_model_cannot_do_is_an_error_before_anything_is_computed(model, proteins, variants, tmp_path):
    out = tmp_path / "out.safetensors"
    long = [*PROTEINS, "M" * 130, "MKTW" * 40]
    pd.DataFrame({"sequence": long}).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(
        SubquadError, match=r"longer than the 127 letters .*\n  row 6: 130 letters\n  row 7: 160 letters$"
    ):
        run(tmp_path / "long.csv", model, out)
    with pytest.raises(SubquadError, match="scores need variants of a wild type"):
        run(proteins, model, out, scores=True)
    headless = esm(tmp_path / "headless", with_head=False)
    with pytest.raises(SubquadError, match="weights are missing or have another shape, such as lm_head"):
        run(variants, headless, out, wild_type=WILD, scores=True)
    with pytest.raises(SubquadError, match="t5: cannot be read as a checkpoint of transformers"):
        run(variants, t5_with_spaces(tmp_path / "t5"), out, wild_type=WILD, scores=True)
    with pytest.raises(SubquadError, match="does not know the letters DEFHIKLMNPQRSVWY"):
        run(proteins, t5_with_pairs(tmp_path / "dna"), out)
    pd.DataFrame({"sequence": ["ACGTTGCA", "GGCATTTA"]}).to_csv(tmp_path / "bases.csv", index=False)
    with pytest.raises(SubquadError, match="a model of proteins, which would read the bases"):
        run(tmp_path / "bases.csv", model, out)
    with pytest.raises(SubquadError, match="nothing: "):
        run(proteins, tmp_path / "nothing", out)
    with pytest.raises(SubquadError, match="abacus: cannot be read as a device of PyTorch"):
        run(proteins, model, out, device="abacus")
    with pytest.raises(SubquadError, match=r"must end in \.safetensors"):
        run(proteins, model, tmp_path / "out.npy")
    assert {path.suffix for path in tmp_path.glob("out*")} == set()


def test_without_transformers_the_extra_is_named(model, proteins, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'subquad[embed]'")):
        run(proteins, model, tmp_path / "out.safetensors")


def test_the_command_prints_what_to_do_next(model, proteins, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    embed_cli(str(proteins), EmbedSettings(model=str(model)), options=OutputOptions(out=out))
    shown = capsys.readouterr()
    assert "sequences: column 'sequence' (inferred" in shown.err
    assert "5 rows, 16 numbers each" in shown.out
    assert f"subquad bio fit {proteins} --embeddings {out}" in shown.out
    assert main(["bio", "embed", str(proteins), "--model", str(model), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
