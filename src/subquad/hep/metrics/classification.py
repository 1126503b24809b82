"""Metrics of jet classification: accuracy, areas under curves, background rejection, calibration. O(J C² log J).

Every metric comes with an interval that covers one standard deviation (68.3 %) of the sampling of test jets; the
variation between trainings is the `spread`.

Axes: J jets, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix

from subquad.errors import SubquadError, unknown
from subquad.hep.metrics.rejection import CONFIDENCE, rejections
from subquad.hep.metrics.weighting import passed_and_total, sum_of_weights, weighted_mean
from subquad.reporting.metrics import Metric
from subquad.reporting.statistics import THRESHOLDS, calibration_bins, wilson

METRICS = {
    "accuracy": Metric(title="top-1 accuracy", threshold=THRESHOLDS["accuracy"]),
    "auc_ovo": Metric(title="AUC, ovo"),
    "auc_ovr": Metric(title="AUC, ovr"),
    "average_precision": Metric(title="average precision"),
    "accuracy_ovr_macro": Metric(title="accuracy, ovr", threshold=THRESHOLDS["accuracy"]),
    "calibration_error": Metric(title="calibration error", better="lower"),
    "calibration_error_unscaled": Metric(title="calibration error, T = 1", better="lower"),
}
"""Metrics over all classes; all are between 0 and 1, unless event weights are negative."""

RESAMPLES = 100


def classification_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    background: str,
    *,
    weights: np.ndarray | None = None,
    temperature: float | None = None,
    efficiency: float | None = None,
) -> dict[str, Any]:
    """Return the metrics of one training on labelled jets.

    `auc_ovo` and `auc_ovr` are macro averages over pairs of classes and over classes against the rest;
    `average_precision` is the mean over classes against the rest, which E-PCN (arXiv:2512.07420) reports as AUPR; all
    three are None if a class has no jets. `accuracy_ovr_macro` is what the PCN paper calls accuracy: each class against
    the rest, averaged; a tagger that assigns jets to no class reaches 1 - 1/C. `calibration_error` is that of the most
    probable class, and `calibration_error_unscaled` that before the logits were divided by the temperature.

    Args:
        probabilities: [J, C].
        labels: [J], indices of the classes.
        classes: Names of the classes.
        background: Class whose rejection is measured.
        temperature: Number by which the logits of the probabilities were divided; None if unknown.
        efficiency: Signal efficiency at which the rejection is measured; None for that of JetClass's table.
        weights: [J], event weights; None counts all jets the same. Intervals are those of effective numbers of jets.

    Returns:
        The metrics of `METRICS`; `rejection` by signal, as `rejections` returns it; and `intervals`, (low, high) of
        each metric: of accuracies by Wilson, of AUC by DeLong, of average precision by bootstrap over jets.
    """
    probabilities = normalized(probabilities)
    # sums in float32 would no longer grow at 17 million jets
    weights = None if weights is None else weights.astype(np.float64)
    C = len(classes)
    right = probabilities.argmax(1) == labels
    accuracy = weighted_mean(right, weights)
    low, high = (float(value) for value in wilson(*passed_and_total(right, weights), CONFIDENCE))
    metrics: dict[str, Any] = {"accuracy": accuracy, "auc_ovo": None, "auc_ovr": None, "average_precision": None}
    intervals: dict[str, tuple[float, float] | None] = {**dict.fromkeys(metrics), "accuracy": (low, high)}
    if all(sum_of_weights(labels == c, weights) > 0 for c in range(C)):
        for name, (value, error) in {
            **_areas(probabilities, labels, np.ones(len(labels)) if weights is None else weights),
            "average_precision": _average_precision(probabilities, labels, weights),
        }.items():
            metrics[name] = value
            # classes that are fully separated, or not at all, leave the uncertainty unknown
            intervals |= {name: interval_around(value, error)} if error > 0 else {}
    # of the most probable class before the division, whose logits were larger by this factor
    unscaled = 0.0
    if temperature is not None:
        plain = normalized((probabilities / probabilities.max(1, keepdims=True)) ** temperature)
        unscaled = calibration_bins(plain.max(1), right, weights=weights).error
    # a misclassified jet is wrong for two of the C classes against the rest, and right for all others
    metrics["accuracy_ovr_macro"] = 1 - 2 * (1 - accuracy) / C
    intervals["accuracy_ovr_macro"] = (1 - 2 * (1 - low) / C, 1 - 2 * (1 - high) / C)
    return {
        **metrics,
        "calibration_error": calibration_bins(probabilities.max(1), right, weights=weights).error,
        **({} if temperature is None else {"calibration_error_unscaled": unscaled}),
        "intervals": intervals,
        "rejection": rejections(probabilities, labels, classes, background, weights=weights, efficiency=efficiency),
    }


def interval_around(value: float, error: float) -> tuple[float, float]:
    """Return value ± error, within 0 and 1 unless the value itself is not, as negative event weights allow."""
    return max(min(0.0, value), value - error), min(max(1.0, value), value + error)


def background_class(given: str | None, classes: Sequence[str], default: str | None = None) -> str:
    """Return the class whose rejection is measured: `given`, `default`, QCD, or the first class.

    Raises:
        SubquadError: `given` is not a class.
    """
    if given is not None and given not in classes:
        raise SubquadError(f"--background: {unknown('class', given, classes)}")
    return given or default or ("QCD" if "QCD" in classes else classes[0])


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Return [J, C] float64: the probabilities, divided by their sum over the classes."""
    probabilities = probabilities.astype(np.float64)
    return probabilities / probabilities.sum(1, keepdims=True).clip(np.finfo(np.float64).tiny)


