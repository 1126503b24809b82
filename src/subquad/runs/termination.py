"""SIGTERM, which batch systems send before they kill a process, and Ctrl-C: a training saves a checkpoint first."""

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
def stop_deferred(*, enabled: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM or Ctrl-C came; the block ends with it, or with a second one."""
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    is_possible = enabled and threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT) if is_possible}
    previous = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, receive)
    try:
        yield lambda: bool(received)
    finally:
        restore()
        if received:
            signal.raise_signal(received[0])
