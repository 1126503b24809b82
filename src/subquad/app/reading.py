"""Descriptions of uploaded files and short computations, in processes of their own with limits of time and memory.

So nothing that a user gives stops the page, whatever a library does with it.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from threading import Condition
from typing import Any, TypeVar

from subquad.errors import SubquadError

__all__ = ["Busy", "call_in_process", "start_early"]

Result = TypeVar("Result")

SECONDS, GIBIBYTES = 60.0, 4
PRELOADED = (
    "subquad.cli", "subquad.app.sequence_data", "subquad.app.jet_results", "uproot", "awkward", "h5py",
    "subquad.app.sequence_results", "torch", "sklearn.ensemble", "scipy.stats",
)  # fmt: skip
"""What the process imports of which all others are copies, on Linux; what is not installed is left out."""
AT_ONCE, MOST_OF_SESSION, MOST_OF_ALL = 2, 16, 64
"""Calls of a kind that work at the same time, and those that work or wait: of a session, and of all together. Each call
keeps a thread of those that handle events; opening the page takes up to three."""


class Busy(SubquadError):  # noqa: N818 (it says that the page is busy)
    """Too many calls wait, which says nothing about the file: it is kept, and can be read later."""


class _Places:
    """Places for calls: each session has one of them at a time, and sessions that wait take turns."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._working: list[Any] = []
        self._waiting: list[tuple[Any]] = []
        """A tuple of its own for each call, with the session."""
        self._held: Counter[Any] = Counter()
        self._served: dict[Any, int] = {}
        """Number of the last turn of each session that has any calls."""
        self._turns = 0

    @contextmanager
    def one(self, session: Any) -> Iterator[None]:
        """Wait for a place and hold it for the `with` block.

        Raises:
            Busy: Too many calls wait.
        """
        with self._changed:
            if self._held[session] >= MOST_OF_SESSION:
                raise Busy(
                    f"the page is still at work on {MOST_OF_SESSION} of your files or inputs; wait until it shows "
                    "them, then try again"
                )
            if self._held.total() >= MOST_OF_ALL:
                raise Busy("the page reads files of many users now; try again in a minute")
            own = (session,)
            self._held[session] += 1
            self._waiting.append(own)
            self._changed.wait_for(lambda: self._next() is own)
            self._waiting.remove(own)
            self._working.append(session)
            self._turns += 1
            self._served[session] = self._turns
            # there may be a place for the next one too
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._working.remove(session)
                self._held[session] -= 1
                if not self._held[session]:
                    del self._held[session], self._served[session]
                self._changed.notify_all()

    def _next(self) -> tuple[Any] | None:
        """Return the call whose turn it is: of the session whose last turn was first, or that had none; within a
        session, and between those that had none, the one that came first."""
        if len(self._working) >= AT_ONCE:
            return None
        waiting = (own for own in self._waiting if own[0] not in self._working)
        return min(waiting, key=lambda own: self._served.get(own[0], 0), default=None)


_readings, _computations = _Places(), _Places()


def start_early() -> None:
    """Start the process of which all others are copies, which then imports while the page is built."""
    if sys.platform == "linux":
        _processes()
        forkserver.ensure_running()


def call_in_process(function: Callable[..., Result], *arguments: Any, session: Any, seconds: float = SECONDS) -> Result:
    """Return `function(*arguments)`, computed in a process of its own.

    Two processes work at the same time, for different sessions; those with more than the usual time do not hold up the
    others, and two of them work beside these.

    Args:
        function: A function of a module, whose result consists of JSON values.
        arguments: Its arguments, which can be pickled.
        session: Whose call it is, anything that is hashable.
        seconds: Time after which the process is ended.

    Raises:
        SubquadError: The function raised it, failed otherwise, or needed more time or more than 4 GiB of memory.
        Busy: Too many calls of this session, or of all, are waiting.
    """
    with (_readings if seconds <= SECONDS else _computations).one(session):
        result, error = _computed(function, arguments, seconds)
    if error is not None:
        raise SubquadError(error)
    return result


def _computed(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> tuple[Any, str | None]:
    """Return the result of a function, or its error."""
    mine, its = _processes().Pipe(duplex=False)
    process = _processes().Process(target=_answer, args=(its, function, arguments), daemon=True)
    try:
        process.start()
        # so that the end of the process is noticed
        its.close()
        if not mine.poll(seconds):
            raise SubquadError(f"this took more than {seconds:.0f} seconds; give a smaller file")
        return json.loads(mine.recv_bytes())
    except (EOFError, OSError):
        raise SubquadError("the program that read the file ended at once; the file may be damaged") from None
    finally:
        if process.pid is not None:
            _end_group(process.pid)
            if process.is_alive():
                process.kill()
            process.join()
        mine.close()


def _end_group(leader: int) -> None:
    """End a process that leads a group, and what it has started."""
    with suppress(AttributeError, ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


@cache
def _processes() -> Any:
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    return context


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    _limit_memory()
    result, error = None, None
    try:
        result = function(*arguments)
    except SubquadError as raised:
        error = str(raised)
    except MemoryError:
        error = f"this needs more than {GIBIBYTES} GiB of memory; give a smaller file"
    except Exception as raised:  # noqa: BLE001 (whatever a library raises on a damaged file)
        error = f"the file could not be read ({type(raised).__name__}: {raised})"
    connection.send_bytes(json.dumps((result, error)).encode())


def _limit_memory() -> None:
    # without an effect on macOS, and not on Windows
    with suppress(ImportError, ValueError):
        import resource

        limit = GIBIBYTES * 2**30
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
