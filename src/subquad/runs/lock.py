"""A lock on an output folder, so that two processes never write to it. It ends with its process, however that ends."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from subquad.errors import SubquadError
from subquad.runs.disk import LOCK, lock_file, temporaries_of
from subquad.runs.launchers import started_processes
from subquad.runs.storage import as_folder, check_writable, create_output_folder

__all__ = ["LOCK", "is_blank", "lock_folder", "locks_output"]

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
def lock_folder(out: Path | str, *, flag: str = "--out", wait: float = WAIT) -> Iterator[None]:
    """Hold the lock of a folder, which is made for that and removed if it stays empty.

    Of several processes that `torchrun` started, the first one holds it for all. Where the file system has no locks
    (some network file systems), nothing is locked. `flag` names the folder in messages; `wait` is in seconds.

    Raises:
        SubquadError: Another process holds the lock, or the folder cannot be written.
    """
    folder = as_folder(out)
    check_writable(folder, flag=flag)
    # batch systems set RANK for other purposes too
    if started_processes() > 1 and os.environ.get("RANK", "0") != "0":
        yield
        return
    created = [own for own in (folder, *folder.parents) if not own.exists()]
    file = _acquire(folder, flag, wait)
    try:
        yield
    finally:
        # an error of the disk here would hide that of the work
        with suppress(OSError):
            (folder / LOCK).unlink()
        with suppress(OSError):
            os.close(file)
        for own in created:
            with suppress(OSError):
                own.rmdir()


def is_blank(folder: Path, first: str) -> bool:
    """Return whether a folder is missing, or holds nothing but its lock and parts of the file written first."""
    if not folder.is_dir():
        return True
    return not {*folder.iterdir()} - {folder / LOCK, *temporaries_of(folder / first)}


def _acquire(folder: Path, flag: str, wait: float) -> int:
    """Return the open file that holds the lock."""
    end = time.monotonic() + wait
    while True:
        # a process that ends removes a folder that stayed empty
        create_output_folder(folder, flag=flag)
        if (file := _try(folder / LOCK)) is not None:
            return file
        if time.monotonic() > end:
            raise SubquadError(
                f"{folder}: another process is writing to it; wait until it has ended, or choose another folder with "
                f"{flag}"
            )
        time.sleep(0.05)


def _try(path: Path) -> int | None:
    """Return the open file that holds the lock, or None while another process holds it or removes the folder."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    # Windows and some file systems have no locks
    if lock_file(file, path) is not False:
        return file
    os.close(file)
    return None
