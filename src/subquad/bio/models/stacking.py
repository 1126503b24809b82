r"""Several models' predictions in one: weights that sum to one, drawn to the middle where few rows speak.

Each model is first brought to the scale of the target: measurements by a rising line,
probabilities by a temperature. Neither changes a model's order of the rows, nor what it says at the threshold one half,
so that a stack of one model is as good as that model. What is weighed is the measurement, or the logarithm of the odds
(of the probabilities, for several classes: the logarithmic pool).

Candidates are each model alone, equal weights, and the weights of the least squared error or log-loss. How much each
counts is how often it has the best main figure in bootstrap samples of the rows (pseudo-BMA+ of Yao et al.,
arXiv:1704.02030, on figures instead of densities). So a clear winner takes all, and where rows cannot tell models
apart the weights stay near equal. Costs seconds at most.

Axes: M models, i known values (cells of a table, residues, pairs of letters), C classes, n rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar, nnls
from scipy.special import expit, log_softmax, softmax

from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.metrics import scores as metrics

__all__ = ["Stacking", "fit_stacking"]

LEAST = 1e-7
"""Probabilities are kept so far from 0 and 1."""
ITEMS = 60_000
"""Known values that weights are fitted on; of more, so many are drawn."""
FOLDS = 5
SHARPNESS = 2
"""Power of the shares: 1 leaves weights near equal where 30 rows tell models apart, much more drops equals."""
PRIOR = 2.0
"""So many rows' worth of belief that a model is on the target's scale already, and that models are equally good."""


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How models' predictions make one."""

    task_type: TaskType
    weights: dict[str, float]
    """Of each model; none is negative, and they sum to one."""
    shift: dict[str, tuple[float, ...]]
    """What is added to each model's predictions, after the scale; one a column of measurements, else 0."""
    scale: dict[str, tuple[float, ...]]
    """What multiplies each model's predictions (of probabilities: the log-odds); one a column, else one."""
    rows: int
    """Rows that this was decided on."""

    def predict(self, predictions: Mapping[str, Any]) -> Any:
        """Return the stacked predictions, of the shape of one model's; see `Target.outputs`.

        Args:
            predictions: of the same rows, by model; those of weight 0 may be missing.

        Raises:
            ValueError: predictions of a model with a weight are missing.
        """
        missing = [name for name, weight in self.weights.items() if weight > 0 and name not in predictions]
        if missing:
            raise ValueError(f"the stack needs the predictions of {', '.join(missing)}")
        used = [name for name, weight in self.weights.items() if weight > 0]
        if self.task_type != "pairs":
            return self._mixed({name: np.asarray(predictions[name], dtype=np.float64) for name in used})
        sets = zip(*(predictions[name] for name in used), strict=True)
        return [self._mixed(dict(zip(used, own, strict=True))) for own in sets]

    def _mixed(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        total: Any = 0.0
        for name, value in values.items():
            own = _opened(self.task_type, value)
            total = total + self.weights[name] * (np.array(self.shift[name]) + np.array(self.scale[name]) * own)
        return _closed(self.task_type, total)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON knows."""
        lists = {part: {k: list(v) for k, v in getattr(self, part).items()} for part in ("shift", "scale")}
        return {"task_type": self.task_type, "weights": dict(self.weights), **lists, "rows": self.rows}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "Stacking":
        """Return it from what `plain` gave."""
        tuples = {part: {k: tuple(v) for k, v in said[part].items()} for part in ("shift", "scale")}
        return cls(task_type=said["task_type"], weights=dict(said["weights"]), rows=said["rows"], **tuples)


@dataclass(frozen=True)
class _Items:
    """What is known of the rows, flat."""

    values: np.ndarray
    """`(M, i)`, or `(M, i, C)` of several classes."""
    truth: np.ndarray
    """`(i,)`"""
    rows: np.ndarray
    """`(i,)` the row that each is of."""
    column: np.ndarray
    """`(i,)` the column of measurements."""

    def take(self, items: np.ndarray) -> "_Items":
        return _Items(self.values[:, items], self.truth[items], self.rows[items], self.column[items])


def fit_stacking(
    target: Target, predictions: Mapping[str, Any], *, draws: int = 100, shrink: float = PRIOR, seed: int = 0
) -> Stacking:
    """Return the stack of models, decided on rows that none of them was fitted on.

    Args:
        target: measured, of n rows.
        predictions: of these rows, by model; see `Target.outputs`.
        draws: bootstrap samples that the candidates are judged on.
        shrink: so many rows' worth of belief that the models are equally good and on the target's scale.
        seed: of the samples.

    With fewer than five rows, or where all have one value, the models count equally and stay as they are.

    Raises:
        ValueError: no models, or predictions of another shape.
    """
    names = list(predictions)
    if not names:
        raise ValueError("a stack needs at least one model")
    columns = len(target.names) if target.task_type == "regression" else 1
    shift, scale = np.zeros((len(names), columns)), np.ones((len(names), columns))
    weights = np.full(len(names), 1 / len(names))
    items = _items(target, [predictions[name] for name in names]) if len(target) else None
    if items is not None and len(np.unique(items.rows)) >= 5 and np.ptp(items.truth) > 0:
        random = np.random.default_rng(seed)
        few = items.take(random.choice(len(items.truth), ITEMS, False)) if len(items.truth) > ITEMS else items
        shift, scale = _scales(target.task_type, few, columns, shrink)
        few, made = _scaled(few, shift, scale), _make(target.task_type, names, shift, scale, len(target))
        weights = _weights(target, predictions, few, made, draws=draws, shrink=shrink, random=random)
        blend = _Items(np.tensordot(weights, few.values, 1)[None], few.truth, few.rows, few.column)
        last_shift, last_scale = _scales(target.task_type, blend, columns, shrink)
        shift, scale = last_shift + last_scale * shift, last_scale * scale
    return _make(target.task_type, names, shift, scale, len(target))(weights)


def _make(
    task_type: TaskType, names: list[str], shift: np.ndarray, scale: np.ndarray, rows: int
) -> Callable[[np.ndarray], Stacking]:
    def make(weights: np.ndarray) -> Stacking:
        return Stacking(
            task_type=task_type,
            weights={name: float(weight) for name, weight in zip(names, weights, strict=True)},
            shift={name: tuple(map(float, own)) for name, own in zip(names, shift, strict=True)},
            scale={name: tuple(map(float, own)) for name, own in zip(names, scale, strict=True)},
            rows=rows,
        )

    return make


def _opened(task_type: TaskType, value: Any) -> np.ndarray:
    """Return what is weighed: measurements as they are, log-odds, or logarithms of probabilities."""
    value = np.asarray(value, dtype=np.float64)
    if task_type.endswith("regression"):
        return value
    value = np.clip(value, LEAST, 1 - LEAST)
    return np.log(value) if task_type.endswith("multiclass") else np.log(value / (1 - value))


def _closed(task_type: TaskType, value: np.ndarray) -> np.ndarray:
    if task_type.endswith("regression"):
        return value
    return softmax(value, axis=-1) if task_type.endswith("multiclass") else expit(value)


def _items(target: Target, predictions: list[Any]) -> _Items:
    if target.task_type == "pairs":
        return _pair_items(target, predictions)
    y = np.asarray(target.y)
    cells = y if y.ndim == 2 else y[:, None]
    known = np.isfinite(cells) if cells.dtype.kind == "f" else cells >= 0
    rows, places = np.nonzero(known)
    values = []
    for prediction in predictions:
        own = _opened(target.task_type, prediction).reshape(*y.shape[: 2 if target.is_residue else 1], target.outputs)
        own = own[:, None] if target.task_type == "multiclass" else own
        own = own[..., 0] if target.is_residue and target.outputs == 1 else own
        values.append(own[rows, places])
    column = places if target.task_type == "regression" else np.zeros_like(places)
    return _Items(np.stack(values), cells[known], rows, column)


def _pair_items(target: Target, predictions: list[Any]) -> _Items:
    values, truth, rows = [], [], []
    for row, pairs in enumerate(target.y):
        length = len(predictions[0][row])
        first, second = np.triu_indices(length, 1)
        own = np.zeros((length, length))
        own[pairs[:, 0], pairs[:, 1]] = 1
        truth.append(own[first, second])
        values.append(np.stack([_opened("pairs", prediction[row])[first, second] for prediction in predictions]))
        rows.append(np.full(len(first), row))
    row = np.concatenate(rows)
    return _Items(np.concatenate(values, axis=1), np.concatenate(truth), row, np.zeros_like(row))


def _scales(task_type: TaskType, items: _Items, columns: int, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shift and the scale of each model and column, `(M, columns)`, that bring it to the target's scale."""
    shift, scale = np.zeros((len(items.values), columns)), np.ones((len(items.values), columns))
    for model, values in enumerate(items.values):
        if not task_type.endswith("regression"):
            scale[model] = _temperature(values, items.truth, prior)
            continue
        for k in range(columns):
            p, y = values[items.column == k], items.truth[items.column == k]
            if len(y):
                scale[model, k] = _slope(p, y, prior)
                shift[model, k] = y.mean() - scale[model, k] * p.mean()
    return shift, scale


def _slope(p: np.ndarray, y: np.ndarray, prior: float) -> float:
    variance = p.var()
    if variance == 0:
        return 0.0
    covariance = ((p - p.mean()) * (y - y.mean())).mean()
    # few rows may say that a model is worthless or worse; its order is kept all the same
    least = 0.05 * y.std() / np.sqrt(variance)
    return float(max((covariance * len(y) + prior * variance) / (variance * (len(y) + prior)), least))


def _temperature(values: np.ndarray, truth: np.ndarray, prior: float) -> float:
    def loss(log_scale: float) -> float:
        return _log_loss(np.exp(log_scale) * values, truth) * len(truth) + prior / 2 * log_scale**2

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 2.0), method="bounded").x))


