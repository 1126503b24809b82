"""Notes on the values of all chunks of a read, which are logged once: undefined and infinite values, and large weights.

Axes: J jets, C particles of all jets.
"""

from dataclasses import dataclass

import numpy as np

from subquad.hep.data.columns import ChunkErrors

__all__ = ["UnusualValues", "WeightSums"]

FEW_JETS = 0.05
"""Effective number of jets as a fraction of their number, below which a few weights decide."""


@dataclass
class UnusualValues:
    """Values of columns of particles that are replaced."""

    kind: str
    """Such as NaN."""
    fate: str
    """What happens to them, such as `set to 0`."""

    def __post_init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def add(self, name: str, is_unusual: np.ndarray, lengths: np.ndarray, errors: ChunkErrors) -> None:
        """Count the values of a column where `is_unusual` [C] is true, of jets with `lengths` [J] particles."""
        jet = int(np.searchsorted(np.cumsum(lengths), np.argmax(is_unusual), side="right"))
        self._places.setdefault(name, f"{errors.file}: entry {errors.entries[jet]}")
        self._counts[name] = self._counts.get(name, 0) + int(is_unusual.sum())

    def notes(self, card: str) -> list[str]:
        """Return a sentence for each column that has some."""
        found = []
        for name, count in self._counts.items():
            values, place = ("value, which is", "it") if count == 1 else ("values, which are", "the first")
            found.append(
                f"{card}: {name} has {count:,} {self.kind} {values} {self.fate}; {place} is in {self._places[name]}"
            )
        return found


class WeightSums:
    """Sums over event weights, from which the effective number of jets is known without all of them in memory."""

    def __init__(self) -> None:
        self._jets, self._sum, self._squares = 0, 0.0, 0.0
        self._largest, self._place = 0.0, ""

    def add(self, weights: np.ndarray, errors: ChunkErrors) -> None:
        """Add the weights [J] of the jets of a chunk."""
        if not len(weights):
            return
        weights = weights.astype(np.float64)
        first = int(np.argmax(np.abs(weights)))
        if abs(weights[first]) > abs(self._largest):
            self._largest, self._place = float(weights[first]), f"{errors.file}: entry {errors.entries[first]}"
        self._jets += len(weights)
        self._sum += float(weights.sum())
        self._squares += float((weights**2).sum())

    def notes(self, name: str) -> list[str]:
        """Return a warning if few jets have most of the weight.

        Args:
            name: Branch or expression of the weights.
        """
        effective = self._sum**2 / self._squares if self._squares else self._jets
        if effective >= FEW_JETS * self._jets:
            return []
        return [
            f"Warning: with the event weights {name}, the {self._jets:,} jets count as {effective:,.1f} (effective "
            f"number, (Σw)²/Σw²). The largest weight is {self._largest:g}, in {self._place}; check it."
        ]
