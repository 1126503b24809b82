"""Progress of long work: a bar with the remaining time on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Advance", "say", "track"]

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Function that moves a progress bar."""

    def __call__(self, steps: int = 1, **metrics: float) -> None:
        """Move the bar by a number of steps and show the metrics beside it."""


def say(text: str, *, quiet: bool = False) -> None:
    """Log one line on standard error, unless `quiet`."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def track(title: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Yield the function that moves a progress bar of `total` steps, of which `done` were taken before."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bar(title, total, done) as advance:
            yield advance
    else:
        yield _lines(title, total, done)


def _silent(steps: int = 1, **metrics: float) -> None:
    pass


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done, metrics="")

        def advance(steps: int = 1, **metrics: float) -> None:
            progress.update(task, advance=steps, metrics=_show(metrics))

        yield advance


def _lines(title: str, total: int, done: int) -> Advance:
    began = last = time.monotonic()
    count = done

    def advance(steps: int = 1, **metrics: float) -> None:
        nonlocal last, count
        count += steps
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and count < total:
            return
        last = now
        left = (now - began) * (total - count) / max(count - done, 1)
        shown = f", {_show(metrics)}" if metrics else ""
        say(f"{title}: {count}/{total}, {now - began:.0f} s, {left:.0f} s left{shown}")

    return advance


def _show(metrics: dict[str, float]) -> str:
    return " ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
