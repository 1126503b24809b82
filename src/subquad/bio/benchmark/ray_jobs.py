"""Jobs spread with Ray: over the cluster that RAY_ADDRESS names, else over some cores of this machine.

Where a machine sees the output folder (a shared disk), its tasks run in there, and one that was stopped goes on. Where
it does not, the table is sent there, and the files of a finished run come back as bytes.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from subquad.bio.benchmark.jobs import Job, beside, run_one
from subquad.bio.benchmark.settings import BenchSettings
from subquad.errors import require
from subquad.runs.storage import atomic, write_json

__all__ = ["keep", "run_on_ray", "run_there"]


def run_on_ray(jobs: Sequence[Job], settings: BenchSettings, folder: Path) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its outcome as it ends, one core each; Ray begins them in the given order.

    Every machine needs subquad installed, in the same version.
    """
    ray = require("ray", extra="ray")
    is_ours = not ray.is_initialized()
    if is_ours:
        cluster = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": settings.jobs, "include_dashboard": False}
        ray.init(log_to_driver=False, **cluster)
    mark = folder.resolve() / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        remote = ray.remote(num_cpus=1)(run_there)
        waiting = {}
        for job in jobs:
            table = Path(job["table"])
            waiting[remote.remote(job, str(mark), table.read_bytes(), settings.seconds)] = job
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                job = waiting.pop(reference)
                outcome, files = ray.get(reference)
                keep(job, outcome, files)
                yield job, outcome
    finally:
        mark.unlink(missing_ok=True)
        if is_ours:
            ray.shutdown()


def run_there(
    job: Job, mark: str, table: bytes, seconds: float | None
) -> tuple[dict[str, Any], dict[str, bytes] | None]:
    """Run a job, and return its outcome; where the mark is not seen also the files of the run, as bytes.

    Args:
        job: what is asked.
        mark: a file in the output folder of the machine that asks.
        table: contents of the table.
        seconds: longest time.
    """
    if Path(mark).is_file():
        return run_one(job, seconds), None
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder) / Path(job["table"]).name, Path(folder) / "run" / str(job["seed"])
        copy.write_bytes(table)
        outcome = run_one({**job, "table": str(copy), "out": str(out)}, seconds)
        whole = {} if outcome["message"] else {str(path.relative_to(out)): path for path in out.rglob("*")}
        return outcome, {name: path.read_bytes() for name, path in whole.items() if path.is_file()}


def keep(job: Job, outcome: dict[str, Any], files: dict[str, bytes] | None) -> None:
    """Write what came back of a job that another machine ran; nothing where it wrote here itself."""
    if files is None:
        return
    write_json(beside(job, "job.json"), job)
    write_json(beside(job, "done.json"), outcome)
    # the figures last: they say that the run is whole
    for name in sorted(files, key=lambda name: name == "metrics.json"):
        with atomic(Path(job["out"]) / name) as temporary:
            temporary.write_bytes(files[name])
