"""Jobs: commands in processes of their own that are stopped, resumed, and found again."""

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from subquad.app import jobs
from subquad.app.job_records import END
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
    end = time.monotonic() + 300
    while (state := job.state) not in states:
        assert state != "failed", job.log
        assert time.monotonic() < end, f"it is {state} for too long: {job.log}"
        time.sleep(0.1)
    return job


def fit(**settings):
    small = {"models": ["ridge"], "train_rows": 300, **settings}
    return Command(words=["bio", "fit", "example:tdp43"], settings=small, title="Fit", about={"table": "example:tdp43"})


def test_a_job_that_was_started_again_has_no_earlier_end(session, runner, monkeypatch):
    class Process:
        pid = 2**22 + 1

        def wait(self):
            return -signal.SIGKILL

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: Process())
    folder = session.new_job_folder()
    write_json(folder / END, {"ended": 1.0, "exit_status": 0})
    runner.start(folder, "bio fit", fit())
    ended(runner)
    assert not (folder / END).exists()


def test_a_job_that_waits_does_not_start_when_the_server_ends(session, runner, monkeypatch):
    opened = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: opened.append(words) or SimpleNamespace(pid=2**22 + 1))
    with all_taken(runner):
        job = runner.start(session.new_job_folder(), "bio fit", fit())
        assert job.state == "waiting"
        # the threads of jobs have ended then
        runner.close()
    assert not runner._latest
    assert job.state == "stopped"
    assert "pid" not in job.status
    assert opened == []


def test_a_job_waits_until_another_one_has_ended(session, runner, monkeypatch):
    may_end, opened, asked, real = threading.Event(), [], [], runner._next

    def run(job):
        opened.append(job.name)
        assert may_end.wait(60)

    def asks():
        asked.append(threading.current_thread().name)
        return real()

    monkeypatch.setattr(runner, "_open", run)
    monkeypatch.setattr(runner, "_next", asks)
    long = runner.start(session.new_job_folder(), "bio fit", fit())
    until(lambda: opened)
    short = runner.start(session.new_job_folder(), "bio fit", fit())
    until(lambda: f"job {short.name}" in asked)
    assert short.state == "waiting"
    assert opened == [long.name]
    may_end.set()
    ended(runner)
    assert opened == [long.name, short.name]


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


@contextmanager
def all_taken(runner):
    """Let no job run for a while."""
    with runner._lock:
        others = [Path(f"other-{k}/jobs/long") for k in range(runner._most - len(runner._running))]
        runner._running += others
    yield
    with runner._lock:
        runner._running[:] = [own for own in runner._running if own not in others]
        runner._lock.notify_all()


def ended(runner):
    """Wait until no job is left."""
    until(lambda: not runner._latest)


def until(condition):
    end = time.monotonic() + 60
    while not condition():
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
    with all_taken(runner):
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


def test_a_job_whose_status_cannot_be_written_runs_and_ends(session, runner, monkeypatch):
    def full(path, content):
        if content.get("state") == "running":
            raise OSError(28, "No space left on device")
        write_json(path, content)

    monkeypatch.setattr("subquad.app.jobs.write_json", full)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(pid=os.getpid(), wait=lambda: 0))
    job = runner.start(session.new_job_folder(), "bio fit", fit())
    ended(runner)
    assert job.state == "finished"
    assert not runner._processes


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


@pytest.mark.parametrize("content", [None, "", "{}", "null"])
def test_a_job_does_not_run_without_its_settings(session, runner, monkeypatch, content):
    opened = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: opened.append(words) or SimpleNamespace(pid=2**22 + 1))
    with all_taken(runner):
        job = runner.start(session.new_job_folder(), "bio fit", fit())
        settings = job.folder / "settings.yaml"
        assert job.record["has_settings"]
        if content is None:
            settings.unlink()
        else:
            settings.write_text(content)
    ended(runner)
    for _ in range(2):
        assert job.state == "failed"
        assert job.message.startswith(f"The command could not be started: {settings}: missing or empty, and this job")
        runner.resume(job)
        ended(runner)
    assert opened == []


