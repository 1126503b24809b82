"""Run jobs in parallel: with joblib on this machine, or with Ray on a cluster.

Where a machine of the cluster sees the output folder (a shared file system), its jobs run there and are resumed there.
Elsewhere the table is sent to the machine, and the files of a finished run are sent back.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from subquad.bio.benchmark.jobs import Job, beside, is_done, metrics_of, outcome_of, run_job
from subquad.bio.benchmark.settings import BenchSettings
from subquad.errors import require
from subquad.runs.folder import CONFIG, METRICS
from subquad.runs.lock import lock_folder
from subquad.runs.storage import atomic, write_json

__all__ = ["run_locally", "run_on_ray"]

CUT_OFF = 120.0
"""Seconds after which Ray has ended the tasks of a machine that does not reach the others."""
SHARED = ".shared-"
"""Start of the name of a file by which machines of a cluster notice that they see the output folder."""
Outcome = dict[str, Any]


def run_locally(
    jobs: Sequence[Job], settings: BenchSettings, on_start: Callable[[Job], None]
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as it ends; `settings.jobs` run at a time, in the given order."""
    from joblib import Parallel, delayed

    running: set[subprocess.Popen] = set()
    is_stopped = threading.Event()

    def run(job: Job) -> tuple[Job, Outcome]:
        if is_stopped.is_set():
            return job, {}
        on_start(job)
        return job, run_job(job, settings.timeout, running)

    # threads that wait for processes: a process pool would reuse its processes and add up the memory of their jobs
    options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": "n_jobs", "return_as": "generator_unordered"}
    pool: Any = Parallel(n_jobs=settings.jobs, backend="threading", **options)
    try:
        yield from pool(delayed(run)(job) for job in jobs)
    finally:
        is_stopped.set()
        for process in list(running):
            process.kill()


def run_on_ray(jobs: Sequence[Job], settings: BenchSettings, folder: Path) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as it ends; one core each, started in the given order.

    Every machine needs the same version of subquad. The jobs of a machine that is lost run on another one; a job whose
    machines were lost four times has failed.
    """
    ray = require("ray", extra="ray")
    starts_ray = not ray.is_initialized()
    if starts_ray:
        # without an address, a cluster that happens to run on this machine is left alone
        own = {"address": "local", "num_cpus": settings.jobs, "include_dashboard": False}
        ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else own))
    for left in folder.resolve().glob(f"{SHARED}*"):
        # of a killed process, since the folder is locked
        left.unlink(missing_ok=True)
    marker = folder.resolve() / f"{SHARED}{uuid.uuid4().hex}"
    marker.touch()
    waiting: dict[Any, Job] = {}
    try:
        remote, queue = ray.remote(num_cpus=1, max_retries=3)(run_remotely), deque(jobs)
        while queue or waiting:
            # twice as many as run at once, since the tables of waiting jobs are held in memory
            while queue and len(waiting) < max(2, 2 * int(ray.cluster_resources().get("CPU", 1))):
                job = queue.popleft()
                table = Path(job["table"]).read_bytes()
                waiting[remote.remote(job, str(marker), table, settings.timeout)] = job
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                job = waiting.pop(reference)
                try:
                    outcome, files = ray.get(reference)
                except ray.exceptions.RayError as error:
                    message = f"lost with its machine or process ({str(error).splitlines()[0]})"
                    outcome, files = {"message": message, "seconds": None, "memory_mb": None}, {}
                store_files(job, outcome, files)
                yield job, outcome
    finally:
        with suppress(OSError):
            marker.unlink()
        if starts_ray:
            ray.shutdown()
        else:
            # those of an interrupted benchmark would go on
            for reference in waiting:
                ray.cancel(reference)


def run_remotely(job: Job, marker: str, table: bytes, timeout: float | None) -> tuple[Outcome, dict[str, bytes] | None]:
    """Run a job on a machine of the cluster.

    Args:
        job: What to run.
        marker: File in the output folder of the machine that started the command.
        table: Contents of the table.
        timeout: Maximum time in seconds.

    Returns:
        The outcome, and the files of the run if this machine does not see the output folder.
    """
    if Path(marker).is_file():
        # a machine that was cut off works on until it notices that
        with lock_folder(job["out"], wait=CUT_OFF):
            is_finished = is_done(job)
        return (outcome_of(job) if is_finished else run_job(job, timeout)), None
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder) / Path(job["table"]).name, Path(folder) / "run" / str(job["seed"])
        copy.write_bytes(table)
        outcome = run_job(Job(**{**job, "table": str(copy), "out": str(out)}), timeout)
        found = {} if outcome["message"] else {str(path.relative_to(out)): path for path in out.rglob("*")}
        return outcome, {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def store_files(job: Job, outcome: Outcome, files: dict[str, bytes] | None) -> None:
    """Write the files of a job that another machine ran; None: it wrote them itself."""
    if files is None:
        return
    if job["force"]:
        # the metrics first: without them the run counts as unfinished, whenever this is interrupted
        metrics_of(job).unlink(missing_ok=True)
        shutil.rmtree(job["out"], ignore_errors=True)
    write_json(beside(job, "job.json"), job)
    write_json(beside(job, "done.json"), outcome)
    # first what shows whose folder it is; the metrics last, which mark a finished run
    for name in sorted(files, key=lambda name: (name == METRICS, name != CONFIG)):
        with atomic(Path(job["out"]) / name) as temporary:
            temporary.write_bytes(files[name])
