"""Errors that a user can correct: one exception type, the boundary where files are read, and how messages are built."""

import difflib
import errno
import importlib
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of the operating system when there is no space."""
LEAST_MEMORY, MEMORY_PER_BYTE = 3 * 2**30, 100
"""Bytes of memory that reading a file may take: so many in all, or so many per byte of the file if that is more."""
MOST_NAMES, MOST_LETTERS, MOST_ERRORS = 20, 100, 10
"""How many known names a message lists, letters of a value it quotes, and errors of one input it lists."""


class SubquadError(Exception):
    """An error that the user can correct; the command line prints its message and exits with status 2."""

    def __str__(self) -> str:
        """Return the message, with an ellipsis in each word that is too long for the name of a file."""
        return re.sub(r"[^\s/]{256,}", lambda word: shortened(word[0]), super().__str__())


class MissingExtra(SubquadError):  # noqa: N818 (named after what is missing)
    """A package of an optional extra is not installed."""


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """Turn whatever is raised while a user's file is read into one sentence about the file.

    Args:
        path: The file or folder, as the user named it.
        what: What it should be, such as "a table".

    Raises:
        SubquadError: `PATH: no such file`, or `PATH: cannot be read as a table (pandas: Expected 5 fields, saw 6)`.
            A `SubquadError` passes as it is, and so do an interruption and a full disk.
    """
    try:
        with _limited_memory(path):
            yield
    except (SubquadError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise SubquadError(f"{path}: {_reason(error, Path(path), what)}") from error


def _reason(error: BaseException, path: Path, what: str) -> str:
    if isinstance(error, OSError) and not path.exists() and "://" not in str(path):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give a file"
    text = shortened(" ".join(str(error).split()) or type(error).__name__)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, MemoryError):
        text = "it needs too much memory"
    elif isinstance(error, KeyError):
        text = f"{text} is missing"
    return f"cannot be read{f' as {what}' if what else ''} ({_library(error)}{text})"


def _library(error: BaseException) -> str:
    """Return the package in which an error arose, as `pandas: `; empty for the standard library and for subquad."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        is_installed = "site-packages" in frame.f_code.co_filename
        if is_installed and package != "subquad" and package not in sys.stdlib_module_names:
            return f"{package}: "
    return ""


@contextmanager
def _limited_memory(path: Path | str) -> Iterator[None]:
    """Let what is on a disk take no more memory than is plausible for its size; on Linux, in the main thread."""
    is_possible = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
    if not is_possible or not Path(path).exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    size = sum(entry.stat().st_size for entry in (Path(path), *Path(path).glob("*")) if entry.is_file())
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    used = sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    allowed = used + max(LEAST_MEMORY, MEMORY_PER_BYTE * size)
    if before[0] != resource.RLIM_INFINITY:
        allowed = min(allowed, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an extra of subquad installs; `MissingExtra` is raised if it, or one it imports, is not."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or module, extra) from error


def missing_extra(module: str, extra: str) -> MissingExtra:
    """Return the error for a module that an optional extra installs."""
    return MissingExtra(f"{module.partition('.')[0]} is not installed; install it with: pip install 'subquad[{extra}]'")


def shortened(text: str, most: int = MOST_LETTERS) -> str:
    """Return a name or value for a message, cut with an ellipsis if it has more than so many letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unknown(kind: str, given: str, known: Iterable[str]) -> SubquadError:
    """Return the error for a name that is not among the known ones, with the most similar names first."""
    given, names = shortened(given), [shortened(str(name)) for name in known]
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    shown = [*near, *(name for name in names if name not in near)][:MOST_NAMES]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    listed = f"there are: {', '.join(shown)}{more}" if names else "there are none"
    if near:
        return SubquadError(f"no {kind} {given!r}; did you mean {near[0]!r}? T{listed[1:]}")
    return SubquadError(f"no {kind} {given!r} ({listed})")


def counted(count: int, noun: str) -> str:
    """Return a number of things, as `1 token` and `1,011 tokens`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def flag_name(field: str) -> str:
    """Return the flag of a field of a settings class: `batch_size` → `--batch-size`, and `from_` → `--from`."""
    return "--" + field.rstrip("_").replace("_", "-")


def raise_errors(title: str, errors: Sequence[str]) -> None:
    """Raise the errors of one input, if there are any, as one `SubquadError` with the title above."""
    if errors:
        more = [f"… and {len(errors) - MOST_ERRORS:,} more"] if len(errors) > MOST_ERRORS else []
        raise SubquadError("\n  ".join([title, *errors[:MOST_ERRORS], *more]))


def collect_errors(*checks: Callable[[], Any]) -> list[Any]:
    """Run all checks and return their results, or raise what they say as one `SubquadError`."""
    results, messages = [], []
    for check in checks:
        try:
            results.append(check())
        except SubquadError as error:
            messages.append(str(error))
    if messages:
        raise SubquadError("\n".join(messages))
    return results
