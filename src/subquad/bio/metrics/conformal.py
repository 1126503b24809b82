r"""Prediction intervals with a coverage guarantee (split-conformal prediction) and calibration of probabilities.

With the scores $s_1 … s_n$ of rows that were not trained on, the $\lceil (n+1)(1-α) \rceil$-th smallest exceeds the
score of a new row with a probability of at least $1-α$, for any model, provided that the new row comes from the same
distribution (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al., JASA 113 (2018)
1094; Angelopoulos and Bates, arXiv:2107.07511). The guarantee does not hold for sequences unlike them (a new protein,
more mutations), and rows that early stopping or a penalty was selected on are slightly optimistic: check `coverage` on
the test rows.

MAPIE wraps estimators and crepes keeps all calibration residuals; a saved model here keeps one quantile per level.

Axes: n rows, K columns of measurements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from subquad.bio.data.dataset import Target
from subquad.reporting.statistics import calibration_bins, wilson

__all__ = ["LEVELS", "Conformal", "coverage", "fit_conformal", "fit_conformal_columns", "reliability"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverage of the intervals."""


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """Calibrated intervals around predicted measurements."""

    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    """Quantile of the scores at each level; infinite if there were too few rows for it (95 % needs 19)."""
    offset: float | None
    """Added to the standard deviation of the ensemble, so that no interval is empty; None: the standard deviation is
    not used and all intervals have the same width."""
    rows: int
    """Number of calibration rows."""

    def interval(
        self, prediction: np.ndarray, spread: np.ndarray | None = None, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end, each of the shape and in the units of the predictions.

        Args:
            prediction: Predictions of new rows.
            spread: Standard deviation of the ensemble, required if the scores were divided by it.
            level: One of `levels`.

        Raises:
            ValueError: Another level, or no spread although it is needed.
        """
        if level not in self.levels:
            raise ValueError(f"no level {level}; calibrated are {', '.join(map(str, self.levels))}")
        width = self.quantiles[self.levels.index(level)]
        prediction = np.asarray(prediction, dtype=np.float64)
        if self.offset is None:
            return prediction - width, prediction + width
        if spread is None:
            raise ValueError("these intervals need the standard deviation of the ensemble")
        widths = width * (np.asarray(spread, dtype=np.float64) + self.offset)
        return prediction - widths, prediction + widths

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object; an infinite quantile is null."""
        quantiles = [None if math.isinf(value) else value for value in self.quantiles]
        return {"levels": list(self.levels), "quantiles": quantiles, "offset": self.offset, "rows": self.rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Conformal":
        """Return the intervals from the JSON object of `as_dict`.

        Raises:
            ValueError: There are not as many quantiles as levels, or an entry is no number.
        """
        quantiles = tuple(math.inf if value is None else float(value) for value in values["quantiles"])
        levels, offset = tuple(map(float, values["levels"])), values["offset"]
        if len(levels) != len(quantiles):
            raise ValueError(f"{len(levels)} levels, and {len(quantiles)} quantiles")
        return cls(
            levels=levels, quantiles=quantiles, offset=None if offset is None else float(offset), rows=values["rows"]
        )


def fit_conformal(truth: ArrayLike, prediction: ArrayLike, spread: ArrayLike | None = None) -> Conformal:
    r"""Return intervals calibrated on rows that were not trained on.

    Args:
        truth: `(n,)` measurements; NaN rows are ignored.
        prediction: `(n,)` predictions.
        spread: `(n,)` standard deviation of the ensemble. The score is then $|y - ŷ| / (σ + β)$ (Section 5.2 of Lei et
            al.), with β the median spread to avoid division by almost zero: intervals are wider where the members of
            the ensemble disagree. Without it, or if all members agree, the score is $|y - ŷ|$.

    Raises:
        ValueError: No rows, or arrays of different lengths.
    """
    truth, prediction = np.ravel(truth).astype(np.float64), np.ravel(prediction).astype(np.float64)
    if len(truth) != len(prediction) or (spread is not None and np.size(spread) != len(truth)):
        raise ValueError("truth, prediction and spread must be of the same rows")
    known = np.isfinite(truth)
    if not known.any():
        raise ValueError("intervals need at least one measured row")
    scores, offset = np.abs(truth - prediction)[known], None
    if spread is not None:
        own = np.ravel(spread).astype(np.float64)[known]
        # a function of the inputs and not of the errors, so that the guarantee still holds
        offset = float(np.median(own)) or float(own.mean()) or None
        if offset is not None:
            scores = scores / (own + offset)
    quantiles = tuple(_quantile(scores, level) for level in LEVELS)
    return Conformal(levels=LEVELS, quantiles=quantiles, offset=offset, rows=len(scores))


def fit_conformal_columns(
    target: Target, prediction: np.ndarray, spread: np.ndarray | None = None
) -> list[Conformal | None]:
    """Return the intervals of each column of measurements; None for a column without a measurement.

    Args:
        target: Measurements of rows that were not trained on.
        prediction: `(n, K)` predictions of these rows.
        spread: `(n, K)` standard deviation of the ensemble.
    """
    return [
        fit_conformal(target.y[:, k], prediction[:, k], None if spread is None else spread[:, k])
        if np.isfinite(target.y[:, k]).any()
        else None
        for k in range(target.y.shape[1])
    ]


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the fraction of measured rows whose true value lies inside the interval."""
    truth = np.asarray(truth, dtype=np.float64)
    known = np.isfinite(truth)
    return float(((truth >= low) & (truth <= high))[known].mean()) if known.any() else math.nan


def reliability(is_positive: ArrayLike, probability: ArrayLike) -> list[dict[str, float]]:
    """Return predicted probabilities against observed rates, one entry for each tenth of 0 to 1 that has rows.

    Returns:
        `rows`, the mean probability `predicted`, the rate `observed`, and its 95 % Wilson interval `low`, `high`.
    """
    found = calibration_bins(np.ravel(probability).astype(np.float64), np.ravel(is_positive).astype(bool), 10)
    low, high = wilson(np.nan_to_num(found.observed) * found.counts, found.counts)
    return [
        {
            "rows": int(found.counts[k]),
            "predicted": float(found.predicted[k]),
            "observed": float(found.observed[k]),
            "low": float(max(low[k], 0.0)),
            "high": float(min(high[k], 1.0)),
        }
        for k in np.flatnonzero(found.counts)
    ]


def _quantile(scores: np.ndarray, level: float) -> float:
    # 0.95 * 20 is 19.000000000000004 in binary
    k = math.ceil(round((len(scores) + 1) * level, 9))
    return float(np.partition(scores, k - 1)[k - 1]) if k <= len(scores) else math.inf
