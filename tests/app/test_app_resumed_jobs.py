"""Jobs that are started again, by several windows, or while they end; and how many jobs there may be."""

import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from support.servers import wait_for

from subquad.app import jobs
from subquad.app.jobs import Command, Job, JobRunner
from subquad.errors import SubquadError
from subquad.runs.storage import write_json


@pytest.fixture
def runner():
    runner = JobRunner(1)
    yield runner
    runner.close()


def stopped(session):
    """Return the folder of a job that was stopped."""
    folder = session.new_job_folder()
    record = {"kind": "", "title": "", "words": [], "output": "out", "created": 0.0, "has_settings": False}
    write_json(folder / "job.json", record)
    write_json(folder / "status.json", {"state": "stopped"})
    return folder


def ended(runner):
    """Wait until no job is left."""
    wait_for(lambda: not runner._latest, seconds=20)


def test_a_job_that_is_resumed_twice_at_the_same_time_runs_once(session, monkeypatch):
    runner, opened, may_end = JobRunner(2), [], threading.Event()
    process = SimpleNamespace(pid=os.getpid(), wait=lambda: may_end.wait(60) and 0)
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: opened.append(words) or process)
    folder = stopped(session)
    both, first = threading.Barrier(2, timeout=60), threading.Lock()

    def write(path, content):
        # the second one goes on when the first one's process runs
        if path.name == "job.json" and not first.acquire(blocking=False):
            end = time.monotonic() + 5
            while not opened and time.monotonic() < end:
                time.sleep(0.01)
        write_json(path, content)

    def resume():
        both.wait()
        runner.resume(Job(folder))

    monkeypatch.setattr(jobs, "write_json", write)
    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    name = f"job {Job(folder).name}"
    # until none waits, and no thread is left but that of the process
    wait_for(lambda: opened and not runner._waiting, seconds=20)
    wait_for(lambda: [thread.name for thread in threading.enumerate()].count(name) == 1, seconds=20)
    assert len(opened) == 1
    may_end.set()
    ended(runner)
    assert Job(folder).state == "finished"


def test_a_job_with_a_process_gets_no_second_one(session, runner, monkeypatch):
    opened = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: opened.append(words))
    job = Job(stopped(session))
    runner._processes[job.folder] = SimpleNamespace(pid=os.getpid())
    runner.resume(job)
    assert not runner._latest
    # nor one that was about to start
    runner._begin(job)
    ended(runner)
    assert not opened
    del runner._processes[job.folder]


def test_the_end_of_an_earlier_start_is_not_written_over_a_later_one(session, runner, monkeypatch):
    may_end = threading.Event()
    process = SimpleNamespace(pid=os.getpid(), wait=lambda: may_end.wait(60) and 1)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: process)
    job = Job(stopped(session))
    runner.resume(job)
    wait_for(lambda: job.state == "running")
    thread, other = runner._latest[job.folder], threading.Thread()
    runner._latest[job.folder] = other
    may_end.set()
    thread.join(60)
    assert job.status["state"] == "running"
    del runner._latest[job.folder]


def test_a_session_has_so_many_jobs_only(session, runner, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    monkeypatch.setattr(jobs, "MOST_OF_SESSION", 2)
    command = Command(words=[], settings={}, title="")
    stopped(session)
    first = runner.start(session.new_job_folder(), "bio fit", command)
    ended(runner)
    with pytest.raises(SubquadError, match='you have 2 results; delete some in "Your files and results" first'):
        runner.start(session.new_job_folder(), "bio fit", command)
    assert len(session.jobs) == 2
    runner.delete(first)
    runner.start(session.new_job_folder(), "bio fit", command)
    ended(runner)


def test_jobs_start_while_there_is_room_on_the_disk(session, monkeypatch):
    runner = JobRunner(1, keep_free=10**9)
    monkeypatch.setattr(runner, "_open", lambda job: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9 - 1))
    job = Job(stopped(session))
    with pytest.raises(SubquadError, match=r"no room for this: 0\.9 GB are free, and at least 0\.9 GB are kept free"):
        runner.start(session.new_job_folder(), "bio fit", Command(words=[], settings={}, title=""))
    with pytest.raises(SubquadError, match="no room for this"):
        runner.resume(job)
    assert [own.name for own in session.jobs] == [job.name]
    assert job.state == "stopped"


def test_the_copy_that_a_job_continues_is_on_the_disk_before_its_record(session, runner, tmp_path, monkeypatch):
    found, fsync = [], os.fsync
    monkeypatch.setattr(runner, "_open", lambda job: None)
    monkeypatch.setattr(os, "fsync", lambda number: found.append(os.fstat(number).st_ino) or fsync(number))
    (tmp_path / "before" / "run").mkdir(parents=True)
    (tmp_path / "before" / "run" / "model").write_text("weights")
    command = Command(words=[], settings={}, title="", continues=tmp_path / "before")
    job = runner.start(session.new_job_folder(), "bio rounds", command)
    ended(runner)
    assert {own.stat().st_ino for own in (job.out, job.out / "run", job.out / "run" / "model")} <= {*found}
