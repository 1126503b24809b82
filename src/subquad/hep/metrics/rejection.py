"""Background rejection at a signal efficiency, with an interval that covers the sampling of both classes.

Axes: J jets, C classes, K efficiencies.
"""

from collections.abc import Sequence

import numpy as np

from subquad.hep.metrics.weighting import equivalent_counts, passed_and_total, sum_of_weights
from subquad.reporting.statistics import clopper_pearson, wilson

SIGNAL_EFFICIENCIES = {"Hqql": 0.99, "Tbl": 0.995}
"""Signal efficiency at which the rejection is measured, as in the table of JetClass; 0.5 for the other classes."""

CONFIDENCE = 0.6826894921370859
"""Coverage of one standard deviation of a normal distribution."""


def discriminant(probabilities: np.ndarray, signal: int, background: int) -> np.ndarray:
    """Return [J]: the discriminant of signal and background, p_S / (p_S + p_B)."""
    p, q = probabilities[:, signal].astype(np.float64), probabilities[:, background].astype(np.float64)
    return p / np.maximum(p + q, np.finfo(np.float64).tiny)


def threshold_at(scores: np.ndarray, fractions: float | np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the largest thresholds that at least these fractions of the scores, or of their weights, reach."""
    if weights is not None:
        order = np.argsort(-scores, kind="stable")
        # with negative weights the fraction may decrease, and its first crossing counts
        reached = np.maximum.accumulate(np.cumsum(weights[order]))
        places = np.searchsorted(reached, np.asarray(fractions) * weights.sum() - 1e-9 * reached[-1])
        return scores[order][places.clip(0, len(scores) - 1)]
    # tolerates the rounding of a fraction times a count
    places = np.ceil(np.asarray(fractions) * len(scores) - 1e-9).astype(np.int64).clip(1) - 1
    return np.sort(scores)[::-1][places]


def rejection(
    probabilities: np.ndarray,
    labels: np.ndarray,
    signal: int,
    background: int,
    efficiency: float,
    *,
    weights: np.ndarray | None = None,
) -> dict[str, float | None]:
    r"""Return the rejection $1/\varepsilon_B$ at a signal efficiency, with its 68.3 % interval by `rejection_at`.

    Returns:
        `efficiency`, `value`, `low` and `high`. `value` and `high` are None if no background jet passes: the sample
        only sets the lower limit `low`. `high` is None as well if none passes at the upper limit of the threshold. All
        three are None if a class has no jets.
    """
    score = discriminant(probabilities, signal, background)
    is_signal, is_background = labels == signal, labels == background
    of_signal, of_background = ((None if weights is None else weights[of]) for of in (is_signal, is_background))
    if not all(sum_of_weights(of, weights) > 0 for of in (is_signal, is_background)):
        return {"efficiency": efficiency, "value": None, "low": None, "high": None}
    found = rejection_at(score[is_signal], score[is_background], np.array([efficiency]), of_signal, of_background)
    limits = zip(("value", "low", "high"), found, strict=True)
    return {
        "efficiency": efficiency,
        **{name: float(limit[0]) if np.isfinite(limit[0]) else None for name, limit in limits},
    }


def rejection_at(
    signal: np.ndarray,
    background: np.ndarray,
    efficiencies: np.ndarray,
    of_signal: np.ndarray | None,
    of_background: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return the rejection $1/\varepsilon_B$ at signal efficiencies, and the limits of its 68.3 % interval.

    The interval covers the sampling of both classes. The background's part is the Clopper–Pearson interval of
    $\varepsilon_B$ at the threshold. The signal's part is that of the threshold: from the rejection at the upper limit
    of Wilson's interval of the signal efficiency to that at the lower limit. The distances of both from the value, on a
    logarithmic scale, are added in quadrature.

    Args:
        signal: Scores of the signal.
        background: Scores of the background.
        efficiencies: [K].
        of_signal: Weights of the signal; None counts all the same.
        of_background: Weights of the background.

    Returns:
        Value, lower and upper limit, [K] each. Value and upper limit are infinite where no background passes; then the
        lower limit is the background's alone.
    """
    _, number = passed_and_total(np.ones(len(signal), bool), of_signal)
    at = np.stack([efficiencies, *wilson(efficiencies * number, np.full(len(efficiencies), number), CONFIDENCE)])
    passed, total = _passing(background, threshold_at(signal, at, of_signal), of_background)
    value, tighter, looser = inverse(passed / total)
    lowest, highest = clopper_pearson(passed[0], total[0], CONFIDENCE)
    low, high = 1 / highest, inverse(lowest)
    known = np.isfinite(value)
    middle = np.log(value[known])
    # with negative weights a looser cut may have the larger rejection
    below = np.hypot(middle - np.log(low[known]), (middle - np.log(looser[known])).clip(0))
    above = np.hypot(np.log(high[known]) - middle, (np.log(tighter[known]) - middle).clip(0))
    low[known], high[known] = np.exp(middle - below), np.exp(middle + above)
    return value, low.clip(1), high


def inverse(rate: np.ndarray) -> np.ndarray:
    """Return 1 / `rate`; infinity where it is 0."""
    return np.divide(1.0, rate, out=np.full(np.shape(rate), np.inf), where=np.asarray(rate) > 0)


def _passing(scores: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return how many jets reach each threshold, and of how many: numbers of jets, or equivalent ones by weights."""
    order = np.argsort(scores, kind="stable")
    places = np.searchsorted(scores[order], thresholds, side="left")
    if weights is None:
        return len(scores) - places, np.full(np.shape(places), len(scores))
    own = weights[order].astype(np.float64)
    sums, squares = (np.concatenate([[0.0], np.cumsum(column)]) for column in (own, own**2))
    return equivalent_counts(sums[-1] - sums[places], squares[-1] - squares[places], own)


def signal_efficiency(signal: str, given: float | None = None) -> float:
    """Return the efficiency at which the rejection by a signal is measured: the given one, or that of JetClass."""
    return given or SIGNAL_EFFICIENCIES.get(signal, 0.5)


def rejections(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    background: str,
    *,
    weights: np.ndarray | None = None,
    efficiency: float | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return `rejection` of the background by each other class, at an efficiency or at those of JetClass's table."""
    of = list(classes).index(background)
    return {
        name: rejection(probabilities, labels, signal, of, signal_efficiency(name, efficiency), weights=weights)
        for signal, name in enumerate(classes)
        if name != background
    }
