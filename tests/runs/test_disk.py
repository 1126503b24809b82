"""Temporary folders and renames: what killed processes and signals leave, and what is on the disk before what."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from subquad.runs.disk import EARLIER, clean_up, make_folder, remove_temporaries, sync, try_lock
from subquad.runs.reports import check_report_folder, write_report_folder
from subquad.runs.storage import atomic, check_output, create_output_folder, read_json, write_json

check_page = partial(check_report_folder, kind="scan", file="scan.json", force=True)

WRITER = """
import sys
from pathlib import Path
from subquad.runs.reports import write_report_folder
from subquad.runs.storage import atomic
with atomic(sys.argv[1]) as file, write_report_folder(Path(sys.argv[2])) as folder:
    file.touch()
    print("written", flush=True)
    input()
"""


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_by_the_next_start_and_not_before(tmp_path):
    outputs = [tmp_path / "model.onnx", tmp_path / "page"]
    command = [sys.executable, "-c", WRITER, *outputs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 2
        check_output(outputs[0], force=False)
        check_page(outputs[1])
        remove_temporaries(tmp_path)
        # it lives
        assert sorted(path.name for path in tmp_path.iterdir()) == left
        process.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    check_output(outputs[0], force=False)
    with write_report_folder(outputs[1]) as folder:
        (folder / "page.html").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["page", "page.html"]


def test_what_killed_processes_left_stays_where_no_locks_can_be_had(tmp_path, monkeypatch):
    left = tmp_path / ".a.json.subquad-x1"
    left.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *_: raises(errno.ENOLCK))
        write_json(tmp_path / "a.json", 1)
        assert left.is_dir()
    write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_a_process_of_another_machine_writes_stays_though_it_seems_to_have_no_lock(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "other")
        with atomic(tmp_path / "a.json") as temporary:
            temporary.touch()
            patch.undo()
            # the lock of a network file system that is known to one machine only
            patch.setattr("fcntl.flock", lambda *_: None)
            check_output(tmp_path / "a.json", force=False)
            assert temporary.exists()
            write_json(tmp_path / "a.json", 1)
            assert temporary.exists()
            # of a run that is locked
            remove_temporaries(tmp_path)
            assert not temporary.exists()
            temporary.parent.mkdir()
            temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_temporary_folder_is_locked_by_a_file_in_it_which_is_closed_before_the_folder_is_removed(
    tmp_path, monkeypatch
):
    locked, held = [], []
    monkeypatch.setattr("fcntl.flock", lambda file, _: locked.append((file, os.fstat(file))))
    remove = shutil.rmtree

    def removed(folder, **options):
        for file, found in locked:
            with suppress(OSError):
                held.append(os.path.samestat(os.fstat(file), found))
        remove(folder, **options)

    monkeypatch.setattr("subquad.runs.disk.shutil.rmtree", removed)
    write_json(tmp_path / "a.json", 1)
    assert [stat.S_ISREG(found.st_mode) for _, found in locked] == [True]
    assert True not in held


def raises(number):
    raise OSError(number, os.strerror(number))


def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    made, make = [], try_lock

    def other_is_faster(path):
        if not made:
            shutil.rmtree(path.parent)
        made.append(path)
        return make(path)

    monkeypatch.setattr("subquad.runs.disk.try_lock", other_is_faster)
    write_json(tmp_path / "a.json", 1)
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_signal_in_the_exchange_of_folders_leaves_the_old_or_the_new_one(tmp_path, monkeypatch, call):
    out, replace, calls = tmp_path / "page", os.replace, []
    with write_report_folder(out) as folder:
        (folder / "scan.json").write_text("old")

    def signal_after(source, target):
        replace(source, target)
        calls.append(target)
        if len(calls) == call:
            raise KeyboardInterrupt

    def replaced():
        with write_report_folder(out) as folder:
            (folder / "scan.json").write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", signal_after)
        with pytest.raises(KeyboardInterrupt):
            replaced()
    assert (out / "scan.json").read_text() == ("old", "new")[call - 1]
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize("start", [check_page, clean_up, partial(check_output, force=True), write_json])
def test_a_report_that_was_moved_aside_by_a_killed_process_gets_its_name_back(tmp_path, start):
    earlier = tmp_path / ".page.subquad-x1" / EARLIER
    (earlier.with_name("new") / "page").mkdir(parents=True)
    write_json(earlier / "scan.json", {"subquad": {"kind": "scan"}})
    if start is write_json:
        # the folder is below that of a run that is resumed
        remove_temporaries(tmp_path)
    else:
        start(tmp_path / "page")
    assert read_json(tmp_path / "page" / "scan.json") == {"subquad": {"kind": "scan"}}
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_the_earlier_report_is_never_removed_before_another_one_has_its_name(tmp_path, monkeypatch):
    out, replace = tmp_path / "page", os.replace
    with write_report_folder(out) as folder:
        (folder / "scan.json").write_text("old")

    def only_aside(source, target):
        if Path(target).name != EARLIER:
            raises(errno.EIO)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", only_aside)
        with pytest.raises(OSError, match="Input/output error"), write_report_folder(out):
            pass
    assert not out.exists()
    check_report_folder(tmp_path / "other", kind="scan", file="scan.json", force=False)
    clean_up(out)
    assert (out / "scan.json").read_text() == "old"


def test_an_error_of_the_cleaning_up_does_not_hide_that_of_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.runs.disk.shutil.rmtree", lambda *_, **__: raises(errno.EIO))
    for write in (atomic, write_report_folder):
        with pytest.raises(ZeroDivisionError), write(tmp_path / "a"):
            1 / 0  # noqa: B018
    write_json(tmp_path / "a.json", 1)
    assert read_json(tmp_path / "a.json") == 1


def test_names_of_new_folders_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("subquad.runs.disk.sync", lambda path: synced.append(path.name))
    create_output_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.name, "a"]
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []
    write_json(tmp_path / "a" / "b" / "c" / "d.json", 1)
    assert synced[0] == "b"


def test_a_disk_that_fails_is_reported_for_folders_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: raises(errno.EINVAL))
    sync(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: raises(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as error:
        sync(tmp_path)
    assert error.value.filename == str(tmp_path)


@pytest.mark.parametrize("named", ["", "temporary", "other"])
@pytest.mark.parametrize("write", [atomic, write_report_folder])
def test_a_full_disk_is_reported_with_the_output_that_could_not_be_written(tmp_path, write, named):
    out, other = tmp_path / "out", tmp_path / "other"

    def fail(temporary):
        # writes to open files do not name them
        names = {"": (), "temporary": (str(temporary / "a.csv"),), "other": (str(other),)}[named]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *names)

    with pytest.raises(OSError, match="No space left") as error, write(out) as temporary:
        fail(temporary)
    assert error.value.filename == str(other if named == "other" else out)


def test_a_disk_without_space_for_a_temporary_folder_is_reported_with_the_output(tmp_path, monkeypatch):
    def full(*, prefix, **where):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), f"{where['dir']}/{prefix}abc")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(OSError, match="quota") as error, atomic(tmp_path / "out.json"):
        pass
    assert error.value.filename == str(tmp_path / "out.json")
