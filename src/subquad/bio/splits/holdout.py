"""Methods to hold rows out for the test or the validation set: random sequences, whole groups, mutated positions.

A method is a function of rows, `fraction`, `fold` (which, of how many; or None) and `random` that returns the rows held
out and the rows kept. It raises SubquadError if there are too few sequences, groups or positions.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from subquad.errors import SubquadError

__all__ = [
    "Holdout",
    "Mutations",
    "hold_out_folds",
    "hold_out_mutated",
    "hold_out_positions",
    "hold_out_random",
    "hold_out_units",
    "proteingym_folds",
]

Holdout = Callable[..., tuple[np.ndarray, np.ndarray]]
POSITION = re.compile(r"(?<=\D)\d+")


def hold_out_random(equal: np.ndarray, classes: np.ndarray | None = None, *, keep: int = 0) -> Holdout:
    """Return the method that holds out random sequences with all their rows.

    Args:
        equal: `(n,)` index of the sequence of each row.
        classes: `(n,)` class of each row, for a stratified split; None if there are no classes.
        keep: In each class with more than this many sequences, at least one is held out and at least this many are
            kept; 0 follows the proportions. Folds always follow the proportions, since each row is in one of them.
    """

    def hold_out(
        rows: np.ndarray, *, fraction: float, fold: tuple[int, int] | None, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        _, first, unit = np.unique(equal[rows], return_index=True, return_inverse=True)
        order = random.permutation(len(first))
        if classes is not None:
            order = order[np.argsort(classes[rows[first[order]]], kind="stable")]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        if fold is not None:
            _require_units(len(order), fold[1], "different sequences")
            is_out = place % fold[1] == fold[0]
        else:
            start = random.random()
            is_out = np.floor((place + 1) * fraction + start) > np.floor(place * fraction + start)
            if classes is not None and keep:
                is_out[order] = _some_of_each_class(is_out[order], classes[rows[first[order]]], keep)
        is_out = is_out[unit.reshape(-1)]
        return rows[is_out], rows[~is_out]

    return hold_out


def _some_of_each_class(is_out: np.ndarray, classes: np.ndarray, keep: int) -> np.ndarray:
    """Return which sequences are held out; they are sorted by class, and in random order within a class."""
    is_out = is_out.copy()
    for own in np.split(np.arange(len(classes)), np.flatnonzero(np.diff(classes)) + 1):
        most = len(own) - keep
        if most > 0:
            is_out[own[0]] |= not is_out[own].any()
            is_out[own[is_out[own]][most:]] = False
    return is_out


def hold_out_units(units: np.ndarray, what: str) -> Holdout:
    """Return the method that holds out random whole groups or clusters.

    Args:
        units: `(n,)` index of the group of each row.
        what: Name of the groups, for messages.
    """

    def hold_out(
        rows: np.ndarray, *, fraction: float, fold: tuple[int, int] | None, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        _, unit, sizes = np.unique(units[rows], return_inverse=True, return_counts=True)
        order = random.permutation(len(sizes))
        if fold is not None:
            _require_units(len(sizes), fold[1], what)
            chosen = _balanced_parts(sizes, order, fold[1]) == fold[0]
        else:
            _require_units(len(sizes), 2, what)
            chosen = _units_of_size(sizes, order, fraction * len(rows))
        is_out = chosen[unit.reshape(-1)]
        return rows[is_out], rows[~is_out]

    return hold_out


def _require_units(count: int, needed: int, what: str) -> None:
    if count < needed:
        raise SubquadError(f"{what}: {count}, but {needed} parts are needed; use fewer folds or another split")


def _balanced_parts(sizes: np.ndarray, order: np.ndarray, parts: int) -> np.ndarray:
    """Return the part of each unit such that parts have similar sizes; the largest units are assigned first."""
    order = order[np.argsort(-sizes[order], kind="stable")]
    part, totals = np.empty(len(sizes), dtype=np.int64), np.zeros(parts, dtype=np.int64)
    for unit in order:
        part[unit] = totals.argmin()
        totals[part[unit]] += sizes[unit]
    return part


def _units_of_size(sizes: np.ndarray, order: np.ndarray, goal: float) -> np.ndarray:
    """Return random units with about `goal` rows together; at least one unit, and not all."""
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


@dataclass(frozen=True)
class Mutations:
    """Mutated positions of all rows as flat arrays."""

    row: np.ndarray
    """`(i,)` row of each mutation, sorted."""
    position: np.ndarray
    """`(i,)` position of each mutation, from 1 in the wild type."""
    count: np.ndarray
    """`(n,)` number of mutations of each row."""

    @classmethod
    def of(cls, mutants: Sequence[str]) -> "Mutations":
        """Return the mutations of variants such as `A24G:K30R`; the wild type is empty."""
        found = [POSITION.findall(mutant) for mutant in mutants]
        count = np.array([len(each) for each in found], dtype=np.int64)
        position = np.array([int(place) for each in found for place in each], dtype=np.int64)
        return cls(np.repeat(np.arange(len(found)), count), position, count)

    def take(self, rows: np.ndarray) -> "Mutations":
        """Return the mutations of the given rows, which are renumbered from 0."""
        number = np.full(len(self.count), -1)
        number[rows] = np.arange(len(rows))
        own = number[self.row]
        order = np.argsort(own[own >= 0], kind="stable")
        return Mutations(own[own >= 0][order], self.position[own >= 0][order], self.count[rows])

    def first(self) -> np.ndarray:
        """Return the position of each row's first mutation, `(n,)`; 0 for the wild type."""
        place = np.zeros(len(self.count), dtype=np.int64)
        # the last assignment to a row wins, so mutations are assigned from its end
        place[self.row[::-1]] = self.position[::-1]
        return place

    def inside(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows have all, and which have none, of their mutations at the positions: two `(n,)` bool."""
        there = np.bincount(self.row, np.isin(self.position, positions), minlength=len(self.count))
        return (there == self.count) & (self.count > 0), there == 0


def hold_out_mutated(
    mutations: Mutations,
    rows: np.ndarray,
    *,
    fraction: float,
    fold: tuple[int, int] | None,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the rows with the most mutations.

    The number of mutations that separates both sets is the one that comes closest to the fraction; a fold holds out
    only its part of the rows above it.

    Raises:
        SubquadError: All rows have the same number of mutations.
    """
    count = mutations.count[rows]
    numbers = np.unique(count)
    if len(numbers) < 2:
        raise SubquadError(f"all variants have the same number of mutations, {numbers[0]}; use another split")
    above = np.array([(count > most).mean() for most in numbers[:-1]])
    most = numbers[np.abs(above - fraction).argmin()]
    out = rows[count > most]
    if fold is not None:
        out = np.sort(np.array_split(random.permutation(out), fold[1])[fold[0]])
    return out, rows[count <= most]


def hold_out_positions(
    mutations: Mutations,
    rows: np.ndarray,
    *,
    fraction: float,
    fold: tuple[int, int] | None,
    random: np.random.Generator,
    is_contiguous: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out rows that are mutated at held-out positions only, and keep rows that are mutated at none of them.

    The positions are random, or one stretch from a random position on (continued at the first one after the last).

    Raises:
        SubquadError: There are too few positions.
    """
    own = mutations.take(rows)
    positions = np.unique(own.position)
    needed = fold[1] if fold is not None else 2
    _require_units(len(positions), needed, "mutated positions")
    order = np.roll(positions, -random.integers(len(positions))) if is_contiguous else random.permutation(positions)
    if fold is not None:
        is_out, is_kept = own.inside(np.array_split(order, fold[1])[fold[0]])
        return rows[is_out], rows[is_kept]
    rank = np.empty(len(positions), dtype=np.int64)
    rank[np.searchsorted(positions, order)] = np.arange(len(positions))
    ranks = rank[np.searchsorted(positions, own.position)]
    mutated = np.flatnonzero(own.count > 0)
    starts = np.searchsorted(own.row, mutated)
    sizes = np.arange(1, len(positions))
    out = np.searchsorted(np.sort(np.maximum.reduceat(ranks, starts)), sizes)
    kept = len(rows) - np.searchsorted(np.sort(np.minimum.reduceat(ranks, starts)), sizes)
    share = np.where((out > 0) & (kept > 0), out / np.maximum(out + kept, 1), np.inf)
    if not np.isfinite(share).any():
        raise SubquadError("no variant is mutated at held-out positions only, whatever positions are held out")
    is_out, is_kept = own.inside(order[: sizes[np.abs(share - fraction).argmin()]])
    return rows[is_out], rows[is_kept]


def proteingym_folds(positions: np.ndarray, folds: int, *, is_contiguous: bool) -> np.ndarray:
    """Return ProteinGym's fold of each position: its remainder, or contiguous stretches of the mutated positions.

    Notin et al., ProteinGym, NeurIPS 2023.

    Raises:
        SubquadError: There are fewer positions than folds.
    """
    unique = np.unique(positions)
    _require_units(len(unique), folds, "mutated positions")
    if not is_contiguous:
        return positions % folds
    part = np.repeat(np.arange(folds), [len(own) for own in np.array_split(unique, folds)])
    return part[np.searchsorted(unique, positions)]


def hold_out_folds(
    mutations: Mutations, rows: np.ndarray, *, fold: tuple[int, int], is_contiguous: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the rows mutated in one ProteinGym fold only; rows mutated in several folds are in neither set.

    Raises:
        SubquadError: There are fewer positions than folds.
    """
    own = mutations.take(rows)
    part = proteingym_folds(own.position, fold[1], is_contiguous=is_contiguous)
    mutated = np.flatnonzero(own.count > 0)
    starts = np.searchsorted(own.row, mutated)
    first, last = (np.full(len(rows), -1) for _ in range(2))
    first[mutated], last[mutated] = np.minimum.reduceat(part, starts), np.maximum.reduceat(part, starts)
    is_whole = first == last
    return rows[is_whole & (first == fold[0])], rows[is_whole & (first != fold[0])]
