"""What the page makes of messages of the commands on sequences, and of what is pasted or chosen beside a table."""

import random
import time

import pytest

from subquad.app.sequence_data import Choices, description, in_page_words, letters, with_sheet
from subquad.errors import SubquadError


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "t.csv: several columns may be the target (a, b); name it with --target",
            't.csv: several columns may be the target (a, b); choose it in "Target columns" under "Columns and split"',
        ),
        ("--error: no column 'x'", "\"Column of the standard errors\": no column 'x'"),
        (
            "t.csv: --split-by position needs variants of one wild type; name their column with --mutant, or give "
            "--wild-type",
            't.csv: "mutated positions" needs variants of one wild type; choose their column in "Column of the '
            'variants" under "Columns and split", or give "Wild type"',
        ),
        (
            "t.csv: no offset aligns the variants with the wild type of 9 letters; the best are 3 (2 of 9 rows), "
            "-4 (1 of 9 rows); check --wild-type, or set --offset",
            "t.csv: no first position aligns the variants with the wild type of 9 letters; the best are 4 (2 of 9 "
            'rows), -3 (1 of 9 rows); check "Wild type", or set "First position of the wild type"',
        ),
        (
            "positions of the variants: offset 0 fits all 9 rows, and so does 2; set --offset if 0 is wrong",
            "positions of the variants: first position 1 fits all 9 rows, and so does 3; set "
            '"First position of the wild type" if 1 is wrong',
        ),
        ("column 'v' is ignored (--mutant v shows why)",
         "column 'v' is ignored (choose v as \"Column of the variants\" to see why)"),
        ("--models lyra does not suit pairs", "the model lyra does not suit pairs"),
        ("--allow: position 9 is in --fixed",
         '"Substitutions allowed at positions": position 9 is in "Positions that stay"'),
        ("set --alphabet dna",
         "set --alphabet dna\nThis page has no field for --alphabet; use the command line for it."),
        ("remove these rows, or accept it with --lengths vary",
         'remove these rows, or choose "accept any lengths" in "Lengths of the sequences" under "Columns and split"'),
        ("--lengths must be auto or vary", '"Lengths of the sequences" must be auto or vary'),
        ("a--b.csv: rows", "a--b.csv: rows"),
    ],
)  # fmt: skip
def test_messages_name_the_fields_of_the_page(message, words):
    assert in_page_words(message) == words


def test_the_sequence_of_a_scan_is_another_field():
    words = in_page_words("--sequence has letters outside", sequence="Sequence to mutate")
    assert words == '"Sequence to mutate" has letters outside'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("acde", "ACDE"),
        (" AC\nDE ", "ACDE"),
        (">sp|P1|X human\nAC\nDE\n", "ACDE"),
        ("AC-E*", "AC-E*"),
        ("", None),
        (None, None),
    ],
)
def test_a_sequence_is_pasted_plain_or_as_fasta(text, found):
    assert letters(text) == found


@pytest.mark.parametrize("text", ["/etc/passwd", "../wild.fasta", "wild.txt", "MKV1", ">a\nACD\n>b\nACE"])
def test_a_sequence_is_letters_and_no_file(text):
    with pytest.raises(SubquadError, match="is not a sequence; give letters only"):
        letters(text)


@pytest.mark.parametrize("sheet", ["a/b", "../../secret.xlsx", "a\\b"])
def test_a_sheet_is_no_path(sheet):
    with pytest.raises(SubquadError, match="there is no sheet"):
        with_sheet("dms.xlsx", sheet)


def test_a_few_sequences_of_another_length_are_refused_until_any_lengths_are_chosen(tmp_path):
    draw = random.Random(0)
    rows = ["".join(draw.choices("ACDEFGHIKL", k=13 - (k == 7))) for k in range(61)]
    path = tmp_path / "cut.csv"
    path.write_text("sequence,y\n" + "".join(f"{row},{k % 11}\n" for k, row in enumerate(rows)))
    shown, problem = description(path, Choices(lengths="auto").settings())
    assert (shown, description(path, Choices().settings())[1]) == ("", problem)
    assert "1 of 61 sequences has 12 letters, the others 13 (row 8)" in problem
    assert 'choose "accept any lengths" in "Lengths of the sequences" under "Columns and split"' in in_page_words(
        problem
    )
    shown, problem = description(path, Choices(lengths="vary").settings())
    assert problem == ""
    assert "12 to 13" in shown


@pytest.mark.parametrize(
    "unit", ["x", "1", "-", "-a", "--a", "a.xlsx#", "name it ", "reading sheet '", "with --a, ", "\n"]
)
def test_long_messages_are_cut_before_they_are_searched(unit):
    began = time.process_time()
    words = in_page_words(unit * (130_000 // len(unit)))
    # a pattern that is tried from each letter to the end takes minutes
    assert time.process_time() - began < 0.5
    assert len(words) < 30_000


def test_a_long_name_in_a_message_is_cut_and_the_rest_of_it_is_not():
    words = in_page_words(f"t.csv: no column '{'x' * 3000}' here; name it with --target")
    assert words == f't.csv: no column \'{"x" * 199}… here; choose it in "Target columns" under "Columns and split"'
