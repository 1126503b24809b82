"""The lock of an output folder: one process writes, others are refused, and it ends with its process."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from subquad.errors import SubquadError
from subquad.runs.lock import LOCK, lock_folder, locks_output

HOLDER = """
import sys
from subquad.runs.lock import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock of the folder `run`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_one_is_killed(holder, tmp_path):
    with pytest.raises(SubquadError, match="run: another process is writing to it"):
        lock_folder(tmp_path / "run", wait=0.1).__enter__()
    holder.kill()
    holder.wait()
    with lock_folder(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
    # the folder was not made here
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_stays_empty_is_removed_with_the_folders_above_it(tmp_path):
    with pytest.raises(SubquadError, match="nothing to do"), lock_folder(tmp_path / "a" / "b"):
        raise SubquadError("nothing to do")
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_an_error_of_removing_the_lock_does_not_hide_that_of_the_command(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    @locks_output
    def command(*, out):
        monkeypatch.setattr(Path, "unlink", fails)
        raise SubquadError("a mistake")

    with pytest.raises(SubquadError, match="a mistake"):
        command(out=tmp_path)


def test_a_process_waits_for_one_that_removes_the_folder(tmp_path):
    folder, began, order = tmp_path / "a" / "run", threading.Event(), []

    def first():
        with lock_folder(folder):
            began.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(60)
    with lock_folder(folder, wait=60):
        order.append("second")
        assert (folder / LOCK).is_file()
    thread.join(60)
    assert order == ["first", "second"]


def test_a_failed_command_can_be_called_again_while_its_traceback_is_kept(tmp_path):
    @locks_output
    def command(*, out):
        raise SubquadError("a mistake")

    with pytest.raises(SubquadError, match="a mistake"):
        command(out=tmp_path)
    with pytest.raises(SubquadError, match="a mistake"):
        command(out=tmp_path)


def test_of_several_processes_the_first_one_holds_the_lock(tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with lock_folder(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "2"}])
def test_a_single_process_holds_the_lock_whatever_rank_a_batch_system_gives_it(tmp_path, monkeypatch, processes):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**processes, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with lock_folder(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
