"""Residue features of linear models and boosting: the letters around a residue, the composition around it, its vector.

Axes: n or B rows, T positions, A letters, m residues, F features, P properties, D numbers of a vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from subquad.bio.data.alphabet import alphabet_of
from subquad.bio.data.dataset import PAD, Inputs
from subquad.bio.features.base import Features, common_fields, vector_statistics
from subquad.bio.features.composition import is_nucleic, kmers_of
from subquad.bio.features.substitutions import properties
from subquad.bio.settings import ALPHABETS

__all__ = ["ResidueFeatures", "letter_table", "vector_cost"]

WINDOW = 7
"""Number of letters on either side that are one-hot features."""
REACHES = (15, 50)
"""Number of letters on either side whose composition is a feature."""
PLACES = ("place", "to the start", "to the end", "log length")
END_DISTANCE = 50.0
"""Distances to the ends saturate at this number of residues."""
CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ResidueFeatures(Features):
    """Set of features of a residue."""

    window: int = WINDOW
    reaches: tuple[int, ...] = REACHES
    vector_mean: tuple[float, ...] = ()
    vector_scale: tuple[float, ...] = ()
    """Factor of the centred numbers of the vector of the residue by a language model; 0 for constant ones."""

    @classmethod
    def for_inputs(cls, inputs: Inputs) -> "ResidueFeatures":
        """Return the features for training rows."""
        features = cls(**common_fields(inputs))
        if inputs.vectors is None:
            return features
        mean, scale = vector_statistics(inputs.vectors)
        return replace(features, vector_mean=tuple(mean.tolist()), vector_scale=tuple(scale.tolist()))

    @property
    def count(self) -> int:
        """Number of features, F."""
        return len(self.is_unit)

    @cached_property
    def is_unit(self) -> np.ndarray:
        """`(F,)` bool: the feature is one-hot."""
        units = (2 * self.window + 1) * self.letters * (1 + self.has_partner)
        others = (1 + len(self.reaches)) * self.letters + len(PLACES) + len(self.covariate_mean)
        others += len(self.vector_mean)
        return np.arange(units + others) < units

    def matrix(self, inputs: Inputs, rows: np.ndarray, positions: np.ndarray) -> sparse.csr_matrix:
        """Return the features of the given residues, `(m, F)` float32."""
        order = np.argsort(rows, kind="stable")
        blocks = [sparse.csr_matrix((0, self.count), dtype=np.float32)]
        for some, own, places in _groups(inputs, rows[order], positions[order]):
            parts = [_one_hot(_window(codes, own, places, self.window), self.letters) for codes in some.channels]
            parts.append(sparse.csr_matrix(self._numbers(some, own, places).astype(np.float32)))
            blocks.append(sparse.csr_matrix(sparse.hstack(parts, format="csr")))
        return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))[np.argsort(order)]

    def numbers(self, inputs: Inputs, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return compact features for trees, `(m, columns)` float32: letters are replaced by their properties."""
        order = np.argsort(rows, kind="stable")
        table = letter_table(self.letters)
        # positions outside the sequence are missing values for a tree
        lookup = np.vstack([table, table.mean(0), np.full(table.shape[1], np.nan)])
        blocks = []
        for some, own, places in _groups(inputs, rows[order], positions[order]):
            windows = [_window(codes, own, places, self.window).astype(np.int64) for codes in some.channels]
            parts = [lookup[codes].reshape(len(codes), -1) for codes in windows]
            reaches = self.reaches[: self._reaches_of_numbers]
            parts += [mean[own, places] for mean in _averages(some.codes, table, reaches)]
            parts.append(self._numbers(some, own, places))
            blocks.append(np.hstack(parts).astype(np.float32))
        return np.concatenate(blocks)[np.argsort(order)]

    @property
    def numbers_count(self) -> int:
        """Number of columns of `numbers`."""
        width = letter_table(self.letters).shape[1]
        around = (2 * self.window + 1) * (1 + self.has_partner) * width
        return around + self._reaches_of_numbers * width + int((~self.is_unit).sum())

    def names(self, alphabet: str | None = None, covariates: Sequence[str] | None = None) -> list[str]:
        """Return the names of the features: A-3, A+0, A ±15, a covariate, embedding 17."""
        alphabet = alphabet or ALPHABETS[alphabet_of(self.letters)]
        covariates = covariates or [f"covariate {k + 1}" for k in range(len(self.covariate_mean))]
        around = [f"{letter}{k:+d}" for k in range(-self.window, self.window + 1) for letter in alphabet]
        around += [f"partner {name}" for name in around] if self.has_partner else []
        reaches = [f"{letter} ±{reach}" for reach in self.reaches for letter in alphabet]
        vectors = [f"embedding {k + 1}" for k in range(len(self.vector_mean))]
        return [*around, *(f"{letter} of all" for letter in alphabet), *reaches, *PLACES, *covariates, *vectors]

    @property
    def _reaches_of_numbers(self) -> int:
        # the composition of nucleotides is among the other numbers
        return len(self.reaches) if not is_nucleic(self.letters) else 0

    def _numbers(self, inputs: Inputs, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return all features but the window, `(m, F - units)`."""
        identity = np.eye(self.letters)
        whole, *local = _averages(inputs.codes, identity, (inputs.codes.shape[1], *self.reaches))
        lengths = inputs.lengths[rows]
        return np.hstack(
            [
                *(mean[rows, positions] for mean in (whole, *local)),
                _places(positions, lengths),
                self.standardize(inputs)[rows],
                self._vectors(inputs, rows, positions),
            ]
        )

    def _vectors(self, inputs: Inputs, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the standardised vectors of the residues, `(m, D)`; the mean where a residue has none."""
        if not self.vector_mean:
            return np.zeros((len(rows), 0))
        assert inputs.vectors is not None, "the inputs of a model with vectors have some"
        mean, scale = (np.array(own, dtype=np.float32) for own in (self.vector_mean, self.vector_scale))
        return np.nan_to_num((inputs.vectors.at(rows, positions) - mean) * scale)


def vector_cost(inputs: Inputs) -> int:
    """Return how many times the memory of a residue grows by its vector, about."""
    return 1 if inputs.vectors is None else 1 + inputs.vectors.dimensions // 128


def letter_table(letters: int) -> np.ndarray:
    """Return the numbers that represent each letter, `(A, P)`: properties of amino acids, one-hot for nucleotides."""
    return np.eye(letters) if is_nucleic(letters) else properties(letters)


def _places(positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return `(m, 4)`, the features of `PLACES`: relative position, distances to both ends, and log length."""
    last = np.maximum(lengths - 1, 1)
    to_start, to_end = (
        np.minimum(positions, END_DISTANCE) / END_DISTANCE,
        np.minimum(lengths - 1 - positions, END_DISTANCE) / END_DISTANCE,
    )
    return np.stack([positions / last, to_start, to_end, np.log(np.maximum(lengths, 1))], axis=1)


def _window(codes: np.ndarray, rows: np.ndarray, positions: np.ndarray, reach: int) -> np.ndarray:
    """Return the codes around each residue, `(m, 2 reach + 1)`."""
    padded = np.pad(codes, ((0, 0), (reach, reach)), constant_values=PAD)
    return padded[rows[:, None], positions[:, None] + np.arange(2 * reach + 1)]


def _one_hot(codes: np.ndarray, letters: int) -> sparse.csr_matrix:
    """Return the one-hot letters of a window, `(m, W A)`."""
    rows, places, letter, weight = kmers_of([codes], letters)
    shape = (len(codes), codes.shape[1] * letters)
    return sparse.csr_matrix((weight.astype(np.float32), (rows, places * letters + letter)), shape=shape)


def _averages(codes: np.ndarray, table: np.ndarray, reaches: Sequence[int]) -> list[np.ndarray]:
    """Return, for each reach, the mean of the letters' numbers within this distance: `(n, T, P)` each."""
    lookup = np.vstack([table, table.mean(0), np.zeros(table.shape[1])])
    values, is_there = lookup[codes.astype(np.int64)], (codes != PAD).astype(np.float64)[..., None]
    T = codes.shape[1]
    sums = np.pad(np.concatenate([values, is_there], axis=2).cumsum(1), ((0, 0), (1, 0), (0, 0)))
    t = np.arange(T)
    within = [sums[:, np.minimum(t + reach + 1, T)] - sums[:, np.maximum(t - reach, 0)] for reach in reaches]
    return [own[..., :-1] / np.maximum(own[..., -1:], 1.0) for own in within]


def _groups(inputs: Inputs, rows: np.ndarray, positions: np.ndarray) -> Iterator[tuple[Inputs, np.ndarray, np.ndarray]]:
    """Yield groups of sequences, cut to the longest of each group, with their residues, sorted by row."""
    lengths = inputs.lengths
    some, first = np.unique(rows, return_index=True)
    # averages and vectors of a group are in memory for all its residues
    group = np.cumsum(lengths[some]) // (CHUNK // vector_cost(inputs))
    for number in np.unique(group):
        own = np.flatnonzero(group == number)
        begin, end = first[own[0]], first[own[-1] + 1] if own[-1] + 1 < len(first) else len(rows)
        taken, T = inputs.take(some[own]), int(lengths[some[own]].max())
        partner = None if taken.partner is None else taken.partner[:, :T]
        taken = replace(taken, codes=taken.codes[:, :T], partner=partner)
        yield taken, np.searchsorted(some[own], rows[begin:end]), positions[begin:end]