@pytest.mark.parametrize(("has_settings", "content"), [(False, "{}"), (False, None), (None, "{}"), (None, "")])
def test_a_job_without_settings_runs_and_so_does_one_whose_record_does_not_say_it(
    session, runner, monkeypatch, has_settings, content
):
    opened = []
    process = SimpleNamespace(pid=2**22 + 1, wait=lambda: 0)
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: opened.append(words) or process)
    with all_taken(runner):
        command = Command(words=["--version"], settings={"target": None}, title="Version")
        job = runner.start(session.new_job_folder(), "bio fit", command)
        record = {**job.record, "has_settings": has_settings}
        write_json(job.folder / "job.json", {key: value for key, value in record.items() if value is not None})
        job.__dict__.pop("record")
        (job.folder / "settings.yaml").unlink() if content is None else (job.folder / "settings.yaml").write_text(
            content
        )
    ended(runner)
    assert job.state == "finished"
    assert "--config" not in opened[0]


def test_the_settings_of_a_job_are_on_the_disk_before_its_record(session, runner, monkeypatch):
    found = []

    def note(path, content):
        found.append((path.name, (path.parent / "settings.yaml").is_file()))
        write_json(path, content)

    monkeypatch.setattr("subquad.app.jobs.write_json", note)
    monkeypatch.setattr(runner, "_open", lambda job: None)
    runner.start(session.new_job_folder(), "bio fit", fit())
    ended(runner)
    assert found[0] == ("job.json", True)


def test_the_number_of_jobs_that_wait_is_limited(workspace, session, runner, monkeypatch):
    monkeypatch.setattr(runner, "_open", lambda job: None)
    other, text = workspace.session(new_token()), "3 of your jobs are waiting already; stop one of them, or wait until"
    monkeypatch.setattr(jobs, "MOST_WAITING_OF_SESSION", 3)
    monkeypatch.setattr(jobs, "MOST_WAITING", 5)
    with all_taken(runner):
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


def test_jobs_run_in_the_order_of_their_starts_and_sessions_take_turns(workspace, runner, monkeypatch):
    ran, first, second, third = [], *(workspace.session(new_token()) for _ in range(3))
    monkeypatch.setattr(runner, "_open", lambda job: ran.append(job.record["title"]))
    with all_taken(runner):
        for session, title in (
            (first, "a1"),
            (first, "a2"),
            (first, "a3"),
            (second, "b1"),
            (second, "b2"),
            (third, "c1"),
        ):
            runner.start(session.new_job_folder(), "bio fit", Command(words=[], settings={}, title=title))
    ended(runner)
    assert ran == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert not runner._served
    assert not runner._running


def test_a_session_whose_job_runs_yields_to_one_that_has_none(workspace, monkeypatch):
    runner, may_end, turns = JobRunner(3), threading.Event(), []
    first, second = (workspace.session(new_token()) for _ in range(2))

    class Noted(list):
        def append(self, folder):
            turns.append(Job(folder).record["title"])
            super().append(folder)

    def run(job):
        if job.record["title"] in ("long", "c"):
            may_end.wait(60)

    monkeypatch.setattr(runner, "_open", run)
    monkeypatch.setattr(runner, "_running", Noted())

    def start(session, title):
        runner.start(session.new_job_folder(), "bio fit", Command(words=[], settings={}, title=title))

    start(first, "long")
    while not turns:
        time.sleep(0.01)
    with all_taken(runner):
        start(first, "a")
        start(first, "b")
        start(second, "c")
    end = time.monotonic() + 60
    # the third place is taken while the two jobs run
    while len(turns) < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    may_end.set()
    ended(runner)
    assert turns == ["long", "c", "a", "b"]
    runner.close()


def test_a_job_whose_files_cannot_be_copied_leaves_nothing(session, runner, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    missing = Command(words=["bio", "rounds"], settings={}, title="Next round", continues=tmp_path / "none")
    with pytest.raises(SubquadError, match=r"could not be started \(No such file or directory\); free some space"):
        runner.start(session.new_job_folder(), "bio rounds", missing)
    monkeypatch.setattr(jobs, "link_or_copy", full)
    command = Command(words=["bio", "fit", "t.csv"], settings={}, title="Fit", inputs=[tmp_path / "t.csv"])
    with pytest.raises(SubquadError, match="No space left on device"):
        runner.start(session.new_job_folder(), "bio fit", command)
    assert not list((session.folder / "jobs").iterdir())
    assert not runner._latest
