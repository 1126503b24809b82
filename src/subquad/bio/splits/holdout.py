"""Ways to hold rows out: random sequences, or whole groups. Costs a sort.

A way is a function from rows, `fraction`, `fold` (which, of how many; or None) and `random` to the rows held out and
the rows kept. It raises SubquadError where there are too few sequences or groups.
"""

from collections.abc import Callable

import numpy as np

from subquad.errors import SubquadError

__all__ = ["Hold", "hold_random", "hold_units"]

Hold = Callable[..., tuple[np.ndarray, np.ndarray]]


def hold_random(equal: np.ndarray, classes: np.ndarray | None = None, *, keeps: int = 0) -> Hold:
    """Return the way that holds out random sequences, with all their rows.

    Args:
        equal: `(n,)` number of the sequence of each row.
        classes: `(n,)` class of each row, to be held out in the same proportions; None where there are none.
        keeps: of each class with more sequences than so many, one at least is held out, and so many at least are kept;
            0: as the proportions have it. Folds are always as they have it, for each row is in one of them.
    """

    def hold(
        rows: np.ndarray, *, fraction: float, fold: tuple[int, int] | None, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        _, first, unit = np.unique(equal[rows], return_index=True, return_inverse=True)
        order = random.permutation(len(first))
        if classes is not None:
            # each class in the same proportion
            order = order[np.argsort(classes[rows[first[order]]], kind="stable")]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        if fold is not None:
            _enough(len(order), fold[1], "different sequences")
            is_held = place % fold[1] == fold[0]
        else:
            start = random.random()
            is_held = np.floor((place + 1) * fraction + start) > np.floor(place * fraction + start)
            if classes is not None and keeps:
                is_held[order] = _of_each_class(is_held[order], classes[rows[first[order]]], keeps)
        is_held = is_held[unit.reshape(-1)]
        return rows[is_held], rows[~is_held]

    return hold


def _of_each_class(is_held: np.ndarray, classes: np.ndarray, keeps: int) -> np.ndarray:
    """Return which are held; sequences are class by class, and in random order within a class."""
    is_held = is_held.copy()
    for own in np.split(np.arange(len(classes)), np.flatnonzero(np.diff(classes)) + 1):
        most = len(own) - keeps
        if most > 0:
            is_held[own[0]] |= not is_held[own].any()
            is_held[own[is_held[own]][most:]] = False
    return is_held


def hold_units(units: np.ndarray, what: str) -> Hold:
    """Return the way that holds out random groups or clusters, whole.

    Args:
        units: `(n,)` number of the group of each row.
        what: they are called, for messages.
    """

    def hold(
        rows: np.ndarray, *, fraction: float, fold: tuple[int, int] | None, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        _, unit, sizes = np.unique(units[rows], return_inverse=True, return_counts=True)
        order = random.permutation(len(sizes))
        if fold is not None:
            _enough(len(sizes), fold[1], what)
            chosen = _balanced(sizes, order, fold[1]) == fold[0]
        else:
            _enough(len(sizes), 2, what)
            chosen = _about(sizes, order, fraction * len(rows))
        is_held = chosen[unit.reshape(-1)]
        return rows[is_held], rows[~is_held]

    return hold


def _enough(count: int, needed: int, what: str) -> None:
    if count < needed:
        raise SubquadError(f"there are {count} {what}, fewer than the {needed} parts to make; take fewer --folds")


def _balanced(sizes: np.ndarray, order: np.ndarray, parts: int) -> np.ndarray:
    """Return the part of each unit, so that parts are about equally large: the largest units first."""
    order = order[np.argsort(-sizes[order], kind="stable")]
    part, totals = np.empty(len(sizes), dtype=np.int64), np.zeros(parts, dtype=np.int64)
    for unit in order:
        part[unit] = totals.argmin()
        totals[part[unit]] += sizes[unit]
    return part


def _about(sizes: np.ndarray, order: np.ndarray, goal: float) -> np.ndarray:
    """Return random units that have about so many rows together; one at least, and not all."""
    chosen, total = np.zeros(len(sizes), dtype=bool), 0
    for unit in order:
        if total + sizes[unit] <= 1.1 * goal:
            chosen[unit] = True
            total += sizes[unit]
    if not chosen.any():
        chosen[sizes.argmin()] = True
    if chosen.all():
        chosen[sizes.argmax()] = False
    return chosen
