"""Files of users are read in processes of their own, with limits of time and memory, so that none stops the page."""

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from subquad.errors import SubquadError

__all__ = ["read_apart"]

Result = TypeVar("Result")

SECONDS, GIBIBYTES = 60.0, 4

if sys.platform == "linux":
    _processes = multiprocessing.get_context("forkserver")
    # imported once; each file is then read by a copy of that process
    _processes.set_forkserver_preload(["subquad.app.sequence_data", "subquad.app.jet_results"])
else:
    _processes = multiprocessing.get_context("spawn")


def read_apart(function: Callable[..., Result], *arguments: Any, seconds: float = SECONDS) -> Result:
    """Return `function(*arguments)`, computed in a process of its own.

    Raises:
        SubquadError: The function raised it, or needed more than `seconds` or 4 GiB of memory.
    """
    mine, its = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_answer, args=(its, function, arguments), daemon=True)
    process.start()
    # so that the end of the process is noticed
    its.close()
    try:
        if not mine.poll(seconds):
            raise SubquadError(f"reading took more than {seconds:.0f} seconds; give a smaller file")
        is_read, result = mine.recv()
    except EOFError:
        raise SubquadError(
            f"the file could not be read: it needs more than {GIBIBYTES} GiB of memory, or a library failed on it; "
            "give a smaller or another file"
        ) from None
    finally:
        process.kill()
        process.join()
        process.close()
        mine.close()
    if is_read:
        return result
    raise result


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _limit_memory()
    try:
        found = (True, function(*arguments))
    except SubquadError as error:
        found = (False, error)
    except MemoryError:
        # as of a process that the system ends
        return
    connection.send(found)


def _limit_memory() -> None:
    # not on Windows, and without an effect on macOS
    with suppress(ImportError, AttributeError, ValueError):
        import resource

        limit = GIBIBYTES * 2**30
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
