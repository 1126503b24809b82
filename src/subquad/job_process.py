"""The process of a job of the page: runs a command of subquad, and notes its end in the folder of the job.

So the end is known also if the server that started the process was killed in the meantime.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from subquad.app.job_records import END
from subquad.cli import main
from subquad.runs.storage import write_json


def _run(folder: Path, words: Sequence[str]) -> None:
    """Run `subquad` with these words, as `python -m subquad` does."""
    sys.argv = ["subquad", *words]
    status = 1
    try:
        status = main()
        sys.exit(status)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        _note(folder, status)


def _note(folder: Path, status: int) -> None:
    # the folder may have been deleted by its user, and must not be made again
    if folder.is_dir():
        with suppress(OSError):
            write_json(folder / END, {"process": os.getpid(), "ended": time.time(), "exit_status": status})


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2:])
