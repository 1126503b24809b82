"""Jobs: they finish, fail, stop, resume, and are found again by another server."""

import os
import signal
import sys
import time

import pytest

from subquad.app.jobs import PROCESSES, TAIL, Jobs

PROGRAM = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[-1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("step: 3/10, 20 s, 47 s left, loss 0.5", file=sys.stderr, flush=True)
if "fail" in sys.argv:
    sys.exit("subquad: no such column")
while "slow" in sys.argv and not out.exists():
    time.sleep(0.02)
out.write_text("done")
"""


def jobs_in(folder, most=2):
    return Jobs(folder / "jobs", most, (sys.executable, "-c", PROGRAM))


def start(jobs, *words, title="A job"):
    return jobs.start(jobs.new(), ["bio", "fit", *words], title=title)


def wait(job, *states):
    end = time.monotonic() + 30
    while job.state not in states:
        assert time.monotonic() < end, (job.state, job.log)
        time.sleep(0.02)
    return job.state


@pytest.fixture
def jobs(tmp_path):
    jobs = jobs_in(tmp_path)
    yield jobs
    jobs.close()


def test_a_finished_job_is_found_by_the_next_server(jobs, tmp_path):
    job = start(jobs, title="A fit")
    wait(job, "finished")
    (again,) = jobs_in(tmp_path).list("bio")
    assert again.state == "finished"
    assert again.record["title"] == "A fit"
    assert again.out.read_text() == "done"
    assert not jobs_in(tmp_path).list("hep")


def test_a_failed_job_keeps_its_log_and_can_run_again(jobs):
    job = start(jobs, "fail")
    wait(job, "failed")
    assert "no such column" in job.log
    jobs.run(job)
    wait(job, "failed")
    assert job.log.count("no such column") == 2


def test_progress_is_read_from_the_last_line_that_counts(jobs):
    job = start(jobs, "slow")
    wait(job, "running")
    end = time.monotonic() + 10
    while job.progress is None and time.monotonic() < end:
        time.sleep(0.02)
    assert job.progress == ("step", 3, 10, "20 s, 47 s left, loss 0.5")
    assert job.seconds > 0


@pytest.mark.parametrize("words", [["slow"], ["slow", "deaf"]])
def test_a_stopped_job_is_interrupted_and_can_be_resumed(jobs, words):
    job = start(jobs, *words)
    wait(job, "running")
    while not job.log:
        time.sleep(0.02)
    jobs.stop(job, seconds=0.5)
    assert job.state == "interrupted"
    jobs.run(job)
    wait(job, "running")
    job.out.write_text("")
    wait(job, "finished")


def test_a_job_goes_on_without_its_server_and_is_stopped_by_the_next_one(jobs, tmp_path):
    start(jobs, "slow")
    other = jobs_in(tmp_path)
    (job,) = other.list()
    wait(job, "running")
    other.stop(job)
    assert job.state == "interrupted"


def test_a_killed_job_is_interrupted(jobs, tmp_path):
    job = start(jobs, "slow")
    wait(job, "running")
    while not (job.folder / PROCESSES).exists():
        time.sleep(0.02)
    os.killpg(int((job.folder / PROCESSES).read_text().split()[0]), signal.SIGKILL)
    wait(job, "interrupted")
    (again,) = jobs_in(tmp_path).list()
    assert again.state == "interrupted"


def test_a_job_waits_for_its_turn_and_can_be_stopped_before_it(tmp_path):
    jobs = jobs_in(tmp_path, most=1)
    first, second, third = start(jobs, "slow"), start(jobs), start(jobs)
    wait(first, "running")
    assert second.state == third.state == "waiting"
    jobs.stop(third)
    first.out.write_text("")
    wait(second, "finished")
    assert third.state == "interrupted"
    assert not third.log
    jobs.close()


def test_the_end_of_the_server_stops_its_jobs(tmp_path):
    jobs = jobs_in(tmp_path, most=1)
    running, waiting = start(jobs, "slow"), start(jobs)
    wait(running, "running")
    jobs.close()
    assert running.state == waiting.state == "interrupted"


def test_a_deleted_job_is_gone(jobs):
    job = start(jobs, "slow")
    wait(job, "running")
    jobs.delete(job)
    assert not job.folder.exists()
    assert jobs.find(job.name) is None


def test_a_browser_cannot_name_a_path(jobs, tmp_path):
    (tmp_path / "job.json").write_text('{"words": ["bio"], "title": "", "created": 0}')
    assert jobs.find("..") is None
    assert jobs.find(None) is None


def test_a_damaged_job_hides_no_other(jobs):
    job = start(jobs)
    (jobs.new() / "job.json").write_text("{")
    assert [other.name for other in jobs.list()] == [job.name]
    wait(job, "finished")


def test_only_the_end_of_a_long_log_is_read(jobs):
    job = start(jobs)
    wait(job, "finished")
    (job.folder / "log.txt").write_text("first\n" + "x" * 80 + "\n" + "é" * TAIL + "\nlast\n")
    assert "first" not in job.log
    assert job.log.endswith("last\n")
