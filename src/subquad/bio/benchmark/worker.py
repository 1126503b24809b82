"""One task in a process of its own, so that its peak of memory is its own.

It is run as `python -m subquad.bio.benchmark.worker JOB.json`.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from subquad.bio.metrics.memory import peak_memory
from subquad.errors import SubquadError

__all__ = ["main"]


def main(job: Path) -> None:
    """Do what a job file says, and write `NAME.done.json` beside the run's folder: message, seconds, memory."""
    asked = json.loads(job.read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    began, message = time.monotonic(), None
    from subquad.bio.benchmark.jobs import beside
    from subquad.bio.commands.fit import fit
    from subquad.bio.settings import FitSettings
    from subquad.runs.storage import write_json

    lists = ("target", "covariates")
    settings = {key: tuple(value) if key in lists else value for key, value in asked["settings"].items()}
    try:
        fit(
            asked["table"],
            FitSettings(**settings),
            out=asked["out"],
            presets=asked["presets"],
            seed=asked["seed"],
            force=asked["force"],
            quiet=True,
        )
    except SubquadError as error:
        message = str(error)
    record = {"message": message, "seconds": round(time.monotonic() - began, 2), "memory_mb": peak_memory()}
    write_json(beside(asked, "done.json"), record)


def _end_with_parent() -> None:
    # the pipe ends with the process that holds its other end, however that was ended; else this would go on beside
    # the one that a second start of the same command begins. Read past Python's buffer, whose lock a thread that waits
    # would still hold when the interpreter ends
    os.read(0, 1)
    os._exit(130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
