"""Equal sequences, and near-duplicates: sequences that differ by few substitutions, one insertion or one deletion.

A sequence is hashed as the sum of a random number for each letter and position, so that the hash without one letter is
known without building the sequence. Cost: one sort for equal sequences, one pass per position for one change.

Axes: n rows, T positions. With partner sequences, letters of both count.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import PAD, Inputs

__all__ = ["are_reverse_complements", "equal_sequences", "within_one_indel", "within_substitutions"]

CELLS = 20_000_000
"""Number of pairs of rows compared at a time."""
BITS = 20
"""Bits of a hash that preselect candidates."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""Multiplied by the length, distinguishes a sequence from a longer one, whichever letter is removed."""
LETTERS, PLACES = 130, 256
"""Number of codes from -2 on, and number of positions whose random numbers are drawn at a time."""


def equal_sequences(inputs: Inputs) -> np.ndarray:
    """Return an index of the sequence of each row, `(n,)`; rows without letters are all different."""
    codes = _letters(inputs)
    if not codes.shape[1]:
        return np.arange(len(codes))
    return np.unique(_Hashes.of(codes).whole, return_inverse=True)[1].reshape(-1)


def within_substitutions(inputs: Inputs, rows: np.ndarray, others: np.ndarray, within: int) -> np.ndarray:
    """Return which rows are within this many substitutions of one of the others, at the same length: bool.

    For one substitution no pairs are compared; for more, all pairs that share a change are.
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


def within_one_indel(inputs: Inputs, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which rows are one of the others with one letter inserted or deleted: bool.

    The letter is in one chain of a pair, and the other chain is equal. Ignores aligned partner sequences.
    """
    found, chains = np.zeros(len(rows), dtype=bool), inputs.chains
    for k, chain in enumerate(chains):
        own, theirs = _Hashes.of(chain.codes[rows]), _Hashes.of(chain.codes[others])
        left, right = np.zeros(len(rows), dtype=np.uint64), np.zeros(len(others), dtype=np.uint64)
        if len(chains) > 1:
            # with the hash of the other chain, so that both must agree
            equal = chains[1 - k].codes
            left, right = (_Hashes.of(equal[some]).whole * ODD for some in (rows, others))
        for place, shorter in enumerate(theirs.shortened()):
            found |= _among(own.whole + left, (shorter + right)[theirs.lengths > place])
        for place, shorter in enumerate(own.shortened()):
            found |= _among(shorter + left, theirs.whole + right) & (own.lengths > place)
    return found


def are_reverse_complements(inputs: Inputs, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which rows (DNA) are the reverse complement of one of the others: bool. Ignores partner sequences."""
    turned = inputs.take(rows).reverse_complement().codes
    return _among(_Hashes.of(turned).whole, _Hashes.of(inputs.codes[others]).whole)


def _letters(inputs: Inputs) -> np.ndarray:
    return inputs.all_codes


class _Hashes:
    """Hashes of rows, and of rows without one letter."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns
        """`(T, n)` codes from 0; positions first, so that each pass reads contiguous memory."""
        self.numbers = _numbers(len(columns), int(columns.max(initial=PAD + 2)) + 1)
        """`(T, letters)`."""
        self.lengths = (columns != PAD + 2).sum(0)
        self.whole = np.zeros(columns.shape[1], dtype=np.uint64)
        for place in range(len(columns)):
            self.whole += self.term(place, place)

    @classmethod
    def of(cls, codes: np.ndarray) -> "_Hashes":
        """Return the hashes of codes, `(n, T)`."""
        return cls(np.ascontiguousarray(codes.T) + 2)

    def term(self, place: int, at: int) -> np.ndarray:
        """Return the random number of each row's letter at a position, as if it were at another one."""
        return self.numbers[at][self.columns[place]]

    def shortened(self) -> Iterator[np.ndarray]:
        """Yield, for each position, the hashes of the rows with that letter deleted."""
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
    """Return a random number for each position and letter, `(places, letters)`."""
    random = np.random.default_rng(0)
    # in blocks, since all random numbers of a long sequence take more memory than its codes
    parts = [
        random.integers(0, 2**64, (min(PLACES, places - start), LETTERS), dtype=np.uint64)[:, :letters].copy()
        for start in range(0, places, PLACES)
    ]
    return np.concatenate(parts)


def _among(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which values of a are in b, like `np.isin`, after a preselection by the lowest bits."""
    mask = np.uint64(2**BITS - 1)
    is_there = np.zeros(2**BITS, dtype=bool)
    is_there[a & mask] = True
    return np.isin(a, b[is_there[b & mask]])


def _within_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    varies = (b != b[0]).any(0) | (a != b[0]).any(0)
    own, theirs = _Hashes.of(a[:, varies]), _Hashes.of(b[:, varies])
    left, right = (side.whole + side.lengths.astype(np.uint64) * ODD for side in (own, theirs))
    found = _among(left, right)
    # sequences with one substitution are equal without that position
    for place in range(len(own.columns)):
        rest = np.flatnonzero(~found)
        found[rest] = _among((left - own.term(place, place))[rest], right - theirs.term(place, place))
    return found


def _within(a: np.ndarray, b: np.ndarray, most: int) -> np.ndarray:
    """Return which rows of a are within this many substitutions of one of b.

    With changes A and B from the most common letters, the distance is |A| + |B|, minus one for each position that both
    change, minus another one if the change is the same.
    """
    if not len(a):
        return np.zeros(0, dtype=bool)
    common = np.array([np.bincount(column.astype(np.int64) + 2).argmax() - 2 for column in b.T])
    A, B = _changes(a, common), _changes(b, common)
    a_count, b_count = (a != common).sum(1), (b != common).sum(1)
    # pairs that share no changed position are decided by their numbers of changes
    found = a_count + b_count.min() <= most
    size = max(1, CELLS // len(b))
    for start in range(0, len(a), size):
        shared = (A[start : start + size] @ B.T).tocoo()
        row = start + shared.row
        is_close = a_count[row] + b_count[shared.col] - shared.data <= most
        found[row[is_close]] = True
    return found


def _changes(codes: np.ndarray, common: np.ndarray) -> sparse.csr_matrix:
    row, place = np.nonzero(codes != common)
    letter = codes[row, place].astype(np.int64) + 2
    width = codes.shape[1]
    columns = np.concatenate([place, width + place * LETTERS + letter])
    ones = np.ones(2 * len(row), dtype=np.int32)
    return sparse.csr_matrix((ones, (np.concatenate([row, row]), columns)), shape=(len(codes), width * (LETTERS + 1)))
