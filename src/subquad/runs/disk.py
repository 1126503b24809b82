"""Temporary folders of outputs, which the next start removes if their process was killed, and names that are on disk.

A process holds a lock (`flock`) on each of its temporary folders, which the system releases when the process ends.
Where the file system has no such locks (some network file systems), what killed processes left is kept.
"""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "DISK_FULL",
    "EARLIER",
    "LOCK",
    "MARK",
    "clean_up",
    "make_folder",
    "remove_temporaries",
    "sync",
    "temporaries_of",
    "temporary_folder",
    "try_lock",
]

LOCK = ".lock"
"""Name of the file that a process which writes to a folder holds locked."""
MARK = "subquad-"
"""In the names of temporary folders, by which those of killed processes are recognised."""
EARLIER = "earlier"
"""Name in a temporary folder of the output that is being replaced; it gets its own name back if the other fails."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of the operating system when there is no space."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool | None]:
    """Hold the lock of a file or folder in the `with` block, unless another process does.

    Yields:
        Whether the lock is held; None where that is unknown, as on Windows or on a file system without locks.
    """
    try:
        file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        yield None
        return
    try:
        yield _flock(file)
    finally:
        with suppress(OSError):
            os.close(file)


def _flock(file: int) -> bool | None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ModuleNotFoundError, OSError):
        return None
    return True


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` for what will get that name; the folder is removed at the end.

    An earlier output that was moved into it, as `EARLIER`, gets its name back if nothing else has that name then.
    """
    make_folder(path.parent)
    clean_up(path)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.{MARK}", dir=path.parent))
        with try_lock(folder) as is_mine:
            # another process may have found it before it was locked, and removed it
            if is_mine is False or not folder.is_dir():
                continue
            try:
                yield folder
            finally:
                _discard(folder, path)
            return


def _discard(folder: Path, path: Path) -> None:
    """Remove a temporary folder of `path`; an error, which would hide that of the work, leaves it where it is."""
    earlier = folder / EARLIER
    with suppress(OSError):
        if os.path.lexists(earlier) and not os.path.lexists(path):
            os.replace(earlier, path)
            sync(path.parent)
        shutil.rmtree(folder)


def temporaries_of(path: Path) -> list[Path]:
    """Return the temporary folders of an output: what killed processes left, and those of living ones."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{MARK}*"))


def clean_up(path: Path) -> None:
    """Remove what killed processes left of an output, and give an earlier one its name back that was being replaced."""
    for folder in temporaries_of(path):
        with try_lock(folder) as is_mine:
            if is_mine:
                _discard(folder, path)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing to a folder, which must be locked.

    Folders in it that other processes may be writing to are left to these.
    """
    for path in list(folder.rglob(f".*.{MARK}*")):
        between = path.relative_to(folder).parents
        if any((folder / own / LOCK).exists() for own in between if own != Path()):
            continue
        with try_lock(path) as is_mine:
            # the folder is locked, so that without other locks it is of a killed process too
            if is_mine is not False:
                _discard(path, path.with_name(path.name[1:].rpartition(f".{MARK}")[0]))


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless they exist; their names are on the disk then."""
    if path.is_dir():
        return
    path = path.absolute()
    made = [own for own in (path, *path.parents) if not own.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for own in reversed(made):
        sync(own.parent)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # not every system can do so with folders
        if path.is_dir() and error.errno not in (errno.EIO, *DISK_FULL):
            return
        # calls with open files do not name them
        error.filename = str(path)
        raise
