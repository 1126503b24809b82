"""Metrics of each task type as functions of how often each row counts.

Axes: D bootstrap samples, n rows, i items (residues, measured cells), K classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import Target
from subquad.bio.metrics import bootstrap
from subquad.bio.metrics.base_pairs import agreement, decode_pairs
from subquad.bio.metrics.bootstrap import Ordered

__all__ = ["Metric", "task_metrics"]

Metric = Callable[[np.ndarray], np.ndarray]
"""From the counts of rows in each bootstrap sample, `(D, n)`, to values, `(D,)`; NaN where a value is undefined."""


def task_metrics(target: Target, prediction: Any) -> dict[str, Metric]:
    """Return the metrics of the task type as functions of the counts of rows; values are sorted once.

    Args:
        target: Measured values of n rows.
        prediction: Predictions of the same rows, see `Target.outputs`; the axis of a single output may be omitted.

    Raises:
        ValueError: No rows, predictions of another shape, or not finite.
    """
    if not len(target):
        raise ValueError("there are no rows to score")
    if target.task_type == "pairs":
        return _pair_metrics(target.y, prediction)
    shape = (*target.y.shape[: 2 if target.is_residue else 1], target.outputs)
    p = np.asarray(prediction, dtype=np.float64)
    if p.shape != shape and not (target.outputs == 1 and p.shape == shape[:-1]):
        raise ValueError(f"predictions of {target.task_type} must have the shape {shape}, got {p.shape}")
    p = p.reshape(shape)
    known = target.is_known
    rows = np.nonzero(known)[0]
    if not np.isfinite(p[known] if target.is_residue or target.task_type == "multilabel" else p).all():
        raise ValueError("predictions must be finite numbers")
    match target.task_type:
        case "regression":
            return _column_metrics(target, p, known, _regression_metrics)
        case "multilabel":
            return _column_metrics(target, p, known, _ranking_metrics)
        case "residue_regression":
            metrics = _regression_metrics(target.y[known], p[known][:, 0])
            return {name: _of_items(metrics[name], rows) for name in ("r2", "pearson", "spearman", "rmse")}
        case "binary":
            return _binary_metrics(target.y == 1, p[:, 0])
        case "residue_binary":
            return _residue_binary_metrics(target.y[known] == 1, p[known][:, 0], rows)
        case "multiclass":
            return _multiclass_metrics(target.y, p)
        case _:
            return _residue_multiclass_metrics(target, target.y[known], p[known], rows)


def _of_items(metric: Metric, rows: np.ndarray) -> Metric:
    """Return a metric of items (residues, measured cells) as a function of the counts of their rows."""
    return lambda W: metric(np.take(W, rows, axis=1))


def _column_metrics(
    target: Target, p: np.ndarray, known: np.ndarray, make: Callable[..., dict[str, Metric]]
) -> dict[str, Metric]:
    columns = []
    for k in range(len(target.names)):
        rows = np.flatnonzero(known[:, k])
        if len(rows):
            own = make(target.y[rows, k], p[rows, k])
            columns.append((target.names[k], {name: _of_items(metric, rows) for name, metric in own.items()}))
    metrics = {name: _mean_metric([own[name] for _, own in columns]) for name in columns[0][1]} if columns else {}
    if target.task_type == "multilabel":
        confusion = _confusion(target.y[known].astype(int), (p[known] > 0.5).astype(int), 2, np.nonzero(known)[0])
        metrics["f1_micro"] = lambda W: bootstrap.f1_of(confusion(W))[:, 1]
    if len(target.names) > 1:
        metrics |= {f"{metric}:{name}": value for name, own in columns for metric, value in own.items()}
    return metrics


def _mean_metric(metrics: list[Metric]) -> Metric:
    if len(metrics) == 1:
        return metrics[0]
    return lambda W: bootstrap.mean_of_known(np.stack([metric(W) for metric in metrics], axis=-1))


def _regression_metrics(y: np.ndarray, p: np.ndarray) -> dict[str, Metric]:
    y_order, p_order = Ordered.of(y), Ordered.of(p)
    gains = (y - y.min()) / (np.ptp(y) or 1.0)

    def r2(W: np.ndarray) -> np.ndarray:
        error, variance = bootstrap.unexplained(W, y, p)
        is_constant = variance <= 1e-14 * np.var(y)
        return np.where(is_constant, 0.0, 1 - error / np.where(is_constant, 1.0, variance))

    metrics: dict[str, Metric] = {
        "spearman": lambda W: bootstrap.rank_correlation(W, y_order, p_order),
        "pearson": lambda W: bootstrap.correlation(W, y, p),
        "r2": r2,
        "rmse": lambda W: np.sqrt(bootstrap.unexplained(W, y, p)[0]),
        "ndcg": lambda W: bootstrap.ndcg(W, gains, y_order, p_order),
        "top10_recall": lambda W: bootstrap.top_recall(W, y_order, p_order),
    }
    if np.ptp(y) == 0:
        # equal measurements have no order and no variance to explain
        metrics |= dict.fromkeys(("spearman", "pearson", "r2", "ndcg"), _always_undefined)
    return metrics


def _ranking_metrics(y: np.ndarray, p: np.ndarray) -> dict[str, Metric]:
    order = Ordered.of(p)
    return {
        "auroc": lambda W: bootstrap.area_under_roc(W, y == 1, order),
        "average_precision": lambda W: bootstrap.average_precision(W, y == 1, order),
    }


def _binary_metrics(is_positive: np.ndarray, p: np.ndarray) -> dict[str, Metric]:
    confusion = _confusion(is_positive.astype(int), (p > 0.5).astype(int), 2)
    error = (p - is_positive) ** 2
    return _ranking_metrics(is_positive, p) | {
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        "accuracy": _accuracy(confusion),
        "f1": lambda W: bootstrap.f1_of(confusion(W))[:, 1],
        "brier": lambda W: W @ error / W.sum(1),
    }


def _residue_binary_metrics(is_positive: np.ndarray, p: np.ndarray, rows: np.ndarray) -> dict[str, Metric]:
    order = Ordered.of(p)
    confusion = _confusion(is_positive.astype(int), (p > 0.5).astype(int), 2, rows)
    metrics = _ranking_metrics(is_positive, p) | {"f1_max": lambda W: bootstrap.highest_f1(W, is_positive, order)}
    sequences, starts = np.unique(rows, return_index=True)
    values = np.empty(len(sequences))
    for k, one in enumerate(np.split(np.arange(len(rows)), starts[1:])):
        values[k] = bootstrap.area_under_roc(np.ones((1, len(one))), is_positive[one], Ordered.of(p[one]))[0]
    return {name: _of_items(metric, rows) for name, metric in metrics.items()} | {
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        "auroc_per_sequence": lambda W: bootstrap.mean_of_known(values[None].repeat(len(W), 0), W[:, sequences]),
    }


def _multiclass_metrics(y: np.ndarray, p: np.ndarray) -> dict[str, Metric]:
    confusion = _confusion(y, p.argmax(1), p.shape[1])
    each = [_ranking_metrics(y == k, p[:, k]) for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
    names = ("auroc", "average_precision")
    ranking = {name: _mean_metric([own[name] for own in each]) if each else _always_undefined for name in names}
    return {
        "accuracy": _accuracy(confusion),
        "balanced_accuracy": lambda W: bootstrap.mean_of_known(bootstrap.recalls_of(confusion(W))),
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        **ranking,
    }


def _always_undefined(W: np.ndarray) -> np.ndarray:
    return np.full(len(W), np.nan)


def _residue_multiclass_metrics(target: Target, y: np.ndarray, p: np.ndarray, rows: np.ndarray) -> dict[str, Metric]:
    confusion = _confusion(y.astype(int), p.argmax(1), p.shape[1], rows)
    recalls = {
        f"recall:{name}": lambda W, k=k: bootstrap.recalls_of(confusion(W))[:, k]
        for k, name in enumerate(target.classes)
    }
    return {
        "accuracy": _accuracy(confusion),
        "f1_macro": lambda W: bootstrap.mean_of_known(bootstrap.f1_of(confusion(W))),
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        **recalls,
    }


def _accuracy(confusion: Metric) -> Metric:
    def accuracy(W: np.ndarray) -> np.ndarray:
        table = confusion(W)
        return np.trace(table, axis1=1, axis2=2) / np.maximum(table.sum((1, 2)), 1)

    return accuracy


def _confusion(y: np.ndarray, predicted: np.ndarray, classes: int, rows: np.ndarray | None = None) -> Metric:
    """Return the function from counts of rows to confusion matrices `(D, K, K)`, truth first."""
    rows = np.arange(len(y)) if rows is None else rows
    last = int(rows.max()) + 1 if len(rows) else 0
    cells = sparse.csr_matrix((np.ones(len(y)), (rows, y * classes + predicted)), shape=(last, classes**2))
    return lambda W: (cells.T @ W[:, :last].T).T.reshape(-1, classes, classes)


def _pair_metrics(truth: list[np.ndarray], prediction: Any) -> dict[str, Metric]:
    if len(prediction) != len(truth):
        raise ValueError(f"predictions of {len(prediction)} rows for targets of {len(truth)}")
    own = [agreement(pairs, decode_pairs(P)) for pairs, P in zip(truth, prediction, strict=True)]
    names = ("precision", "recall", "f1", "f1_shifted")
    values = {name: np.array([metrics[name] for metrics in own]) for name in names}
    return {name: lambda W, value=value: W @ value / W.sum(1) for name, value in values.items()}
