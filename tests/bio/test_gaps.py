"""Gaps of an alignment are a letter of their own: reading, features, networks, scan and design."""

import json

import numpy as np
import pandas as pd
import pytest

from subquad.bio.analysis.settings import ScanSettings
from subquad.bio.commands.fit import fit
from subquad.bio.commands.predict import predict
from subquad.bio.commands.scan import scan
from subquad.bio.data.alphabet import encode
from subquad.bio.data.dataset import PAD, Dataset, Inputs, Target, reverse_complement
from subquad.bio.data.table import read_like, read_table
from subquad.bio.design_search.constraints import read_constraints
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.features.substitutions import CHANGE, Substitutions, blosum62, channels_of, standard_properties
from subquad.bio.models.baselines import fit_baseline
from subquad.bio.models.fit import fit_network
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.errors import SubquadError

LETTERS = ALPHABETS["protein_gap"]
GAP = LETTERS.index("-")
WILD = "MKTAYIAKQRQIS"


def said(call, *args, **options):
    with pytest.raises(SubquadError) as caught:
        call(*args, **options)
    return str(caught.value)


def family(rows=131, seed=0):
    """Return an alignment; gaps lower the value."""
    random = np.random.default_rng(seed)
    texts, values = [], []
    for _ in range(rows):
        letters = list(WILD)
        letters[random.integers(0, 5)] = random.choice(list("ADKLW"))
        start = random.integers(5, 11) if random.random() < 0.4 else 13
        letters[start : start + 2] = "--"[: max(13 - start, 0)]
        texts.append("".join(letters))
        values.append(-2.0 * texts[-1].count("-") + letters.count("W") + 0.1 * random.normal())
    return texts, values


def written(folder, texts, values, name="family.csv"):
    pd.DataFrame({"sequence": texts, "y": values}).to_csv(folder / name, index=False)
    return folder / name


def test_gaps_of_both_signs_are_read_as_one_letter_and_logged(tmp_path):
    texts, values = family()
    dotted = [text.replace("-", ".") if row % 2 else text for row, text in enumerate(texts)]
    table = read_table(written(tmp_path, dotted, values), FitSettings())
    assert table.schema.alphabet == "protein_gap"
    assert table.sequences == texts
    assert table.inputs.letters == 22
    assert table.inputs.is_aligned
    assert (table.inputs.codes == GAP).sum() == sum(text.count("-") for text in texts)
    gaps = sum(text.count("-") for text in texts)
    assert any(remark.startswith(f"{gaps} of 1,703 letters are gaps (-)") for remark in table.remarks)
    again = read_like(written(tmp_path, dotted[:3], [0] * 3, "three.csv"), table.schema)
    np.testing.assert_array_equal(again.inputs.codes, table.inputs.codes[:3])


@pytest.mark.parametrize(("letters", "name"), [("ACGT", "dna_gap"), ("ACGU", "rna_gap")])
def test_nucleotides_with_gaps_have_an_alphabet_of_their_own(tmp_path, letters, name):
    random = np.random.default_rng(1)
    texts = ["".join(random.choice([*letters, "-"], 17)) for _ in range(31)]
    table = read_table(written(tmp_path, texts, random.normal(size=31)), FitSettings())
    assert table.schema.alphabet == name
    assert table.inputs.letters == 5
    features = SequenceFeatures.for_inputs(table.inputs)
    assert "-3" in features.names(ALPHABETS[name])
    assert not features.reference


def test_the_reverse_complement_of_a_gap_is_a_gap():
    codes = encode("t.csv", ["AC-G", "TT-A"], "dna_gap")[0]
    assert reverse_complement(codes).tolist() == encode("t.csv", ["C-GT", "T-AA"], "dna_gap")[0].tolist()


def test_gaps_in_sequences_of_several_lengths_are_an_error_that_names_rows_and_remedy(tmp_path):
    texts, values = family()
    texts[6] += "A"
    texts[9] = texts[9][:-2]
    path = written(tmp_path, texts, values)
    assert said(read_table, path, FitSettings()).splitlines()[1:] == [
        "  row 7: 14 letters",
        "  row 10: 11 letters",
    ]


def test_a_model_without_gaps_refuses_them_and_says_why():
    message = said(encode, "t.csv", ["ACD", "A-D"], "protein")
    assert message.splitlines()[1:] == [
        "  row 2: '-' at position 2 is not in the protein alphabet (ACDEFGHIKLMNPQRSTVWY)",
    ]


def test_base_pairs_of_alignments_with_gaps_are_refused(tmp_path):
    texts = ["GGGA-AACCC", "GGGAAAACCC"] * 8
    frame = pd.DataFrame({"sequence": texts, "structure": ["(((....)))"] * 16})
    frame.to_csv(tmp_path / "t.csv", index=False)
    message = said(read_table, tmp_path / "t.csv", FitSettings(target=("structure",), task_type="pairs"))
    assert message == f"{tmp_path}/t.csv: base pairs need sequences without gaps; the task is pairs"


def test_a_gap_has_no_properties_and_no_similarity():
    assert (standard_properties(22)[GAP] == 0).all()
    np.testing.assert_array_equal(standard_properties(22)[:21], standard_properties(21))
    assert (blosum62(22)[GAP] == 0).all()
    assert (blosum62(22)[:, GAP] == 0).all()
    np.testing.assert_array_equal(blosum62(22)[:21, :21], blosum62(21))


