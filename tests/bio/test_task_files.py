"""Task files of `bench` whose entries or tables are damaged."""

import gzip
import json

import pytest

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import read_tasks
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
    entries = [{"id": name, "file": "t.csv.gz", "task_type": "regression"} for name in ("a/x", "a/y")]
    lines = said(tmp_path, *entries).splitlines()
    assert len(lines) == 2
    assert all(f": {tmp_path}/t.csv.gz: cannot be read as a table (" in line for line in lines)
    assert all(reason in line for line in lines)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/../x", "a/..", "/x", "a//x", "a\\x", "C:x", ".x", "-x", "a/", "a\n", "a\0", "x" * 101, "a b"],
)
def test_ids_that_are_no_plain_names_of_folders_are_refused(name, tmp_path):
    (tmp_path / "t.csv").write_bytes(TEXT)
    message = said(tmp_path, {"id": name, "file": "t.csv", "task_type": "regression"})
    assert f"id {name!r} must be letters, digits" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/x", "A/x"), "ids 'a/x' and 'A/x' may be one folder"),
        (("a", "a/0"), "id 'a/0' is the folder of a seed of the task 'a'; rename one of them"),
        (("a/x", "a/x"), "ids 'a/x' and 'a/x' may be one folder"),
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
