"""Runs that end while the disk is full, and what is removed when a run is finished, refused or replaced."""

import errno
import os

import pytest

from subquad.errors import SubquadError
from subquad.hep.data.store import INDEX, INTEGERS, TABLES
from subquad.llm.training.blockwise import FEATURE_MAPS, SECONDS
from subquad.runs.folder import Run, open_run
from subquad.runs.lock import lock_folder


def finish(out, *, kind="bio", report=None):
    run = open_run(out, kind=kind, settings={})
    run.finish(config={}, tensors=None, metrics={}, report=report)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_report_that_cannot_be_written_is_written_by_the_next_start(tmp_path, monkeypatch):
    def full(run, name, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            finish(tmp_path, report=lambda: "page")
    assert not (tmp_path / "metrics.json").exists()
    finish(tmp_path, report=lambda: "page")
    assert (tmp_path / "report.html").read_text() == "page"


@pytest.mark.parametrize("way", ["finished", "refused"])
def test_runs_of_others_below_a_run_keep_their_checkpoints(tmp_path, way):
    run = open_run(tmp_path, kind="bio", settings={})
    if way == "refused":
        run.finish(config={}, tensors=None, metrics={})
    open_run(tmp_path / "unfinished", kind="bio", settings={})
    finish(tmp_path / "fold-0")
    left = [tmp_path / name / "checkpoint-net.safetensors" for name in ("", "fold-0", "unfinished", "locked/deeper")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lock_folder(tmp_path / "locked"):
        if way == "finished":
            run.finish(config={}, tensors=None, metrics={})
        else:
            with pytest.raises(SubquadError, match="holds a finished run"):
                open_run(tmp_path, kind="bio", settings={})
    assert [path.exists() for path in left] == [False, False, True, True]


def test_a_folder_in_which_another_process_writes_is_not_cleared(tmp_path):
    finish(tmp_path)
    with lock_folder(tmp_path / "other"):
        (tmp_path / "other" / "file").touch()
        with pytest.raises(SubquadError, match=r"another process is writing to .*other in it; wait until it has ended"):
            open_run(tmp_path, kind="bio", settings={}, force=True)
    assert (tmp_path / "metrics.json").is_file()
    # of a process that was killed
    (tmp_path / "other" / ".lock").touch()
    open_run(tmp_path, kind="bio", settings={}, force=True)
    assert names_in(tmp_path) == ["config.json"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("hep", [f"jets/{name}" for name in (*TABLES, *INTEGERS, INDEX)]),
        ("llm", [FEATURE_MAPS, SECONDS, "feature_maps-1.safetensors", "states-1.bin"]),
    ],
)
def test_what_a_run_needs_until_it_is_finished_is_removed_after_that(tmp_path, kind, names):
    def write():
        for path in (tmp_path / name for name in (*names, "mine.bin")):
            path.parent.mkdir(exist_ok=True)
            path.touch()

    write()
    (tmp_path / "config.json").write_text("{}")
    run = Run(directory=tmp_path, kind=kind, settings={}, is_resumed=True)
    run.finish(config={}, tensors=None, metrics={})
    after = ["config.json", "metrics.json", "mine.bin"]
    assert names_in(tmp_path) == after
    # killed before they were removed
    write()
    with pytest.raises(SubquadError, match="holds a finished run"):
        open_run(tmp_path, kind=kind, settings={})
    assert names_in(tmp_path) == after
