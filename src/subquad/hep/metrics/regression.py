"""Metrics of regression targets: bias, resolution and correlation of predicted and true values. O(J log J).

Axes: J jets.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

REGRESSION_METRICS = {"bias": "bias", "resolution": "resolution", "pearson": "Pearson"}
"""Metrics of a target, and their names in tables."""

RESAMPLES = 100


def response(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return predicted / true of the jets whose true value is above 0; NaN for the others."""
    return np.divide(predicted, true, out=np.full(len(true), np.nan), where=true > 0, dtype=np.float64)


def regression_metrics(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
    """Return the metrics of one target.

    Args:
        predicted: [J].
        true: [J].
        weights: [J], event weights; None counts all jets the same.

    Returns:
        `bias`, the median of predicted / true minus 1; `resolution`, half of the range of predicted / true between its
        16 % and 84 % quantiles; both of the `jets` with a true value above 0, and None without any; `pearson`, the
        correlation of all jets; and `intervals` of 68.3 % by bootstrap over jets.
    """
    own = np.ones(len(true)) if weights is None else weights.astype(np.float64)
    ratio = response(predicted, true)
    is_known = ~np.isnan(ratio)
    order = np.argsort(ratio[is_known], kind="stable")
    sorted_ratio = ratio[is_known][order]
    x, y = predicted.astype(np.float64), true.astype(np.float64)

    def values(drawn: np.ndarray) -> dict[str, float | None]:
        quantiles = _quantiles(sorted_ratio, drawn[is_known][order], (0.16, 0.5, 0.84))
        correlation = _pearson(x, y, drawn)
        if quantiles is None:
            return {"bias": None, "resolution": None, "pearson": correlation}
        low, middle, high = quantiles
        return {"bias": middle - 1, "resolution": (high - low) / 2, "pearson": correlation}

    generator = np.random.default_rng(0)
    found = values(own)
    resampled = [values(own * generator.poisson(1.0, len(true))) for _ in range(RESAMPLES)]
    intervals = {}
    for name, value in found.items():
        others = [other for one in resampled if (other := one[name]) is not None]
        if value is not None and others:
            error = float(np.std(others))
            intervals[name] = [value - error, value + error]
    return {**found, "jets": int(is_known.sum()), "intervals": intervals}


def _quantiles(values: np.ndarray, weights: np.ndarray, parts: Sequence[float]) -> list[float] | None:
    """Return weighted quantiles of sorted values; None if the weights do not add up to more than 0."""
    if not weights.sum() > 0:
        return None
    # with negative weights the sum may decrease, and its first crossing counts
    sums = np.maximum.accumulate(np.cumsum(weights))
    places = np.searchsorted(sums, np.array(parts) * weights.sum())
    return values[places.clip(0, len(values) - 1)].tolist()


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float | None:
    if not weights.sum() > 0:
        return None
    u, v = (one - np.average(one, weights=weights) for one in (x, y))
    of_both, of_x, of_y = ((weights * one).sum() for one in (u * v, u * u, v * v))
    return float(of_both / (of_x * of_y) ** 0.5) if of_x * of_y > 0 else None


def regression_summary(trainings: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mean of each metric over trainings, by metric and target, and the intervals.

    Args:
        trainings: Metrics of the trainings of a model; `targets` holds those of each target.

    Returns:
        Values and intervals: of one training those over jets, of several the range.
    """
    values: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for target in trainings[0].get("targets", {}):
        for name in REGRESSION_METRICS:
            entries = [one["targets"][target] for one in trainings]
            known = [entry[name] for entry in entries if entry[name] is not None]
            if not known:
                continue
            values.setdefault(name, {})[target] = mean(known)
            own = entries[0]["intervals"].get(name) if len(entries) == 1 else [min(known), max(known)]
            if own is not None:
                intervals.setdefault(name, {})[target] = own
    return values, intervals
