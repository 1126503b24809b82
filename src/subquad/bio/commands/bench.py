"""Many tasks in one command: every model on every table, restartable at any moment, with a page that counts who wins.

Costs about a minute of one core a task and net with the default budget.
"""

import csv
import json
import os
import platform
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.bio.benchmark.jobs import Job, is_done, jobs_of, outcome_of, run_here
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.summary import rows_of, summary, table
from subquad.bio.benchmark.tasks import read_tasks
from subquad.bio.plots.bench_page import markdown, render
from subquad.progress import Advance, say, track
from subquad.runs.storage import as_folder, atomic, write_json

__all__ = ["bench"]

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "viennarna")


def bench(
    tasks: Path | str,
    settings: BenchSettings | None = None,
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit all models on all tasks of a file, and return what is in `results.json`.

    The folder gets `results.json`, `results.csv`, `results.html` and `results.md`, the runs themselves, and
    `failed.json` where tasks failed. What is finished in it is not done again, and what was stopped goes on.

    Args:
        tasks: JSON list of tasks; see `read_tasks`.
        settings: which tasks, with what budget, on how many cores.
        out: the folder to write.
        force: redo finished runs that were made with other settings or tables.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the file is not as it must be, or the folder holds runs made with other settings.
    """
    settings, folder = settings or BenchSettings(), as_folder(out)
    chosen = read_tasks(tasks, settings, folder)
    jobs = jobs_of(chosen, settings, folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if not is_done(job)]
    without = [task.id for task in chosen if not task.has_training]
    if without:
        say(f"without training rows (--train-on names some): {', '.join(without)}", quiet=quiet)
    _run_all(waiting, len(jobs), settings, folder, quiet=quiet)
    failed = _failed(jobs)
    _write_failed(folder, failed)
    entries = table(chosen, jobs)
    results = {
        "benchmark": "subquad bio bench",
        "tasks_file": Path(tasks).name,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": _machine(),
        "versions": _versions(),
        "settings": asdict(settings),
        "core_hours": sum(run.get("task_seconds") or 0 for entry in entries for run in entry["seeds"].values()) / 3600,
        "summary": summary(entries),
        "failed": failed,
        "tasks": entries,
    }
    _write(folder, results)
    return results


def _run_all(waiting: Sequence[Job], total: int, settings: BenchSettings, folder: Path, *, quiet: bool) -> None:
    began: dict[str, float] = {}
    lock = threading.Lock()

    def name(job: Job) -> str:
        return f"{job['id']}:{job['seed']}"

    with track("tasks", total, done=total - len(waiting), quiet=quiet) as advance:

        def show(job: Job, done: int) -> None:
            with lock:
                if done:
                    began.pop(name(job), None)
                else:
                    began[name(job)] = time.monotonic()
                _show(advance, done, began)

        if settings.ray:
            from subquad.bio.benchmark.ray_jobs import run_on_ray

            ended = run_on_ray(waiting, settings, folder)
        else:
            ended = run_here(waiting, settings, lambda job: show(job, 0))
        for job, outcome in ended:
            show(job, 1)
            if outcome.get("message"):
                say(f"{name(job)} failed: {outcome['message']}", quiet=quiet)
                _write_failed(folder, _failed([job]), add=True)


def _show(advance: Advance, done: int, began: dict[str, float]) -> None:
    # what runs now, and for how many seconds
    advance(done, **{name: round(time.monotonic() - since) for name, since in began.items()})


def _failed(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    failed = []
    for job in jobs:
        if not (Path(job["out"]) / "metrics.json").is_file():
            message = outcome_of(job).get("message") or "not finished; give the same command once more"
            failed.append({"id": job["id"], "seed": job["seed"], "message": message})
    return failed


def _write_failed(folder: Path, failed: list[dict[str, Any]], *, add: bool = False) -> None:
    path = folder / "failed.json"
    if add and path.is_file():
        new = {(entry["id"], entry["seed"]) for entry in failed}
        before = json.loads(path.read_text(encoding="utf-8"))
        failed = [entry for entry in before if (entry["id"], entry["seed"]) not in new] + failed
    if failed:
        write_json(path, failed)
    else:
        path.unlink(missing_ok=True)


def _write(folder: Path, results: dict[str, Any]) -> None:
    write_json(folder / "results.json", results)
    rows = rows_of(results["tasks"])
    with atomic(folder / "results.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)
    for name, text in (("results.html", render(results)), ("results.md", markdown(results))):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _machine() -> dict[str, Any]:
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": memory,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "subquad": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
