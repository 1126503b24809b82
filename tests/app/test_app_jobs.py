"""Jobs: commands in processes of their own that are stopped, resumed, and found again."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from subquad.app import jobs
from subquad.app.jobs import Command, Job, JobRunner
from subquad.app.sessions import new_token
from subquad.errors import SubquadError
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
    thread = runner._latest[job.folder]
    runner.stop(job)
    may_start.set()
    thread.join(60)
    assert job.state == "stopped"
    assert "pid" not in job.status


def ended(runner):
    """Wait until no job is left."""
    end = time.monotonic() + 60
    while runner._latest:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_is_kept_of_a_job_that_has_ended(session, runner, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    job = runner.start(session.new_job_folder(), "bio fit", fit())
    ended(runner)
    runner.stop(job)
    runner.delete(job)
    assert not runner._latest
    assert not runner._stopped
    assert not runner._processes
    assert not job.folder.exists()


def test_a_job_that_waits_and_is_stopped_leaves_nothing_and_can_be_resumed(session, runner, monkeypatch):
    opened = []
    monkeypatch.setattr(runner, "_open", lambda job: opened.append(job.name))
    with runner._free:
        job = runner.start(session.new_job_folder(), "bio fit", fit())
        for _ in range(5):
            runner.stop(job)
            assert job.state == "stopped"
            runner.resume(job)
        runner.stop(job)
        ended(runner)
        assert not runner._stopped
        runner.resume(job)
    ended(runner)
    assert opened == [job.name]


def test_a_job_that_cannot_be_started_fails_with_a_sentence(session, runner, monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    job = runner.start(session.new_job_folder(), "bio fit", fit())
    ended(runner)
    assert job.state == "failed"
    assert job.message == "The command could not be started: [Errno 12] Cannot allocate memory."
    (job.folder / "settings.yaml").write_text("{")
    runner.resume(job)
    ended(runner)
    assert job.state == "failed"
    assert job.message.startswith("The command could not be started: while parsing")


def test_the_number_of_jobs_that_wait_is_limited(workspace, session, runner, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    other, text = workspace.session(new_token()), "3 of your jobs are waiting already; stop one of them, or wait until"
    monkeypatch.setattr(jobs, "MOST_WAITING_OF_SESSION", 3)
    monkeypatch.setattr(jobs, "MOST_WAITING", 5)
    with runner._free:
        own = [runner.start(session.new_job_folder(), "bio fit", fit()) for _ in range(3)]
        with pytest.raises(SubquadError, match=text):
            runner.start(session.new_job_folder(), "bio fit", fit())
        assert len(list((session.folder / "jobs").iterdir())) == 3
        runner.stop(own[0])
        own.append(runner.start(session.new_job_folder(), "bio fit", fit()))
        with pytest.raises(SubquadError, match=text):
            runner.resume(own[0])
        own += [runner.start(other.new_job_folder(), "bio fit", fit()) for _ in range(2)]
        with pytest.raises(SubquadError, match="5 jobs of all users are waiting already; try again when some have"):
            runner.start(other.new_job_folder(), "bio fit", fit())
        for job in own:
            runner.stop(job)
    ended(runner)


def test_a_job_keeps_its_inputs_and_reads_them(session, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    (tmp_path / "log.txt").write_text("sequence,y\n")
    command = Command(
        words=["bio", "fit", str(tmp_path / "log.txt")], settings={}, title="", inputs=(tmp_path / "log.txt",)
    )
    job = runner.start(session.new_job_folder(), "bio fit", command)
    (tmp_path / "log.txt").unlink()
    assert job.record["words"][:3] == ["bio", "fit", str(job.inputs[0])]
    assert (job.inputs[0].name, job.inputs[0].read_text()) == ("log.txt", "sequence,y\n")
    ended(runner)


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
