import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subquad.bio.data.residue_targets import order_of_classes, read_pairs
from subquad.bio.data.table import read_table
from subquad.bio.data.targets import read_target
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "bio"
TASK_TYPES = {"reg": "regression", "bin": "binary", "perres_bin": "residue_binary", "perres_reg": "residue_regression"}


def read(values, lengths=None, task_type="auto", name="y"):
    columns = values if isinstance(values, dict) else {name: values}
    frame = pd.DataFrame(columns, dtype=str)
    lengths = None if lengths is None else np.array(lengths)
    return read_target("t.csv", frame, tuple(columns), lengths, task_type=task_type)


def said(*arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        read(*arguments, **options)
    return str(error.value)


def test_numbers_are_a_regression_and_rows_without_one_are_counted():
    target, has, remarks = read(["1.5", "2", "", "NA", "-1e3"])
    assert (target.task_type, target.outputs, target.names) == ("regression", 1, ("y",))
    assert target.y.shape == (5, 1)
    assert has.tolist() == [True, True, False, False, True]
    assert target.y[has, 0].tolist() == [1.5, 2.0, -1000.0]
    assert remarks == [
        "task type: regression (inferred; --task-type overrides)",
        "2 of 5 rows have no measurement and are not used",
    ]


def test_numbers_with_the_minus_of_print_are_a_regression():
    target, _, _ = read(["−1.5", "−2", "−0.25"])
    assert target.task_type == "regression"
    assert target.y[:, 0].tolist() == [-1.5, -2, -0.25]


def test_infinite_numbers_and_text_are_reported_by_row():
    assert said(["1.5", "inf", "2", "-Infinity", "3", "n.d."]).splitlines() == [
        "t.csv: not all measurements in column 'y' are finite numbers (3 wrong)",
        "  row 2: 'inf'",
        "  row 4: '-Infinity'",
        "  row 6: 'n.d.'",
    ]


def test_several_columns_are_several_measurements_or_labels():
    target, has, _ = read({"a": ["1.5", "", "3"], "b": ["0", "", ""]})
    assert (target.task_type, target.names, target.outputs) == ("regression", ("a", "b"), 2)
    assert has.tolist() == [True, False, True]
    np.testing.assert_array_equal(target.y, [[1.5, 0], [np.nan, np.nan], [3, np.nan]])
    labels, _, _ = read({"a": ["1", "0", ""], "b": ["0", "0", "1"]})
    assert labels.task_type == "multilabel"
    np.testing.assert_array_equal(labels.y, [[1, 0], [0, 0], [np.nan, 1]])
    assert said({"a": ["1", "2"], "b": ["0", "1"]}, task_type="multilabel").endswith("row 2: '2' in column 'a'")
    assert "takes one target column" in said({"a": ["1", "2"], "b": ["0", "1"]}, task_type="binary")


def test_lists_of_labels_are_multilabel_if_the_task_type_says_so():
    target, _, _ = read(["membrane;nucleus", "nucleus", "", "golgi | membrane"], task_type="multilabel")
    assert target.names == ("golgi", "membrane", "nucleus")
    np.testing.assert_array_equal(target.y[[0, 1, 3]], [[0, 1, 1], [0, 0, 1], [1, 1, 0]])
    assert np.isnan(target.y[2]).all()


@pytest.mark.parametrize(
    ("values", "classes", "y"),
    [
        (["0", "1", "1.0", ""], ["0", "1"], [0, 1, 1, -1]),
        (["-1", "1", "1", "NA"], ["-1", "1"], [0, 1, 1, -1]),
        (["yes", "no", "yes", "null"], ["no", "yes"], [1, 0, 1, -1]),
        (["True", "False", "True", ""], ["False", "True"], [1, 0, 1, -1]),
        (["active", "inactive", "active", ""], ["inactive", "active"], [1, 0, 1, -1]),
        (["binder", "non-binder", "binder", ""], ["non-binder", "binder"], [1, 0, 1, -1]),
    ],
)
def test_two_values_are_binary_and_the_second_is_the_positive_class(values, classes, y):
    target, _, _ = read(values)
    assert (target.task_type, target.outputs) == ("binary", 1)
    assert list(target.classes) == classes
    assert target.y.tolist() == y


def test_names_are_classes_and_small_integers_only_if_the_task_type_says_so():
    target, _, _ = read(["EI", "IE", "N", "N", "EI", "IE"])
    assert (target.task_type, list(target.classes), target.y.tolist()) == (
        "multiclass",
        ["EI", "IE", "N"],
        [0, 1, 2, 2, 0, 1],
    )
    assert read(["2", "10", "1", "2"])[0].task_type == "regression"
    assert list(read(["2", "10", "1", "2.0"], task_type="multiclass")[0].classes) == ["1", "2", "10"]
    assert "3 classes" in said(["2", "10", "1", "2"], task_type="binary")
    assert "31 different values" in said([f"protein {k}" for k in range(31)])
    assert order_of_classes(["b", "a", "c"]) == ["a", "b", "c"]
    assert order_of_classes(["+", "-"]) == ["-", "+"]


def test_an_empty_target_column_is_an_error():
    assert said(["", "NA", ""]) == "t.csv: column 'y' is empty"


def test_strings_of_labels_are_residue_targets_even_if_they_look_like_numbers():
    target, has, _ = read(["01101", "110", "", "0-1?"], [5, 3, 2, 4])
    assert (target.task_type, list(target.classes), target.outputs) == ("residue_binary", ["0", "1"], 1)
    assert has.tolist() == [True, True, False, True]
    assert target.y.tolist() == [[0, 1, 1, 0, 1], [1, 1, 0, -1, -1], [-1] * 5, [0, -1, 1, -1, -1]]
    assert target.y.dtype == np.int16
    target, _, _ = read(["HHEC-", "CCE"], [5, 3])
    assert (target.task_type, list(target.classes)) == ("residue_multiclass", ["C", "E", "H"])
    # numbers as long as the sequences by chance, and words of as many letters
    assert read(["0.123", "0.456", "-0.78", "1.234"], [5, 5, 5, 5])[0].task_type == "regression"
    assert read(["train", "tests"] * 20, [5] * 40)[0].task_type == "binary"


def test_labels_of_other_lengths_are_reported_by_row():
    message = said(["01101", "11", "0101", *["111"] * 29], [5, 3, 4, *[3] * 29])
    assert message.splitlines()[1:] == ["  row 2: 2 values for 3 letters"]


@pytest.mark.parametrize(
    ("known", "unknown", "task_type"),
    [
        ("0110", "----", "residue_binary"),
        ("HECH", "-?--", "residue_multiclass"),
        ("[0.1, 0.2, 0.5, 0.3]", "[null, null, null, null]", "residue_regression"),
    ],
)
def test_sequences_without_a_known_residue_have_no_measurement(known, unknown, task_type):
    _, has, remarks = read([known, unknown] * 11, [4] * 22, task_type=task_type)
    assert has.tolist() == [True, False] * 11
    assert remarks[0] == "11 of 22 rows have no measurement and are not used"


def test_lists_of_numbers_may_cover_the_first_residues_of_all_rows():
    target, _, remarks = read(["[0.5, null, 1.5]", "[1, 2, 3]"], [3, 3])
    assert target.task_type == "residue_regression"
    np.testing.assert_array_equal(target.y, [[0.5, np.nan, 1.5], [1, 2, 3]])
    assert read(["0.5, NA, 1.5", "1,2,3"], [3, 3])[0].y[1, 2] == 3
    target, _, remarks = read(["[0.5, 1.5]", "[1, 2]", "[1, 2, 3]"], [3, 3, 5])
    assert remarks[1] == "column 'y' covers the first 2 of 3, 3 of 5 residues; the others are unknown"
    assert np.isnan(target.y[0, 2:]).all()
    assert "row 2: 2 values for 3 letters" in said(["[0.5, 1.5, 2]", "[1, 2]"], [3, 3])
    assert "row 2: 'x' at residue 3" in said(["[1, 2, 3]", '[1, 2, "x"]'], [3, 3], task_type="residue_regression")


def test_dot_brackets_and_lists_give_the_same_pairs():
    target, has, _ = read(["((.[[))..]]", "....", ""], [11, 4, 7])
    assert target.task_type == "pairs"
    assert [pairs.tolist() for pairs in target.y] == [[[0, 6], [1, 5], [3, 10], [4, 9]], [], []]
    assert has.tolist() == [True, True, False]
    assert read(["(.AA).aa"], [8], task_type="pairs")[0].y[0].tolist() == [[0, 4], [2, 7], [3, 6]]
    # from 1 in the table; a base may have several partners
    lists, _, remarks = read(["[[7, 1], [2, 6], [2, 5], [2, 6]]", "[]"], [7, 4])
    assert [pairs.tolist() for pairs in lists.y] == [[[0, 6], [1, 4], [1, 5]], []]
    assert remarks[1] == "pairs are counted from 1 (one of them is the length)"
    zero, _, remarks = read(["[[0, 6], [1, 5]]", "[[2, 3]]"], [7, 4])
    assert zero.y[0].tolist() == [[0, 6], [1, 5]]
    assert remarks[1] == "pairs are counted from 0 (one of them is 0)"


def hairpins(tmp_path, first, rows=13, stem="GGAUC"):
    """A table of hairpins between unpaired ends, with lists of pairs that call the first base 0 or 1."""
    random = np.random.default_rng(0)
    sequences, structures = [], []
    for _ in range(rows):
        own = "".join(random.permutation(list(stem)))
        sequences.append(f"A{own}GAAA{own.translate(str.maketrans('ACGU', 'UGCA'))[::-1]}A")
        structures.append(json.dumps([[k + first, 15 - k + first] for k in range(1, 6)]))
    pd.DataFrame({"sequence": sequences, "structure": structures}).to_csv(tmp_path / "t.csv", index=False)
    return read_table(tmp_path / "t.csv", FitSettings(target=("structure",)))


@pytest.mark.parametrize("first", [0, 1])
def test_the_numbering_of_pairs_is_inferred_from_their_bases_and_remarked_on(tmp_path, first):
    table = hairpins(tmp_path, first)
    assert all(pairs.tolist() == [[k, 15 - k] for k in range(1, 6)] for pairs in table.target.y)
    said = next(remark for remark in table.remarks if remark.startswith("pairs are counted from"))
    assert said.startswith(f"pairs are counted from {first}: 100% of them are A-U, G-C or G-U; from {1 - first} it")
    assert not any(remark.startswith("fewer than half") for remark in table.remarks)


def test_pairs_of_bases_that_do_not_pair_are_counted_from_1_and_remarked(tmp_path):
    codes = np.zeros((2, 17), dtype=np.int8)
    column = pd.Series(["[[2, 9], [3, 8]]", "[[4, 11]]"], name="y")
    pairs, remarks = read_pairs("t.csv", column, np.array([17, 17]), np.ones(2, dtype=bool), codes=codes)
    assert [own.tolist() for own in pairs] == [[[1, 8], [2, 7]], [[3, 10]]]
    assert remarks == [
        "pairs are counted from 1: 0% of them are A-U, G-C or G-U; from 0 it would be 0%",
        "fewer than half of the pairs are A-U, G-C or G-U: are these structures of these sequences?",
    ]


def test_pairs_counted_from_0_in_some_rows_and_from_1_in_others_are_an_error():
    assert said(["[[0, 6]]", "[[0, 5]]", "[[1, 7]]"], [7, 7, 7], task_type="pairs").endswith(
        "row 3: position 7 of a pair is outside the sequence (0 to 6)"
    )
    assert said(["[[0, 6]]", "[[1, 5]]", "[[1, 7]]"], [7, 7, 7], task_type="pairs").endswith(
        "row 1: position 0 of a pair is outside the sequence (1 to 7)"
    )


def test_invalid_structures_are_reported_by_row():
    values = ["((..)", "(..))", "(..)", "(.x.)", "(...)"]
    assert said(values, [5, 5, 5, 5, 5], task_type="pairs").splitlines() == [
        "t.csv: 4 structures in column 'y' cannot be read",
        "  row 1: '(' at position 1 is not closed",
        "  row 2: ')' at position 5 has no opening bracket",
        "  row 3: 4 characters for 5 letters",
        "  row 4: 'x' at position 3 has no opening bracket",
    ]
    assert said(["[[1, 8]]", "[[3, 3]]", "[[1]]"], [7, 7, 7], task_type="pairs").splitlines()[1:] == [
        "  row 1: position 8 of a pair is outside the sequence (1 to 7)",
        "  row 2: a base is paired with itself",
        "  row 3: '[[1]]' is not a list of pairs such as [[1, 9], [2, 8]]",
    ]


@pytest.mark.long
@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SUBQUAD_DATA")
def test_the_task_type_of_real_tables_is_inferred():
    tasks = sorted(json.loads((DATA / "tasks.json").read_text()), key=lambda task: task["rows"])
    chosen = {}
    for task in tasks:
        if task["rows"] >= 100 or task["kind"] == "perres_bin":
            chosen.setdefault(task["kind"], task)
    assert set(chosen) >= {"reg", "bin", "multi13", "perres_bin", "perres_reg", "perres_multi8", "pairs"}
    for task_type, task in chosen.items():
        table = read_table(DATA / task["file"], FitSettings())
        rest = "residue_multiclass" if task_type.startswith("perres") else "multiclass"
        assert table.target.task_type == TASK_TYPES.get(task_type, "pairs" if task_type == "pairs" else rest), task[
            "id"
        ]
        assert len(table.inputs) == len(table.target) == task["rows"]
        if "multi" in task_type:
            assert len(table.target.classes) == int(task_type.rpartition("multi")[2])


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SUBQUAD_DATA")
def test_pairs_of_real_structures_are_pairs_of_bases():
    table = read_table(DATA / "rna" / "pdb_rna_structure.csv.gz", FitSettings())
    pairs = [
        {sequence[i], sequence[j]}
        for sequence, found in zip(table.sequences, table.target.y, strict=True)
        for i, j in found
    ]
    watson_crick = sum(pair in ({"G", "C"}, {"A", "U"}, {"G", "U"}) for pair in pairs)
    # counted from elsewhere it would be a third
    assert watson_crick > 0.7 * len(pairs)


def test_measurements_far_from_all_others_are_named():
    values = [str(k % 7) for k in range(40)]
    values[3], values[17] = "", "-998"
    remarks = read(values)[2]
    assert "1 measurement more than 20 interquartile ranges from the median, such as -998 in row 18" in remarks[-1]
    assert not any("interquartile" in text for text in read([*values[:17], "14", *values[18:]])[2])
    assert not any("interquartile" in text for text in read(["0.5"] * 39 + ["9"])[2])


@pytest.mark.parametrize("number", ["-999", "9999.0"])
def test_numbers_that_mark_missing_measurements_are_refused(number):
    values = [str(k % 7) for k in range(40)]
    values[3], values[17], values[18] = "", number, "500"
    with pytest.raises(SubquadError) as error:
        read(values)
    assert ": numbers that mark missing values; empty these cells" in str(error.value)
    assert str(error.value).splitlines()[1:] == [f"  row 18, column 'y': {float(number):g}"]
    # many of them
    with pytest.raises(SubquadError, match="numbers that mark missing values"):
        read([*values[:10], *[number] * 20])
    # measurements like any others
    read([str(900 + k) for k in range(200)])
    read([str(k) for k in range(1, 60)] + ["850", "998", number.lstrip("-"), "1000", "1500", "12000"])


UNIT = [f"{k * 0.37 % 1:.3f}" for k in range(1, 40)]
SMALL = [str(k % 7 - 3) for k in range(40)]


@pytest.mark.parametrize(
    ("others", "marker"),
    [
        (UNIT, ["99999", "99999"]),
        (SMALL, ["-999"]),
    ],
)
def test_isolated_numbers_that_mark_missing_measurements_are_refused(others, marker):
    lines = said([*others, *marker]).splitlines()
    assert lines[1:] == [f"  row {len(others) + k + 1}, column 'y': {value}" for k, value in enumerate(marker)]