def _areas(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, tuple[float, float]]:
    r"""Return the two macro areas and their standard errors.

    Both are weighted means of $A_{ij} = P(p_i(x) > p_i(y))$ for a jet x of class i and y of class j, ties counting
    half; ovo weighs all alike, ovr by the part of j among the jets that are not i. As in DeLong, DeLong and
    Clarke-Pearson (1988), the variance is the sum over jets of the squared effect of a jet on the mean. Jets count
    with their weights [J].
    """
    C = probabilities.shape[1]
    rows = [np.flatnonzero(labels == c) for c in range(C)]
    columns = [[_sorted(probabilities[of, i], weights[of]) for of in rows] for i in range(C)]
    totals = np.array([weights[of].sum() for of in rows])
    value, effect = np.zeros(2), np.zeros((2, len(labels)))
    for i in range(C):
        for j in set(range(C)) - {i}:
            above = _fraction_below(probabilities[rows[i], i], *columns[i][j])
            area = (above * weights[rows[i]]).sum() / totals[i]
            below = 1 - _fraction_below(probabilities[rows[j], i], *columns[i][i])
            parts = np.array([1 / (C - 1), totals[j] / (totals.sum() - totals[i])])
            value += parts * area
            effect[:, rows[i]] += parts[:, None] * weights[rows[i]] * (above - area) / totals[i]
            effect[:, rows[j]] += parts[:, None] * weights[rows[j]] * (below - area) / totals[j]
    # sums of rounded parts may be above 1 by the last digit
    value, errors = (value / C).round(14), np.sqrt((effect**2).sum(1)) / C
    return {name: (float(value[k]), float(errors[k])) for k, name in enumerate(("auc_ovo", "auc_ovr"))}


def weighted_auc(scores: np.ndarray, is_signal: np.ndarray, weights: np.ndarray) -> float:
    """Return the area under the ROC curve of jets that count with weights, some of which may be negative.

    Args:
        scores: [J], larger for signal.
        is_signal: [J] bool.
        weights: [J].
    """
    others = _sorted(scores[~is_signal], weights[~is_signal])
    above = _fraction_below(scores[is_signal], *others)
    return float((above * weights[is_signal]).sum() / weights[is_signal].sum())


