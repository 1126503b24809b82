"""Records of jobs: how they ended, also if their server was killed, and what they read."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from subquad.app import job_records, jobs
from subquad.app.job_records import END, start_of
from subquad.app.jobs import Command, Job, JobRunner
from subquad.runs.storage import read_json, write_json


@pytest.fixture
def runner():
    runner = JobRunner(1)
    yield runner
    runner.close()


def written(folder, status=None, **record):
    """Return a job as an earlier server left it."""
    folder.mkdir(parents=True)
    write_json(
        folder / "job.json",
        {"kind": "bio fit", "title": "Fit", "words": [], "output": "out", "created": 0.0, "server": os.getpid(),
         "about": {}, **record},
    )  # fmt: skip
    if status:
        write_json(folder / "status.json", status)
    return Job(folder)


NOBODY = 2**22 + 1
"""A number that no process has: it is above the largest one of Linux."""


def test_a_job_whose_process_ended_with_the_server_counts_as_stopped(tmp_path):
    assert written(tmp_path / "a", {"state": "running", "pid": NOBODY}).state == "stopped"
    assert written(tmp_path / "b", server=NOBODY).state == "stopped"
    assert written(tmp_path / "negative", server=-1).state == "stopped"
    assert written(tmp_path / "c").state == "waiting"
    assert written(tmp_path / "d", {"state": "running", "pid": os.getpid()}).state == "running"
    # another process has got the number
    assert written(tmp_path / "e", {"state": "running", "pid": os.getpid(), "started": 1e9}).state == "stopped"
    assert written(tmp_path / "f", server_started=1e9).state == "stopped"


def test_a_job_runs_on_when_the_clock_is_set(tmp_path, monkeypatch):
    started = start_of(os.getpid())
    job = written(tmp_path / "a", {"state": "running", "pid": os.getpid(), "started": started}, server_started=started)
    waiting = written(tmp_path / "b", server_started=started)
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda own: create_time(own) + 3600.0)
    if sys.platform == "linux":
        assert job.state == "running"
        assert waiting.state == "waiting"
    # another boot, another process, and a system without these numbers
    for other in ("another-boot 123", f"{started}1"):
        write_json(job.folder / "status.json", {"state": "running", "pid": os.getpid(), "started": other})
        assert job.state == "stopped"


def test_the_start_of_a_process_is_a_time_where_the_system_names_no_boot(tmp_path, monkeypatch):
    monkeypatch.setattr(job_records, "BOOT", tmp_path / "none")
    started = start_of(os.getpid())
    assert started == psutil.Process().create_time()
    assert written(tmp_path / "a", {"state": "running", "pid": os.getpid(), "started": started}).state == "running"
    assert written(tmp_path / "b", {"state": "running", "pid": os.getpid(), "started": "boot 1"}).state == "stopped"
    assert start_of(NOBODY) is None


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (2, "failed"), (143, "stopped"), (None, "stopped")])
def test_the_end_of_a_job_is_known_although_its_server_was_killed(tmp_path, code, state):
    job = written(tmp_path / "a", {"state": "running", "pid": NOBODY, "began": 1000.0}, server=NOBODY)
    (job.folder / "log.txt").write_text("reading\n")
    os.utime(job.folder / "log.txt", (1060.0, 1060.0))
    if code is not None:
        write_json(job.folder / END, {"ended": 1050.0, "exit_status": code})
    assert job.state == state
    # the time of the end, or else of the last sign, and not that of the look
    assert job.seconds == (60.0 if code is None else 50.0)


@pytest.mark.parametrize(
    ("noted", "end"),
    [
        ({"state": "stopped", "exit_status": -signal.SIGKILL}, None),
        ({"state": "failed", "exit_status": -signal.SIGKILL}, None),
        ({"state": "failed", "exit_status": 2}, None),
        ({"state": "running", "pid": NOBODY, "began": 1.0}, None),
        ({"state": "running", "pid": NOBODY, "began": 1.0}, 143),
    ],
)
def test_a_job_that_ended_early_after_its_last_file_has_finished(tmp_path, runner, noted, end):
    job = written(tmp_path / "a", noted, server=NOBODY)
    if end is not None:
        write_json(job.folder / END, {"ended": 2.0, "exit_status": end})
    assert job.state in ("stopped", "failed")
    assert job.can_resume
    write_json(job.out / "metrics.json", {})
    assert job.state == "finished"
    assert not job.can_resume
    runner.resume(job)
    assert not runner._latest
    # what runs is not over
    write_json(job.folder / "status.json", {"state": "running", "pid": os.getpid()})
    assert job.state == "running"


@pytest.mark.parametrize(
    ("noted", "end", "is_whole"),
    [
        ({"state": "finished", "exit_status": 0}, None, True),
        ({"state": "stopped"}, None, False),
        ({"state": "failed", "exit_status": 2}, None, False),
        ({"state": "running", "pid": NOBODY, "began": 1.0}, None, False),
        ({"state": "running", "pid": NOBODY, "began": 1.0}, 143, False),
        ({"state": "running", "pid": NOBODY, "began": 1.0}, 0, True),
    ],
)
def test_a_job_with_all_files_is_whole_if_its_command_exited_without_an_error(tmp_path, noted, end, is_whole):
    job = written(tmp_path / "a", noted, server=NOBODY)
    write_json(job.out / "metrics.json", {})
    if end is not None:
        write_json(job.folder / END, {"ended": 2.0, "exit_status": end})
    assert job.state == "finished"
    assert job.is_whole == is_whole


def test_a_process_notes_its_end_itself(tmp_path):
    for words, code in ((["--version"], 0), (["bio", "fit", "none.csv"], 2)):
        done = subprocess.run([sys.executable, "-m", "subquad.job_process", str(tmp_path), *words], check=False)
        assert done.returncode == code
        assert read_json(tmp_path / END)["exit_status"] == code


def test_a_job_of_another_server_that_is_stopped_has_an_end_unless_it_finishes(tmp_path, runner, monkeypatch):
    sent = []

    def end(job):
        def kill(pid, number):
            sent.append((pid, number))
            alive.clear()
            if job.folder.name == "finishes":
                write_json(job.folder / END, {"ended": 20.0, "exit_status": 0})

        return kill

    monkeypatch.setattr(jobs, "_signal", lambda *_: None)
    for name, state in (("stops", "stopped"), ("finishes", "finished")):
        alive = {NOBODY}
        monkeypatch.setattr(job_records, "_is_alive", lambda pid, _, alive=alive: pid in alive)
        status = {"state": "running", "pid": NOBODY, "began": 10.0}
        job = written(tmp_path / name, status, server=NOBODY + 1)
        monkeypatch.setattr(os, "kill", end(job))
        runner.stop(job)
        assert job.state == state
        assert "ended" in job.status
    assert sent == [(NOBODY, signal.SIGTERM)] * 2


def test_the_message_of_a_failure_is_the_sentence_of_the_command_and_never_a_traceback(tmp_path):
    job = written(tmp_path / "a", {"state": "failed", "exit_status": 2})
    (job.folder / "log.txt").write_text("reading\nsubquad: t.csv: not a table\n  row 3: 'x'\n")
    assert job.message == "t.csv: not a table\n  row 3: 'x'"
    job = written(tmp_path / "b", {"state": "failed", "exit_status": 1})
    (job.folder / "log.txt").write_text("Traceback (most recent call last):\n  boom\n")
    assert job.message == "The command ended unexpectedly (exit status 1). Its log says more."
    job = written(tmp_path / "c", {"state": "failed", "exit_status": -signal.SIGKILL})
    assert "the memory did not suffice" in job.message


def test_a_job_of_a_server_that_was_killed_is_stopped(tmp_path, runner):
    sleeping = "import time; print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", sleeping], start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.readline()
    started = psutil.Process(process.pid).create_time()
    job = written(tmp_path / "a", {"state": "running", "pid": process.pid, "started": started}, server=NOBODY)
    assert job.state == "running"
    # reaped as by the first process of the system
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    runner.stop(job)
    reaper.join(60)
    assert job.state == "stopped"
    assert process.returncode == -signal.SIGTERM
    process.stdout.close()


def test_a_job_records_what_it_reads_and_whether_it_can_go_on(session, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    (tmp_path / "t.csv").write_text("sequence,y\n")
    model, batch, table = (str(tmp_path / name) for name in ("model", "batch.csv", "t.csv"))
    command = Command(
        words=["bio", "rounds", model, table], settings={"measured": [batch], "number": 3, "sequence": "ACDE"},
        title="", inputs=[tmp_path / "t.csv"], can_resume=True,
    )  # fmt: skip
    job = runner.start(session.new_job_folder(), "bio rounds", command)
    for thread in [*runner._latest.values()]:
        thread.join(60)
    assert [*map(str, job.reads)] == [model, batch]
    assert job.depends_on(tmp_path / "model")
    assert not job.depends_on(tmp_path / "mode")
    for state, can_resume in (("stopped", True), ("failed", True), ("finished", False)):
        write_json(job.folder / "status.json", {"state": state})
        assert job.can_resume == can_resume
