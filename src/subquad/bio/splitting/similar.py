"""Which sequences are equal, or equal but for a few letters. Equal ones cost one sort, one substitution T sorts.

Axes: n rows, T positions. With a second channel, letters of both count.
"""

import numpy as np
from scipy import sparse

from subquad.bio.problem import PAD, Inputs

__all__ = ["equal_sequences", "near_sequences"]

CELLS = 20_000_000
"""Pairs of rows that are compared at a time."""


def equal_sequences(inputs: Inputs) -> np.ndarray:
    """Return a number for each row, `(n,)`, equal where all letters are; rows without letters are all different."""
    codes = _letters(inputs)
    if not codes.shape[1]:
        return np.arange(len(codes))
    return np.unique(_terms(codes).sum(1, dtype=np.uint64), return_inverse=True)[1].reshape(-1)


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
        found = _within_one(a, b) if within else np.isin(_terms(a).sum(1), _terms(b).sum(1))
        if within > 1:
            rest = np.flatnonzero(~found)
            found[rest] = _within(a[rest], b, within)
        result[own] = found
    return result


def _letters(inputs: Inputs) -> np.ndarray:
    return inputs.codes if inputs.second is None else np.concatenate([inputs.codes, inputs.second], axis=1)


def _terms(codes: np.ndarray) -> np.ndarray:
    """Return a random number of 64 bits for each letter and place; their sum tells sequences apart."""
    random = np.random.default_rng(0)
    table = random.integers(0, 2**64, (codes.shape[1], 130), dtype=np.uint64)
    return table[np.arange(codes.shape[1]), codes.astype(np.int64) + 2]


def _within_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not a.shape[1]:
        return np.ones(len(a), dtype=bool)
    a_terms, b_terms = _terms(a), _terms(b)
    a_sum, b_sum = a_terms.sum(1, dtype=np.uint64), b_terms.sum(1, dtype=np.uint64)
    found = np.zeros(len(a), dtype=bool)
    # equal but for one place: equal without that place
    for place in range(a.shape[1]):
        rest = np.flatnonzero(~found)
        found[rest] = np.isin(a_sum[rest] - a_terms[rest, place], b_sum - b_terms[:, place])
    return found


def _within(a: np.ndarray, b: np.ndarray, most: int) -> np.ndarray:
    """Return which rows of a have one of b within so many substitutions.

    Rows are seen by their changes from the commonest letters: |A| + |B| changes, less one for each place where both
    have one, less one more where it is the same.
    """
    if not len(a):
        return np.zeros(0, dtype=bool)
    commonest = np.array([np.bincount(column + 2).argmax() - 2 for column in b.T.astype(np.int64)])
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
