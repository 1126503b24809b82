"""Which sequences are equal, or equal but for a few letters. Equal ones cost one sort, one substitution T sorts.

Axes: n rows, T positions. With a second channel, letters of both count.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from subquad.bio.problem import PAD, Inputs

__all__ = ["equal_sequences", "near_sequences"]

CELLS = 20_000_000
"""Pairs of rows that are compared at a time."""
PLACES, ROWS = 256, 4096
"""Of codes that are looked up at a time, so that what is beside the codes does not grow with them."""


def equal_sequences(inputs: Inputs) -> np.ndarray:
    """Return a number for each row, `(n,)`, equal where all letters are; rows without letters are all different."""
    codes = _letters(inputs)
    if not codes.shape[1]:
        return np.arange(len(codes))
    return np.unique(_sums(codes), return_inverse=True)[1].reshape(-1)


def near_sequences(inputs: Inputs, rows: np.ndarray, others: np.ndarray, within: int) -> np.ndarray:
    """Return which of the rows have one of the others within so many substitutions, at the same length: bool.

    With two and more, all pairs that share a change are looked at; with one, no pairs are.
    """
    result = np.zeros(len(rows), dtype=bool)
    codes = _letters(inputs)
    lengths = (codes != PAD).sum(1)
    for length in np.unique(lengths[rows]) if codes.shape[1] else []:
        own, theirs = np.flatnonzero(lengths[rows] == length), others[lengths[others] == length]
        if not len(theirs):
            continue
        a, b = codes[rows[own]], codes[theirs]
        varies = (b != b[0]).any(0) | (a != b[0]).any(0)
        a, b = a[:, varies], b[:, varies]
        found = _within_one(a, b) if within else np.isin(_sums(a), _sums(b))
        if within > 1:
            rest = np.flatnonzero(~found)
            found[rest] = _within(a[rest], b, within)
        result[own] = found
    return result


def _letters(inputs: Inputs) -> np.ndarray:
    return inputs.codes if inputs.second is None else np.concatenate([inputs.codes, inputs.second], axis=1)


def _terms(places: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield, for some places at a time, the first and the terms of all letters there: random numbers of 64 bits."""
    random = np.random.default_rng(0)
    for start in range(0, places, PLACES):
        yield start, random.integers(0, 2**64, (min(PLACES, places - start), 130), dtype=np.uint64)


def _sums(codes: np.ndarray) -> np.ndarray:
    """Return the sum of the terms of each row's letters, `(n,)`, which tells sequences apart."""
    sums = np.zeros(len(codes), dtype=np.uint64)
    for start, terms in _terms(codes.shape[1]):
        own, places = codes[:, start : start + PLACES], np.arange(len(terms))
        for row in range(0, len(codes), ROWS):
            sums[row : row + ROWS] += terms[places, own[row : row + ROWS].astype(np.int64) + 2].sum(1)
    return sums


def _within_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not a.shape[1]:
        return np.ones(len(a), dtype=bool)
    a_sum, b_sum = _sums(a), _sums(b)
    found = np.zeros(len(a), dtype=bool)
    # equal but for one place: equal without that place
    for start, terms in _terms(a.shape[1]):
        for place, own in enumerate(terms, start=start):
            rest = np.flatnonzero(~found)
            a_rest, b_rest = a[rest, place].astype(np.int64), b[:, place].astype(np.int64)
            found[rest] = np.isin(a_sum[rest] - own[a_rest + 2], b_sum - own[b_rest + 2])
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
    columns = np.concatenate([place, width + place * 130 + letter])
    ones = np.ones(2 * len(row), dtype=np.int32)
    return sparse.csr_matrix((ones, (np.concatenate([row, row]), columns)), shape=(len(codes), width * 131))
