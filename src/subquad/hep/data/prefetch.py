"""The next batch is put together while the net learns from this one, in a second thread."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar, overload

__all__ = ["Ahead", "Waiting"]

Item = TypeVar("Item")
Made = TypeVar("Made")


class Waiting:
    """Seconds that somebody waited for batches."""

    def __init__(self) -> None:
        self.seconds = 0.0


class Ahead(Sequence[Made], Generic[Item, Made]):
    """A plan whose items are made when they are asked for, and each of them while its forerunner is used."""

    def __init__(
        self, plan: Sequence[Item], make: Callable[[Item], Made], pool: ThreadPoolExecutor, waiting: Waiting
    ) -> None:
        self._plan, self._make, self._pool, self._waiting = plan, make, pool, waiting
        self._next: tuple[int, Future[Made]] | None = None

    def __len__(self) -> int:
        return len(self._plan)

    @overload
    def __getitem__(self, index: int) -> Made: ...

    @overload
    def __getitem__(self, index: slice) -> "Ahead[Item, Made]": ...

    def __getitem__(self, index: int | slice) -> "Made | Ahead[Item, Made]":
        if isinstance(index, slice):
            return Ahead(self._plan[index], self._make, self._pool, self._waiting)
        began = time.perf_counter()
        if self._next is not None and self._next[0] == index:
            made = self._next[1].result()
        else:
            made = self._make(self._plan[index])
        self._waiting.seconds += time.perf_counter() - began
        after = index + 1
        self._next = (after, self._pool.submit(self._make, self._plan[after])) if after < len(self._plan) else None
        return made
