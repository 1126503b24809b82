"""Transforms of measurements to the training scale and back: standardisation, or normal quantiles of the ranks.

scikit-learn's `QuantileTransformer` clips beyond the training range; this one extrapolates, so that order is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import skew

from subquad.bio.models.links import unlinked

__all__ = ["ScaledColumn", "TargetScaler", "to_predictions"]

KNOTS = 201
MAX_SKEWNESS = 2.0
"""Skewness above which `auto` uses ranks: otherwise a few huge values would dominate the loss."""


@dataclass(frozen=True)
class ScaledColumn:
    """The transform of one column of measurements."""

    mean: float
    spread: float
    """Standard deviation."""
    values: list[float] | None = None
    """Increasing measurements, if ranks are used."""
    quantiles: list[float] | None = None
    """Normal quantiles of these measurements."""


@dataclass(frozen=True)
class TargetScaler:
    """One monotone transform for each column of measurements, and its inverse."""

    columns: tuple[ScaledColumn, ...]

    @classmethod
    def fit(cls, y: np.ndarray, transform: str = "auto") -> "TargetScaler":
        """Return the transform fitted to training measurements.

        Args:
            y: `(n, K)` measurements; NaN if missing.
            transform: `none` standardises, `rank` maps ranks to normal quantiles, `auto` uses ranks if the skewness is
                above 2.
        """
        return cls(tuple(_column(values[np.isfinite(values)], transform) for values in y.T))

    @classmethod
    def identity(cls, columns: int) -> "TargetScaler":
        """Return the identity on a number of columns."""
        return cls((ScaledColumn(0.0, 1.0),) * columns)

    @classmethod
    def from_dict(cls, columns: Sequence[Mapping[str, Any]]) -> "TargetScaler":
        """Return the transform from the JSON value of `as_dict`."""
        return cls(tuple(ScaledColumn(**column) for column in columns))

    def as_dict(self) -> list[dict[str, Any]]:
        """Return a JSON value: one object for each column."""
        return [asdict(column) for column in self.columns]

    def transform(self, y: np.ndarray) -> np.ndarray:
        """Return measurements `(…, K)` on the training scale."""
        return np.stack([_transformed(column, y[..., k]) for k, column in enumerate(self.columns)], axis=-1)

    def inverse_transform(self, z: np.ndarray) -> np.ndarray:
        """Return values on the training scale `(…, K)` in the units of the measurements."""
        return np.stack([_restored(column, z[..., k]) for k, column in enumerate(self.columns)], axis=-1)


def to_predictions(z: np.ndarray, task_type: str, scaler: TargetScaler) -> np.ndarray:
    """Return outputs of a model on the training scale as measurements or probabilities."""
    if task_type.endswith("regression"):
        return scaler.inverse_transform(z)
    return unlinked(z, task_type)


def _column(y: np.ndarray, transform: str) -> ScaledColumn:
    mean, spread = float(y.mean()), float(y.std()) or 1.0
    known = np.unique(y)
    is_ranked = transform == "rank" or (transform == "auto" and len(known) > 20 and abs(skew(y)) > MAX_SKEWNESS)
    if not is_ranked or len(known) < 3:
        return ScaledColumn(mean, spread)
    at = np.unique(np.quantile(y, np.linspace(0, 1, KNOTS), method="inverted_cdf"))
    ordered = np.sort(y)
    # tied values get their mean rank
    rank = (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / 2
    return ScaledColumn(
        mean, spread, at.tolist(), ndtri(np.clip(rank / len(y), 0.5 / len(y), 1 - 0.5 / len(y))).tolist()
    )


def _transformed(column: ScaledColumn, y: np.ndarray) -> np.ndarray:
    if column.values is None or column.quantiles is None:
        return (y - column.mean) / column.spread
    return _interpolate(y, column.values, column.quantiles)


def _restored(column: ScaledColumn, z: np.ndarray) -> np.ndarray:
    if column.values is None or column.quantiles is None:
        return z * column.spread + column.mean
    return _interpolate(z, column.quantiles, column.values)


def _interpolate(x: np.ndarray, at: list[float], to: list[float]) -> np.ndarray:
    """Return the piecewise linear map, extrapolated with the mean slope, so that the order of values is kept."""
    slope = (to[-1] - to[0]) / (at[-1] - at[0])
    inside = np.interp(x, at, to)
    return inside + slope * (np.maximum(x - at[-1], 0) + np.minimum(x - at[0], 0))
