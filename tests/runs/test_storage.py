"""A file is whole on the disk before it has its name."""

import errno
import json
import math
import os
from dataclasses import dataclass

import numpy as np
import pytest

from subquad.runs.damage import system_errors
from subquad.runs.disk import remove_temporaries
from subquad.runs.lock import lock_folder
from subquad.runs.storage import atomic, null_as_nan, read_json, write_json


def test_the_content_is_on_the_disk_before_the_new_name_and_the_name_after_it(tmp_path, monkeypatch):
    calls, sync, rename = [], os.fsync, os.replace
    # what a descriptor stands for
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(os.readlink(f"/proc/self/fd/{file}")), sync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("renamed"), rename(old, new)))
    write_json(tmp_path / "a.json", {"one": 1})
    content, renamed, names = calls
    assert content.endswith("/a.json")
    assert (renamed, names) == ("renamed", str(tmp_path))
    calls.clear()
    with atomic(tmp_path / "folder") as folder:
        folder.mkdir()
        (folder / "b").write_text("b")
    assert [os.path.basename(call) for call in calls] == ["b", "folder", "renamed", tmp_path.name]


def test_a_file_that_the_disk_does_not_take_leaves_the_old_one(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_json(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_errors_of_the_system_that_a_library_turned_into_text_are_errors_of_the_system(tmp_path, number):
    with pytest.raises(OSError, match=os.strerror(number)) as error, system_errors(tmp_path / "a"):
        raise RuntimeError(f"I/O error: it says so (os error {number})")
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "a"))
    with pytest.raises(RuntimeError, match="another"), system_errors(tmp_path):
        raise RuntimeError("another error")


def test_what_killed_processes_left_is_removed_except_in_folders_to_which_others_write(tmp_path):
    left = [tmp_path / name / ".a.json.subquad-x1" for name in (".", "mine", "other", "other/deeper")]
    for path in left:
        path.mkdir(parents=True)
    with lock_folder(tmp_path), lock_folder(tmp_path / "other"):
        remove_temporaries(tmp_path)
    assert [path.exists() for path in left] == [False, False, True, True]


def test_numbers_that_json_does_not_have_are_written_as_null(tmp_path):
    @dataclass
    class Result:
        values: tuple

    given = {"a": math.nan, "b": [1.5, -math.inf], "c": Result((np.float32("nan"), np.float64("inf"), np.float32(2)))}
    write_json(tmp_path / "a.json", given)

    def refuse(text):
        raise ValueError(text)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None], "c": {"values": [None, None, 2.0]}}
    assert repr(null_as_nan(found)) == repr(
        {"a": math.nan, "b": [1.5, math.nan], "c": {"values": [math.nan] * 2 + [2.0]}}
    )


def test_half_of_a_pair_of_surrogates_is_written_as_it_was_read(tmp_path):
    path = tmp_path / "failed.json"
    path.write_text('{"id": "\\ud800 ö"}')
    before = read_json(path)
    write_json(path, before)
    assert path.read_text(encoding="utf-8") == '{\n  "id": "\\ud800 ö"\n}\n'
    assert read_json(path) == before
