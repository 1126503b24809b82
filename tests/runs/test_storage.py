"""Files that are whole or as they were, outputs that are not destroyed, and what killed processes left."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.runs import storage
from subquad.runs.storage import (
    atomic,
    check_files_not_inside,
    check_not_inside,
    check_output,
    check_present,
    check_report_folder,
    check_writable,
    fingerprint,
    null_as_nan,
    read_json,
    read_tensors,
    remove_temporaries,
    write_json,
    write_report_folder,
    write_tensors,
)


def test_the_content_is_on_the_disk_before_the_new_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(storage, "sync", lambda path: calls.append(("sync", path.is_dir())))
    monkeypatch.setattr(storage.os, "replace", lambda old, new: calls.append(("replace", False)))
    write_json(tmp_path / "a.json", 1)
    assert calls == [("sync", False), ("replace", False), ("sync", True)]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    def fail(path):
        path.write_text("new")
        raise ZeroDivisionError

    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.json") as temporary:
        fail(temporary)
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from subquad.runs import storage
replace, count = os.replace, [int(sys.argv[2])]
def kill(*words):
    if count[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    count[0] -= 1
    replace(*words)
storage.os.replace = kill
with storage.write_report_folder(Path(sys.argv[1])) as folder:
    (folder / "scan.json").write_text("new")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 1])
def test_a_report_that_a_killed_process_was_replacing_is_restored(tmp_path, moves):
    out = tmp_path / "scan"
    with write_report_folder(out) as folder:
        write_json(folder / "scan.json", {"subquad": {"kind": "scan"}})
    done = subprocess.run([sys.executable, "-c", KILLED, out, str(moves)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.glob(".subquad-*"))) == 1
    with pytest.raises(SubquadError, match="exists already"):
        check_report_folder(out, kind="scan", file="scan.json", force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]
    assert read_json(out / "scan.json") == {"subquad": {"kind": "scan"}}


def test_what_living_processes_write_stays(tmp_path):
    for process in (os.getppid(), 2**22 + 1):
        (tmp_path / f".subquad-a.json.{process}").mkdir()
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".subquad-a.json.{os.getppid()}"]


def test_a_report_replaces_reports_of_its_kind_only(tmp_path):
    out = tmp_path / "scan"
    with write_report_folder(out) as folder:
        write_json(folder / "scan.json", {"subquad": {"kind": "scan"}})
    assert check_report_folder(out, kind="scan", file="scan.json", force=True) == out
    with pytest.raises(SubquadError, match="no design"):
        check_report_folder(out, kind="design", file="design.json", force=True)


def test_outputs_are_checked_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(SubquadError, match="exists already"):
        check_output(tmp_path / "a.csv", force=False)
    check_output(tmp_path / "a.csv", force=True)
    check_output(tmp_path / "new" / "a.csv", force=False)
    with pytest.raises(SubquadError, match="is a file, not a folder"):
        check_writable(tmp_path / "a.csv" / "b")
    monkeypatch.setattr(storage.os, "access", lambda *_: False)
    with pytest.raises(SubquadError, match="no permission"):
        check_writable(tmp_path / "b")


def test_inputs_are_checked_before_any_work(tmp_path):
    (tmp_path / "a.xlsx").touch()
    check_present(tmp_path / "a.xlsx", f"{tmp_path / 'a.xlsx'}#Sheet", "example:tdp43", "root://host//a.root")
    with pytest.raises(SubquadError, match=r"b\.csv: no such file"):
        check_present(tmp_path / "b.csv")


def test_an_output_must_not_contain_an_input(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "table.csv").touch()
    (tmp_path / "run" / "link.csv").symlink_to(tmp_path / "table.csv")
    check_not_inside(tmp_path / "run", tmp_path / "table.csv", None)
    for path in (tmp_path / "run" / "link.csv", tmp_path / "run"):
        with pytest.raises(SubquadError, match="would be overwritten"):
            check_not_inside(tmp_path / "run", path)

    class Settings:
        files = (str(tmp_path / "run" / "link.csv#Sheet"), "ACGT")

    with pytest.raises(SubquadError, match="would be overwritten"):
        check_files_not_inside(tmp_path / "run", Settings, "files")


def test_numbers_that_json_does_not_have_are_written_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [np.float32("nan"), float("inf"), np.int64(3)], "b": Path("x")})
    assert read_json(tmp_path / "a.json") == {"a": [None, None, 3], "b": "x"}
    assert np.isnan(null_as_nan({"a": [None]})["a"][0])


def test_tied_weights_and_views_are_written_with_the_permissions_of_other_files(tmp_path):
    whole = torch.arange(11.0)
    tensors = {"a": whole, "b": whole, "c": whole[3:7]}
    write_tensors(tmp_path / "a.safetensors", tensors)
    read = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_damaged_files_are_one_sentence(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff{")
    for read in (read_json, read_tensors):
        with pytest.raises(SubquadError, match=r"a: cannot be read as \w+ \("):
            read(tmp_path / "a")
        with pytest.raises(SubquadError, match="b: no such file"):
            read(tmp_path / "b")


def test_the_fingerprint_changes_with_any_part(tmp_path):
    (tmp_path / "a").write_text("x")
    first = fingerprint(tmp_path / "a", "b", b"c")
    assert first == fingerprint(tmp_path / "a", "b", b"c")
    (tmp_path / "a").write_text("y")
    assert first != fingerprint(tmp_path / "a", "b", b"c")
