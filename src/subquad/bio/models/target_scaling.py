"""Measurements before and after learning: standardised, or as normal quantiles of their ranks. Costs a sort."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtri, softmax
from scipy.stats import skew

__all__ = ["TargetScaler", "to_predictions"]

KNOTS = 201
FAR_FROM_NORMAL = 2.0
"""Skewness from which on `auto` takes ranks: a few huge values would otherwise be all that is learned."""


@dataclass(frozen=True)
class _Column:
    mean: float
    spread: float
    values: list[float] | None = None
    """Increasing measurements, where ranks are taken."""
    quantiles: list[float] | None = None
    """Their normal quantiles."""


@dataclass(frozen=True)
class TargetScaler:
    """One monotone map a column of measurements, with its inverse."""

    columns: tuple[_Column, ...]

    @classmethod
    def fit(cls, y: np.ndarray, transform: str = "auto") -> "TargetScaler":
        """Return the map for training measurements `(n, K)`, NaN where there is none.

        Args:
            y: measurements.
            transform: `none`, `rank`, or `auto`: ranks where the skewness is above 2.
        """
        return cls(tuple(_column(values[np.isfinite(values)], transform) for values in y.T))

    @classmethod
    def none(cls, columns: int) -> "TargetScaler":
        """Return the map that changes nothing."""
        return cls((_Column(0.0, 1.0),) * columns)

    @classmethod
    def of(cls, said: list[dict[str, Any]]) -> "TargetScaler":
        """Return the map that `plain` described."""
        return cls(tuple(_Column(**column) for column in said))

    def plain(self) -> list[dict[str, Any]]:
        """Return the map as what JSON can hold."""
        return [asdict(column) for column in self.columns]

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Return measurements `(…, K)` on the scale of learning."""
        return np.stack([_forward(column, y[..., k]) for k, column in enumerate(self.columns)], axis=-1)

    def back(self, z: np.ndarray) -> np.ndarray:
        """Return values on the scale of learning `(…, K)` as measurements."""
        return np.stack([_back(column, z[..., k]) for k, column in enumerate(self.columns)], axis=-1)


def to_predictions(z: np.ndarray, task_type: str, scale: TargetScaler) -> np.ndarray:
    """Return outputs on the scale of learning as measurements or probabilities."""
    if task_type.endswith("regression"):
        return scale.back(z)
    return softmax(z, axis=-1) if task_type.endswith("multiclass") else expit(z)


def _column(y: np.ndarray, transform: str) -> _Column:
    mean, spread = float(y.mean()), float(y.std()) or 1.0
    known = np.unique(y)
    is_ranked = transform == "rank" or (transform == "auto" and len(known) > 20 and abs(skew(y)) > FAR_FROM_NORMAL)
    if not is_ranked or len(known) < 3:
        return _Column(mean, spread)
    at = np.unique(np.quantile(y, np.linspace(0, 1, KNOTS), method="inverted_cdf"))
    ordered = np.sort(y)
    # the middle of the ranks of equal values
    rank = (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / 2
    return _Column(mean, spread, at.tolist(), ndtri(np.clip(rank / len(y), 0.5 / len(y), 1 - 0.5 / len(y))).tolist())


def _forward(column: _Column, y: np.ndarray) -> np.ndarray:
    if column.values is None:
        return (y - column.mean) / column.spread
    return _interpolate(y, column.values, column.quantiles)


def _back(column: _Column, z: np.ndarray) -> np.ndarray:
    if column.values is None:
        return z * column.spread + column.mean
    return _interpolate(z, column.quantiles, column.values)


def _interpolate(x: np.ndarray, at: list[float], to: list[float]) -> np.ndarray:
    """Return the piecewise linear map, carried on beyond its ends with the slope between the ends: order is kept."""
    slope = (to[-1] - to[0]) / (at[-1] - at[0])
    inside = np.interp(x, at, to)
    return inside + slope * (np.maximum(x - at[-1], 0) + np.minimum(x - at[0], 0))
