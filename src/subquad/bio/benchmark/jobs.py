"""A task with a seed as a job: what is asked of it, whether it is done, and how it is run in a process of its own.

Beside the folder of each run, `runs/TASK/SEED`, stand SEED.job.json (what was asked), SEED.done.json (message, seconds,
memory) and SEED.log (what the process printed).
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import Task
from subquad.errors import SubquadError
from subquad.runs.storage import fingerprint, plain, read_json, write_json

__all__ = ["Job", "beside", "is_done", "jobs_of", "outcome_of", "run_here", "run_one"]

Job = dict[str, Any]
"""`id`, `seed`, `table`, `fingerprint` of the table, `settings`, `presets`, `out`, and `force`: all of it JSON."""

NOT_ASKED = ("table", "out", "force")
"""What may change without making a run another one."""

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of a process that has its core to itself, and takes no other."""


def jobs_of(tasks: Iterable[Task], settings: BenchSettings, folder: Path, *, force: bool) -> list[Job]:
    """Return one job for each task with training rows and each seed, the largest first.

    Raises:
        SubquadError: finished runs in the folder were made with other settings or tables, and `force` is off.
    """
    jobs, changed = [], []
    for task in sorted(tasks, key=lambda task: -task.size):
        if not task.has_training:
            continue
        for seed in settings.seed_numbers:
            job = {
                "id": task.id,
                "seed": seed,
                "table": str(task.table.resolve()),
                "fingerprint": fingerprint(task.table),
                "settings": plain(task.settings),
                "presets": list(settings.preset_names),
                "out": str((folder / "runs" / task.id / str(seed)).resolve()),
            }
            said = _changed(job)
            job["force"] = bool(said)
            if said and not force and _metrics(job).is_file():
                changed.append(f"{task.id}, seed {seed}: {said}")
            jobs.append(job)
    if changed:
        shown = "\n".join(f"  {line}" for line in changed[:10])
        more = f"\n  … and {len(changed) - 10} more" if len(changed) > 10 else ""
        raise SubquadError(
            f"{folder}: holds finished runs made otherwise:\n{shown}{more}\n"
            "name another folder with --out, or run these again with --force"
        )
    return jobs


def is_done(job: Job) -> bool:
    """Return whether the run is finished, and asked for as it is now."""
    return not job["force"] and _metrics(job).is_file()


def outcome_of(job: Job) -> dict[str, Any]:
    """Return message, seconds and memory of the last start of a run; nothing where it never came to an end."""
    path = beside(job, "done.json")
    return read_json(path) if path.is_file() else {}


def beside(job: Job, suffix: str) -> Path:
    """Return the path of a file that stands beside the run's folder."""
    out = Path(job["out"])
    return out.with_name(f"{out.name}.{suffix}")


def run_one(job: Job, seconds: float | None, running: set[subprocess.Popen] | None = None) -> dict[str, Any]:
    """Run a job in a fresh process; return `message` (None: it is finished), `seconds` and `memory_mb`."""
    done, log = beside(job, "done.json"), beside(job, "log")
    log.parent.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    if job["force"]:
        # the figures first: without them the run is unfinished, whenever this is stopped
        _metrics(job).unlink(missing_ok=True)
        shutil.rmtree(job["out"], ignore_errors=True)
    write_json(beside(job, "job.json"), job)
    command = [sys.executable, "-m", "subquad.bio.benchmark.worker", str(beside(job, "job.json"))]
    message = None
    with log.open("wb") as file:
        # the pipe is never written to: its end tells the process that this one is gone
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=file, env={**os.environ, **ONE_THREAD}
        )
        if running is not None:
            running.add(process)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            message = (
                f"took longer than {seconds:g} seconds (--seconds) and was ended; the same command goes on with it"
            )
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            if running is not None:
                running.discard(process)
    outcome = read_json(done) if done.is_file() else {}
    if message is None and not outcome:
        message = _last_words(process.returncode, log)
    if message is not None:
        outcome = {"message": message, "seconds": None, "memory_mb": None}
        write_json(done, outcome)
    return outcome


def run_here(
    jobs: Sequence[Job], settings: BenchSettings, started: Callable[[Job], None]
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its outcome as it ends, `settings.jobs` at a time on this machine, in the given order."""
    from joblib import Parallel, delayed

    running: set[subprocess.Popen] = set()
    is_stopped = threading.Event()

    def one(job: Job) -> tuple[Job, dict[str, Any]]:
        if is_stopped.is_set():
            return job, {}
        started(job)
        return job, run_one(job, settings.seconds, running)

    # threads that wait for processes: a pool of processes would use one again, and add up the memory of its tasks
    pool = Parallel(
        n_jobs=settings.jobs, backend="threading", return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs"
    )
    try:
        yield from pool(delayed(one)(job) for job in jobs)
    finally:
        is_stopped.set()
        for process in list(running):
            process.kill()


def _metrics(job: Mapping[str, Any]) -> Path:
    return Path(job["out"]) / "metrics.json"


def _changed(job: Job) -> str:
    """Return in words how what was asked before differs from what is asked now; nothing where it does not."""
    path = beside(job, "job.json")
    if not path.is_file():
        return ""
    before = read_json(path)
    flat = [
        {**{key: value for key, value in side.items() if key not in (*NOT_ASKED, "settings")}, **side["settings"]}
        for side in (before, job)
    ]
    names = sorted({*flat[0], *flat[1]})
    differing = [name for name in names if flat[0].get(name) != flat[1].get(name)]
    if differing == ["fingerprint"]:
        return "the table has changed"
    return "; ".join(f"{name} was {flat[0].get(name)!r} and is {flat[1].get(name)!r}" for name in differing)


def _last_words(status: int, log: Path) -> str:
    if status < 0:
        return f"the process was ended by signal {-status}; is there too little memory? Try fewer --jobs or --rows"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the process ended with status {status}: {lines[-1].strip() if lines else 'it said nothing'} (see {log})"