def _sorted(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted values [N], and the sums [N + 1] of the weights of the first ones of them."""
    order = np.argsort(values, kind="stable")
    return values[order], np.concatenate([[0.0], np.cumsum(weights[order])])


def _fraction_below(values: np.ndarray, others: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return the weighted fraction of the sorted `others` below each value; equal ones count half."""
    first, last = (np.searchsorted(others, values, side) for side in ("left", "right"))
    return (sums[first] + sums[last]) / (2 * sums[-1])


def _average_precision(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[float, float]:
    """Return the macro average precision, and its standard deviation by bootstrap over the jets."""
    C = probabilities.shape[1]
    orders = [np.argsort(-probabilities[:, c], kind="stable") for c in range(C)]
    # equal scores share a threshold
    ends = [np.flatnonzero(np.diff(probabilities[order, c], append=-1.0)) for c, order in enumerate(orders)]

    own = np.ones(len(labels)) if weights is None else weights

    def mean(weights: np.ndarray) -> float:
        precisions = []
        for c, (order, end) in enumerate(zip(orders, ends, strict=True)):
            drawn = weights[order]
            found = np.cumsum(drawn * (labels[order] == c))[end]
            total = np.cumsum(drawn)[end]
            precision = np.divide(found, total, out=np.zeros(len(end)), where=total > 0)
            precisions.append((np.diff(found, prepend=0) * precision).sum() / (found[-1] if found[-1] > 0 else 1))
        return float(np.mean(precisions))

    generator = np.random.default_rng(0)
    drawn = [mean(own * generator.poisson(1.0, len(labels))) for _ in range(RESAMPLES)]
    return mean(own), float(np.std(drawn))


def confusion(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return [C, C]: the fraction of the jets of the row's class that are assigned to the column's class.

    Rows of classes whose weights do not add up to more than 0 are 0, as those of classes without jets.
    """
    classes = np.arange(probabilities.shape[1])
    counts = confusion_matrix(labels, probabilities.argmax(1), labels=classes, sample_weight=weights)
    totals = counts.sum(1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)


def spread(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the variation of the metrics over trainings of one model.

    Args:
        trainings: Metrics of each, as `classification_metrics` returns them.

    Returns:
        `trainings`, their number; of each metric `mean`, standard `deviation` (n - 1; None for one training), `min`,
        `max` and, of several trainings, `interval`, the 68.3 % interval of the mean by Student's t; in `rejection` of
        each signal, as is customary, `median` in place of the mean. `median` and `max` are None where no background jet
        passes.
    """
    rejections = {
        name: _around([training["rejection"][name]["value"] for training in trainings], is_rejection=True)
        for name in trainings[0]["rejection"]
        if all(training["rejection"][name]["low"] is not None for training in trainings)
    }
    metrics = {
        name: _around([training[name] for training in trainings])
        for name in METRICS
        if all(training.get(name) is not None for training in trainings)
    }
    return {"trainings": len(trainings), **metrics, "rejection": rejections}


def _around(values: Sequence[float | None], *, is_rejection: bool = False) -> dict[str, Any]:
    known = [np.inf if value is None else value for value in values]
    is_known = bool(np.isfinite(known).all())
    middle = float(np.median(known) if is_rejection else np.mean(known))
    interval = {}
    if len(known) > 1 and not is_rejection:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known))
        interval = {"interval": [middle - half, middle + half]}
    return {
        "median" if is_rejection else "mean": middle if np.isfinite(middle) else None,
        "deviation": float(np.std(known, ddof=1)) if is_known and len(known) > 1 else None,
        "min": float(np.min(known)) if np.isfinite(np.min(known)) else None,
        "max": float(np.max(known)) if is_known else None,
        **interval,
    }
