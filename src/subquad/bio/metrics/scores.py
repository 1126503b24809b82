"""Metrics of each task type with bootstrap intervals; a bootstrap sample costs one pass over the rows, without sorting.

scikit-learn's metrics take one vector of weights at a time; these take a matrix of bootstrap samples, and the same code
gives the value itself from a weight of 1 for each row.

Axes: D bootstrap samples, n rows, O outputs. Rows are resampled, or units of rows that belong together; residues and
base pairs of a sequence stay together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from subquad.bio.compared_models import ENSEMBLE, names_of
from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.metrics.task_metrics import task_metrics
from subquad.reporting.metrics import Metric
from subquad.reporting.statistics import CLEARLY_BETTER, THRESHOLDS, Difference

__all__ = [
    "BOOTSTRAP",
    "MAIN_METRIC",
    "METRICS",
    "MIN_TEST_ROWS",
    "MetricInfo",
    "bootstrap_metric",
    "by_group",
    "compare_models",
    "difference",
    "intervals",
    "overall",
    "score",
    "title",
    "undefined_metrics",
    "verdict_of",
]

MAIN_METRIC: dict[TaskType, str] = {
    "regression": "spearman",
    "binary": "auroc",
    "multiclass": "accuracy",
    "multilabel": "auroc",
    "residue_regression": "r2",
    "residue_binary": "auroc",
    "residue_multiclass": "accuracy",
    "pairs": "f1",
}
"""Metric of each task type that selects models and names the winner; higher is better."""

MIN_TEST_ROWS = 20
"""Minimum number of test rows for which models are ranked."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo(Metric):
    """What is known about a metric; `title` also handles metrics of single columns and classes."""

    chance: float = 0.0
    """Value that stands for an undefined metric."""
    needs: Literal["", "positives", "both classes", "two values"] = ""
    """What the measured values must have for the metric to be defined: rows of classes, or different measurements."""
    published: str = ""
    """Name in publications."""


_rate = partial(MetricInfo, threshold=THRESHOLDS["accuracy"])
METRICS = {
    "spearman": MetricInfo(title="Spearman", needs="two values", published="spearman"),
    "pearson": MetricInfo(title="Pearson", needs="two values", published="pearson"),
    "r2": MetricInfo(title="R²", needs="two values", published="r2"),
    "rmse": MetricInfo(title="RMSE", better="lower", published="rmse"),
    "ndcg": MetricInfo(title="NDCG", needs="two values"),
    "top10_recall": _rate(title="top-10 % recall"),
    "auroc": MetricInfo(title="AUROC", chance=0.5, needs="both classes", published="auroc"),
    "average_precision": MetricInfo(title="average precision", needs="positives", published="ap"),
    "mcc": MetricInfo(title="MCC", needs="both classes", published="mcc"),
    "accuracy": _rate(title="accuracy", published="accuracy"),
    "balanced_accuracy": _rate(title="balanced accuracy"),
    "f1": _rate(title="F1", needs="positives", published="f1"),
    "f1_macro": _rate(title="F1, macro average", published="f1"),
    "f1_micro": _rate(title="F1, micro average"),
    "f1_shifted": _rate(title="F1, ±1 position"),
    "f1_max": _rate(title="maximum F1", needs="positives", published="fmax"),
    "brier": MetricInfo(title="Brier score", better="lower"),
    "precision": _rate(title="precision"),
    "recall": _rate(title="recall"),
    "auroc_per_sequence": MetricInfo(title="AUROC, mean over sequences", chance=0.5, needs="both classes"),
}
"""All metrics by their key in `metrics.json`."""

BOOTSTRAP = "bootstrap.json"
"""File of a run with the main metric of each model in the bootstrap samples of its test rows."""
DRAWS = 500
"""Bootstrap samples of an interval."""
MIN_UNITS = 10
"""Number of units from which units are resampled in place of rows: the samples of fewer say little."""
MAX_CELLS = 4_000_000
"""Maximum number of samples times items in memory at a time."""


def title(name: str) -> str:
    """Return the display name of a metric, such as `Spearman` or `Spearman, brightness`."""
    metric, _, column = name.partition(":")
    if metric == "recall" and column:
        return f"recall of {column}"
    own = METRICS[metric].title if metric in METRICS else metric
    return f"{own}, {column}" if column else own


def overall(metrics: Iterable[str]) -> list[str]:
    """Return the keys of metrics without those of single columns and classes, such as `spearman:brightness`."""
    return [name for name in metrics if ":" not in name]