def test_substitutions_to_and_from_a_gap_have_no_change_and_a_mark():
    reference = np.array([LETTERS.index(letter) for letter in "MK-A"])
    substitutions = Substitutions(reference=reference, letters=22, has_several=False)
    names = substitutions.names
    rows = encode("t.csv", ["M--A", "MKWA", "MW-A"], "protein_gap")[0]
    found = substitutions.matrix(rows)
    assert found.shape == (3, len(names))
    assert found[:, names.index("substitutions")].tolist() == [1, 1, 1]
    change = [names.index(name) for name in CHANGE]
    assert (found[:2][:, change] == 0).all()
    assert (found[2][change] != 0).any()
    assert found[:, names.index("to gap")].tolist() == [1, 0, 0]
    assert found[:, names.index("from gap")].tolist() == [0, 1, 0]
    assert found[:, names.index("position")].tolist() == [0.25, 0.5, 0.25]
    assert "to gap" not in Substitutions(reference=reference[:2], letters=20, has_several=False).names


def test_channels_of_a_gap_only_say_that_the_letter_changed():
    reference = np.array([LETTERS.index("M"), GAP])
    channels = channels_of(reference, 22)
    count = len(CHANGE) - 3
    assert (channels[0, GAP, :count] == 0).all()
    assert channels[0, GAP, count : count + 2].tolist() == [1, 0]
    assert (channels[1, LETTERS.index("W"), :count] == 0).all()
    assert channels[1, GAP, count] == 0


@pytest.mark.parametrize("name", ["ridge", "boosting", "gp", "lyra"])
def test_every_model_learns_the_effect_of_a_gap(tmp_path, name):
    table = read_table(written(tmp_path, *family()), FitSettings())
    split = {"train": np.arange(91), "validation": np.arange(91, 111), "test": np.arange(111, 131)}
    data = table.with_split(split)
    if name == "lyra":
        model = fit_network(name, prepare(data), FitSettings(epochs=2, ensemble_size=1), seed=0)
    else:
        model = fit_baseline(name, data, iterations=50)
    test, truth = data.part("test")
    has_gap = (test.codes == GAP).any(1)
    predicted = model.predict(test)[:, 0]
    assert predicted[~has_gap].mean() - predicted[has_gap].mean() > 2
    assert np.corrcoef(predicted, truth.y[:, 0])[0, 1] > 0.9


@pytest.mark.long
def test_a_fit_of_an_alignment_says_so_and_scans_deletions(tmp_path):
    path = written(tmp_path, *family())
    settings = FitSettings(models=("ridge",))
    fit(path, settings, out=tmp_path / "run", quiet=True)
    assert "letters are gaps (-)" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["inputs"]["alphabet"] == "protein_gap"
    frame = scan(tmp_path / "run", ScanSettings(sequence=WILD), out=tmp_path / "scan", quiet=True)
    # deletions were observed, and stops were not
    assert set(frame["to"]) == set(LETTERS) - {"*"}
    frame = predict(tmp_path / "run", path, out=tmp_path / "p.csv", quiet=True)
    assert frame["prediction"].notna().all()


def test_gaps_are_designed_on_request_only():
    observed = [LETTERS] * 6
    options = {"observed": observed, "is_nucleotide": False}
    start = "MK-TAY"
    allowed = read_constraints(start, LETTERS, DesignSettings(), **options).allowed
    assert not allowed[:, GAP].any()
    assert not allowed[2].any()
    allowed = read_constraints(start, LETTERS, DesignSettings(allow=("2=-", "3=AC")), **options).allowed
    assert np.flatnonzero(allowed[1]).tolist() == [GAP]
    assert allowed[2].sum() == 2
    message = said(
        read_constraints,
        "AC-G",
        ALPHABETS["dna_gap"],
        DesignSettings(gc=(0.4, 0.6)),
        observed=None,
        is_nucleotide=True,
    )
    assert "--gc and --forbid-sites need a start sequence without gaps" in message


def test_alignments_of_several_lengths_after_the_fit_are_an_error(tmp_path):
    table = read_table(written(tmp_path, *family()), FitSettings())
    message = said(read_like, written(tmp_path, [WILD, WILD[:-1]], [0, 0], "short.csv"), table.schema)
    assert "row 2: 12 letters, but the model was trained on sequences of 13" in message


def test_an_alignment_as_inputs_has_one_more_letter_than_its_sequences():
    codes = encode("t.csv", ["ACD-", "AC-D"] * 7, "protein_gap")[0]
    inputs = Inputs(codes=codes, letters=22, covariates=np.zeros((14, 0)), is_aligned=True)
    assert (codes != PAD).all()
    target = Target(task_type="regression", y=np.tile([1.0, -1.0], 7)[:, None])
    data = Dataset(
        inputs=inputs, target=target, split={part: np.arange(14) for part in ("train", "validation", "test")}
    )
    assert np.sign(fit_baseline("ridge", data).predict(inputs)[:, 0]).tolist() == [1.0, -1.0] * 7
