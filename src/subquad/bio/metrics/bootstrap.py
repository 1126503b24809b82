"""Metrics with integer row weights for many bootstrap samples at once, without sorting each sample.

Axes: D samples, n rows, i items, G groups of equal values, K classes. A sample is a row of `W`, `(D, n)`: how often it
drew each row. Values are sorted once; a sample then costs O(i), and the result equals the metric of the rows repeated
as often as they were drawn. NaN where a sample does not define a metric, for example because it has one class only.
"""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "Ordered",
    "area_under_roc",
    "average_precision",
    "correlation",
    "f1_of",
    "highest_f1",
    "matthews",
    "mean_of_known",
    "ndcg",
    "rank_correlation",
    "recalls_of",
    "top_recall",
    "unexplained",
]

TOP = 10
"""The top is one row in so many."""


@dataclass(frozen=True)
class Ordered:
    """The order of values, with ties as groups."""

    order: np.ndarray
    """`(i,)` items, lowest value first."""
    starts: np.ndarray
    """`(G,)` start of each group of equal values in that order."""
    place: np.ndarray
    """`(i,)` the group of each item."""

    @classmethod
    def of(cls, values: np.ndarray) -> "Ordered":
        """Return the order of the values."""
        order = np.argsort(values, kind="stable")
        is_new = np.diff(values[order], prepend=np.nan) != 0
        place = np.empty(len(values), dtype=np.int64)
        place[order] = np.cumsum(is_new) - 1
        return cls(order, np.flatnonzero(is_new), place)

    def totals(self, W: np.ndarray) -> np.ndarray:
        """Return the sum in each group, `(D, G)`, lowest first."""
        W = np.take(W, self.order, axis=1)
        return W if len(self.starts) == len(self.order) else np.add.reduceat(W, self.starts, axis=1)

    def ranks(self, W: np.ndarray) -> np.ndarray:
        """Return the mean rank of each item in each sample, `(D, i)`, from 1."""
        totals = self.totals(W)
        return np.take(np.cumsum(totals, axis=1) - (totals - 1) / 2, self.place, axis=1)


