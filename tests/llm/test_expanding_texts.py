"""Small files of text that would become large in memory are refused before they do; limits are small, to be quick."""

import gzip
import json

import pandas as pd
import pytest

from subquad.errors import SubquadError
from subquad.llm.data import readers
from subquad.llm.data.readers import open_documents
from subquad.runs import unpacking

LIMIT = 2**16


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", LIMIT)
    monkeypatch.setattr(readers, "LONGEST_LINE", 2**20)


def texts(path):
    return ["".join(document.blocks) for document in open_documents(path).documents]


def error(path):
    with pytest.raises(SubquadError) as caught:
        texts(path)
    return str(caught.value)


def gzipped(path, data):
    path.write_bytes(gzip.compress(data))
    return path


def row(text):
    return json.dumps({"text": text}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "line"), [(b"0" * 10**6, 1), (row("a") + b"\n" + b" " * 10**6, 3), (b"\n\n" + row("a" * 10**6), 3)]
)
def test_a_line_that_expands_is_refused(tmp_path, content, line):
    path = gzipped(tmp_path / "a.jsonl.gz", content)
    assert error(path) == f"{path}, line {line}: has more than {most(path):,} bytes; divide it, or check the file"


def most(path):
    return max(LIMIT, 100 * path.stat().st_size)


@pytest.mark.parametrize("content", [b"[" + b"1," * 10**6, b"\n [" + b"\n" * 10**6, b'{\n"a":' + b" " * 10**6 + b"1}"])
def test_a_list_or_an_object_that_expands_is_refused(tmp_path, content):
    path = gzipped(tmp_path / "a.json.gz", content)
    assert "a.json.gz: expands to more than " in error(path)
    assert error(path).endswith("if that is right, give the unpacked file")


def test_what_is_long_and_not_packed_is_read(tmp_path):
    rows = [{"text": "a" * 2**19}, {"text": "b" * 2**19}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.jsonl").write_bytes(b"\n \n" + b"\n".join(row(one["text"]) for one in rows))
    for name in ("list.json", "lines.jsonl"):
        assert texts(tmp_path / name) == [one["text"] for one in rows]
    (tmp_path / "lines.jsonl").write_bytes(row("a") + row("b" * 2**20))
    assert "lines.jsonl, line 2: has more than 1,048,576 bytes" in error(tmp_path / "lines.jsonl")


@pytest.mark.parametrize("content", [row("ab") * 10**5, b"\n" * 10**5 + row("ab") * 10**5])
def test_many_packed_rows_are_read(tmp_path, content):
    assert len(texts(gzipped(tmp_path / "a.jsonl.gz", content))) == 10**5


def test_a_packed_text_of_any_size_is_read(tmp_path):
    assert len(texts(gzipped(tmp_path / "a.txt.gz", b"a" * 10**6))[0]) == 10**6


def test_a_parquet_file_of_repeated_values_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["A"] * 50_000}).to_parquet(path)
    assert len(texts(path)) == 50_000
    monkeypatch.setattr(readers, "LARGEST_GROUP", LIMIT)
    assert error(path).startswith(f"{path}: a group of rows would become 400,000 bytes from ")


def test_repeated_texts_are_read_in_parts(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["A" * 10_000] * 200}).to_parquet(path)
    assert list(map(len, texts(path))) == [10_000] * 200
