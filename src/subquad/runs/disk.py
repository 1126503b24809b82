"""Temporary folders of outputs, which the next start removes if their process was killed, and names that are on disk.

A process holds a lock (`flock`) on a file in each of its temporary folders, which the system releases when the process
ends. Where the file system has no locks, what killed processes left is kept. The locks of a network file system may be
known to one machine only; so what processes of other machines left, by the name in the file, is kept too, except in the
folder of a run that is resumed.
"""

import errno
import glob
import os
import platform
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
    "is_read_only",
    "lock_file",
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
    """Hold the lock of a file in the `with` block, unless another process does.

    Yields:
        Whether the lock is held; None where that is unknown, as on Windows or on a file system without locks.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        yield None
        return
    try:
        is_mine = lock_file(file, path)
        if is_mine:
            yield True
    finally:
        with suppress(OSError):
            os.close(file)
    if not is_mine:
        yield is_mine


def lock_file(file: int, path: Path) -> bool | None:
    """Lock the open file at a path until it is closed, unless another process does.

    Returns:
        Whether it is locked, False if another file is there by now; None where there are no locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ModuleNotFoundError, OSError):
        return None
    # the process that held it before may have removed the file in between
    with suppress(OSError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` for what will get that name; the folder is removed at the end.

    An earlier output that was moved into it, as `EARLIER`, gets its name back if nothing else has that name then. An
    error for lack of space, which often names no file, or a temporary one, names `path`.
    """
    make_folder(path.parent)
    clean_up(path)
    while True:
        with _full_disk_named(path):
            folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.{MARK}", dir=path.parent))
        try:
            # another process may find the folder before it is locked, and remove it
            with suppress(FileNotFoundError):
                (folder / LOCK).write_text(platform.node(), encoding="utf-8")
            with try_lock(folder / LOCK) as is_mine:
                if is_mine is False or not folder.is_dir():
                    continue
                with _full_disk_named(path):
                    yield folder
                return
        finally:
            # when the lock is closed: some systems remove no folder with an open file
            _discard(folder, path)


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """Have errors for lack of space name a file that is being written, unless they name another one."""
    try:
        yield
    except OSError as error:
        is_temporary = f".{path.name}.{MARK}" in str(error.filename)
        if error.errno in DISK_FULL and (not error.filename or is_temporary):
            error.filename = str(path)
        raise


def is_read_only(folder: Path) -> bool:
    """Return whether a folder is on a file system that is mounted read-only; False where that is unknown."""
    with suppress(OSError, AttributeError):
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def _discard(folder: Path, path: Path) -> None:
    """Remove a temporary folder of `path`; an error, which would hide that of the work, leaves it where it is."""
    earlier = folder / EARLIER
    with suppress(OSError):
        if os.path.lexists(earlier) and not os.path.lexists(path):
            os.replace(earlier, path)
            sync(path.parent)
        shutil.rmtree(folder, ignore_errors=True)


def _discard_left(folder: Path, path: Path, *, is_locked: bool = False) -> None:
    """Remove a temporary folder of `path` unless its process may be alive; with `is_locked`, unless it surely is."""
    with suppress(OSError):
        # a process may have been killed before it made the file
        (folder / LOCK).touch()
    with try_lock(folder / LOCK) as is_mine:
        if is_mine or (is_mine is None and is_locked):
            _discard(folder, path)
    with suppress(OSError):
        # network file systems keep a folder while a removed file in it is open
        folder.rmdir()


def temporaries_of(path: Path) -> list[Path]:
    """Return the temporary folders of an output: what killed processes left, and those of living ones."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{MARK}*"))


def clean_up(path: Path) -> None:
    """Remove what killed processes left of an output, and give an earlier one its name back that was being replaced."""
    for folder in temporaries_of(path):
        if not _is_of_another_machine(folder):
            _discard_left(folder, path)


def _is_of_another_machine(folder: Path) -> bool:
    with suppress(OSError):
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace") not in ("", platform.node())
    return False


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing to a folder, which must be locked.

    Folders in it that other processes may be writing to are left to these.
    """
    for path in list(folder.rglob(f".*.{MARK}*")):
        between = path.relative_to(folder).parents
        if any((folder / own / LOCK).exists() for own in between if own != Path()):
            continue
        # the folder is locked, so that without other locks it is of a killed process too
        _discard_left(path, path.with_name(path.name[1:].rpartition(f".{MARK}")[0]), is_locked=True)


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
