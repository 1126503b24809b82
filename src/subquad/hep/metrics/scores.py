"""How well jets are told apart: accuracy, areas under curves, background rejection, calibration. O(J C² log J).

Every figure comes with the interval that covers one standard deviation (68.3 %) of the jets' chance; what the chance
of training adds is the spread over trainings, see `spread`.

Axes: J jets, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.errors import require

__all__ = [
    "EFFICIENCIES",
    "FIGURES",
    "calibration_error",
    "clopper_pearson",
    "confusion",
    "discriminant",
    "rejection",
    "rejections",
    "scores_of",
    "spread",
    "threshold_at",
    "wilson",
]

EFFICIENCIES = {"Hqql": 0.99, "Tbl": 0.995}
"""Signal efficiency at which the background is counted, as in JetClass's table; 0.5 for the other classes."""

FIGURES = {
    "accuracy": "top-1 accuracy",
    "auc_ovo": "AUC, ovo",
    "auc_ovr": "AUC, ovr",
    "aupr_macro": "AUPR, macro",
    "accuracy_ovr_macro": "accuracy, ovr",
    "calibration_error": "calibration error",
}
"""The figures over all classes, and how tables call them."""

COVERED = 0.6827
REPLICATES = 100


def scores_of(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], background: str) -> dict[str, Any]:
    """Return the figures of one model on labelled jets, and their `intervals`: (low, high) of each.

    `auc_ovo` and `auc_ovr` are macro averages over pairs of classes and over classes against the rest; None where a
    class has no jets, as is `aupr_macro`, the mean over classes of the average precision against the rest, which
    E-PCN (arXiv:2512.07420) reports. `accuracy_ovr_macro` is what the PCN paper calls accuracy: each class against the
    rest, averaged; answering "no" always gives 1 - 1/C. `calibration_error` is that of the class of the largest score.

    Intervals: accuracies by Wilson, AUC by DeLong, AUPR by the bootstrap over jets, rejections by Clopper-Pearson.
    """
    probabilities = normalised(probabilities)
    C, J = len(classes), len(labels)
    right = probabilities.argmax(1) == labels
    accuracy = float(right.mean())
    low, high = (float(value) for value in wilson(int(right.sum()), J))
    figures: dict[str, Any] = {"accuracy": accuracy, "auc_ovo": None, "auc_ovr": None, "aupr_macro": None}
    intervals: dict[str, tuple[float, float] | None] = {**dict.fromkeys(figures), "accuracy": (low, high)}
    if len(np.unique(labels)) == C:
        for name, (value, error) in {
            **_areas(probabilities, labels),
            "aupr_macro": _aupr(probabilities, labels),
        }.items():
            figures[name] = value
            intervals[name] = (max(0.0, value - error), min(1.0, value + error))
    # a wrong answer is wrong for two classes of the C, and right for all others
    figures["accuracy_ovr_macro"] = 1 - 2 * (1 - accuracy) / C
    intervals["accuracy_ovr_macro"] = (1 - 2 * (1 - low) / C, 1 - 2 * (1 - high) / C)
    return {
        **figures,
        "calibration_error": calibration_error(probabilities.max(1), right),
        "intervals": intervals,
        "rejection": rejections(probabilities, labels, classes, background),
    }


def normalised(probabilities: np.ndarray) -> np.ndarray:
    """Return [J, C] in float64, each row adding up to 1 as closely as that can."""
    probabilities = probabilities.astype(np.float64)
    return probabilities / probabilities.sum(1, keepdims=True).clip(np.finfo(np.float64).tiny)


def wilson(passed: int | np.ndarray, total: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return Wilson's interval, $(p + z²/2n \pm z\sqrt{p(1-p)/n + z²/4n²}) / (1 + z²/n)$ with z = 1."""
    part = passed / np.maximum(total, 1)
    n = np.maximum(total, 1)
    half = np.sqrt(part * (1 - part) / n + 1 / (4 * n**2))
    return (part + 1 / (2 * n) - half) / (1 + 1 / n), (part + 1 / (2 * n) + half) / (1 + 1 / n)


def clopper_pearson(passed: int | np.ndarray, total: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of the exact 68.3 % interval of a part: 0 where none passes, 1 where all do."""
    beta = require("scipy.stats", extra="hep").beta
    passed, total = np.broadcast_arrays(passed, total)
    outside = (1 - COVERED) / 2
    low = beta.ppf(outside, np.maximum(passed, 1), total - passed + 1)
    high = beta.ppf(1 - outside, passed + 1, np.maximum(total - passed, 1))
    return np.where(passed > 0, low, 0.0), np.where(passed < total, high, 1.0)


def _areas(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, tuple[float, float]]:
    r"""Return the two macro areas and their standard errors.

    Both are weighted means of $A_{ij} = P(p_i(x) > p_i(y))$ for a jet x of class i and y of class j, ties counting
    half; ovo weighs all alike, ovr by the part of j among the jets that are not i. As in DeLong, DeLong and
    Clarke-Pearson (1988), the variance is the sum over jets of the squared effect of a jet on the mean.
    """
    C = probabilities.shape[1]
    rows = [np.flatnonzero(labels == c) for c in range(C)]
    columns = [[np.sort(probabilities[of, i]) for of in rows] for i in range(C)]
    value, effect = np.zeros(2), np.zeros((2, len(labels)))
    for i in range(C):
        for j in set(range(C)) - {i}:
            above = _part_below(probabilities[rows[i], i], columns[i][j])
            area = above.mean()
            below = 1 - _part_below(probabilities[rows[j], i], columns[i][i])
            weights = np.array([1 / (C - 1), len(rows[j]) / (len(labels) - len(rows[i]))])
            value += weights * area
            effect[:, rows[i]] += weights[:, None] * (above - area) / len(rows[i])
            effect[:, rows[j]] += weights[:, None] * (below - area) / len(rows[j])
    # sums of rounded parts may be above 1 by the last digit
    value, errors = (value / C).round(14), np.sqrt((effect**2).sum(1)) / C
    return {name: (float(value[k]), float(errors[k])) for k, name in enumerate(("auc_ovo", "auc_ovr"))}


def _part_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each value the part of the sorted `others` that is smaller; equal ones count half."""
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))