def score(target: Target, prediction: Any) -> dict[str, float]:
    """Return the metrics of predictions; none of them is NaN.

    A constant prediction has a correlation of 0 and an AUROC of 0.5. Several columns of measurements or labels give the
    mean over the columns that define a metric and `spearman:NAME` for each column. With more than two classes, `auroc`
    and `average_precision` are one-vs-rest means over the classes that occur.

    Args:
        target: Measured values of n rows.
        prediction: Predictions of the same rows, see `Target.outputs`; the axis of a single output may be omitted.

    Raises:
        ValueError: Predictions of another shape, or not finite.
    """
    everyone = np.ones((1, len(target)))
    return {name: _defined(name, metric(everyone)[0]) for name, metric in task_metrics(target, prediction).items()}


def undefined_metrics(target: Target) -> dict[str, str]:
    """Return the metrics that are undefined on these rows for any prediction, and why, such as `no positive`.

    For several columns or labels, `spearman:NAME` or `auroc:NAME` is listed for each one, and the mean if it is
    undefined for all of them.
    """
    if target.task_type == "pairs":
        return {}
    y = np.asarray(target.y)
    match target.task_type:
        case "binary":
            return _undefined(y == 1)
        case "residue_binary":
            return _undefined(y[y >= 0] == 1)
        case "multiclass" if len(np.unique(y)) == 1:
            return dict.fromkeys(("auroc", "average_precision", "mcc"), "one class only")
        case "multilabel":
            return _undefined_by_column(target, [_undefined(column[np.isfinite(column)] == 1) for column in y.T])
        case "regression":
            return _undefined_by_column(target, [_undefined_of_numbers(column) for column in y.T])
        case "residue_regression":
            return _undefined_of_numbers(y)
        case _:
            return {}


def compare_models(
    target: Target, predictions: Mapping[str, Any], *, units: np.ndarray | None = None
) -> dict[str, Any]:
    """Return metrics, intervals and paired differences of models on the same rows.

    Args:
        target: Measured values of the rows.
        predictions: Predictions of each model, by its name in `COMPARED_MODELS`.
        units: `(n,)` unit of each row, such as equal sequences or a group, which bootstrap samples keep together; None:
            each row is one.

    Returns:
        `task_type`, `main_metric`; `test.<model>.<metric>`; `intervals.test.<model>.<metric>`, 95 % bootstrap
        intervals; `undefined`; `differences.<model>.<other>` for Lyra and the ensemble, by how much its main metric is
        higher than that of each other model; `ensemble_versus_best`, the same for the best single model; `wins`, the
        single model that is clearly better than every other one, else None; and `bootstrap.<model>`, the main metric in
        each bootstrap sample, None where a sample does not define it.
    """
    main = MAIN_METRIC[target.task_type]
    test = {name: score(target, values) for name, values in predictions.items()}
    # equal seeds draw equal rows, so that differences between models are paired
    drawn = {name: _drawn(target, values, units=units) for name, values in predictions.items()}
    undefined = undefined_metrics(target)

    def gap(first: str, second: str) -> dict[str, float]:
        value = test[first][main] - test[second][main]
        low, high = _interval(drawn[first][main] - drawn[second][main], value)
        return {"value": value, "low": low, "high": high}

    found: dict[str, Any] = {
        "task_type": target.task_type,
        "main_metric": main,
        "test": test,
        "undefined": undefined,
        "bootstrap": {name: _as_json(own[main]) for name, own in drawn.items()},
        "intervals": {
            "test": {
                model: {name: _interval(values, test[model][name]) for name, values in own.items()}
                for model, own in drawn.items()
            }
        },
        "differences": {
            first: {name: gap(first, name) for name in predictions if name != first}
            for first in ("lyra", ENSEMBLE)
            if first in predictions
        },
    }
    single = [name for name in predictions if name not in names_of("ensemble")]
    best = max(single, key=lambda name: test[name][main])
    if ENSEMBLE in predictions:
        found["ensemble_versus_best"] = {"best": best, **gap(ENSEMBLE, best)}
    is_clear = all(verdict_of(gap(best, name), main) == CLEARLY_BETTER for name in single if name != best)
    can_tell = len(target) >= MIN_TEST_ROWS and main not in undefined and len(single) > 1
    return found | {"wins": best if can_tell and is_clear and not _is_constant(target, predictions[best]) else None}


def verdict_of(gap: Mapping[str, float], metric: str) -> str:
    """Return what a difference `value`, `low` and `high` in a metric says of the first of two models."""
    return METRICS[metric].verdict(Difference.read(gap))


def _is_constant(target: Target, prediction: Any) -> bool:
    """Return whether all rows, or all residues with a known value, have the same prediction."""
    if isinstance(prediction, list):
        return False
    values = np.asarray(prediction)
    if target.is_residue:
        # what stands in the padding means nothing
        values = values.reshape(*target.y.shape, -1)[target.is_known]
    return bool((values == values[:1]).all())