def mean_of_known(values: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the (weighted) mean over the last axis of the values that are not NaN; NaN if all are."""
    known = ~np.isnan(values)
    weight = known if weight is None else np.where(known, weight, 0.0)
    return _ratio((np.where(known, values, 0.0) * weight).sum(-1), weight.sum(-1))


def correlation(W: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation in each sample, 0 if either side is constant."""
    y, p, total = _standard(y), _standard(p), np.maximum(W.sum(1), 1)
    mean_y, mean_p = W @ y / total, W @ p / total
    return _bounded(W @ (y * p) / total - mean_y * mean_p, W @ y**2 / total - mean_y**2, W @ p**2 / total - mean_p**2)


def rank_correlation(W: np.ndarray, y: Ordered, p: Ordered) -> np.ndarray:
    """Return Spearman's correlation in each sample, 0 if either side is constant."""
    total = np.maximum(W.sum(1, keepdims=True), 1)
    # in units of the sample's size, so that the test for a constant does not depend on it
    y_ranks, p_ranks = ((side.ranks(W) - (total + 1) / 2) / total for side in (y, p))
    weighted = W * p_ranks
    covariance = np.einsum("di,di->d", weighted, y_ranks)
    variances = np.einsum("di,di->d", W * y_ranks, y_ranks), np.einsum("di,di->d", weighted, p_ranks)
    return _bounded(covariance / total[:, 0], variances[0] / total[:, 0], variances[1] / total[:, 0])


def unexplained(W: np.ndarray, y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared error and the variance of the truth in each sample."""
    total, centred = np.maximum(W.sum(1), 1), y - y.mean()
    return W @ (y - p) ** 2 / total, W @ centred**2 / total - (W @ centred / total) ** 2


def ndcg(W: np.ndarray, gains: np.ndarray, y: Ordered, p: Ordered) -> np.ndarray:
    """Return the normalised discounted cumulative gain of the top tenth; tied predictions share their gain."""
    ideal = _discounted(W, gains, y)
    return np.where(ideal > 0, _discounted(W, gains, p) / np.where(ideal > 0, ideal, 1.0), 0.0)


def _discounted(W: np.ndarray, gains: np.ndarray, by: Ordered) -> np.ndarray:
    size = W.sum(1, keepdims=True).astype(np.int64)
    top = np.maximum(1, size // TOP)
    reached = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, size.max() + 3)))])
    totals, sums = by.totals(W)[:, ::-1], by.totals(W * gains)[:, ::-1]
    last = np.cumsum(totals, axis=1).astype(np.int64)
    first = np.minimum(last - totals.astype(np.int64), top)
    last = np.minimum(last, top)
    return (_ratio(sums, totals, empty=0.0) * (reached[last] - reached[first])).sum(1)


def top_recall(W: np.ndarray, y: Ordered, p: Ordered) -> np.ndarray:
    """Return the fraction of the true top tenth that is in the predicted top tenth; ties share the last ranks."""
    top, inside = np.maximum(1, W.sum(1, keepdims=True) // TOP), []
    for side in (y, p):
        totals = side.totals(W)[:, ::-1]
        before = np.cumsum(totals, axis=1) - totals
        part = _ratio(np.clip(top - before, 0, totals), totals, empty=0.0)
        inside.append(np.take(part[:, ::-1], side.place, axis=1))
    return (W * inside[0] * inside[1]).sum(1) / top[:, 0]


def area_under_roc(W: np.ndarray, is_positive: np.ndarray, p: Ordered) -> np.ndarray:
    """Return the area under the ROC curve: how often a positive ranks above a negative; ties count half."""
    positives, negatives = _sides(W, is_positive, p)
    above = np.cumsum(negatives, axis=1) - negatives / 2
    return _ratio((positives * above).sum(1), positives.sum(1) * negatives.sum(1))


def average_precision(W: np.ndarray, is_positive: np.ndarray, p: Ordered) -> np.ndarray:
    """Return the mean precision over the positives; tied predictions are one threshold."""
    positives, negatives = (side[:, ::-1] for side in _sides(W, is_positive, p))
    found = np.cumsum(positives, axis=1)
    precision = _ratio(found, found + np.cumsum(negatives, axis=1), empty=0.0)
    return _ratio((positives * precision).sum(1), found[:, -1])


def highest_f1(W: np.ndarray, is_positive: np.ndarray, p: Ordered) -> np.ndarray:
    """Return F1 at the threshold that maximises it."""
    positives, negatives = (side[:, ::-1] for side in _sides(W, is_positive, p))
    found = np.cumsum(positives, axis=1)
    every = found[:, -1:]
    best = (2 * found / (found + np.cumsum(negatives, axis=1) + every + (every == 0))).max(1)
    return np.where(every[:, 0] > 0, best, np.nan)


def _sides(W: np.ndarray, is_positive: np.ndarray, p: Ordered) -> tuple[np.ndarray, np.ndarray]:
    every, positives = p.totals(W), p.totals(W * is_positive)
    return positives, every - positives


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation coefficient of confusion matrices `(D, K, K)`, truth first.

    For K classes (Gorodkin, Computational Biology and Chemistry 28 (2004) 367). 0 if truth or prediction has one class.
    """
    truth, predicted, total = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    covariance = np.trace(confusion, axis1=1, axis2=2) * total - (truth * predicted).sum(1)
    return _bounded(covariance / total**2, 1 - (truth**2).sum(1) / total**2, 1 - (predicted**2).sum(1) / total**2)


def recalls_of(confusion: np.ndarray) -> np.ndarray:
    """Return the recall of each class, `(D, K)`; NaN if it does not occur."""
    return _ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2))


def f1_of(confusion: np.ndarray) -> np.ndarray:
    """Return F1 of each class, `(D, K)`; NaN if it neither occurs nor is predicted."""
    found = np.diagonal(confusion, axis1=1, axis2=2)
    return _ratio(2 * found, confusion.sum(1) + confusion.sum(2))


def _standard(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    spread = np.abs(centred).max(initial=0.0)
    # the rounding error of a constant is not a spread
    return centred / spread if spread > 1e-13 * np.abs(values).max(initial=0.0) else np.zeros_like(centred)


def _bounded(covariance: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation, 0 if a variance is mere rounding error."""
    is_constant = (first < 1e-14) | (second < 1e-14)
    return np.where(is_constant, 0.0, covariance / np.sqrt(np.where(is_constant, 1.0, first * second)))


def _ratio(above: np.ndarray, below: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    below = np.asarray(below, dtype=np.float64)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), empty)
