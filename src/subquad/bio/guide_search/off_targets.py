"""How many other sites of a file a guide nearly fits: exact counts within k mismatches, without comparing all pairs.

Two guides of W letters with at most k mismatches share one of k + 1 pieces exactly. So only guides with an equal piece
are compared: about $n^2 (k + 1) / 4^{W / (k + 1)}$ comparisons in place of $n^2$, in blocks that fit the cache.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from subquad.progress import track

__all__ = ["count_near", "pack"]

BLOCK = 1 << 16
"""Comparisons in one go."""

_LOW = np.uint64(0x5555555555555555)


def pack(codes: np.ndarray) -> np.ndarray:
    """Return `(S, W)` codes, W up to 32, as `(S,)` uint64 with two bits a letter, the last letter lowest."""
    packed = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.T:
        packed = (packed << np.uint64(2)) | column.astype(np.uint64)
    return packed


def count_near(guides: np.ndarray, width: int, mismatches: int, *, quiet: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return how many other guides equal each one, and how many (these too) differ in at most `mismatches` letters.

    Args:
        guides: `(S,)` uint64 of `pack`.
        width: letters of a guide.
        mismatches: below `width`.
        quiet: no progress.
    """
    unique, inverse, times = np.unique(guides, return_inverse=True, return_counts=True)
    near = times.astype(np.int64) - 1
    edges = np.linspace(0, width, mismatches + 2).astype(int)
    pieces = [(np.uint64(2 * low), np.uint64((1 << 2 * (high - low)) - 1)) for low, high in pairwise(edges)]
    total = len(unique) * len(pieces)
    with track("counting similar sites", total, quiet=quiet) as advance:
        for number, (shift, mask) in enumerate(pieces if mismatches else []):
            keys = (unique >> shift) & mask
            order = np.argsort(keys, kind="stable")
            for rows in _buckets(keys[order], order):
                _count(unique, rows, times, near, mismatches=mismatches, earlier=pieces[:number])
            advance(len(unique))
    equal = times - 1
    return equal[inverse], near[inverse]


def _buckets(keys: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows that share a key, where there are at least two."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    begin = np.concatenate([[0], cuts])
    end = np.append(cuts, len(keys))
    for low, high in zip(begin[end - begin > 1], end[end - begin > 1], strict=True):
        yield order[low:high]


def _count(
    unique: np.ndarray,
    rows: np.ndarray,
    times: np.ndarray,
    near: np.ndarray,
    *,
    mismatches: int,
    earlier: list[tuple[np.uint64, np.uint64]],
) -> None:
    """Add to `near` the pairs of one bucket that no earlier piece has found."""
    ours = unique[rows]
    step = max(1, BLOCK // len(rows))
    for begin in range(0, len(rows), step):
        differ = ours[begin : begin + step, None] ^ ours
        left = (differ | (differ >> np.uint64(1))) & _LOW
        # each step clears the lowest mismatch that is left; after k of them nothing is left of k or fewer
        for _ in range(mismatches):
            left &= left - np.uint64(1)
        first, second = np.nonzero(left == 0)
        found = differ[first, second]
        is_new = found != 0
        for shift, mask in earlier:
            is_new &= (found >> shift) & mask != 0
        first, second = first[is_new] + begin, second[is_new]
        near[rows] += np.bincount(first, weights=times[rows[second]], minlength=len(rows)).astype(np.int64)
