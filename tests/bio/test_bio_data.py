import gzip
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from subquad.bio import datasets, example
from subquad.bio.data import encode, find_sequences, find_target, letters_of, read_frame, read_measurements
from subquad.bio.settings import FitSettings
from subquad.bio.split import find_split, given_split, random_split
from subquad.errors import SubquadError

SEQUENCES = ["ACDEF", "ACDEG", "ACDKL", "MNPQR", "STVWY", "ACDDF", "WWDEF", "ACYEF", "ACDMM", "LLLEF", "ACDEN"]


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def said(call, *arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_commas_tabs_and_gzip_give_the_same_table(tmp_path):
    rows = [f"{sequence},{k}" for k, sequence in enumerate(SEQUENCES)]
    plain = read_frame(write(tmp_path / "a.csv", "sequence,score", rows))
    tabs = read_frame(write(tmp_path / "a.tsv", "sequence\tscore", [row.replace(",", "\t") for row in rows]))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    pd.testing.assert_frame_equal(plain, tabs)
    pd.testing.assert_frame_equal(plain, read_frame(tmp_path / "a.csv.gz"))


def test_files_that_are_no_tables_are_refused(tmp_path):
    assert said(read_frame, tmp_path / "no.csv") == f"{tmp_path}/no.csv: no such file"
    assert said(read_frame, tmp_path) == f"{tmp_path}: a folder; give the CSV or TSV file in it"
    empty = write(tmp_path / "e.csv", "", [])
    assert said(read_frame, empty) == f"{empty}: empty; a header line and one row a sequence are needed"
    bare = write(tmp_path / "b.csv", "sequence,score", [])
    assert said(read_frame, bare) == f"{bare}: no rows under the header"
    cut = tmp_path / "c.csv.gz"
    cut.write_bytes(gzip.compress(b"sequence,score\nACDEF,1\n")[:-5])
    assert said(read_frame, cut).startswith(f"{cut}: damaged or cut short (")
    binary = tmp_path / "d.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    assert said(read_frame, binary) == f"{binary}: not a text file in UTF-8; export the table as CSV"


def test_columns_are_guessed_by_name_and_looks(tmp_path):
    rows = [f"v{k},{sequence},{k / 7},train" for k, sequence in enumerate(SEQUENCES)]
    frame = read_frame(write(tmp_path / "a.csv", "name,variant,measured,set", rows))
    assert find_sequences("a.csv", frame, None).name == "variant"
    assert find_split("a.csv", frame, None) == "set"
    target = find_target("a.csv", frame, None, ["variant", "set"])
    assert target.name == "measured"
    assert target.is_guessed


def test_what_cannot_be_guessed_is_asked_for():
    frame = pd.DataFrame({"a": SEQUENCES, "b": SEQUENCES[::-1], "p": ["1"] * 11, "q": ["2"] * 11})
    assert said(find_sequences, "t.csv", frame, None) == (
        "t.csv: several columns may be the sequences (a, b); name it with --sequence"
    )
    assert said(find_target, "t.csv", frame, None, ["a", "b"]) == (
        "t.csv: several columns may be the measurements (p, q); name it with --target"
    )
    message = said(find_target, "t.csv", frame.rename(columns={"p": "score"}), "scor", ["a"])
    assert message.startswith("t.csv: no column 'scor'; did you mean 'score'?")


def test_every_wrong_letter_is_said_with_its_row_and_position():
    message = said(encode, "t.csv", ["ACD", "ABD", "", "AXDZ"], "protein")
    assert message.splitlines() == [
        "t.csv: 3 of 4 rows cannot be read; mend or remove them",
        "  row 2: 'B' at position 2 is no letter of the protein alphabet (ACDEFGHIKLMNPQRSTVWY)",
        "  row 3: the sequence is empty",
        "  row 4: 'X' at position 2 is no letter of the protein alphabet (ACDEFGHIKLMNPQRSTVWY) "
        "(and 1 more in this row)",
    ]
    assert "row 1: 'é' at position 2" in said(encode, "t.csv", ["Aé"], "protein")
    assert said(encode, "t.csv", ["ACD", "AC"], "protein", length=3).endswith(
        "row 2: 2 letters, but the model was fitted on sequences of 3"
    )


def test_codes_are_places_in_the_alphabet_padded_with_minus_one():
    assert encode("t.csv", ["GAT", "C"], "dna").tolist() == [[2, 0, 3], [1, -1, -1]]


@pytest.mark.parametrize(
    ("sequences", "name"),
    [
        (["ACGT", "GGGA"], "dna"),
        (["ACGU", "GGGA"], "rna"),
        (["ACDE", "KLMN"], "protein"),
        (["ACDE", "KL*N"], "protein_stop"),
        (["ACGT" * 20, "ACGN" * 1], "dna"),
    ],
)
def test_the_alphabet_is_the_smallest_that_fits(sequences, name):
    assert letters_of(sequences, "auto") == (name, True)


def test_words_among_measurements_are_all_said():
    column = pd.Series(["1.5", "high", "", "2.5", "n.d.", "nan", "3"], name="score")
    assert said(read_measurements, "t.csv", column, "auto").splitlines() == [
        "t.csv: not all measurements in column 'score' are numbers (2); mend or empty them",
        "  row 2: 'high'",
        "  row 5: 'n.d.'",
    ]
    y, task, classes, has = read_measurements("t.csv", column.replace({"high": "7", "n.d.": "9"}), "auto")
    assert (task, classes, has.tolist()) == ("regression", [], [True, True, False, True, True, False, True])
    assert y[1] == 7


def test_zeros_and_ones_and_words_are_classes():
    assert read_measurements("t.csv", pd.Series(["1", "0", "1", "0"]), "auto")[1:3] == ("classification", ["0", "1"])
    assert read_measurements("t.csv", pd.Series(["b", "a", "b", "a"]), "auto")[0].tolist() == [1, 0, 1, 0]
    assert read_measurements("t.csv", pd.Series(["1", "0", "1"]), "regression")[1] == "regression"


def test_a_random_split_keeps_equal_sequences_together():
    sequences = SEQUENCES * 7
    split = random_split(sequences, test_fraction=0.3, validation_fraction=0.2, seed=3)
    parts = [{sequences[row] for row in rows} for rows in split.values()]
    assert sum(len(part) for part in parts) == len(set(sequences))
    assert sum(len(rows) for rows in split.values()) == len(sequences)


def test_the_usual_words_of_a_split_are_understood():
    column = pd.Series(["Train", "training", "val", "valid", "test", "unused", ""], name="split")
    split = given_split("t.csv", column, SEQUENCES[:7], validation_fraction=0.1, seed=0)
    assert {part: rows.tolist() for part, rows in split.items()} == {
        "train": [0, 1],
        "validation": [2, 3],
        "test": [4],
    }
    message = said(
        given_split, "t.csv", column.replace({"val": "fold1"}), SEQUENCES[:7], validation_fraction=0.1, seed=0
    )
    assert message.splitlines() == [
        "t.csv: column 'split' must say train, validation or test (or unused)",
        "  row 3: 'fold1'",
    ]
    message = said(
        given_split, "t.csv", column.replace({"test": "train"}), SEQUENCES[:7], validation_fraction=0.1, seed=0
    )
    assert message == "t.csv: no row of column 'split' says test; mark some rows so"


def test_without_validation_rows_some_training_rows_are_taken():
    column = pd.Series(["train"] * 9 + ["test"] * 2, name="split")
    split = given_split("t.csv", column, SEQUENCES, validation_fraction=0.3, seed=0)
    assert len(split["validation"]) == 3
    assert sorted([*split["train"], *split["validation"]]) == list(range(9))


def test_the_shipped_table_is_whole_and_changed_ones_are_refused(tmp_path, monkeypatch):
    path = example("tdp43")
    frame = read_frame(path)
    assert len(frame) == 57_996
    assert list(frame.columns) == ["sequence", "toxicity", "split"]
    assert frame["split"].value_counts().to_dict() == {"train": 52_249, "validation": 2_916, "test": 2_831}
    # no time of writing in it, so that it can be made again byte for byte
    assert path.read_bytes()[4:8] == b"\0\0\0\0"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == datasets.EXAMPLES["tdp43"][1]
    monkeypatch.setitem(datasets.EXAMPLES, "tdp43", ("tdp43.csv.gz", "0" * 64))
    assert said(example, "tdp43").endswith("changed since it was shipped (wrong sha256); install subquad again")
    assert said(example, "tdp44").startswith("no example 'tdp44'; did you mean 'tdp43'?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.5}, "--test-fraction must be between 0 and 1, got 1.5"),
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be above 0, got 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    assert said(FitSettings, **options) == message