def _log_loss(values: np.ndarray, truth: np.ndarray) -> float:
    if values.ndim == 1:
        return float(np.logaddexp(0, np.where(truth > 0, -values, values)).mean())
    return -float(log_softmax(values, axis=1)[np.arange(len(truth)), truth.astype(np.int64)].mean())


def _scaled(items: _Items, shift: np.ndarray, scale: np.ndarray) -> _Items:
    own = [(shift[m][items.column], scale[m][items.column]) for m in range(len(items.values))]
    if items.values.ndim == 3:
        own = [(a[:, None], b[:, None]) for a, b in own]
    values = np.stack([a + b * value for (a, b), value in zip(own, items.values, strict=True)])
    return _Items(values, items.truth, items.rows, items.column)


def _weights(
    target: Target,
    predictions: Mapping[str, Any],
    items: _Items,
    made: Callable[[np.ndarray], Stacking],
    *,
    draws: int,
    shrink: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the candidates' weights, averaged by how often each has the best main figure."""
    count = len(items.values)
    candidates = [*np.eye(count), np.full(count, 1 / count), _least(target.task_type, items, shrink)]
    judged = [made(weights).predict(predictions) for weights in candidates[:-1]]
    judged.append(_held_out(target, predictions, items, made, shrink=shrink, random=random))
    name, seed = metrics.MAIN_METRIC[target.task_type], int(random.integers(2**31))
    figures = np.stack([metrics.bootstrap_metric(target, own, name, draws=draws, seed=seed) for own in judged])
    figures = np.where(np.isnan(figures), -np.inf, figures)
    is_best = figures >= figures.max(0) - 1e-12
    share = (is_best / is_best.sum(0)).mean(1)
    share = share**SHARPNESS / (share**SHARPNESS).sum()
    weights = share @ np.stack(candidates)
    # what hardly counts is left out, so that its model need not run
    weights = np.where(weights < 0.01, 0.0, weights)
    return weights / weights.sum()


def _held_out(
    target: Target,
    predictions: Mapping[str, Any],
    items: _Items,
    made: Callable[[np.ndarray], Stacking],
    *,
    shrink: float,
    random: np.random.Generator,
) -> Any:
    """Return predictions of each row by the best weights of the other rows."""
    present = np.arange(len(target))
    folds = np.array_split(random.permutation(present), min(FOLDS, len(present)))
    parts: list[Any] = [None] * len(target)
    for rows in folds:
        weights = _least(target.task_type, items.take(np.flatnonzero(~np.isin(items.rows, rows))), shrink)
        own = {
            name: [value[row] for row in rows] if target.task_type == "pairs" else np.asarray(value)[rows]
            for name, value in predictions.items()
        }
        for row, value in zip(rows, made(weights).predict(own), strict=True):
            parts[row] = value
    return parts if target.task_type == "pairs" else np.stack(parts)


def _least(task_type: TaskType, items: _Items, prior: float) -> np.ndarray:
    """Return the weights, none negative and summing to one, of the least loss, drawn to equal ones."""
    count = len(items.values)
    equal = np.full(count, 1 / count)
    if count == 1 or not len(items.truth):
        return equal
    pull = prior / max(len(np.unique(items.rows)), 1)
    if task_type.endswith("regression"):
        error = (items.values - items.truth) / _spreads(items)
        C = error @ error.T / error.shape[1]
        pull *= np.trace(C) / count
        # the sum is held to one by a row that outweighs all others
        heavy = 1e4 * np.sqrt(np.trace(C) + pull)
        factor = np.linalg.cholesky(C + 1e-12 * np.trace(C) * np.eye(count) + 1e-300 * np.eye(count)).T
        A = np.vstack([factor, np.sqrt(pull) * np.eye(count), heavy * np.ones((1, count))])
        weights, _ = nnls(A, np.concatenate([np.zeros(count), np.sqrt(pull) * equal, [heavy]]))
        return weights / weights.sum()

    def loss(free: np.ndarray) -> float:
        weights = softmax(free)
        blend = np.tensordot(weights, items.values, 1)
        return _log_loss(blend, items.truth) + pull * ((weights - equal) ** 2).sum()

    return softmax(minimize(loss, np.zeros(count), method="L-BFGS-B", bounds=[(-8, 8)] * count).x)


def _spreads(items: _Items) -> np.ndarray:
    """Return the standard deviation of each value's column, so that columns count alike."""
    spreads = np.ones(int(items.column.max()) + 1)
    for k in np.unique(items.column):
        spreads[k] = items.truth[items.column == k].std() or 1.0
    return spreads[items.column]
