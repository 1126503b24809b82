"""How good predictions are, of each kind of target, with bootstrap intervals. A sample costs one pass, and no sorting.

Axes: D samples, n rows, O outputs. The unit of the bootstrap is the row: a sequence's residues and pairs stay together.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import TaskType, Target
from subquad.bio.metrics import bootstrap
from subquad.bio.metrics.base_pairs import agreement, decode_pairs
from subquad.bio.metrics.bootstrap import Ordered

__all__ = [
    "LOWER_IS_BETTER",
    "MAIN_METRIC",
    "MIN_TEST_ROWS",
    "TITLES",
    "bootstrap_metric",
    "by_group",
    "decode_pairs",
    "difference",
    "intervals",
    "score",
    "title",
    "undefined_metrics",
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
"""The figure that choices are made by and the winner is named by; higher is better."""

MIN_TEST_ROWS = 20
"""Test rows below which figures tell no model from another."""

LOWER_IS_BETTER = ("rmse", "brier")

TITLES = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "r2": "R²",
    "rmse": "RMSE",
    "ndcg": "NDCG",
    "top10_recall": "top-10 % recall",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mcc": "MCC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_macro": "F1, mean of classes",
    "f1_micro": "F1, all labels",
    "f1_shifted": "F1, ±1 place",
    "f1_max": "highest F1",
    "brier": "Brier score",
    "precision": "precision",
    "recall": "recall",
    "auroc_per_sequence": "AUROC, mean of sequences",
}
"""What people call a figure; `title` knows those of one column or class too."""

CELLS = 4_000_000
"""Samples times items that are held at a time."""

Figure = Callable[[np.ndarray], np.ndarray]
"""From counts of rows, `(D, n)`, to the figure of each sample, `(D,)`; NaN where it has nothing to measure it on."""
NOTHING = {"auroc": 0.5, "auroc_per_sequence": 0.5}
"""What a figure is where there is nothing to measure it on; 0 for all others."""
OF_BOTH_CLASSES = ("auroc", "auroc_per_sequence", "mcc")
OF_POSITIVES = ("average_precision", "f1", "f1_max")
"""Figures that one class alone, or negatives alone, cannot measure."""


def title(name: str) -> str:
    """Return what people call a figure, such as `Spearman` or `Spearman, brightness`."""
    first, _, column = name.partition(":")
    if first == "recall" and column:
        return f"recall of {column}"
    return f"{TITLES.get(first, first)}, {column}" if column else TITLES.get(first, first)


def score(target: Target, prediction: Any) -> dict[str, float]:
    """Return the figures of predictions, never NaN.

    Args:
        target: what was measured, of n rows.
        prediction: of the same rows, see `Target.outputs`; where there is one output its axis may be left out.

    A constant prediction has the correlation 0 and the AUROC 0.5. Several columns of measurements or labels give the
    mean over the columns, and `spearman:NAME` for each. With more than two classes `auroc` and `ap` are means over the
    classes that occur, each against the rest.

    Raises:
        ValueError: predictions of another shape, or not finite.
    """
    everyone = np.ones((1, len(target)))
    figures = _figures(target, prediction)
    return {name: _settled(name, figure(everyone)[0]) for name, figure in figures.items()}


def undefined_metrics(target: Target) -> dict[str, str]:
    """Return the figures that the rows cannot measure, whatever is predicted, and what is lacking: `no positive`.

    Of several labels it is said for each, `auroc:NAME`, and for the mean where it holds for all.
    """
    y = np.asarray(target.y) if target.task_type != "pairs" else None
    match target.task_type:
        case "binary":
            return _lacking(y == 1)
        case "residue_binary":
            return _lacking(y[y >= 0] == 1)
        case "multiclass" if len(np.unique(y)) == 1:
            return dict.fromkeys(("auroc", "average_precision", "mcc"), "one class only")
        case "multilabel":
            labels = [_lacking(column[np.isfinite(column)] == 1) for column in y.T]
            everywhere = {name: said for name, said in labels[0].items() if all(name in own for own in labels)}
            if len(labels) == 1:
                return everywhere
            columns = zip(target.names, labels, strict=True)
            return everywhere | {f"{name}:{label}": said for label, own in columns for name, said in own.items()}
        case _:
            return {}


def _lacking(is_positive: np.ndarray) -> dict[str, str]:
    if not is_positive.any():
        return dict.fromkeys((*OF_BOTH_CLASSES, *OF_POSITIVES), "no positive")
    return dict.fromkeys(OF_BOTH_CLASSES, "no negative") if is_positive.all() else {}


def difference(
    target: Target, first: Any, second: Any, *, draws: int = 200, name: str | None = None, seed: int = 0
) -> dict[str, float]:
    """Return by how much the first predictions' main figure is above the second's, with a 95 % interval.

    The interval is that of `draws` bootstrap samples of the rows, the same rows for both. `name` asks for another
    figure than the main one.
    """
    name = name or MAIN_METRIC[target.task_type]
    sides = [_figures(target, prediction)[name] for prediction in (first, second)]
    everyone = np.ones((1, len(target)))
    values = [_settled(name, side(everyone)[0]) for side in sides]
    drawn = [sides[0](W) - sides[1](W) for W in _samples(target, draws, seed)]
    low, high = _quantiles(np.concatenate(drawn), values[0] - values[1])
    return {"value": values[0] - values[1], "low": low, "high": high}


def intervals(
    target: Target, prediction: Any, draws: int = 200, *, names: Sequence[str] | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each figure by the percentiles of `draws` bootstrap samples of the rows."""
    figures = {k: figure for k, figure in _figures(target, prediction).items() if names is None or k in names}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in figures}
    for W in _samples(target, draws, seed):
        for name, figure in figures.items():
            drawn[name].append(figure(W))
    everyone = np.ones((1, len(target)))
    return {
        name: _quantiles(np.concatenate(drawn[name]), _settled(name, figure(everyone)[0]))
        for name, figure in figures.items()
    }


