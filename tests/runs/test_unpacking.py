"""Limits of what is read at once: lines, whole files, and the headers of arrays."""

import gzip
import io

import numpy as np
import pytest

from subquad.errors import SubquadError
from subquad.runs import unpacking
from subquad.runs.unpacking import array_header, lines_within, most_bytes, open_unpacked, read_within


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_are_read_up_to_their_limit(tmp_path, name):
    path, text = tmp_path / name, b"ab\n\n123456789\nlast"
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with open_unpacked(path) as (file, _):
        assert list(lines_within(path, file, 10)) == text.splitlines(keepends=True)
    with open_unpacked(path) as (file, _), pytest.raises(SubquadError) as error:
        list(lines_within(path, file, 9))
    assert str(error.value) == f"{path}, line 3: has more than 9 bytes; divide it, or check the file"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_file_is_read_up_to_its_limit(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"0" * 100) if name.endswith("gz") else b"0" * 100)
    with open_unpacked(path) as (file, _):
        assert read_within(path, file, 100) == b"0" * 100
    with open_unpacked(path) as (file, _), pytest.raises(SubquadError, match="expands to more than 99 bytes"):
        read_within(path, file, 99)


def test_no_more_memory_is_asked_for_than_a_file_fills(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"0" * 1000)
    with open_unpacked(path) as (file, _):
        # more than any computer has
        assert read_within(path, file, 2**60) == b"0" * 1000


def test_the_limit_grows_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 1000)
    path = tmp_path / "a"
    path.write_bytes(b"0" * 9)
    assert most_bytes(path) == 1000
    path.write_bytes(b"0" * 11)
    assert most_bytes(path) == 1100
    assert most_bytes(path, 70) == 70


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_header_of_an_array_is_that_which_numpy_writes(order):
    file = io.BytesIO()
    np.save(file, np.zeros((3, 5), dtype="<i4", order=order))
    file.seek(0)
    assert array_header(file) == ((3, 5), order == "F", np.dtype("<i4"))
    assert file.tell() == len(file.getvalue()) - 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOF"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xf0", "header of an array has more than 65,536 bytes"),
        (b"\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 7)}\n", "is negative"),
        (b"\x93NUMPY\x09\x00", "version"),
    ],
)
def test_the_header_of_no_array_is_an_error(content, message):
    with pytest.raises(ValueError, match=message):
        array_header(io.BytesIO(content))
