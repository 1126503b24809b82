"""SIGTERM, which batch systems send before they kill a process: a training saves a checkpoint first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended."""


class Terminated(SystemExit):
    """SIGTERM was received; without a handler the process exits with status 143."""

    def __init__(self, *_: Any) -> None:
        super().__init__(TERMINATED)


def end_on_sigterm() -> None:
    """Raise `Terminated` in the main thread at SIGTERM, so that temporary files are removed and child processes end."""

    def end(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


@contextmanager
def sigterm_deferred(*, enabled: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM was received; it is handled at the end of the `with` block."""
    is_ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    if not enabled or is_ignored or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
        if received:
            signal.raise_signal(signal.SIGTERM)
