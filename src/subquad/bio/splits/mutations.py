"""Splits by what is mutated: by the number of mutations, and by positions. Costs one look at each variant.

A part is held out of `rows`: what comes back are the rows held, the rows kept, and nothing of the rows that are mixed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subquad.errors import SubquadError

__all__ = ["Mutated", "by_number", "by_position", "fold_of_positions", "within_folds"]

POSITION = re.compile(r"(?<=\D)\d+")


@dataclass(frozen=True)
class Mutated:
    """Where each row is mutated."""

    row: np.ndarray
    """`(i,)` the row of each mutation, rising."""
    position: np.ndarray
    """`(i,)` from 1 in the wild type."""
    count: np.ndarray
    """`(n,)` mutations of each row."""

    @classmethod
    def of(cls, mutants: Sequence[str]) -> "Mutated":
        """Return it of variants such as `A24G:K30R`; an empty one is the wild type."""
        found = [POSITION.findall(mutant) for mutant in mutants]
        count = np.array([len(each) for each in found], dtype=np.int64)
        position = np.array([int(place) for each in found for place in each], dtype=np.int64)
        return cls(np.repeat(np.arange(len(found)), count), position, count)

    def take(self, rows: np.ndarray) -> "Mutated":
        """Return it of some rows, numbered from 0."""
        number = np.full(len(self.count), -1)
        number[rows] = np.arange(len(rows))
        own = number[self.row]
        order = np.argsort(own[own >= 0], kind="stable")
        return Mutated(own[own >= 0][order], self.position[own >= 0][order], self.count[rows])

    def first(self) -> np.ndarray:
        """Return the position of each row's first mutation, `(n,)`; 0 of the wild type."""
        place = np.zeros(len(self.count), dtype=np.int64)
        # the last write counts, so the mutations of a row from its end on
        place[self.row[::-1]] = self.position[::-1]
        return place

    def inside(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows have all, and which have none, of their mutations at the positions; bool each."""
        there = np.bincount(self.row, np.isin(self.position, positions), minlength=len(self.count))
        return (there == self.count) & (self.count > 0), there == 0


def by_number(
    mutated: Mutated, rows: np.ndarray, *, fraction: float, fold: tuple[int, int] | None, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return held and kept rows.

    Kept are all rows with up to so many mutations that the others are nearest to the fraction wanted; of a fold, only
    its part of the others is held.

    Raises:
        SubquadError: all rows have one number of mutations.
    """
    count = mutated.count[rows]
    numbers = np.unique(count)
    if len(numbers) < 2:
        raise SubquadError(
            f"all variants have {numbers[0]} mutation{'s' if numbers[0] != 1 else ''}; a split by their number needs "
            "variants with fewer and with more of them; take --split-by position or random"
        )
    share = np.array([(count > most).mean() for most in numbers[:-1]])
    most = numbers[np.abs(share - fraction).argmin()]
    held = rows[count > most]
    if fold is not None:
        held = np.sort(np.array_split(random.permutation(held), fold[1])[fold[0]])
    return held, rows[count <= most]


def by_position(
    mutated: Mutated,
    rows: np.ndarray,
    *,
    fraction: float,
    fold: tuple[int, int] | None,
    random: np.random.Generator,
    is_contiguous: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return held rows, mutated at held positions alone, and kept rows, mutated at none of them.

    The positions are random, or one stretch from a random one on (it goes on at the first position after the last).

    Raises:
        SubquadError: there are too few positions.
    """
    own = mutated.take(rows)
    positions = np.unique(own.position)
    needed = fold[1] if fold is not None else 2
    if len(positions) < needed:
        raise SubquadError(
            f"variants are mutated at {len(positions)} position{'s' if len(positions) != 1 else ''} only, and {needed} "
            "are needed to hold some out; take --split-by random"
        )
    order = np.roll(positions, -random.integers(len(positions))) if is_contiguous else random.permutation(positions)
    if fold is not None:
        is_held, is_kept = own.inside(np.array_split(order, fold[1])[fold[0]])
        return rows[is_held], rows[is_kept]
    rank = np.empty(len(positions), dtype=np.int64)
    rank[np.searchsorted(positions, order)] = np.arange(len(positions))
    ranks = rank[np.searchsorted(positions, own.position)]
    some = np.flatnonzero(own.count > 0)
    starts = np.searchsorted(own.row, some)
    sizes = np.arange(1, len(positions))
    held = np.searchsorted(np.sort(np.maximum.reduceat(ranks, starts)), sizes)
    kept = len(rows) - np.searchsorted(np.sort(np.minimum.reduceat(ranks, starts)), sizes)
    share = np.where((held > 0) & (kept > 0), held / np.maximum(held + kept, 1), np.inf)
    if not np.isfinite(share).any():
        raise SubquadError(
            "no positions can be held out: every choice leaves no variant that is mutated at those alone; "
            "take --split-by random or mutations"
        )
    is_held, is_kept = own.inside(order[: sizes[np.abs(share - fraction).argmin()]])
    return rows[is_held], rows[is_kept]


def fold_of_positions(positions: np.ndarray, folds: int, *, is_contiguous: bool) -> np.ndarray:
    """Return ProteinGym's fold of each position: its remainder, or equal stretches of the mutated positions.

    Notin et al., ProteinGym, NeurIPS 2023.

    Raises:
        SubquadError: fewer positions than folds.
    """
    unique = np.unique(positions)
    if len(unique) < folds:
        raise SubquadError(f"variants are mutated at {len(unique)} positions only, fewer than the {folds} --folds")
    if not is_contiguous:
        return positions % folds
    part = np.repeat(np.arange(folds), [len(own) for own in np.array_split(unique, folds)])
    return part[np.searchsorted(unique, positions)]


def within_folds(
    mutated: Mutated, rows: np.ndarray, *, fold: tuple[int, int], is_contiguous: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows mutated in the one fold alone, and rows with no mutation in it that are not across folds either.

    Raises:
        SubquadError: fewer positions than folds.
    """
    own = mutated.take(rows)
    part = fold_of_positions(own.position, fold[1], is_contiguous=is_contiguous)
    some = np.flatnonzero(own.count > 0)
    starts = np.searchsorted(own.row, some)
    first, last = (np.full(len(rows), -1) for _ in range(2))
    first[some], last[some] = np.minimum.reduceat(part, starts), np.maximum.reduceat(part, starts)
    is_whole = first == last
    return rows[is_whole & (first == fold[0])], rows[is_whole & (first != fold[0])]
