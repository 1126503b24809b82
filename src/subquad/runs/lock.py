"""A lock on an output folder, so that two processes never write to it. It ends with its process, however that ends."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from filelock import FileLock, Timeout

from subquad.errors import SubquadError
from subquad.runs.storage import as_folder, check_writable, remove_temporaries

LOCK = ".subquad-lock"
"""Name of the file that a process which writes to a folder holds locked."""
WAIT = 3.0
"""Seconds to wait for a process that was just killed, or whose parent was."""

Command = TypeVar("Command", bound=Callable[..., Any])


def locks_output(command: Command) -> Command:
    """Decorate a command `verb(…, *, out, …)`: while it runs, no other process writes to its folder."""

    @functools.wraps(command)
    def locked(*arguments: Any, out: Path | str, **options: Any) -> Any:
        with lock_folder(out):
            return command(*arguments, out=out, **options)

    return cast(Command, locked)


@contextmanager
def lock_folder(out: Path | str, *, wait: float = WAIT) -> Iterator[None]:
    """Hold the lock of a folder, which is made for that and removed if it stays empty.

    Of several processes that `torchrun` started, the first one holds it for all. `wait` is in seconds.

    Raises:
        SubquadError: Another process holds the lock, or the folder cannot be written.
    """
    folder = as_folder(out)
    check_writable(folder)
    # batch systems set RANK for other purposes too
    if started_processes() > 1 and os.environ.get("RANK", "0") != "0":
        yield
        return
    deadline = time.monotonic() + wait
    while True:
        created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=max(0.0, deadline - time.monotonic()))
        try:
            lock.acquire()
        except Timeout:
            raise SubquadError(f"{folder}: another process is writing to it; choose another output") from None
        except FileNotFoundError:
            # the process that had the lock removed the empty folder
            continue
        except NotImplementedError:
            # some network file systems have no locks
            pass
        break
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def is_blank(folder: Path, first: str) -> bool:
    """Return whether a folder is missing, or has nothing but its lock and parts of the file written first."""
    remove_temporaries(folder, first)
    return not folder.is_dir() or not {*folder.iterdir()} - {folder / LOCK}


def started_processes() -> int:
    """Return the number of processes that `torchrun` or `accelerate launch` started for this command; 1 without them.

    Others set `WORLD_SIZE` too, as Kubernetes' PyTorchJob does for the one process in each of its pods.
    """
    count = os.environ.get("WORLD_SIZE", "")
    is_launched = any(os.environ.get(name) for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"))
    return max(int(count), 1) if is_launched and count.isdecimal() else 1
