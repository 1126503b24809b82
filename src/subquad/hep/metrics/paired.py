"""Differences of two taggers on the same jets, with paired intervals. A second for ten thousand jets.

Axes: J jets, C classes, G groups of jets.
"""

import numpy as np
from scipy import stats

from subquad.hep.metrics.classification import weighted_auc
from subquad.hep.metrics.predictions import ModelPredictions, Predictions
from subquad.reporting.statistics import FEWEST_ITEMS, Difference, clopper_pearson

GROUPS = 20
"""Groups of jets that the jackknife leaves out in turn."""


def accuracy_difference(one: Predictions, other: Predictions) -> Difference | None:
    """Return the top-1 accuracy of `one` less that of the `other`, with its 95 % interval, as `model_difference`."""
    models = (ModelPredictions(name=own.model, trainings=[own]) for own in (one, other))
    return model_difference(*models)


def model_difference(one: ModelPredictions, other: ModelPredictions) -> Difference | None:
    """Return the mean top-1 accuracy of `one` less that of the `other`, with its 95 % interval, paired by jet.

    The interval covers jets and, of a model with several trainings, trainings: by Student's t, with the degrees of
    freedom of Welch and Satterthwaite. It is at least as wide as the exact binomial one of the jets on which the models
    differ, so that it contains 0 if McNemar's exact test says that these few jets may be chance.

    Args:
        one: Predictions of a model.
        other: Predictions of another model for the same jets, whose accuracy is subtracted.

    Returns:
        The difference; None of fewer than two jets, which have no interval.
    """
    # [trainings, J]: whether each jet is classified correctly
    right, its = (np.stack([own.probabilities.argmax(1) == own.labels for own in m.trainings]) for m in (one, other))
    J, weights = right.shape[1], one.trainings[0].weights
    if J < FEWEST_ITEMS:
        return None
    # of a mean over jets; without event weights all jets count the same
    parts = np.full(J, 1 / J) if weights is None else weights.astype(np.float64) / weights.sum(dtype=np.float64)
    differences = right.mean(0) - its.mean(0)
    mean = float((differences * parts).sum())
    over_jets = float((((differences - mean) * parts) ** 2).sum() * J / (J - 1))
    variances = [(over_jets, J - 1), *(_over_trainings(own @ parts) for own in (right, its) if len(own) > 1)]
    total = sum(variance for variance, _ in variances)
    half = 0.0
    if total > 0:
        freedom = total**2 / sum(variance**2 / own for variance, own in variances)
        half = float(stats.t.ppf(0.975, freedom)) * total**0.5
    low, high = _exact_interval(differences * parts) or (mean, mean)
    return Difference(mean, min(mean - half, low), max(mean + half, high))


def _over_trainings(accuracies: np.ndarray) -> tuple[float, int]:
    """Return the variance of the mean accuracy over trainings, and its degrees of freedom."""
    return float(accuracies.var(ddof=1) / len(accuracies)), len(accuracies) - 1


def _exact_interval(amounts: np.ndarray) -> tuple[float, float] | None:
    """Return the interval of the sum of what each jet adds to a difference, given the jets that add something.

    It is that of a rate: of how many of them add to the difference and do not take from it, or of the effective number
    of these jets if they count differently.
    """
    total = float(np.abs(amounts).sum())
    if total == 0:
        return None
    count = total**2 / float((amounts**2).sum())
    rate = float(amounts.clip(0).sum()) / total
    low, high = clopper_pearson(rate * count, count)
    return float((2 * low - 1) * total), float((2 * high - 1) * total)


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
