"""What the features of whole sequences and of residues have in common: fields, standardised covariates and storage.

Axes: n rows, A letters, E covariates, D numbers of a vector.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from subquad.bio.data.dataset import Inputs
from subquad.bio.data.residue_vectors import ResidueVectors

__all__ = ["Features", "common_fields", "standardized", "vector_statistics"]

ROUNDING, SINGLE_ROUNDING = 1e-9, 1e-6
"""Range below which a column is constant, as a fraction of its largest absolute value: float64, and fewer bits."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Fields that sets of features of sequences and of residues have in common."""

    letters: int
    has_partner: bool = False
    covariate_mean: tuple[float, ...] = ()
    covariate_scale: tuple[float, ...] = ()
    """Factor of the centred covariates; 0 for constant columns."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the features that `as_dict` wrote."""
        fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**fields)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def standardize(self, inputs: Inputs) -> np.ndarray:
        """Return the covariates, centred and scaled by those of the training rows, `(n, E)`."""
        return (inputs.covariates - np.array(self.covariate_mean)) * np.array(self.covariate_scale)


def common_fields(inputs: Inputs) -> dict[str, Any]:
    """Return the fields of `Features` for training rows."""
    mean, scale = standardized(inputs.covariates)
    return {
        "letters": inputs.letters,
        "has_partner": inputs.partner is not None,
        "covariate_mean": mean,
        "covariate_scale": scale,
    }


def standardized(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean of each column, and one over its standard deviation or 0 for a constant one."""
    rounding = SINGLE_ROUNDING if values.dtype in (np.float16, np.float32) else ROUNDING
    values = values.astype(np.float64)
    if not len(values):
        return (0.0,) * values.shape[1], (0.0,) * values.shape[1]
    # the same number computed in two ways, such as 0.3 and 0.1 + 0.2, may differ by rounding error
    varies = values.max(0) - values.min(0) > rounding * np.abs(values).max(0)
    spread = values.std(0)
    scale = np.where(varies & (spread > 0), 1 / np.maximum(spread, 1e-300), 0.0)
    return tuple(values.mean(0).tolist()), tuple(scale.tolist())


def vector_statistics(vectors: ResidueVectors) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale (see `standardized`) of each number of the vectors of letters, `(D,)` float32 each."""
    mean, scale = (np.array(own, dtype=np.float32) for own in standardized(vectors.sample()))
    return mean, scale
