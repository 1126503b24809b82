"""Progress of long work: a bar with the remaining time on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
Advance = Callable[..., None]
"""Function that moves a progress bar by a number of steps, 1 by default, and shows metrics, which it takes by name."""


def say(text: str, *, quiet: bool = False) -> None:
    """Log one line on standard error, unless `quiet`."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def track(title: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Yield the function that moves a progress bar of `total` steps, of which `done` were taken before."""
    if quiet or not sys.stderr.isatty():
        yield _lines(title, total, done, quiet=quiet)
        return
    text, metrics_text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[metrics]}")
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(
        text, BarColumn(), MofNCompleteColumn(), *times, metrics_text, console=Console(stderr=True)
    ) as progress:
        task = progress.add_task(title, total=total, completed=done, metrics="")
        yield lambda steps=1, **metrics: progress.update(task, advance=steps, metrics=_show(metrics))


def _lines(title: str, total: int, done: int, *, quiet: bool) -> Advance:
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
        say(f"{title}: {count}/{total}, {now - began:.0f} s, {left:.0f} s left{shown}", quiet=quiet)

    return advance


def _show(metrics: dict[str, float]) -> str:
    return " ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
