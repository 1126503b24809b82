"""What sequences are made of: k-mers, codons, ends and global values. Costs one pass over the letters.

Axes: n rows, T positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from subquad.bio.data.dataset import ANY, PAD, Inputs
from subquad.bio.features.substitutions import properties

__all__ = [
    "are_open",
    "codons_of",
    "ends_of",
    "global_names",
    "global_values",
    "is_nucleic",
    "kmer_name",
    "kmers_of",
]

MIN_CODONS, MIN_OPEN = 10, 0.95
"""Number of codons, and fraction of rows without a stop codon inside, from which sequences are open reading frames."""
STOPS = ((3, 0, 0), (3, 0, 2), (3, 2, 0))
"""Codes of the stop codons TAA, TAG and TGA."""
MAX_NUCLEIC_LETTERS = 5
"""Letters of DNA or RNA with the gap of an alignment."""
HELIX = np.deg2rad(100.0)
"""Rotation of an α-helix per residue, for the hydrophobic moment (Eisenberg 1982)."""


def is_nucleic(letters: int) -> bool:
    """Return whether an alphabet with so many letters is DNA or RNA, with or without a gap."""
    return letters <= MAX_NUCLEIC_LETTERS


def kmers_of(channels: Sequence[np.ndarray], letters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, position, index and weight of each k-mer: the letters at one position of k channels `(n, T)`.

    K-mers with `PAD` are skipped; those with `ANY` are all k-mers that they may stand for, with equal weights.
    """
    rows: Any
    positions: Any
    rows, positions = np.nonzero(np.all([channel != PAD for channel in channels], axis=0))
    kmer, weight = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))
    for channel in channels:
        letter = channel[rows, positions].astype(np.int64)
        if (letter == ANY).any():
            times = np.where(letter == ANY, letters, 1)
            rows, positions, kmer, weight, letter, times = (
                np.repeat(values, times) for values in (rows, positions, kmer, weight / times, letter, times)
            )
            # repeats of one position are adjacent and count up from 0
            starts = np.flatnonzero(
                np.r_[True, (np.diff(rows) != 0) | (np.diff(positions) != 0) | (np.diff(kmer) != 0)]
            )
            within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
            letter = np.where(letter == ANY, within, letter)
        kmer = kmer * letters + letter
    return rows, positions, kmer, weight


def kmer_name(index: int, length: int, alphabet: str) -> str:
    """Return the letters of a k-mer from its index."""
    return "".join(alphabet[index // len(alphabet) ** k % len(alphabet)] for k in reversed(range(length)))


def codons_of(codes: np.ndarray) -> list[np.ndarray]:
    """Return the first, second and third letters of the codons, counted from the first letter."""
    whole = codes[:, : codes.shape[1] // 3 * 3]
    return [whole[:, place::3] for place in range(3)]


def are_open(inputs: Inputs) -> bool:
    """Return whether nearly all sequences are open reading frames: whole codons, and no stop before the last one."""
    lengths = inputs.lengths
    if not len(lengths) or lengths.min() < 3 * MIN_CODONS or inputs.is_double_stranded:
        return False
    first, second, third = codons_of(inputs.codes)
    is_stop = np.any([(first == a) & (second == b) & (third == c) for a, b, c in STOPS], axis=0)
    is_inside = np.arange(first.shape[1]) < lengths[:, None] // 3 - 1
    is_open = (lengths % 3 == 0) & ~(is_stop & is_inside).any(1)
    return float(is_open.mean()) >= MIN_OPEN


def ends_of(inputs: Inputs, count: int, kind: str) -> np.ndarray:
    """Return the first letters, or the last ones in reverse order."""
    places = np.arange(count)[None] if kind == "first" else inputs.lengths[:, None] - 1 - np.arange(count)
    is_there = (places >= 0) & (places < inputs.lengths[:, None])
    padded = np.pad(inputs.codes, ((0, 0), (0, 1)), constant_values=PAD)
    return np.where(is_there, np.take_along_axis(padded, np.where(is_there, places, -1), axis=1), PAD)


def global_names(letters: int) -> list[str]:
    """Return the names of `global_values`."""
    if is_nucleic(letters):
        return ["length", "log length", "GC"]
    return ["length", "log length", "net charge", "mean hydropathy", "aromatic fraction", "hydrophobic moment"]


def global_values(inputs: Inputs) -> np.ndarray:
    """Return length, its logarithm, and means of the letters; see `global_names`."""
    lengths = np.maximum(inputs.lengths, 1)
    columns = [inputs.lengths / 100, np.log(lengths)]
    A = inputs.letters
    if is_nucleic(A):
        is_gc = np.isin(np.arange(A), (1, 2)).astype(np.float64)
        return np.stack([*columns, _values(inputs.codes, is_gc).sum(1) / lengths], axis=1)
    table = properties(A)
    hydropathy, charge, aromatic = (_values(inputs.codes, table[:, k]) for k in (0, 1, 3))
    turn = HELIX * np.arange(inputs.codes.shape[1])
    moment = np.hypot(hydropathy @ np.cos(turn), hydropathy @ np.sin(turn))
    columns += [charge.sum(1), hydropathy.sum(1) / lengths, aromatic.sum(1) / lengths, moment / lengths]
    return np.stack(columns, axis=1)


def _values(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the value of each letter: 0 in the padding, the mean over all letters for `ANY`."""
    # codes -2 and -1 index from the end
    return np.r_[table, table.mean(), 0.0][codes.astype(np.int64)]
