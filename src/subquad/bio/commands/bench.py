"""`bench`: fit all models on many tables, resumable at any time, and count the verdicts of their comparisons.

Costs about a minute of one core per task and network with the default budget. Each task runs in a process of its own,
`python -m subquad.bio.commands.bench JOB.json`.
"""

import csv
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.bio.benchmark.jobs import RUNS, Job, beside, is_done, make_jobs, metrics_of, outcome_of
from subquad.bio.benchmark.runners import run_locally, run_on_ray
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.summary import result_rows, summarize, task_entries
from subquad.bio.benchmark.tasks import TABLES, read_tasks
from subquad.errors import SubquadError, reading
from subquad.progress import say, track
from subquad.runs.lock import LOCK, is_blank, locks_output
from subquad.runs.machine import describe_machine, peak_memory
from subquad.runs.storage import as_folder, atomic, check_not_inside, read_json, remove_temporaries, write_json

__all__ = ["bench"]

FAILED = "failed.json"
"""File with the tasks that failed and why."""
RECORD = "bench.json"
"""File by which the folder of a benchmark is recognised from its start on."""
NAME = "subquad bio bench"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "viennarna")


@locks_output
def bench(
    tasks: Path | str,
    settings: BenchSettings | None = None,
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit all models on all tasks of a file, and return the contents of `results.json`.

    The folder gets `results.json`, `results.csv`, `results.html` and `results.md`, the runs themselves, and
    `failed.json` if tasks failed. Finished runs are not repeated, and interrupted ones are resumed.

    Args:
        tasks: JSON list of tasks; see `read_tasks`.
        settings: Which tasks, with what training budget, and how many at a time.
        out: Output folder.
        force: Repeat finished runs that have other settings or tables.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The task file has errors, or the folder holds finished runs with other settings, a damaged
            record, or other files and no benchmark.
    """
    settings, folder = settings or BenchSettings(), as_folder(out)
    _check_folder(folder)
    chosen = read_tasks(tasks, settings, folder)
    check_not_inside(folder / RUNS, tasks)
    jobs = make_jobs(chosen, settings, folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    if not (folder / RECORD).is_file():
        write_json(folder / RECORD, {"benchmark": NAME, "version": __version__})
    # a damaged record is refused before tasks run for hours
    _read_failures(folder)
    without = [task.id for task in chosen if not task.has_training]
    if without:
        say(f"skipped for lack of training rows (--train-on adds some): {', '.join(without)}", quiet=quiet)
    _run_all([job for job in jobs if not is_done(job)], len(jobs), settings, folder, quiet=quiet)
    failed = _failures(jobs)
    _write_failures(folder, failed)
    entries = task_entries(chosen, jobs)
    seconds = sum(run.get("task_seconds") or 0 for entry in entries for run in entry["seeds"].values())
    results = {
        "benchmark": NAME,
        "tasks_file": Path(tasks).name,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": describe_machine(),
        "versions": _versions(),
        "settings": asdict(settings),
        "core_hours": seconds / 3600,
        "summary": summarize(entries),
        "failed": failed,
        "tasks": entries,
    }
    _write(folder, results)
    return results


def _check_folder(folder: Path) -> None:
    """Check that a folder holds a benchmark, or nothing but tables of one that was stopped at its start.

    Raises:
        SubquadError: It holds other files.
    """
    if is_blank(folder, RECORD):
        return
    # results show benchmarks of earlier versions, and jobs those that are unfinished
    for name in (RECORD, "results.json"):
        with suppress(SubquadError):
            content = read_json(folder / name)
            if isinstance(content, dict) and content.get("benchmark") == NAME:
                return
    names = {path.name for path in folder.iterdir()} - {LOCK}
    if names != {TABLES} and not any((folder / RUNS).rglob("*.job.json")):
        raise SubquadError(f"{folder}: not empty, and holds no benchmark of `{NAME}`; choose another --out")


def _run_all(waiting: Sequence[Job], total: int, settings: BenchSettings, folder: Path, *, quiet: bool) -> None:
    started: dict[str, float] = {}
    lock = threading.Lock()

    with track("tasks", total, done=total - len(waiting), quiet=quiet) as advance:

        def update(job: Job, done: int) -> None:
            name = _name(job)
            with lock:
                if done:
                    started.pop(name, None)
                else:
                    started[name] = time.monotonic()
                # running tasks, and their seconds
                advance(done, **{key: round(time.monotonic() - since) for key, since in started.items()})

        if settings.ray:
            ended = run_on_ray(waiting, settings, folder)
        else:
            ended = run_locally(waiting, settings, lambda job: update(job, 0))
        for job, outcome in ended:
            update(job, 1)
            if outcome.get("message"):
                say(f"{_name(job)} failed: {outcome['message']}", quiet=quiet)
                _add_failures(folder, _failures([job]))


def _name(job: Job) -> str:
    return f"{job['id']}:{job['seed']}"


def _failures(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    failed = []
    for job in jobs:
        if not metrics_of(job).is_file():
            message = outcome_of(job).get("message") or "not finished; the same command resumes it"
            failed.append({"id": job["id"], "seed": job["seed"], "message": message})
    return failed


def _add_failures(folder: Path, failed: list[dict[str, Any]]) -> None:
    new = {(entry["id"], entry["seed"]) for entry in failed}
    before = _read_failures(folder)
    _write_failures(folder, [entry for entry in before if (entry["id"], entry["seed"]) not in new] + failed)


def _read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return the tasks that failed so far."""
    path = folder / FAILED
    if not path.is_file():
        return []
    with reading(path, "failed tasks"):
        return [{name: entry[name] for name in ("id", "seed", "message")} for entry in read_json(path)]


def _write_failures(folder: Path, failed: list[dict[str, Any]]) -> None:
    path = folder / FAILED
    if failed:
        write_json(path, failed)
    else:
        path.unlink(missing_ok=True)


def _write(folder: Path, results: dict[str, Any]) -> None:
    from subquad.bio.benchmark.page import markdown, render

    write_json(folder / "results.json", results)
    rows = result_rows(results["tasks"])
    with atomic(folder / "results.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)
    for name, text in (("results.html", render(results)), ("results.md", markdown(results))):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "subquad": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run_in_this_process(path: Path) -> None:
    """Run the job of a file, and write its outcome beside the folder of the run."""
    from subquad.bio.commands.fit import fit
    from subquad.bio.settings import FitSettings

    job: Job = read_json(path)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    began, message = time.monotonic(), None
    options: dict[str, Any] = {key: job[key] for key in ("out", "seed", "force")}
    try:
        fit(job["table"], FitSettings.from_dict(job["settings"]), **options, quiet=True)
    except SubquadError as error:
        message = str(error)
    record = {"message": message, "seconds": round(time.monotonic() - began, 2), "memory_mb": peak_memory()}
    write_json(beside(job, "done.json"), record)


def _exit_with_parent() -> None:
    # the pipe closes with the process at its other end, however that ended; otherwise this process would continue
    # beside the one that a second start of the command begins. It is read without Python's buffer, whose lock a waiting
    # thread would still hold when the interpreter exits
    os.read(0, 1)
    os._exit(130)


if __name__ == "__main__":
    _run_in_this_process(Path(sys.argv[1]))
