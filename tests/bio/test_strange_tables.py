"""Tables of extreme shapes and contents, which took minutes or any memory: they are read, or refused at once."""

import datetime
import gzip

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from subquad.bio.data import files
from subquad.bio.data.files import read_frame
from subquad.bio.data.numbers import read_numbers
from subquad.bio.data.residue_targets import read_pairs, read_residues
from subquad.errors import SubquadError

pytestmark = pytest.mark.timeout(30)


def said(read, *arguments):
    with pytest.raises(SubquadError) as error:
        read(*arguments)
    return str(error.value)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_table_of_too_many_columns_is_refused(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(files, "MOST_COLUMNS", 300)
    path, count = tmp_path / f"a.{ending}", 301
    if ending == "parquet":
        pd.DataFrame([range(count)], columns=[f"c{k}" for k in range(count)]).to_parquet(path)
    else:
        text = "\n".join([",".join(f"c{k}" for k in range(count)), ",".join("1" * count)]).encode()
        path.write_bytes(gzip.compress(text) if ending == "csv.gz" else text)
    assert "it has 301 columns, and at most 300 are read" in said(read_frame, path)


def test_headers_of_fasta_that_each_have_a_key_of_their_own_are_descriptions(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text("".join(f">s{k} k{k}=1 word\nACGT\n" for k in range(10**4)))
    frame = read_frame(path)
    assert list(frame.columns) == ["id", "sequence", "word_2", "word_3"]
    assert frame.iloc[7].tolist() == ["s7", "ACGT", "k7=1", "word"]


@pytest.mark.parametrize("separator", [" ", "|"])
def test_a_header_of_fasta_of_a_million_parts_is_no_million_columns(tmp_path, separator):
    (tmp_path / "a.fa").write_text(f">{f'a{separator}' * 10**6}\nACGT\n")
    frame = read_frame(tmp_path / "a.fa")
    assert frame.shape[1] == (3 if separator == " " else 2)


def test_many_and_long_values_that_are_no_numbers_are_refused_at_once():
    column = pd.Series(["9" * 10**5 + "x", "1,000" + ",000" * 10**4, *["low"] * 10**5], name="score")
    lines = said(read_numbers, "t.csv", column, "measurements").split("\n")
    assert lines[1] == f"  row 1: '{'9' * 99}…'"
    assert lines[2] == f"  row 2: '{('1' + ',000' * 25)[:99]}…'"
    assert lines[-1] == "  … and 99,992 more"


def test_a_long_cell_beside_a_quotation_mark_is_read_in_linear_time(tmp_path):
    (tmp_path / "a.csv").write_text("note,sequence\n" + "1" * 10**5 + 'x,A\n"a\nb",C\n')
    assert read_frame(tmp_path / "a.csv")["sequence"].tolist() == ["A", "C"]


def test_empty_rows_at_the_end_are_left_out(tmp_path):
    for count in (0, 1, 6, 7, 8, 30):
        (tmp_path / "a.csv").write_text("a,b\n,1\n,\n , x\n" + " ,\n" * count)
        assert read_frame(tmp_path / "a.csv")["b"].tolist() == ["1", "", " x"]


def test_a_record_of_many_lines_of_one_letter_is_a_sequence(tmp_path):
    (tmp_path / "a.fa").write_text(">a\n1" + "\nA" * 10**5)
    assert read_frame(tmp_path / "a.fa").shape == (1, 2)


def test_numbers_of_residues_beyond_float64_are_refused():
    column, has = pd.Series([f"[1,{10**400},2]"], name="score"), np.ones(1, dtype=bool)
    message = said(lambda: read_residues("t.csv", column, np.array([3]), has, task_type="residue_regression"))
    assert message.endswith(f"row 1: 1{'0' * 98}… at residue 2")


@pytest.mark.parametrize(
    "value", ["[[1.5, 9]]", "[[1, 2, 3], [4, 5, 6]]", "[[1], [2]]", f"[[{10**30}, 2]]", "[[1e999, 2]]"]
)
def test_what_is_no_pair_of_whole_numbers_is_refused(value):
    column, has = pd.Series([value], name="pairs"), np.ones(1, dtype=bool)
    assert "is not a list of pairs such as [[1, 9], [2, 8]]" in said(read_pairs, "t.csv", column, np.array([12]), has)


@pytest.mark.parametrize("value", ["[[1.0, 9], [2, 8]]", "[[2, 8], [], [9, 1]]"])
def test_pairs_of_whole_numbers_are_read(value):
    column, has = pd.Series([value], name="pairs"), np.ones(1, dtype=bool)
    ((pairs,), _) = read_pairs("t.csv", column, np.array([12]), has)
    assert pairs.tolist() == [[0, 8], [1, 7]]


def test_nested_values_of_parquet_are_text(tmp_path):
    days = [[datetime.date(2020, 1, 2)]]
    pyarrow.parquet.write_table(pyarrow.table({"sequence": ["A"], "days": days}), tmp_path / "a.parquet")
    assert read_frame(tmp_path / "a.parquet")["days"].tolist() == ['["2020-01-02"]']
