"""Small files that would become large in memory are refused before they do; limits are small here, to be quick."""

import gzip
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import pyarrow.parquet
import pytest

from subquad.bio.data import fasta, workbooks
from subquad.bio.data.embeddings import WIDEST, read_embeddings
from subquad.bio.data.fasta import read_fasta, read_sequence
from subquad.bio.data.files import read_frame
from subquad.errors import SubquadError
from subquad.runs import unpacking

h5py = pytest.importorskip("h5py")
LIMIT = 2**16
ROWS = 211


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", LIMIT)


def error(read, *arguments, **options):
    with pytest.raises(SubquadError) as caught:
        read(*arguments, **options)
    return str(caught.value)


def embeddings(path):
    return read_embeddings(path, ["A"] * ROWS, table="t.csv")


def unwritten(path, shape, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("group/mean", shape, dtype="f4", **options)
    return path


def test_a_data_set_that_was_never_written_is_refused(tmp_path):
    path = unwritten(tmp_path / "e.h5", (ROWS, 200))
    assert error(embeddings, path).startswith(
        f"{path}: data set 'group/mean' of shape (211, 200) would become 168,800 bytes from 0 bytes in the file, more "
        "than 1,000 times as many"
    )
    assert error(embeddings, unwritten(tmp_path / "wide.h5", (ROWS, 10**9))).endswith(
        "has the shape (211, 1000000000); embeddings have at most 100,000 numbers: check how the file was made"
    )


def test_a_data_set_in_a_large_packed_chunk_is_refused(tmp_path):
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("mean", data=np.ones((ROWS, 7)), maxshape=(None, 7), chunks=(10**6, 7), compression=9)
    assert "a chunk of data set 'mean', of shape (1000000, 7), would become 56,000,000 bytes" in error(
        embeddings, tmp_path / "e.h5"
    )


def test_an_archive_of_zeros_is_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "e.npz", mean=np.zeros((ROWS, 2_000)))
    monkeypatch.setattr(np.lib.format, "read_array", None)
    assert f"{tmp_path}/e.npz: the array of shape (211, 2000) would become 3,376,000 bytes from" in (
        found := error(embeddings, tmp_path / "e.npz")
    )
    assert found.endswith("check the file, and write it again uncompressed (`np.savez` or `np.save`)")
    np.savez_compressed(tmp_path / "wide.npz", mean=np.zeros((ROWS, WIDEST + 1), dtype=np.uint8))
    assert "embeddings have at most 100,000 numbers" in error(embeddings, tmp_path / "wide.npz")
    np.savez_compressed(tmp_path / "long.npz", mean=np.zeros((10**6, 2)))
    assert "has 1,000,000 rows, but t.csv has 211" in error(embeddings, tmp_path / "long.npz")


def test_an_array_that_is_longer_than_its_file_is_refused(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros((ROWS, 50_000), dtype=np.uint8))
    data = (tmp_path / "e.npy").read_bytes()
    (tmp_path / "e.npy").write_bytes(data[:1_000])
    assert "the array of shape (211, 50000) would become 10,550,000 bytes from 1,000 bytes" in error(
        embeddings, tmp_path / "e.npy"
    )


@pytest.mark.parametrize("write", [np.save, np.savez, np.savez_compressed])
def test_embeddings_that_are_larger_than_the_limit_are_read(tmp_path, write):
    values = np.random.default_rng(3).normal(size=(ROWS, 200)).astype(np.float32)
    assert values.nbytes > LIMIT
    path = tmp_path / ("e.npy" if write is np.save else "e.npz")
    write(path, values)
    np.testing.assert_array_equal(embeddings(path).mean, values)


def gzipped(path, data):
    path.write_bytes(gzip.compress(data))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\n" + b"ACGT" * 20_000, "a.fa.gz: the sequence 'a' has more than 65,536 letters, more than such a file"),
        (b">a\n" + b"ACGTACG\n" * 20_000, "a.fa.gz: the sequence 'a' has more than 65,536 letters, more than such a"),
        (
            b">b\nAC\n>" + b"a" * 80_000 + b"\nAC",
            r"a.fa.gz: a name of more than 65,536 letters, '>aaaa.* …; shorten it",
        ),
    ],
)
def test_fasta_that_expands_is_refused(tmp_path, content, message):
    path = gzipped(tmp_path / "a.fa.gz", content)
    with pytest.raises(SubquadError, match=message):
        list(read_fasta(path))
    with pytest.raises(SubquadError, match=message):
        read_sequence(str(path), "--wild-type")


