"""Some jets in the columns of a layout.

Axes: J jets, C particles of all jets, V columns of the table of particles.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class JetChunk:
    """Some jets in the columns of a `Layout`; the particles of all jets follow one another."""

    particles: np.ndarray
    """[C, V] float32."""
    lengths: np.ndarray
    """[J] int64: number of particles."""
    jet_features: np.ndarray
    """[J, F] float32."""
    observers: Mapping[str, np.ndarray]
    """[J] each, of the type in the file."""
    labels: np.ndarray
    """[J] int64; -1 for jets without a label."""
    classes: tuple[str, ...]
    """Names of the labels; empty if labels are numbers or missing."""
    split: np.ndarray | None = None
    """[J] int8: part of each jet as the files give it, 0 for training, 1 for testing, 2 for validation."""

    def __len__(self) -> int:
        return len(self.lengths)
