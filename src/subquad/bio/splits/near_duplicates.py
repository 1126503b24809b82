"""Which sequences are equal, or nearly so. Equal ones cost one sort, one change costs a few looks at each letter.

A sequence is told by the sum of a random number for each letter and place, so that what it would be without one letter
is known without making it.

Axes: n rows, T positions. With a second channel, letters of both count.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import PAD, Inputs

__all__ = ["edited_sequences", "equal_sequences", "near_sequences", "reversed_sequences"]

CELLS = 20_000_000
"""Pairs of rows that are compared at a time."""
BITS = 20
"""Of a sum, that a first look is at."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""Lengths times this tell a sequence from one that is longer, whichever letter is left out of them."""
LETTERS, PLACES = 130, 256
"""Codes that a letter can have, from -2; places whose numbers are drawn at a time."""


def equal_sequences(inputs: Inputs) -> np.ndarray:
    """Return a number for each row, `(n,)`, equal where all letters are; rows without letters are all different."""
    codes = _letters(inputs)
    if not codes.shape[1]:
        return np.arange(len(codes))
    return np.unique(_Sums.of(codes).whole, return_inverse=True)[1].reshape(-1)


def near_sequences(inputs: Inputs, rows: np.ndarray, others: np.ndarray, within: int) -> np.ndarray:
    """Return which of the rows have one of the others within so many substitutions, at the same length: bool.

    With two and more, all pairs that share a change are looked at; with one, no pairs are.
    """
    codes = _letters(inputs)
    if not codes.shape[1] or not len(others):
        return np.zeros(len(rows), dtype=bool)
    found = _within_one(codes[rows], codes[others])
    lengths = (codes != PAD).sum(1)
    for length in np.unique(lengths[rows]) if within > 1 else []:
        rest, theirs = np.flatnonzero(~found & (lengths[rows] == length)), others[lengths[others] == length]
        if len(theirs):
            a, b = codes[rows[rest]], codes[theirs]
            varies = (b != b[0]).any(0) | (a != b[0]).any(0)
            found[rest] = _within(a[:, varies], b[:, varies], within)
    return found


def edited_sequences(inputs: Inputs, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the rows are one of the others with one letter more or less; of the first channel: bool."""
    own, theirs = _Sums.of(inputs.codes[rows]), _Sums.of(inputs.codes[others])
    found = np.zeros(len(rows), dtype=bool)
    for place, shorter in enumerate(theirs.shortened()):
        found |= _among(own.whole, shorter[theirs.lengths > place])
    for place, shorter in enumerate(own.shortened()):
        found |= _among(shorter, theirs.whole) & (own.lengths > place)
    return found


def reversed_sequences(inputs: Inputs, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the rows are the reverse complement of one of the others; of DNA, ACGT, in one channel: bool."""
    turned = inputs.take(rows).reverse_complement().codes
    return _among(_Sums.of(turned).whole, _Sums.of(inputs.codes[others]).whole)


def _letters(inputs: Inputs) -> np.ndarray:
    return inputs.codes if inputs.partner is None else np.concatenate([inputs.codes, inputs.partner], axis=1)


class _Sums:
    """Sums of the random numbers of rows, a place at a time."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns
        """`(T, n)`, from 0: positions first, so that each look runs along a row of memory."""
        self.numbers = _numbers(len(columns), int(columns.max(initial=PAD + 2)) + 1)
        """`(T, letters)`."""
        self.lengths = (columns != PAD + 2).sum(0)
        self.whole = np.zeros(columns.shape[1], dtype=np.uint64)
        for place in range(len(columns)):
            self.whole += self.term(place, place)

    @classmethod
    def of(cls, codes: np.ndarray) -> "_Sums":
        """Return them of codes, `(n, T)`."""
        return cls(np.ascontiguousarray(codes.T) + 2)

    def term(self, place: int, at: int) -> np.ndarray:
        """Return the number of each row's letter at a place, as if it stood at another."""
        return self.numbers[at][self.columns[place]]

    def shortened(self) -> Iterator[np.ndarray]:
        """Yield the sums of the rows without their letter at each place, those behind it moved up."""
        last = len(self.columns) - 1
        before = np.full_like(self.whole, self.numbers[last, PAD + 2])
        behind = np.zeros_like(self.whole)
        for place in range(last):
            behind += self.term(place + 1, place)
        for place in range(last + 1):
            yield before + behind
            before += self.term(place, place)
            if place < last:
                behind -= self.term(place + 1, place)


def _numbers(places: int, letters: int) -> np.ndarray:
    """Return a random number for each place and letter; those of letters that there are none of are not kept."""
    random = np.random.default_rng(0)
    # some places at a time, since all numbers of a long sequence are more than the codes of many
    parts = [
        random.integers(0, 2**64, (min(PLACES, places - start), LETTERS), dtype=np.uint64)[:, :letters].copy()
        for start in range(0, places, PLACES)
    ]
    return np.concatenate(parts)


def _among(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which of a are in b, as `np.isin`; what shares no bits with a is not sorted."""
    mask = np.uint64(2**BITS - 1)
    is_there = np.zeros(2**BITS, dtype=bool)
    is_there[a & mask] = True
    return np.isin(a, b[is_there[b & mask]])


def _within_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    varies = (b != b[0]).any(0) | (a != b[0]).any(0)
    own, theirs = _Sums.of(a[:, varies]), _Sums.of(b[:, varies])
    left, right = (side.whole + side.lengths.astype(np.uint64) * ODD for side in (own, theirs))
    found = _among(left, right)
    # equal but for one place: equal without that place
    for place in range(len(own.columns)):
        rest = np.flatnonzero(~found)
        found[rest] = _among((left - own.term(place, place))[rest], right - theirs.term(place, place))
    return found


def _within(a: np.ndarray, b: np.ndarray, most: int) -> np.ndarray:
    """Return which rows of a have one of b within so many substitutions.

    Rows are seen by their changes from the commonest letters: |A| + |B| changes, less one for each place where both
    have one, less one more where it is the same.
    """
    if not len(a):
        return np.zeros(0, dtype=bool)
    commonest = np.array([np.bincount(column.astype(np.int64) + 2).argmax() - 2 for column in b.T])
    A, B = _changes(a, commonest), _changes(b, commonest)
    a_count, b_count = (a != commonest).sum(1), (b != commonest).sum(1)
    # pairs without a place in common need no look
    found = a_count + b_count.min() <= most
    size = max(1, CELLS // len(b))
    for start in range(0, len(a), size):
        shared = (A[start : start + size] @ B.T).tocoo()
        row = start + shared.row
        near = a_count[row] + b_count[shared.col] - shared.data <= most
        found[row[near]] = True
    return found


def _changes(codes: np.ndarray, commonest: np.ndarray) -> sparse.csr_matrix:
    row, place = np.nonzero(codes != commonest)
    letter = codes[row, place].astype(np.int64) + 2
    width = codes.shape[1]
    columns = np.concatenate([place, width + place * LETTERS + letter])
    ones = np.ones(2 * len(row), dtype=np.int32)
    return sparse.csr_matrix((ones, (np.concatenate([row, row]), columns)), shape=(len(codes), width * (LETTERS + 1)))