def bootstrap_metric(target: Target, prediction: Any, name: str, *, draws: int = 200, seed: int = 0) -> np.ndarray:
    """Return one figure in each of `draws` bootstrap samples of the rows; equal seeds draw equal samples.

    NaN: the sample has nothing to measure it on, such as one class only.
    """
    figure = _figures(target, prediction)[name]
    return np.concatenate([figure(W) for W in _samples(target, draws, seed)])


def by_group(target: Target, prediction: Any, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the figures in each group of rows, and its number of `rows`; groups in the order of their names."""
    names, place = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    result = {}
    for k, name in enumerate(names):
        rows = np.flatnonzero(place == k)
        own = [prediction[row] for row in rows] if target.task_type == "pairs" else np.asarray(prediction)[rows]
        result[str(name)] = {"rows": len(rows), **score(target.take(rows), own)}
    return result


def _settled(name: str, value: float) -> float:
    return NOTHING.get(name.partition(":")[0], 0.0) if np.isnan(value) else float(value)


def _quantiles(drawn: np.ndarray, value: float) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
    return float(low), float(high)


def _samples(target: Target, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield counts of rows, `(D, n)`, of few samples at a time."""
    random, rows = np.random.default_rng(seed), len(target)
    items = target.y.size if target.is_residue else rows
    size = max(1, CELLS // max(items, 1))
    for start in range(0, draws, size):
        some = min(size, draws - start)
        drawn = random.integers(0, rows, (some, rows)) + rows * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * rows).reshape(some, rows).astype(np.float64)


def _figures(target: Target, prediction: Any) -> dict[str, Figure]:
    """Return the figures that fit the kind; all that needs the predictions' order is done here, once."""
    if not len(target):
        raise ValueError("there are no rows to score")
    if target.task_type == "pairs":
        return _of_pairs(target.y, prediction)
    shape = (*target.y.shape[: 2 if target.is_residue else 1], target.outputs)
    p = np.asarray(prediction, dtype=np.float64)
    if p.shape != shape and not (target.outputs == 1 and p.shape == shape[:-1]):
        raise ValueError(f"predictions of {target.task_type} must have the shape {shape}, got {p.shape}")
    p = p.reshape(shape)
    known = np.isfinite(target.y) if target.y.dtype.kind == "f" else target.y >= 0
    rows = np.nonzero(known)[0] if target.is_residue else None
    if not np.isfinite(p[known] if target.is_residue or target.task_type == "multilabel" else p).all():
        raise ValueError("predictions must be finite numbers")
    match target.task_type:
        case "regression" | "multilabel":
            make = _of_numbers if target.task_type == "regression" else _of_labels
            return _of_columns(target, p, known, make)
        case "residue_regression":
            figures = _of_numbers(target.y[known], p[known][:, 0])
            return {name: _spread_out(figures[name], rows) for name in ("r2", "pearson", "spearman", "rmse")}
        case "binary":
            return _of_two_classes(target.y == 1, p[:, 0])
        case "residue_binary":
            return _of_two_residue_classes(target.y[known] == 1, p[known][:, 0], rows)
        case "multiclass":
            return _of_classes(target.y, p)
        case _:
            return _of_residue_classes(target, target.y[known], p[known], rows)


def _spread_out(figure: Figure, rows: np.ndarray) -> Figure:
    """Return the figure of residues from counts of sequences."""
    return lambda W: figure(np.take(W, rows, axis=1))


def _of_columns(target: Target, p: np.ndarray, known: np.ndarray, make: Callable[..., dict]) -> dict[str, Figure]:
    columns = []
    for k in range(len(target.names)):
        rows = np.flatnonzero(known[:, k])
        if len(rows):
            own = make(target.y[rows, k], p[rows, k])
            columns.append((target.names[k], {name: _spread_out(figure, rows) for name, figure in own.items()}))
    figures = {name: _averaged([own[name] for _, own in columns]) for name in columns[0][1]} if columns else {}
    if target.task_type == "multilabel":
        confusion = _confusion(target.y[known].astype(int), (p[known] > 0.5).astype(int), 2, np.nonzero(known)[0])
        figures["f1_micro"] = lambda W: bootstrap.f1_of(confusion(W))[:, 1]
    if len(target.names) > 1:
        figures |= {f"{metric}:{name}": figure for name, own in columns for metric, figure in own.items()}
    return figures


def _averaged(figures: list[Figure]) -> Figure:
    if len(figures) == 1:
        return figures[0]
    return lambda W: bootstrap.mean_of_known(np.stack([figure(W) for figure in figures], axis=-1))


def _of_numbers(y: np.ndarray, p: np.ndarray) -> dict[str, Figure]:
    y_order, p_order = Ordered.of(y), Ordered.of(p)
    gains = (y - y.min()) / (np.ptp(y) or 1.0)

    def r2(W: np.ndarray) -> np.ndarray:
        error, variance = bootstrap.unexplained(W, y, p)
        is_constant = variance <= 1e-14 * np.var(y)
        return np.where(is_constant, 0.0, 1 - error / np.where(is_constant, 1.0, variance))

    return {
        "spearman": lambda W: bootstrap.rank_correlation(W, y_order, p_order),
        "pearson": lambda W: bootstrap.correlation(W, y, p),
        "r2": r2,
        "rmse": lambda W: np.sqrt(bootstrap.unexplained(W, y, p)[0]),
        "ndcg": lambda W: bootstrap.ndcg(W, gains, y_order, p_order),
        "top10_recall": lambda W: bootstrap.top_recall(W, y_order, p_order),
    }


def _of_labels(y: np.ndarray, p: np.ndarray) -> dict[str, Figure]:
    order = Ordered.of(p)
    return {
        "auroc": lambda W: bootstrap.area_under_roc(W, y == 1, order),
        "average_precision": lambda W: bootstrap.average_precision(W, y == 1, order),
    }


def _of_two_classes(is_positive: np.ndarray, p: np.ndarray) -> dict[str, Figure]:
    confusion = _confusion(is_positive.astype(int), (p > 0.5).astype(int), 2)
    error = (p - is_positive) ** 2
    return _of_labels(is_positive, p) | {
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        "accuracy": lambda W: np.trace(confusion(W), axis1=1, axis2=2) / W.sum(1),
        "f1": lambda W: bootstrap.f1_of(confusion(W))[:, 1],
        "brier": lambda W: W @ error / W.sum(1),
    }


def _of_two_residue_classes(is_positive: np.ndarray, p: np.ndarray, rows: np.ndarray) -> dict[str, Figure]:
    order = Ordered.of(p)
    confusion = _confusion(is_positive.astype(int), (p > 0.5).astype(int), 2, rows)
    figures = _of_labels(is_positive, p) | {"f1_max": lambda W: bootstrap.highest_f1(W, is_positive, order)}
    places, starts = np.unique(rows, return_index=True)
    values = np.empty(len(places))
    for k, one in enumerate(np.split(np.arange(len(rows)), starts[1:])):
        values[k] = bootstrap.area_under_roc(np.ones((1, len(one))), is_positive[one], Ordered.of(p[one]))[0]
    return {name: _spread_out(figure, rows) for name, figure in figures.items()} | {
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        "auroc_per_sequence": lambda W: bootstrap.mean_of_known(values[None].repeat(len(W), 0), W[:, places]),
    }


def _of_classes(y: np.ndarray, p: np.ndarray) -> dict[str, Figure]:
    confusion = _confusion(y, p.argmax(1), p.shape[1])
    each = [_of_labels(y == k, p[:, k]) for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
    every = {name: _averaged([own[name] for own in each]) if each else _nothing for name in ("auroc", "average_precision")}
    return {
        "accuracy": lambda W: np.trace(confusion(W), axis1=1, axis2=2) / W.sum(1),
        "balanced_accuracy": lambda W: bootstrap.mean_of_known(bootstrap.recalls_of(confusion(W))),
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
        **every,
    }


def _nothing(W: np.ndarray) -> np.ndarray:
    return np.full(len(W), np.nan)


def _of_residue_classes(target: Target, y: np.ndarray, p: np.ndarray, rows: np.ndarray) -> dict[str, Figure]:
    confusion = _confusion(y.astype(int), p.argmax(1), p.shape[1], rows)
    figures: dict[str, Figure] = {
        "accuracy": lambda W: np.trace(confusion(W), axis1=1, axis2=2) / np.maximum(confusion(W).sum((1, 2)), 1),
        "f1_macro": lambda W: bootstrap.mean_of_known(bootstrap.f1_of(confusion(W))),
        "mcc": lambda W: bootstrap.matthews(confusion(W)),
    }
    for k, name in enumerate(target.classes):
        figures[f"recall:{name}"] = lambda W, k=k: bootstrap.recalls_of(confusion(W))[:, k]
    return figures


def _confusion(y: np.ndarray, said: np.ndarray, classes: int, rows: np.ndarray | None = None) -> Figure:
    """Return the function from counts of rows to confusions `(D, K, K)`, truth first."""
    rows = np.arange(len(y)) if rows is None else rows
    last = int(rows.max()) + 1 if len(rows) else 0
    cells = sparse.csr_matrix((np.ones(len(y)), (rows, y * classes + said)), shape=(last, classes**2))
    return lambda W: (cells.T @ W[:, :last].T).T.reshape(-1, classes, classes)


def _of_pairs(truth: list[np.ndarray], prediction: Any) -> dict[str, Figure]:
    if len(prediction) != len(truth):
        raise ValueError(f"predictions of {len(prediction)} rows for targets of {len(truth)}")
    own = [agreement(pairs, decode_pairs(P)) for pairs, P in zip(truth, prediction, strict=True)]
    values = {
        name: np.array([figures[name] for figures in own]) for name in ("precision", "recall", "f1", "f1_shifted")
    }
    return {name: lambda W, value=value: W @ value / W.sum(1) for name, value in values.items()}
