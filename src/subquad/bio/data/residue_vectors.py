"""Vectors of the letters of all rows by a language model: one array, and where the letters of each row are in it.

Axes: N letters of all rows, n or B rows, T positions, m residues, D numbers of a vector.
"""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["ResidueVectors"]

MAX_SAMPLE = 50_000
"""Number of letters from which mean and scale of the vectors are computed, about."""


@dataclass(frozen=True, kw_only=True)
class ResidueVectors:
    """Vectors of the letters of rows; rows are taken, reversed and cut without a copy of the vectors."""

    values: np.ndarray
    """`(N, D)` float16."""
    first: np.ndarray
    """`(n,)`: index of the vector of the first letter."""
    step: np.ndarray
    """`(n,)`: 1, or -1 for a row that is read from its end."""
    lengths: np.ndarray
    """`(n,)`: number of letters with a vector; what follows, such as a stop codon, has none."""
    positions: np.ndarray | None = None
    """Positions of aligned sequences that are read; None for all."""

    @classmethod
    def of_rows(cls, values: np.ndarray, lengths: np.ndarray) -> "ResidueVectors":
        """Return vectors `(N, D)` that are stored one row after the other."""
        return cls(values=values, first=lengths.cumsum() - lengths, step=np.ones_like(lengths), lengths=lengths)

    @property
    def dimensions(self) -> int:
        """Numbers of a vector, D."""
        return self.values.shape[1]

    def take(self, rows: np.ndarray) -> "ResidueVectors":
        """Return those of the given rows."""
        return replace(self, first=self.first[rows], step=self.step[rows], lengths=self.lengths[rows])

    def select(self, positions: np.ndarray) -> "ResidueVectors":
        """Return those at some of the positions only."""
        return replace(self, positions=positions if self.positions is None else self.positions[positions])

    def reversed(self) -> "ResidueVectors":
        """Return the vectors of each row in reverse order, for its reverse complement."""
        return replace(self, first=self.first + self.step * (self.lengths - 1), step=-self.step)

    def followed_by(self, other: "ResidueVectors") -> "ResidueVectors":
        """Return these rows and those of another view of the same vectors."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("first", "step", "lengths"))
        first, step, lengths = map(np.concatenate, pairs)
        return replace(self, first=first, step=step, lengths=lengths)

    def at(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the vectors of the given residues, float32 with D as the last axis; NaN where there is none."""
        positions = positions if self.positions is None else self.positions[positions]
        is_there = positions < self.lengths[rows]
        place = np.where(is_there, self.first[rows] + self.step[rows] * positions, 0)
        if not len(self.values):
            return np.full((*is_there.shape, self.dimensions), np.nan, dtype=np.float32)
        found = self.values[place].astype(np.float32)
        found[~is_there] = np.nan
        return found

    def padded(self, rows: np.ndarray, length: int) -> np.ndarray:
        """Return the vectors at the first positions of the given rows, `(B, T, D)` float32; NaN where there is none."""
        return self.at(rows[:, None], np.arange(length)[None])

    def sample(self) -> np.ndarray:
        """Return the vectors of the letters of some rows, `(N, D)` float32; N is `MAX_SAMPLE` at most, about."""
        count = max(1, int(MAX_SAMPLE * len(self.lengths) / max(self.lengths.sum(), 1)))
        rows = np.unique(np.linspace(0, len(self.lengths) - 1, min(count, len(self.lengths))).astype(np.int64))
        width = len(self.positions) if self.positions is not None else int(self.lengths[rows].max(initial=1))
        found = self.padded(rows, width).reshape(-1, self.dimensions)
        return found[~np.isnan(found).any(1)]
