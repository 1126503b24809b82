"""Intervals of rates, means and paired differences, and calibration of probabilities.

Axes: N items, R bootstrap resamples, K folds, B bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = [
    "FEWEST_ITEMS",
    "FEW_ITEMS",
    "CalibrationBins",
    "Difference",
    "bootstrap_means",
    "calibration_bins",
    "clopper_pearson",
    "fold_difference",
    "mean_interval",
    "paired_difference",
    "percentile_interval",
    "ratio_interval",
    "wilson",
]

Count = int | float | np.ndarray

FEWEST_ITEMS = 4
"""Number of items below which a mean is shown without an interval: that of two or three says nothing."""
FEW_ITEMS = 30
"""Number of items below which bootstrap intervals of a mean are too narrow: those of two end at the two values."""


def wilson(passed: Count, total: Count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    r"""Return Wilson's interval of a rate.

    $(p + z²/2n \pm z\sqrt{p(1-p)/n + z²/4n²}) / (1 + z²/n)$ with $p$ = `passed` / `total` (Wilson, Journal of the
    American Statistical Association 22 (1927) 209). It is honest for few items, and for rates of 0 and 1.

    Args:
        passed: Number of successes; an array gives an array of intervals.
        total: Number of trials. Without trials the rate counts as 0 of 1.
        confidence: Coverage, between 0 and 1.

    Returns:
        The lower and the upper limit.
    """
    z, n = stats.norm.ppf((1 + confidence) / 2), np.maximum(total, 1)
    rate = passed / n
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    centre, scale = rate + z**2 / (2 * n), 1 + z**2 / n
    # rounding can lead beyond the ends
    return np.clip((centre - half) / scale, 0, 1), np.clip((centre + half) / scale, 0, 1)


def clopper_pearson(passed: Count, total: Count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact binomial interval of a rate (Clopper and Pearson, Biometrika 26 (1934) 404).

    Args:
        passed: Number of successes, or an effective number; an array gives an array of intervals.
        total: Number of trials, or an effective number.
        confidence: Coverage, between 0 and 1.

    Returns:
        The lower limit, 0 where no trial succeeded, and the upper limit, 1 where all did.
    """
    passed, total = np.broadcast_arrays(passed, total)
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, np.where(passed > 0, passed, 1), total - passed + 1)
    high = stats.beta.ppf(1 - tail, passed + 1, np.where(passed < total, total - passed, 1))
    return np.where(passed > 0, low, 0.0), np.where(passed < total, high, 1.0)


def bootstrap_means(values: np.ndarray, *, resamples: int, seed: int = 0) -> np.ndarray:
    """Return means over resampled items, `(R, ...)`, of values `(N, ...)`.

    All columns of the values are resampled together, so that differences between them are paired.
    """
    generator, N = np.random.default_rng(seed), len(values)
    return np.stack([values[generator.integers(N, size=N)].mean(0) for _ in range(resamples)])


def percentile_interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central interval of bootstrap samples `(R,)`."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, (tail, 100 - tail))
    return float(low), float(high)


def mean_interval(values: np.ndarray, means: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of a mean: that of its bootstrap samples, or of few items that of Student's t.

    Args:
        values: `(N,)`.
        means: `(R,)` bootstrap samples of the mean.
        confidence: Coverage, between 0 and 1.

    Returns:
        The limits; None of fewer than `FEWEST_ITEMS`.
    """
    N = len(values)
    if N < FEWEST_ITEMS:
        return None
    if N >= FEW_ITEMS:
        return percentile_interval(means, confidence)
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + confidence) / 2, N - 1) * stats.sem(values))
    return mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """A difference with its interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """The interval does not contain 0."""
        return self.low > 0 or self.high < 0


def paired_difference(
    one: np.ndarray, other: np.ndarray, *, weights: np.ndarray | None = None, confidence: float = 0.95
) -> Difference | None:
    """Return the mean difference of values of the same items, with its interval by Student's t.

    Args:
        one: `(N,)` values.
        other: `(N,)` values, which are subtracted.
        weights: `(N,)` weights of the items; None counts all the same.
        confidence: Coverage, between 0 and 1.

    Returns:
        The difference; None of fewer than two items, which have no interval.
    """
    N = len(one)
    if N < 2:
        return None
    parts = np.full(N, 1 / N) if weights is None else weights / weights.sum()
    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    mean = float((differences * parts).sum())
    error = float((((differences - mean) * parts) ** 2).sum() * N / (N - 1)) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, N - 1)) * error
    return Difference(mean, mean - half, mean + half)


