"""Intervals of rates, means and paired differences, when a difference is clear, and calibration of probabilities.

Intervals have a coverage of 95 % unless `confidence` is another one. Axes: N items, R resamples, K folds, B bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Count = int | float | np.ndarray

FEWEST_ITEMS = 3
"""Number of items below which means and differences have no interval: that of two says nothing."""
FEW_ITEMS = 30
"""Number of items below which bootstrap intervals of a mean are too narrow: those of two end at the two values."""
THRESHOLDS = {"correlation": 0.002, "accuracy": 0.005, "perplexity": 1.0}
"""Largest difference that does not matter: in correlations and areas under curves, in accuracies and other rates, and
in perplexities, in per cent."""
VERDICTS = CLEARLY_BETTER, NOT_CLEAR, CLEARLY_WORSE = ("clearly better", "no clear difference", "clearly worse")


@dataclass(frozen=True)
class Difference:
    """A difference with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def read(cls, entry: Mapping[str, float]) -> Self:
        """Return the difference in an entry of `metrics.json`."""
        return cls(entry["value"], entry["low"], entry["high"])

    @classmethod
    def by_student(cls, value: float, error: float, freedom: int) -> Self:
        """Return a difference with the interval of Student's t, from its standard error."""
        half = float(stats.t.ppf(0.975, freedom)) * error
        return cls(value, value - half, value + half)


def wilson(passed: Count, total: Count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    r"""Return Wilson's interval of a rate, also of an array of rates; without trials the rate counts as 0 of 1.

    $(p + z²/2n \pm z\sqrt{p(1-p)/n + z²/4n²}) / (1 + z²/n)$ with $p$ = `passed` / `total` (Wilson, Journal of the
    American Statistical Association 22 (1927) 209). It is honest for few items, and for rates of 0 and 1.
    """
    z, n = stats.norm.ppf((1 + confidence) / 2), np.maximum(total, 1)
    rate = passed / n
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    centre, scale = rate + z**2 / (2 * n), 1 + z**2 / n
    # rounding can lead beyond the ends
    return np.clip((centre - half) / scale, 0, 1), np.clip((centre + half) / scale, 0, 1)


def clopper_pearson(passed: Count, total: Count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact binomial interval of a rate (Clopper and Pearson, Biometrika 26 (1934) 404).

    Both numbers may be effective ones. The lower limit is 0 where no trial succeeded, the upper 1 where all did.
    """
    passed, total = np.broadcast_arrays(passed, total)
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, np.where(passed > 0, passed, 1), total - passed + 1)
    high = stats.beta.ppf(1 - tail, passed + 1, np.where(passed < total, total - passed, 1))
    return np.where(passed > 0, low, 0.0), np.where(passed < total, high, 1.0)


def bootstrap_means(values: np.ndarray, *, resamples: int, seed: int = 0) -> np.ndarray:
    """Return means `(R, ...)` over resampled items of values `(N, ...)`; columns are resampled together."""
    generator, N = np.random.default_rng(seed), len(values)
    return np.stack([values[generator.integers(N, size=N)].mean(0) for _ in range(resamples)])


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the central interval of bootstrap samples `(R,)`."""
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(values: np.ndarray, means: np.ndarray) -> tuple[float, float] | None:
    """Return the interval of the mean of values `(N,)`, from its bootstrap samples `(R,)`.

    Fewer than `FEW_ITEMS` have the interval of Student's t, fewer than `FEWEST_ITEMS` none.
    """
    if len(values) >= FEW_ITEMS:
        return percentile_interval(means)
    mean = paired_difference(values, np.zeros(len(values)))
    return None if mean is None else (mean.low, mean.high)


def paired_difference(one: np.ndarray, other: np.ndarray) -> Difference | None:
    """Return the mean difference of values `(N,)` of the same items, with its interval by Student's t.

    None of fewer than `FEWEST_ITEMS`. It is `fold_difference` for items that share no training rows.
    """
    return fold_difference(one, other, test_to_training=0)


def ratio_interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    r"""Return the interval of a ratio of means of the same few items, $a$ `(N,)` over $b$ `(N,)`.

    Fieller's: the $r$ for which 0 lies in Student's interval of the mean of $a - r b$ (Journal of the Royal Statistical
    Society B 16 (1954) 175). None of fewer than `FEWEST_ITEMS`, or if the interval of the mean of $b$ contains 0.
    """
    N = len(one)
    if N < FEWEST_ITEMS:
        return None
    a, b = float(np.mean(one)), float(np.mean(other))
    (aa, ab), (_, bb) = np.cov(one, other) * float(stats.t.ppf(0.975, N - 1)) ** 2 / N
    # r² (b² - bb) - 2 r (a b - ab) + (a² - aa) <= 0
    square, linear, constant = b * b - bb, a * b - ab, a * a - aa
    if square <= 0:
        return None
    half = max(0.0, linear * linear - square * constant) ** 0.5
    return float((linear - half) / square), float((linear + half) / square)


def fold_difference(one: ArrayLike, other: ArrayLike, *, test_to_training: float) -> Difference | None:
    r"""Return the mean difference of values `(K,)` of the folds of a cross-validation, with Student's interval.

    The training rows of two folds overlap, so that the variance of the mean is $(1/K + n_2/n_1) σ^2$, not $σ^2/K$, with
    K folds of $n_2$ test rows and $n_1$ others (Nadeau and Bengio, Machine Learning 52 (2003) 239); `test_to_training`
    is $n_2/n_1$. None of fewer than `FEWEST_ITEMS` folds.
    """
    differences = np.subtract(one, other, dtype=float)
    K = len(differences)
    if K < FEWEST_ITEMS:
        return None
    error = float(differences.std(ddof=1) * (1 / K + test_to_training) ** 0.5)
    return Difference.by_student(float(differences.mean()), error, K - 1)


@dataclass(frozen=True)
class CalibrationBins:
    """Predicted probabilities against observed rates, in B bins of equal width."""

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
    """Return predicted probabilities `(N,)` and rates of the predicted event by bin of probability.

    A bin where the sum of the weights `(N,)` is not above 0 is empty.
    """
    bin_of = (probabilities * bins).astype(np.int64).clip(0, bins - 1)
    counts = effective = np.bincount(bin_of, minlength=bins)
    if weights is not None:
        counts = np.bincount(bin_of, weights=weights, minlength=bins).clip(0)
        squares = np.bincount(bin_of, weights=weights**2, minlength=bins)
        effective = np.divide(counts**2, squares, out=np.zeros(bins), where=squares > 0)
        probabilities, is_true = probabilities * weights, is_true * weights
    known = np.where(counts > 0, counts, np.nan)
    predicted, observed = (
        np.bincount(bin_of, weights=part, minlength=bins) / known for part in (probabilities, is_true)
    )
    return CalibrationBins(counts, predicted, observed, effective)
