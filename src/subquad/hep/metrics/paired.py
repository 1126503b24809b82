"""Differences of two taggers on the same jets, with paired intervals. A second for ten thousand jets.

Axes: J jets, C classes, G groups of jets.
"""

import numpy as np
from scipy import stats

from subquad.hep.metrics.classification import weighted_auc
from subquad.hep.metrics.predictions import Predictions
from subquad.reporting.statistics import Difference, paired_difference

__all__ = ["accuracy_difference", "auc_difference"]

GROUPS = 20
"""Groups of jets that the jackknife leaves out in turn."""


def accuracy_difference(one: Predictions, other: Predictions) -> Difference | None:
    """Return the top-1 accuracy of `one` less that of the `other`, with its 95 % interval, paired by jet."""
    right = [(own.probabilities.argmax(1) == own.labels).astype(np.float64) for own in (one, other)]
    return paired_difference(*right, weights=_weights(one))


def auc_difference(one: Predictions, other: Predictions) -> Difference | None:
    """Return the AUC (ovo) of `one` less that of the `other`, with its 95 % interval, paired by jet.

    The interval is that of a jackknife over groups of jets that are drawn at random within each class, by Student's t.

    Returns:
        The difference; None if a class has too few jets for the groups.
    """
    labels, C = one.labels, one.probabilities.shape[1]
    if min(np.bincount(labels, minlength=C)) < GROUPS:
        return None
    weights = np.ones(len(labels)) if one.weights is None else one.weights.astype(np.float64)
    generator, groups = np.random.default_rng(0), np.zeros(len(labels), dtype=np.int64)
    for c in range(C):
        rows = generator.permutation(np.flatnonzero(labels == c))
        groups[rows] = np.arange(len(rows)) % GROUPS

    def difference(rows: np.ndarray) -> float:
        areas = [_auc(own.probabilities[rows], labels[rows], weights[rows]) for own in (one, other)]
        return areas[0] - areas[1]

    value = difference(np.ones(len(labels), dtype=bool))
    left_out = np.array([difference(groups != group) for group in range(GROUPS)])
    error = ((GROUPS - 1) / GROUPS * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5
    half = float(stats.t.ppf(0.975, GROUPS - 1) * error)
    return Difference(value, value - half, value + half)


def _auc(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean over ordered pairs of classes of the area of one class against the other."""
    C, areas = probabilities.shape[1], []
    for i in range(C):
        for j in set(range(C)) - {i}:
            rows = (labels == i) | (labels == j)
            areas.append(weighted_auc(probabilities[rows, i], labels[rows] == i, weights[rows]))
    return float(np.mean(areas))


def _weights(one: Predictions) -> np.ndarray | None:
    return None if one.weights is None else one.weights.astype(np.float64)
