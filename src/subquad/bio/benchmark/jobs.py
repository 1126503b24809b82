"""A task with a seed as a resumable job, run in a process of its own so that its peak memory is its own.

Beside the folder of each run, `runs/TASK/SEED`, are SEED.job.json (what was requested), SEED.done.json (message,
seconds, memory) and SEED.log (output of the process). The process runs `python -m subquad.bio.commands.bench
SEED.job.json`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import Task
from subquad.bio.compared_models import names_of
from subquad.bio.data.names import file_of
from subquad.bio.models.finished_run import read_bootstrap
from subquad.errors import raise_errors, reading
from subquad.runs.folder import CONFIG, METRICS
from subquad.runs.storage import check_not_inside, fingerprint, null_as_nan, plain, read_json, write_json

__all__ = [
    "Job",
    "beside",
    "bootstrap_of",
    "is_done",
    "make_jobs",
    "metrics_of",
    "outcome_of",
    "run_job",
    "selected_model",
]

WORKER = "subquad.bio.commands.bench"
"""Module that runs one job when it is started with the path of a job file."""
RUNS = "runs"
"""Folder with the runs in the output folder."""
NOT_COMPARED = ("table", "out", "force")
"""Keys of a job that do not change its result."""

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment that limits a process to one core."""


class Job(TypedDict):
    """One task with one seed, as JSON."""

    id: str
    seed: int
    table: str
    fingerprint: str
    settings: dict[str, Any]
    out: str
    force: bool


def make_jobs(tasks: Iterable[Task], settings: BenchSettings, folder: Path, *, force: bool) -> list[Job]:
    """Return one job per task with training rows and seed, the largest first.

    Raises:
        SubquadError: The folder holds finished runs with other settings or tables, and `force` is off; or the file of
            a job in it is damaged.
    """
    jobs, changed = [], []
    for task in sorted(tasks, key=lambda task: -task.size):
        if not task.has_training:
            continue
        check_not_inside(folder / RUNS, file_of(task.table), *_other_files(task))
        for seed in settings.seeds:
            job = Job(
                id=task.id,
                seed=seed,
                table=str(task.table.resolve()),
                fingerprint=fingerprint(file_of(task.table), *_other_files(task)),
                settings=plain(task.settings),
                out=str((folder / RUNS / task.id / str(seed)).resolve()),
                force=False,
            )
            changes = _changes(job)
            job["force"] = bool(changes)
            if changes and not force and metrics_of(job).is_file():
                changed.append(f"{task.id}, seed {seed}: {changes}")
            jobs.append(job)
    raise_errors(
        f"{folder}: has finished runs with other settings or tables; choose another --out, or repeat these runs with "
        "--force:",
        changed,
    )
    return jobs


def _other_files(task: Task) -> list[Path]:
    """Return the files besides its table that a task reads."""
    given = (task.settings.get(name) for name in ("embeddings", "wild_type"))
    return [Path(value) for value in given if value is not None and Path(value).is_file()]


def bootstrap_of(job: Job, models: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the main metric of some models of a run in bootstrap samples of its test rows; NaN where undefined."""
    samples = read_bootstrap(Path(job["out"]), models)
    return {name: np.array(samples[name], dtype=np.float64) for name in models}


def selected_model(job: Job) -> str | None:
    """Return the single model of a run, baseline or Lyra, with the best main metric on the validation rows, if any."""
    path = Path(job["out"]) / CONFIG
    selected = read_json(path).get("selected", {}) if path.is_file() else {}
    values = {}
    for name in names_of("baseline", "lyra"):
        # a list with an entry for each network, or a single one
        own = selected.get(name) or []
        known = [one["validation"] for one in (own if isinstance(own, list) else [own]) if "validation" in one]
        known = null_as_nan(known)
        if known and np.isfinite(known).all():
            values[name] = float(np.mean(known))
    return max(values, key=values.__getitem__, default=None)


def metrics_of(job: Job) -> Path:
    """Return the path of the metrics of a finished run."""
    return Path(job["out"]) / METRICS


def beside(job: Job, suffix: str) -> Path:
    """Return the path of a file beside the folder of the run."""
    out = Path(job["out"])
    return out.with_name(f"{out.name}.{suffix}")


def is_done(job: Job) -> bool:
    """Return whether the run is finished, with the requested settings."""
    return not job["force"] and metrics_of(job).is_file()


def outcome_of(job: Job) -> dict[str, Any]:
    """Return message, seconds and memory of the last start of a run; empty if it did not end."""
    path = beside(job, "done.json")
    if not path.is_file():
        return {}
    with reading(path, "the outcome of a task"):
        record = read_json(path)
        return {name: record[name] for name in ("message", "seconds", "memory_mb")}


def run_job(job: Job, timeout: float | None, running: set[subprocess.Popen] | None = None) -> dict[str, Any]:
    """Run a job in a new process.

    Args:
        job: What to run.
        timeout: Maximum time in seconds; None: no limit.
        running: Set that holds the process while it runs.

    Returns:
        `message` (None if the run finished), `seconds` and `memory_mb`.
    """
    done, log = beside(job, "done.json"), beside(job, "log")
    log.parent.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    if job["force"]:
        # the metrics first: without them the run counts as unfinished, whenever this is interrupted
        metrics_of(job).unlink(missing_ok=True)
        shutil.rmtree(job["out"], ignore_errors=True)
    write_json(beside(job, "job.json"), job)
    command = [sys.executable, "-m", WORKER, str(beside(job, "job.json"))]
    environment = {**os.environ, **ONE_THREAD}
    running = set() if running is None else running
    message = None
    with log.open("wb") as file:
        # nothing is written to the pipe: when this process ends, its end tells the other one to stop
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment)
        running.add(process)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            message = f"stopped after {timeout:g} seconds (--timeout); the same command resumes it"
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            running.discard(process)
    outcome = outcome_of(job)
    if message is None and not outcome:
        message = _crash_message(process.returncode, log)
    if message is not None:
        outcome = {"message": message, "seconds": None, "memory_mb": None}
        write_json(done, outcome)
    return outcome


def _changes(job: Job) -> str:
    """Return how the request differs from that of an earlier start; empty if it does not."""
    path = beside(job, "job.json")
    if not path.is_file():
        return ""
    with reading(path, "a task"):
        before, now = (
            {
                **{key: value for key, value in side.items() if key not in (*NOT_COMPARED, "settings")},
                **side["settings"],
            }
            for side in (read_json(path), job)
        )
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing == ["fingerprint"]:
        return "the table, or a file that it is read with, has changed"
    return "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing)


def _crash_message(status: int, log: Path) -> str:
    if status < 0:
        return f"the process was ended by signal {-status}, perhaps out of memory; try fewer --jobs or --train-rows"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the process exited with status {status}: {lines[-1].strip() if lines else 'no output'} (see {log})"
