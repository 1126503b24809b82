"""Jobs: they finish, fail, stop and resume; none is lost or started twice when the server is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from subquad.app.jobs import PROCESSES, Job, Jobs

PROGRAM = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[-1])
with out.with_name("starts").open("a") as file:
    file.write("x")
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("step: 3/10, 20 s, 47 s left, loss 0.5", file=sys.stderr, flush=True)
if "fail" in sys.argv:
    sys.exit("subquad: no such column")
while "slow" in sys.argv and not out.exists():
    time.sleep(0.02)
out.write_text("done")
"""
SERVER = """
import pathlib, sys, time
from subquad.app.jobs import Jobs
jobs = Jobs(pathlib.Path(sys.argv[1]), 1, (sys.executable, "-c", sys.argv[2]))
for title in ("first", "second", "third"):
    jobs.start(jobs.new(), ["bio", "fit", "slow"], title=title)
print("started", flush=True)
time.sleep(60)
"""


def jobs_in(folder, most=2):
    return Jobs(folder / "jobs", most, (sys.executable, "-c", PROGRAM))


def start(jobs, *words, title="A job"):
    return jobs.start(jobs.new(), ["bio", "fit", *words], title=title)


def wait(job, *states):
    end = time.monotonic() + 60
    while job.state not in states:
        assert time.monotonic() < end, (job.state, job.log)
        time.sleep(0.02)
    return job.state


def starts(job):
    path = job.folder / "starts"
    return len(path.read_text()) if path.is_file() else 0


@pytest.fixture
def jobs(tmp_path):
    jobs = jobs_in(tmp_path)
    yield jobs
    jobs.close()


def test_a_finished_job_is_found_by_the_next_server(tmp_path):
    jobs = jobs_in(tmp_path)
    wait(start(jobs, title="A fit"), "finished")
    jobs.close()
    jobs = jobs_in(tmp_path)
    (again,) = jobs.list("bio")
    assert again.state == "finished"
    assert again.record["title"] == "A fit"
    assert again.out.read_text() == "done"
    assert not jobs.list("hep")
    jobs.close()


def test_a_failed_job_keeps_its_log_and_can_run_again(jobs):
    job = start(jobs, "fail")
    wait(job, "failed")
    assert "no such column" in job.log
    jobs.run(job)
    while starts(job) < 2:
        time.sleep(0.02)
    wait(job, "failed")
    assert job.log.count("no such column") == 2


def test_progress_is_read_from_the_last_line_that_counts(jobs):
    job = start(jobs, "slow")
    end = time.monotonic() + 30
    while job.progress is None and time.monotonic() < end:
        time.sleep(0.02)
    assert job.progress == ("step", 3, 10, "20 s, 47 s left, loss 0.5")
    assert job.seconds > 0


@pytest.mark.parametrize("words", [["slow"], ["slow", "deaf"]])
def test_a_stopped_job_is_interrupted_and_can_be_resumed(jobs, words):
    job = start(jobs, *words)
    while "step" not in job.log:
        time.sleep(0.02)
    jobs.stop(job, seconds=0.5)
    assert job.state == "interrupted"
    jobs.run(job)
    # a second press of the button
    jobs.run(job)
    wait(job, "running")
    job.out.write_text("")
    wait(job, "finished")
    assert starts(job) == 2


def test_no_job_is_lost_or_started_twice_when_the_server_is_killed(tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "jobs"), PROGRAM], stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout.readline() == "started\n"
        first, second, third = (Job(folder) for folder in sorted((tmp_path / "jobs").iterdir()))
        while not starts(first):
            time.sleep(0.02)
        server.kill()
    assert [job.state for job in (first, second, third)] == ["running", "waiting", "waiting"]
    jobs = jobs_in(tmp_path, most=1)
    first.out.write_text("")
    wait(second, "running")
    assert third.state == "waiting"
    for job in (second, third):
        wait(job, "running")
        job.out.write_text("")
        wait(job, "finished")
    assert [starts(job) for job in (first, second, third)] == [1, 1, 1]
    assert [job.record["title"] for job in jobs.list()] == ["third", "second", "first"]
    jobs.close()


def test_results_have_names_by_which_reports_tell_them_apart(jobs):
    first, second = (start(jobs, title="Models of my: table.csv") for _ in range(2))
    wait(first, "finished")
    wait(second, "finished")
    assert [first.out.name, second.out.name] == ["Models-of-my-table.csv", "Models-of-my-table.csv-2"]


def test_a_killed_job_is_interrupted(jobs):
    job = start(jobs, "slow")
    while not (job.folder / PROCESSES).exists() or not (job.folder / PROCESSES).read_text():
        time.sleep(0.02)
    os.killpg(int((job.folder / PROCESSES).read_text().split()[0]), signal.SIGKILL)
    wait(job, "interrupted")


def test_jobs_start_in_their_order_and_can_be_stopped_before(tmp_path):
    jobs = jobs_in(tmp_path, most=1)
    first, second, third = start(jobs, "slow"), start(jobs, "slow"), start(jobs)
    wait(first, "running")
    assert second.state == third.state == "waiting"
    jobs.stop(second)
    first.out.write_text("")
    wait(third, "finished")
    assert second.state == "interrupted"
    assert not starts(second)
    jobs.close()


def test_the_end_of_the_server_stops_what_runs_and_keeps_what_waits(tmp_path):
    jobs = jobs_in(tmp_path, most=1)
    running, waiting = start(jobs, "slow"), start(jobs)
    wait(running, "running")
    jobs.close()
    assert running.state == "interrupted"
    assert waiting.state == "waiting"


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


def test_a_job_that_cannot_be_started_has_failed_and_stops_no_other(jobs):
    job = jobs.start(jobs.new(), ["bio", "fit", "a\0b"], title="With a NUL")
    wait(job, "failed")
    assert "null byte" in job.log
    wait(start(jobs), "finished")


def test_a_damaged_job_hides_no_other(jobs):
    (jobs.new() / "job.json").write_text("{")
    (jobs.new() / "job.json").write_text('{"words": 3}')
    job = start(jobs)
    wait(job, "finished")
    assert [other.name for other in jobs.list()] == [job.name]
