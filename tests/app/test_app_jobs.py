"""Jobs: commands in processes of their own that are stopped, resumed, and found again."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from subquad.app.jobs import Command, Job, JobRunner
from subquad.runs.storage import write_json


@pytest.fixture
def runner():
    runner = JobRunner(1)
    yield runner
    runner.close()


def wait(job, *states):
    while (state := job.state) not in states:
        assert state != "failed", job.log
        time.sleep(0.1)
    return job


def fit(**settings):
    small = {"models": ["ridge"], "train_rows": 300, **settings}
    return Command(words=["bio", "fit", "example:tdp43"], settings=small, title="Fit", about={"table": "example:tdp43"})


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
    assert written(tmp_path / "c").state == "waiting"
    assert written(tmp_path / "d", {"state": "running", "pid": os.getpid()}).state == "running"
    # another process has got the number
    assert written(tmp_path / "e", {"state": "running", "pid": os.getpid(), "started": 1e9}).state == "stopped"
    assert written(tmp_path / "f", server_started=1e9).state == "stopped"


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


@pytest.mark.slow
def test_a_job_that_waits_does_not_start_when_the_server_ends(session):
    runner = JobRunner(1)
    long = runner.start(session.new_job_folder(), "bio fit", fit(models=["lyra"], epochs=2000, ensemble_size=1))
    wait(long, "running")
    short = runner.start(session.new_job_folder(), "bio fit", fit())
    runner.close()
    wait(long, "stopped")
    wait(short, "stopped")
    time.sleep(1.0)
    assert "pid" not in short.status


@pytest.mark.long
def test_text_of_a_user_is_never_read_as_a_flag(runner, session):
    job = runner.start(session.new_job_folder(), "bio fit", fit(target=["--force"], group="--out=/tmp/x"))
    wait(job, "failed")
    assert "no column '--force'" in job.message
    assert "no column '--out=/tmp/x'" in job.message


@pytest.mark.long
def test_a_job_runs_to_its_end_and_is_found_again(runner, session):
    job = wait(runner.start(session.new_job_folder(), "bio fit", fit()), "finished")
    assert (job.out / "report.html").is_file()
    assert [found.name for found in session.jobs] == [job.name]
    assert session.job(job.name).about == {"table": "example:tdp43"}
    assert job.seconds > 0
    runner.delete(job)
    assert not session.jobs


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_job_is_stopped_and_resumed_and_another_one_waits_for_it(runner, session):
    long = runner.start(session.new_job_folder(), "bio fit", fit(models=["lyra"], epochs=2000, ensemble_size=1))
    wait(long, "running")
    short = runner.start(session.new_job_folder(), "bio fit", fit())
    time.sleep(1.0)
    assert short.state == "waiting"
    runner.stop(short)
    assert short.state == "stopped"
    # of its two starts that wait, the second one counts
    runner.resume(short)
    assert short.state == "waiting"
    pid = long.status["pid"]
    runner.stop(long)
    wait(long, "stopped")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    wait(short, "finished")
    runner.resume(long)
    wait(long, "running")
    assert short.state == "finished"
    runner.close()
    wait(long, "stopped")


def test_a_job_that_is_stopped_while_its_process_starts_does_not_run(session, runner, monkeypatch):
    began, may_start, open_process = threading.Event(), threading.Event(), runner._open

    def slow(job):
        began.set()
        may_start.wait(60)
        return open_process(job)

    monkeypatch.setattr(runner, "_open", slow)
    job = runner.start(session.new_job_folder(), "bio fit", fit())
    began.wait(60)
    runner.stop(job)
    may_start.set()
    runner._latest[job.folder].join(60)
    assert job.state == "stopped"
    assert "pid" not in job.status


@pytest.mark.long
def test_a_training_that_is_stopped_keeps_what_it_has_learnt(runner, session):
    long = fit(models=["lyra"], epochs=2000, ensemble_size=1)
    job = runner.start(session.new_job_folder(), "bio fit", long)
    wait(job, "running")
    history = job.out / "history.jsonl"
    while not history.is_file():
        assert job.state == "running", job.log
        time.sleep(0.1)
    runner.stop(job)
    assert job.state == "stopped"
    assert list(job.out.rglob("checkpoint-*.safetensors"))
