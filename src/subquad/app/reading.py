"""Descriptions of uploaded files and short computations, in processes of their own with limits of time and memory.

So nothing that a user gives stops the page, whatever a library does with it.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from threading import BoundedSemaphore
from typing import Any, TypeVar

from subquad.errors import SubquadError

__all__ = ["call_in_process", "start_early"]

Result = TypeVar("Result")

SECONDS, GIBIBYTES = 60.0, 4
PRELOADED = (
    "subquad.cli", "subquad.app.sequence_data", "subquad.app.jet_results", "uproot", "awkward", "h5py",
    "subquad.app.sequence_results", "torch", "sklearn.ensemble", "scipy.stats",
)  # fmt: skip
"""What the process imports of which all others are copies, on Linux; what is not installed is left out."""
_two_at_once = BoundedSemaphore(2)
_two_computations = BoundedSemaphore(2)


def start_early() -> None:
    """Start the process of which all others are copies, which then imports while the page is built."""
    if sys.platform == "linux":
        _processes()
        forkserver.ensure_running()


def call_in_process(function: Callable[..., Result], *arguments: Any, seconds: float = SECONDS) -> Result:
    """Return `function(*arguments)`, computed in a process of its own.

    Two processes work at the same time; those with more than the usual time do not hold up the others, and two of them
    work beside these.

    Args:
        function: A function of a module, whose result consists of JSON values.
        arguments: Its arguments, which can be pickled.
        seconds: Time after which the process is ended.

    Raises:
        SubquadError: The function raised it, failed otherwise, or needed more time or more than 4 GiB of memory.
    """
    with _two_at_once if seconds <= SECONDS else _two_computations:
        mine, its = _processes().Pipe(duplex=False)
        process = _processes().Process(target=_answer, args=(its, function, arguments), daemon=True)
        try:
            process.start()
            # so that the end of the process is noticed
            its.close()
            if not mine.poll(seconds):
                raise SubquadError(f"this took more than {seconds:.0f} seconds; give a smaller file")
            result, error = json.loads(mine.recv_bytes())
        except (EOFError, OSError):
            raise SubquadError("the program that read the file ended at once; the file may be damaged") from None
        finally:
            if process.pid is not None:
                _end_group(process.pid)
                if process.is_alive():
                    process.kill()
                process.join()
            mine.close()
    if error is not None:
        raise SubquadError(error)
    return result


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