def test_a_text_with_a_sequence_that_expands_is_refused(tmp_path):
    path = gzipped(tmp_path / "a.txt.gz", b"A" * (LIMIT + 1))
    assert error(read_sequence, str(path), "--partner") == (
        f"{path}: has more than 65,536 letters; --partner takes one sequence"
    )
    assert read_sequence(str(gzipped(tmp_path / "a.txt.gz", b"ac\n" * 20_000)), "--partner") == "AC" * 20_000


def test_long_lines_of_fasta_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta, "PART", 7)
    records = {"a": "ACGTACGTACG" * 11, "b": "", "c": "A C>G>" * 13, "d": "A", "e": "ACGTACG", "f": "ACGTAC"}
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in records.items())
    (tmp_path / "a.fa").write_text(text)
    assert dict(read_fasta(tmp_path / "a.fa")) == records | {"c": "AC>G>" * 13}
    assert error(read_sequence, str(tmp_path / "a.fa"), "--wild-type").endswith(
        "holds 6 sequences; --wild-type takes one"
    )


def test_plain_fasta_is_read_whatever_its_size(tmp_path):
    (tmp_path / "a.fa").write_bytes(b">a\n" + b"ACGT" * 20_000)
    assert [len(sequence) for _, sequence in read_fasta(tmp_path / "a.fa")] == [80_000]


def workbook(path, name, xml):
    """Write an Excel file with such XML between the ends of a part of it."""
    openpyxl.Workbook().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    begin = parts[name][: parts[name].index(b"<sheetData")]
    parts[name] = begin + b"<sheetData>" + xml + b"</sheetData></worksheet>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def test_an_excel_file_that_expands_is_refused(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", SHEET, b"<row><c/></row>" * 100_000)
    monkeypatch.setattr(workbooks, "LARGEST_WORKBOOK", LIMIT)
    assert error(read_frame, path).startswith(f"{path}: the Excel file would become 1,5")


def test_a_row_of_more_cells_than_excel_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workbooks, "MOST_ELEMENTS", 50)
    monkeypatch.setattr(openpyxl, "load_workbook", None)
    path = workbook(tmp_path / "a.xlsx", SHEET, b"<row><c/></row>" * 100 + b"<row>" + b"<c/>" * 51 + b"</row>")
    assert f"{path}: xl/worksheets/sheet1.xml has more than 50 parts in one row" in error(read_frame, path)


def test_sparse_counts_are_read_from_an_archive(tmp_path):
    counts = np.zeros((ROWS, 2_000))
    counts[np.arange(ROWS), np.random.default_rng(3).integers(2_000, size=ROWS)] = 1
    np.savez_compressed(tmp_path / "e.npz", counts)
    assert counts.nbytes > 200 * (tmp_path / "e.npz").stat().st_size
    np.testing.assert_array_equal(embeddings(tmp_path / "e.npz").mean, counts)


def test_a_parquet_file_of_repeated_values_is_refused(tmp_path, monkeypatch):
    long = ["A" * 10_000] * 5_000
    pd.DataFrame({"sequence": long, "score": range(5_000)}).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**21)
    assert error(read_frame, tmp_path / "a.parquet").startswith(f"{tmp_path}/a.parquet: the table would become ")
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**16)
    pd.DataFrame({"sequence": ["A"] * 500_000, "score": 1.0}).to_parquet(tmp_path / "a.parquet")
    iterate = pyarrow.parquet.ParquetFile.iter_batches

    def first_row(file, size, **options):
        assert size == 1
        return iterate(file, size, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", first_row)
    assert error(read_frame, tmp_path / "a.parquet").startswith(
        f"{tmp_path}/a.parquet: the table would become 1,000,000 bytes from "
    )


def test_a_parquet_file_of_empty_values_is_read_as_its_csv_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**19)
    columns = {f"value_{number}": [1.5] + [None] * 9_999 for number in range(30)}
    frame = pd.DataFrame({"sequence": ["A"] * 10_000, **columns})
    frame.to_parquet(tmp_path / "a.parquet")
    assert 8 * frame.size > 100 * (tmp_path / "a.parquet").stat().st_size
    assert read_frame(tmp_path / "a.parquet").shape == (10_000, 31)