def difference(target: Target, first: Any, second: Any, *, units: np.ndarray | None = None) -> dict[str, float]:
    """Return by how much the main metric of the first predictions is higher, with a 95 % paired bootstrap interval.

    Args:
        target: Measured values of the rows.
        first: Predictions of the rows by one model.
        second: Predictions of the same rows by another model.
        units: `(n,)` unit of each row, which bootstrap samples keep together; see `compare_models`.

    Returns:
        `value`, `low` and `high`.
    """
    name = MAIN_METRIC[target.task_type]
    value = score(target, first)[name] - score(target, second)[name]
    # equal seeds draw equal rows
    one, other = (_drawn(target, side, names=(name,), units=units)[name] for side in (first, second))
    low, high = _interval(one - other, value)
    return {"value": value, "low": low, "high": high}


def intervals(
    target: Target, prediction: Any, draws: int = DRAWS, *, names: Sequence[str] | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each metric (or of those named) from bootstrap samples of the rows."""
    drawn, values = _drawn(target, prediction, draws, names=names, seed=seed), score(target, prediction)
    return {name: _interval(own, values[name]) for name, own in drawn.items()}


def bootstrap_metric(target: Target, prediction: Any, name: str, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return one metric in each bootstrap sample of the rows, `(D,)`; equal seeds draw equal samples.

    NaN where the sample does not define it, for example because it has one class only.

    Args:
        target: Measured values of n rows.
        prediction: Predictions of the same rows; see `Target.outputs`.
        name: Name of the metric.
        draws: Number of samples, D.
        seed: Seed of the samples.
    """
    return _drawn(target, prediction, draws, names=(name,), seed=seed)[name]


def by_group(target: Target, prediction: Any, groups: Sequence[str] | np.ndarray) -> dict[str, dict[str, float]]:
    """Return the metrics that each group of rows defines, and its number of `rows`, sorted by the group's name.

    Args:
        target: Measured values of n rows.
        prediction: Predictions of the same rows; see `Target.outputs`.
        groups: `(n,)` name of the group of each row.
    """
    names, place = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    result = {}
    for k, name in enumerate(names):
        rows = np.flatnonzero(place == k)
        own = [prediction[row] for row in rows] if target.task_type == "pairs" else np.asarray(prediction)[rows]
        some = target.take(rows)
        undefined = undefined_metrics(some)
        values = {metric: value for metric, value in score(some, own).items() if metric not in undefined}
        result[str(name)] = {"rows": len(rows), **values}
    return result


def _undefined(is_positive: np.ndarray) -> dict[str, str]:
    if not is_positive.any():
        return {name: "no positive" for name, info in METRICS.items() if info.needs in ("positives", "both classes")}
    is_short = is_positive.all()
    return {name: "no negative" for name, info in METRICS.items() if is_short and info.needs == "both classes"}


def _undefined_of_numbers(y: np.ndarray) -> dict[str, str]:
    known = np.unique(y[np.isfinite(y)])
    why = "a single value" if len(known) else "no measurement"
    return {name: why for name, info in METRICS.items() if len(known) < 2 and info.needs == "two values"}


def _undefined_by_column(target: Target, columns: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what is undefined in all columns and, of several, also what is undefined in each."""
    everywhere = {name: why for name, why in columns[0].items() if all(name in own for own in columns)}
    if len(columns) == 1:
        return everywhere
    named = zip(target.names, columns, strict=True)
    return everywhere | {f"{name}:{column}": why for column, own in named for name, why in own.items()}


def _defined(name: str, value: float) -> float:
    return METRICS[name.partition(":")[0]].chance if np.isnan(value) else float(value)


def _drawn(
    target: Target,
    prediction: Any,
    draws: int = DRAWS,
    *,
    names: Sequence[str] | None = None,
    units: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    metrics = {name: own for name, own in task_metrics(target, prediction).items() if names is None or name in names}
    samples = _samples(target, draws, units=units, seed=seed)
    drawn = [{name: metric(W) for name, metric in metrics.items()} for W in samples]
    return {name: np.concatenate([own[name] for own in drawn]) for name in metrics}


def _as_json(values: np.ndarray) -> list[float | None]:
    """Return values as a list, with None where they are undefined, because JSON has no NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _interval(drawn: np.ndarray, value: float) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
    return float(low), float(high)


def _samples(target: Target, draws: int, *, units: np.ndarray | None, seed: int) -> Iterator[np.ndarray]:
    """Yield the counts of rows in bootstrap samples, `(D, n)`, a few samples at a time."""
    random, rows = np.random.default_rng(seed), len(target)
    unit = np.arange(rows)
    if units is not None:
        _, first, of_row = np.unique(units, return_index=True, return_inverse=True)
        if len(first) >= MIN_UNITS:
            # in order of appearance, so that units of one row each give the samples of rows
            unit = np.argsort(np.argsort(first))[of_row]
    count = int(unit.max(initial=-1)) + 1
    items = target.y.size if target.is_residue else rows
    size = max(1, MAX_CELLS // max(items, 1))
    for start in range(0, draws, size):
        some = min(size, draws - start)
        drawn = random.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
        yield counts[:, unit]
