"""Double-stranded DNA: a sequence and its reverse complement are one, for all models, and in the folds of the stack."""

import numpy as np
import pandas as pd
import pytest
from support.bio_tables import SHORT

from subquad.bio import BioModel, FitSettings, LyraClassifier, fit, predict
from subquad.bio.data.dataset import ANY, PAD, Dataset, Inputs, Target, with_both_strands
from subquad.bio.data.table import read_table
from subquad.bio.models.fit import _folds
from subquad.bio.splits.split import make_split
from subquad.errors import SubquadError

OPPOSITE = str.maketrans("ACGT", "TGCA")


def other(sequence):
    return sequence[::-1].translate(OPPOSITE)


def enhancers(rows=307, seed=0):
    """Return sequences of several lengths whose value is the number of TGAC on either strand."""
    random = np.random.default_rng(seed)
    sequences = []
    for length in random.integers(19, 31, rows):
        letters = list(random.choice(list("ACGT"), length))
        for place in random.choice(length - 4, random.integers(0, 3), replace=False):
            letters[place : place + 4] = "TGAC"
        text = "".join(letters)
        sequences.append(text if random.random() < 0.5 else other(text))
    values = [text.count("TGAC") + text.count("GTCA") for text in sequences]
    return sequences, np.array(values) + 0.05 * random.normal(size=rows)


@pytest.fixture
def table(tmp_path):
    """Return a table of them."""
    sequences, values = enhancers()
    pd.DataFrame({"sequence": sequences, "activity": values}).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def both(**more):
    return FitSettings(**{**SHORT, "sequence": "sequence", "target": ("activity",), "strands": "both", **more})


def test_reverse_complements_are_left_aligned():
    codes = np.array([[0, 1, 1, 3, PAD], [2, ANY, 3, 0, 1], [PAD] * 5], dtype=np.int8)
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((3, 0)), is_aligned=False, is_double_stranded=True)
    turned = inputs.reverse_complement()
    # ACCT → AGGT, G?TAC → GTA?C
    assert turned.codes.tolist() == [[0, 2, 2, 3, PAD], [2, 3, 0, ANY, 1], [PAD] * 5]
    assert not turned.is_double_stranded
    assert turned.reverse_complement().codes.tolist() == codes.tolist()


def test_only_training_rows_are_augmented_with_their_reverse_complements():
    codes = np.array([[0, 1, 2], [3, 3, 1], [2, 0, 0], [1, 1, 1], [0, 0, 3]], dtype=np.int8)
    inputs = Inputs(
        codes=codes, letters=4, covariates=np.arange(5.0)[:, None], is_aligned=True, is_double_stranded=True
    )
    split = {"train": np.array([1, 3]), "validation": np.array([0]), "test": np.array([4])}
    target = Target(task_type="binary", y=np.array([0, 1, 1, 0, 1]), classes=("a", "b"))
    whole = with_both_strands(Dataset(inputs=inputs, target=target, split=split, units=np.array([7, 8, 9, 7, 5])))
    assert whole.split["train"].tolist() == [1, 3, 5, 6]
    assert whole.inputs.codes[5:].tolist() == [[2, 0, 0], [2, 2, 2]]
    assert whole.inputs.covariates[5:, 0].tolist() == [1, 3]
    assert whole.target.y[5:].tolist() == [1, 0]
    assert whole.units[5:].tolist() == [8, 7]
    assert whole.split["test"].tolist() == [4]


@pytest.mark.long
def test_all_models_predict_the_same_of_both_strands(table, tmp_path):
    metrics = fit(table, both(epochs=8.0), out=tmp_path / "run", quiet=True)
    assert sum(metrics["rows"].values()) <= 307
    sequences, _ = enhancers(rows=31, seed=1)
    for name, side in (("one", sequences), ("two", list(map(other, sequences)))):
        pd.DataFrame({"sequence": side}).to_csv(tmp_path / f"{name}.csv", index=False)
    for model in ("ridge", "boosting", "mlp", "lyra-additive", "lyra", "ensemble"):
        got = [
            predict(
                tmp_path / "run", tmp_path / f"{name}.csv", out=tmp_path / "p.csv", model=model, force=True, quiet=True
            )
            for name in ("one", "two")
        ]
        np.testing.assert_allclose(got[0]["prediction"], got[1]["prediction"], atol=1e-6)
    model = BioModel.load(tmp_path / "run")
    np.testing.assert_allclose(
        model.predict_sequences(sequences), model.predict_sequences(list(map(other, sequences))), atol=1e-6
    )


@pytest.mark.parametrize(
    ("sequences", "target", "message"),
    [
        (
            ["MKTW", "MKTF", "MRTW"] * 7,
            list(range(21)),
            "t.csv: strands both needs double-stranded DNA, but these",
        ),
        (["ACGT", "CCGT", "AGGT"] * 7, ["0101", "1010", "0011"] * 7, "the target has values along the sequence"),
    ],
)
def test_strands_both_is_an_error_for_other_inputs(tmp_path, sequences, target, message):
    pd.DataFrame({"sequence": sequences, "activity": target}).to_csv(tmp_path / "t.csv", index=False, quoting=2)
    with pytest.raises(SubquadError, match=message):
        fit(tmp_path / "t.csv", both(), out=tmp_path / "run", quiet=True)
    with pytest.raises(SubquadError, match="needs double-stranded DNA"):
        LyraClassifier(strands="both").fit(["MKTW", "MKTF"] * 7, ["a", "b"] * 7)


def test_the_folds_of_a_stack_keep_the_units_of_the_split_together(tmp_path):
    sequences, values = enhancers(rows=113)
    genes = np.array(["a", "b", "c", "d", "e", "f", "g"])[np.arange(113) % 7]
    frame = pd.DataFrame({"sequence": sequences, "activity": values, "gene": genes})
    frame.to_csv(tmp_path / "t.csv", index=False)
    settings = both(split_by="group", group="gene")
    read = read_table(tmp_path / "t.csv", settings)
    split = make_split(read, settings, seed=0)
    dataset = Dataset(inputs=read.inputs, target=read.target, split=split.parts, units=split.units)
    folds = _folds(with_both_strands(dataset), 3, 0)
    names = np.concatenate([genes, genes[split.parts["train"]]])
    assert sum(len(held) for _, held in folds) == 2 * len(split.parts["train"])
    for learned, held in folds:
        assert len(held)
        assert not set(names[learned]) & set(names[held])