def ratio_interval(one: np.ndarray, other: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    r"""Return the interval of a ratio of means of the same few items.

    Fieller's: the $r$ for which 0 lies in Student's interval of the mean of $a - r b$ (Journal of the Royal Statistical
    Society B 16 (1954) 175).

    Args:
        one: `(N,)` values $a$ of the numerator.
        other: `(N,)` values $b$ of the denominator.
        confidence: Coverage, between 0 and 1.

    Returns:
        The limits; None of fewer than two items, or if the mean of the denominator is not told apart from 0.
    """
    N = len(one)
    if N < 2:
        return None
    a, b = float(np.mean(one)), float(np.mean(other))
    (aa, ab), (_, bb) = np.cov(one, other) * float(stats.t.ppf((1 + confidence) / 2, N - 1)) ** 2 / N
    # r² (b² - bb) - 2 r (a b - ab) + (a² - aa) <= 0
    square, linear, constant = b * b - bb, a * b - ab, a * a - aa
    if square <= 0:
        return None
    half = max(0.0, linear * linear - square * constant) ** 0.5
    return float((linear - half) / square), float((linear + half) / square)


def fold_difference(
    one: ArrayLike, other: ArrayLike, *, test_to_training: float, confidence: float = 0.95
) -> Difference | None:
    r"""Return the mean difference over the folds of a cross-validation, with its interval by Student's t.

    The training rows of two folds overlap, so that the variance of the mean is $(1/K + n_2/n_1) σ^2$, not $σ^2/K$, with
    K folds of $n_2$ test rows and $n_1$ others (Nadeau and Bengio, Machine Learning 52 (2003) 239).

    Args:
        one: `(K,)` values, one per fold.
        other: `(K,)` values, which are subtracted.
        test_to_training: $n_2/n_1$, the number of test rows divided by that of the other rows.
        confidence: Coverage, between 0 and 1.

    Returns:
        The difference; None of fewer than two folds, which have no interval.
    """
    differences = np.subtract(one, other)
    K = len(differences)
    if K < 2:
        return None
    mean, error = float(differences.mean()), float(differences.std(ddof=1) * (1 / K + test_to_training) ** 0.5)
    half = float(stats.t.ppf((1 + confidence) / 2, K - 1)) * error
    return Difference(mean, mean - half, mean + half)


@dataclass(frozen=True)
class CalibrationBins:
    """Predicted probabilities against observed rates, in bins of equal width."""

    edges: np.ndarray
    """`(B + 1,)` limits of the bins, from 0 to 1."""
    counts: np.ndarray
    """`(B,)` number of predictions, or the sum of their weights."""
    predicted: np.ndarray
    """`(B,)` mean predicted probability; NaN in an empty bin."""
    observed: np.ndarray
    """`(B,)` rate of what was predicted; NaN in an empty bin."""
    effective: np.ndarray
    """`(B,)` number of predictions or, of weighted ones, the effective number."""

    @property
    def error(self) -> float:
        r"""Expected calibration error, $\sum_b (n_b/N) |\mathrm{observed}_b - \mathrm{predicted}_b|$."""
        gaps = np.abs(np.nan_to_num(self.observed - self.predicted))
        return float((gaps * self.counts).sum() / (self.counts.sum() or 1))


def calibration_bins(
    probabilities: np.ndarray, is_true: np.ndarray, bins: int = 10, *, weights: np.ndarray | None = None
) -> CalibrationBins:
    """Return predicted probabilities and observed rates by bin of probability.

    Args:
        probabilities: `(N,)` predicted probabilities.
        is_true: `(N,)` whether the predicted event occurred.
        bins: Number of bins.
        weights: `(N,)`; None counts all predictions the same. A bin where their sum is not above 0 is empty.
    """
    place = (probabilities * bins).astype(np.int64).clip(0, bins - 1)
    counts = effective = np.bincount(place, minlength=bins)
    if weights is not None:
        counts = np.bincount(place, weights=weights, minlength=bins).clip(0)
        squares = np.bincount(place, weights=weights**2, minlength=bins)
        effective = np.divide(counts**2, squares, out=np.zeros(bins), where=squares > 0)
        probabilities, is_true = probabilities * weights, is_true * weights
    known = np.where(counts > 0, counts, np.nan)
    return CalibrationBins(
        edges=np.linspace(0, 1, bins + 1),
        counts=counts,
        predicted=np.bincount(place, weights=probabilities, minlength=bins) / known,
        observed=np.bincount(place, weights=is_true, minlength=bins) / known,
        effective=effective,
    )
