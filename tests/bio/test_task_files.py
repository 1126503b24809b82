"""Task files of `bench` whose entries or tables are damaged."""

import gzip
import json

import pytest

from subquad.bio.benchmark import tasks
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import _header, read_tasks
from subquad.errors import SubquadError

TEXT = b"sequence,target,split\nACGT,1,train\n" * 50
TABLE = gzip.compress(TEXT, mtime=0)


def said(folder, *entries) -> str:
    (folder / "tasks.json").write_text(json.dumps(entries))
    with pytest.raises(SubquadError) as error:
        read_tasks(folder / "tasks.json", BenchSettings(), folder)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TABLE[:15], "Compressed file ended before the end-of-stream marker was reached"),
        (TABLE[:10] + b"\xff" + TABLE[11:], "Error -3 while decompressing data"),
        (TEXT, "Not a gzipped file"),
    ],
    ids=["truncated", "damaged", "text"],
)
def test_tables_that_cannot_be_unpacked_are_refused_all_at_once(tmp_path, content, reason):
    (tmp_path / "t.csv.gz").write_bytes(content)
    first, *lines = said(
        tmp_path, *({"id": name, "file": "t.csv.gz", "task_type": "regression"} for name in ("a/x", "a/y"))
    ).splitlines()
    assert first == f"{tmp_path}/tasks.json:"
    place = f"{tmp_path}/t.csv.gz: its header cannot be read: damaged, truncated or not of the kind of its name"
    assert [line.partition(" (")[0] for line in lines] == [f"  a/x: {place}", f"  a/y: {place}"]
    assert all(reason in line for line in lines)


def test_a_header_that_expands_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "LONGEST_LINE", 2**16)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"0" * 10**6))
    # no column has a name that is known
    assert _header(tmp_path / "t.csv.gz") == {"0" * 2**16}


def test_a_table_with_a_name_that_no_file_can_have_is_not_there(tmp_path):
    message = said(tmp_path, {"id": "a/x", "file": "x" * 5000, "task_type": "regression"})
    assert message.endswith("xxx…: no such file")
    assert len(message) < 500


def test_a_header_with_a_quotation_mark_that_is_not_closed_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text('sequence,"target\n' + "ACGT,1\n" * 30_000)
    message = said(tmp_path, {"id": "a/x", "file": "t.csv", "task_type": "regression"})
    assert f"  a/x: {tmp_path}/t.csv: its header has a cell of more than 131,072 characters; if a" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_on": ["x"]}, "train_on is ['x']; give the id of the task whose training rows it uses"),
        ({"rows": 31, "length": [1, "a"]}, "length is [1, 'a']; give the lengths of the shortest and the longest"),
        ({"rows": 31, "length": [1]}, "length is [1]; give the lengths of the shortest and the longest"),
        ({"rows": 10**400, "length": [7, 11]}, "0; give the number of rows of the table, or leave it out"),
        ({"rows": "31", "length": [7, 11]}, "rows is '31'; give the number of rows of the table, or leave it out"),
    ],
)
def test_optional_keys_of_another_type_are_refused(tmp_path, given, message):
    (tmp_path / "t.csv").write_bytes(TEXT)
    text = said(tmp_path, {"id": "a/x", "file": "t.csv", "task_type": "regression", **given})
    assert text.startswith(f"{tmp_path}/tasks.json:\n  a/x: ")
    assert message in text


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/../x", "a/..", "/x", "a//x", "a\\x", "C:x", ".x", "-x", "a/", "a\n", "a\0", "x" * 101, "a b"],
)
def test_ids_that_are_no_plain_names_of_folders_are_refused(name, tmp_path):
    (tmp_path / "t.csv").write_bytes(TEXT)
    message = said(tmp_path, {"id": name, "file": "t.csv", "task_type": "regression"})
    assert f"task 1: its id is {name!r}; use letters, digits" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/x", "A/x"), "ids 'a/x' and 'A/x' differ in upper and lower case only, and may be one folder; rename one"),
        (("a", "a/0"), "id 'a/0' is the folder of a seed of the task 'a'; rename one of them"),
        (("a/x", "a/x"), "id 'a/x' occurs 2 times"),
    ],
)
def test_ids_whose_runs_would_be_in_one_folder_are_refused(names, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(TEXT)
    assert message in said(tmp_path, *({"id": name, "file": "t.csv", "task_type": "regression"} for name in names))


def test_a_task_file_is_the_users_own_and_its_tables_may_lie_anywhere(tmp_path):
    for name in ("above.csv", "elsewhere.csv"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "tasks").mkdir()
    files = {"a": "../above.csv", "b": str(tmp_path / "elsewhere.csv")}
    entries = [{"id": name, "file": file, "task_type": "regression"} for name, file in files.items()]
    (tmp_path / "tasks" / "tasks.json").write_text(json.dumps(entries))
    found = read_tasks(tmp_path / "tasks" / "tasks.json", BenchSettings(), tmp_path / "out")
    assert [task.table.resolve().name for task in found] == ["above.csv", "elsewhere.csv"]