def _aupr(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the macro average precision, and its standard deviation when jets are drawn anew."""
    C = probabilities.shape[1]
    orders = [np.argsort(-probabilities[:, c], kind="stable") for c in range(C)]
    # a threshold lies behind the last of equal scores
    ends = [np.flatnonzero(np.diff(probabilities[order, c], append=-1.0)) for c, order in enumerate(orders)]

    def mean(weights: np.ndarray) -> float:
        precisions = []
        for c, (order, end) in enumerate(zip(orders, ends, strict=True)):
            drawn = weights[order]
            found = np.cumsum(drawn * (labels[order] == c))[end]
            precision = found / np.cumsum(drawn)[end].clip(1)
            precisions.append((np.diff(found, prepend=0) * precision).sum() / max(found[-1], 1))
        return float(np.mean(precisions))

    generator = np.random.default_rng(0)
    drawn = [mean(generator.poisson(1.0, len(labels))) for _ in range(REPLICATES)]
    return mean(np.ones(len(labels))), float(np.std(drawn))


def discriminant(probabilities: np.ndarray, signal: int, background: int) -> np.ndarray:
    """Return [J]: the signal's part of the two probabilities, p_S / (p_S + p_B)."""
    p, q = probabilities[:, signal].astype(np.float64), probabilities[:, background].astype(np.float64)
    return p / np.maximum(p + q, np.finfo(np.float64).tiny)


def threshold_at(scores: np.ndarray, parts: float | np.ndarray) -> np.ndarray:
    """Return the largest thresholds that at least these parts of the scores reach."""
    # half a jet in a million million is rounding
    places = np.ceil(np.asarray(parts) * len(scores) - 1e-9).astype(np.int64).clip(1) - 1
    return np.sort(scores)[::-1][places]


def rejection(
    probabilities: np.ndarray, labels: np.ndarray, signal: int, background: int, efficiency: float
) -> dict[str, float | None]:
    r"""Return $1/\varepsilon_B$ at a signal efficiency, with the 68.3 % Clopper-Pearson interval of $\varepsilon_B$.

    `value` is None where no background jet passes, `high` too: the sample then only says that it is above `low`. All
    are None where a class has no jet.
    """
    score = discriminant(probabilities, signal, background)
    of_signal, of_background = score[labels == signal], score[labels == background]
    n = len(of_background)
    if not len(of_signal) or not n:
        return {"efficiency": efficiency, "value": None, "low": None, "high": None}
    passed = int((of_background >= threshold_at(of_signal, efficiency)).sum())
    least, most = (float(part) for part in clopper_pearson(passed, n))
    return {
        "efficiency": efficiency,
        "value": n / passed if passed else None,
        "low": 1 / most,
        "high": 1 / least if passed else None,
    }


def rejections(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], background: str
) -> dict[str, dict[str, float | None]]:
    """Return `rejection` of the background by each other class, at the efficiencies of JetClass's table."""
    of = list(classes).index(background)
    return {
        name: rejection(probabilities, labels, signal, of, EFFICIENCIES.get(name, 0.5))
        for signal, name in enumerate(classes)
        if name != background
    }


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, bins: int = 10) -> float:
    r"""Return $\sum_b (n_b/J) |\overline{right}_b - \overline{confidence}_b|$ over equal bins: 0 is perfect."""
    place = (confidence * bins).astype(np.int64).clip(0, bins - 1)
    gaps = np.bincount(place, weights=is_right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(confidence)))


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return [C, C]: of the jets of the row's class, the part that is taken for the column's."""
    C = probabilities.shape[1]
    counts = np.zeros((C, C))
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return counts / counts.sum(1, keepdims=True).clip(1)


def spread(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how the figures of `scores_of` differ over trainings of one model.

    Of each figure the `mean`, the standard `deviation` (n - 1; None for one training), the `least` and the `most`; of
    rejections, as is the custom, the `median` in place of the mean. A training in which no background jet passes makes
    `most` None; None too is a median that it would be.
    """
    rejections = {
        name: _around([training["rejection"][name]["value"] for training in trainings], has_limits=True)
        for name in trainings[0]["rejection"]
        if all(training["rejection"][name]["low"] is not None for training in trainings)
    }
    figures = {
        name: _around([training[name] for training in trainings])
        for name in FIGURES
        if all(training.get(name) is not None for training in trainings)
    }
    return {"trainings": len(trainings), **figures, "rejection": rejections}


def _around(values: Sequence[float | None], *, has_limits: bool = False) -> dict[str, float | None]:
    known = [np.inf if value is None else value for value in values]
    is_known = bool(np.isfinite(known).all())
    middle = float(np.median(known) if has_limits else np.mean(known))
    return {
        "median" if has_limits else "mean": middle if np.isfinite(middle) else None,
        "deviation": float(np.std(known, ddof=1)) if is_known and len(known) > 1 else None,
        "least": float(np.min(known)) if np.isfinite(np.min(known)) else None,
        "most": float(np.max(known)) if is_known else None,
    }
