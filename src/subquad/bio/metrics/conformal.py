r"""How far off a prediction may be: intervals that hold the truth as often as they say. Costs one sort.

Split-conformal prediction (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al.,
JASA 113 (2018) 1094; Angelopoulos and Bates, arXiv:2107.07511): with scores $s_1 … s_n$ of rows that were not learned
from, the $\lceil (n+1)(1-α) \rceil$-th smallest is above the score of a new row with a probability of at least $1-α$,
whatever the model, where the new row is drawn like the n. Sequences unlike them (a new protein, more mutations) are
not, and rows that early stopping or a penalty was chosen on are a little too kind: measure `coverage` on the test rows.

Axes: n rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Target

__all__ = [
    "LEVELS",
    "Conformal",
    "coverage",
    "fit_conformal",
    "fit_conformal_columns",
    "reliability",
]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""How often the truth is to be inside."""


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """Intervals around predicted measurements."""

    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    """Of the scores, one a level; infinite where there were too few rows for it (95 % needs 19)."""
    offset: float | None
    """What is added to the members' spread, so that none is taken for certain; None: the spread does not count, and all
    intervals are equally wide."""
    rows: int
    """Rows that the scores are of."""

    def interval(
        self, prediction: np.ndarray, spread: np.ndarray | None = None, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end, each of the shape of the predictions, in their units.

        Args:
            prediction: of new rows.
            spread: standard deviation of the members, where the scores were divided by it.
            level: one of `levels`.

        Raises:
            ValueError: another level, or no spread where it is needed.
        """
        width = _at(self.levels, self.quantiles, level)
        prediction = np.asarray(prediction, dtype=np.float64)
        if self.offset is not None:
            if spread is None:
                raise ValueError("these intervals need the spread of the members")
            width = width * (np.asarray(spread, dtype=np.float64) + self.offset)
        return prediction - width, prediction + width

    def plain(self) -> dict[str, Any]:
        """Return what JSON knows; an infinite quantile is null."""
        quantiles = [None if math.isinf(value) else value for value in self.quantiles]
        return {"levels": list(self.levels), "quantiles": quantiles, "offset": self.offset, "rows": self.rows}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Conformal":
        """Return it from what `plain` gave."""
        quantiles = tuple(math.inf if value is None else value for value in said["quantiles"])
        return cls(levels=tuple(said["levels"]), quantiles=quantiles, offset=said["offset"], rows=said["rows"])


def fit_conformal(
    truth: np.ndarray, prediction: np.ndarray, spread: np.ndarray | None = None, *, levels: Sequence[float] = LEVELS
) -> Conformal:
    r"""Return intervals calibrated on rows that were not learned from.

    Args:
        truth: `(n,)` measured; NaN rows are left out.
        prediction: `(n,)` predicted.
        spread: `(n,)` standard deviation of the members. The score is then $|y - ŷ| / (σ + β)$ (Section 5.2 of Lei et
            al.), with the median spread for β, against division by almost nothing: intervals are wider where the
            members disagree. Without it, or where all agree, the score is $|y - ŷ|$.
        levels: how often the truth is to be inside.

    Raises:
        ValueError: no rows, or arrays of different lengths.
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
        # of the inputs alone, not of the errors: the guarantee stays as it is
        offset = float(np.median(own)) or float(own.mean()) or None
        if offset is not None:
            scores = scores / (own + offset)
    quantiles = tuple(_quantile(scores, level) for level in levels)
    return Conformal(levels=tuple(levels), quantiles=quantiles, offset=offset, rows=len(scores))


def fit_conformal_columns(
    target: Target, prediction: np.ndarray, spread: np.ndarray | None = None
) -> list[Conformal | None]:
    """Return the intervals of each column of measurements; None where no row has a measurement in it.

    Args:
        target: measurements of rows that were not learned from.
        prediction: `(n, K)` of these rows.
        spread: `(n, K)` standard deviation of the members.
    """
    return [
        fit_conformal(target.y[:, k], prediction[:, k], None if spread is None else spread[:, k])
        if np.isfinite(target.y[:, k]).any()
        else None
        for k in range(target.y.shape[1])
    ]


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the share of measured rows whose truth is inside the interval."""
    truth = np.asarray(truth, dtype=np.float64)
    known = np.isfinite(truth)
    return float(((truth >= low) & (truth <= high))[known].mean()) if known.any() else math.nan


def reliability(is_positive: np.ndarray, probability: np.ndarray, *, bins: int = 10) -> list[dict[str, float]]:
    """Return how often it was so where it was called so likely: one entry a bin of equal width that has rows.

    Each holds `rows`, the mean probability `predicted`, the share `observed` and its 95 % Wilson interval `low`,
    `high`.
    """
    probability, is_positive = np.ravel(probability).astype(np.float64), np.ravel(is_positive).astype(bool)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    table = []
    for k in range(bins):
        own = place == k
        if not own.any():
            continue
        n, share = int(own.sum()), float(is_positive[own].mean())
        low, high = _wilson(share, n)
        predicted = float(probability[own].mean())
        table.append({"rows": n, "predicted": predicted, "observed": share, "low": low, "high": high})
    return table


def _quantile(scores: np.ndarray, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a level must be between 0 and 1, got {level}")
    # 0.95 * 20 is 19.000000000000004 in binary, or the like
    k = math.ceil(round((len(scores) + 1) * level, 9))
    return float(np.partition(scores, k - 1)[k - 1]) if k <= len(scores) else math.inf


def _at(levels: Sequence[float], quantiles: Sequence[float], level: float) -> float:
    for known, value in zip(levels, quantiles, strict=True):
        if math.isclose(known, level):
            return value
    raise ValueError(f"no level {level}; calibrated are {', '.join(map(str, levels))}")


def _wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)
