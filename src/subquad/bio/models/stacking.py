r"""Stacking of models: non-negative weights that sum to one, shrunk towards equal weights if there are few rows.

Each model is first calibrated to the scale of the target: measurements by an increasing line, probabilities by a
temperature. Neither changes the order of the rows or the classes at a threshold of one half, so that a stack of one
model is as good as that model. Measurements, or log-odds of probabilities, are then averaged (logarithms of the
probabilities for several classes: the logarithmic pool).

Candidates are each model alone, equal weights, and the weights of least squared error or log loss. A candidate counts
in proportion to how often it has the best main metric in bootstrap samples of the rows (pseudo-BMA+ of Yao et al.,
arXiv:1704.02030, with metrics instead of densities): a clear winner takes all, and weights stay nearly equal if the
rows cannot tell the models apart. scikit-learn's `StackingRegressor` minimises squared error on refitted models, which
30 validation rows do not support. Costs seconds at most.

Axes: M models, i known values (cells of a table, residues, pairs of letters), C classes, n rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar, nnls
from scipy.special import log_softmax, softmax

from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.metrics.scores import MAIN_METRIC, bootstrap_metric
from subquad.bio.models.links import linked, unlinked
from subquad.bio.models.members import Members

__all__ = ["Stacking", "combine", "fit_stacking"]

MIN_PROBABILITY = 1e-7
MAX_ITEMS = 60_000
"""Maximum number of known values that weights are fitted on; a random subset beyond."""
FOLDS = 5
DRAWS = 100
"""Number of bootstrap samples of the rows that the candidates are compared on."""
SHARPNESS = 2
"""Power of the bootstrap frequencies: 1 leaves weights nearly equal where 30 rows tell models apart, much more drops
models that are as good as the best one."""
PRIOR = 2.0
"""Strength of the prior, in rows, that a model is calibrated already and that models are equally good."""


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """Weights and calibration of a stack of models."""

    task_type: TaskType
    weights: dict[str, float]
    """Weight of each model; none is negative, and they sum to one."""
    shift: dict[str, tuple[float, ...]]
    """Added to each model's predictions after scaling: one value per column of measurements, otherwise 0."""
    scale: dict[str, tuple[float, ...]]
    """Factor on each model's predictions (log-odds for probabilities), one per column of measurements."""
    rows: int
    """Number of rows that it was fitted on."""
    is_out_of_fold: bool = False
    """These are training rows, predicted by models of other folds, and not the validation rows."""

    def predict(self, predictions: Mapping[str, Any]) -> Any:
        """Return the stacked predictions, of the shape of one model's; see `Target.outputs`.

        Args:
            predictions: Predictions of the same rows by each model; models of weight 0 may be missing.

        Raises:
            ValueError: Predictions of a model with a weight are missing.
        """
        used = [name for name, weight in self.weights.items() if weight > 0]
        missing = [name for name in used if name not in predictions]
        if missing:
            raise ValueError(f"the stack needs the predictions of {', '.join(missing)}")
        if self.task_type != "pairs":
            return self._blend({name: predictions[name] for name in used})
        sets = zip(*(predictions[name] for name in used), strict=True)
        return [self._blend(dict(zip(used, own, strict=True))) for own in sets]

    def _blend(self, predictions: Mapping[str, Any]) -> np.ndarray:
        total: Any = 0.0
        for name, prediction in predictions.items():
            total = total + self.weights[name] * self._calibrated(name, prediction)
        return unlinked(total, self.task_type)

    def calibrate(self, name: str, prediction: Any) -> Any:
        """Return the prediction of one model, calibrated to the scale of the target."""
        if self.task_type == "pairs":
            return [unlinked(self._calibrated(name, own), self.task_type) for own in prediction]
        return unlinked(self._calibrated(name, prediction), self.task_type)

    def _calibrated(self, name: str, prediction: Any) -> np.ndarray:
        return np.array(self.shift[name]) + np.array(self.scale[name]) * _linked(self.task_type, prediction)

    def with_weights(self, weights: np.ndarray) -> "Stacking":
        """Return the stack with other weights, in the order of the models."""
        return replace(self, weights=dict(zip(self.weights, map(float, weights), strict=True)))

    def calibrated(self, shift: np.ndarray, scale: np.ndarray) -> "Stacking":
        """Return the stack with another shift and scale, `(M, columns)`, in the order of the models."""
        return replace(self, shift=_by_name(self.weights, shift), scale=_by_name(self.weights, scale))

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        lists = {part: {k: list(v) for k, v in getattr(self, part).items()} for part in ("shift", "scale")}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Stacking":
        """Return the stack from the JSON object of `as_dict`."""
        return cls(**{**values, **{part: _by_name(values[part], values[part].values()) for part in ("shift", "scale")}})


def _by_name(names: Mapping[str, Any], values: Any) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, own)) for name, own in zip(names, values, strict=True)}


@dataclass(frozen=True)
class _Items:
    """All known values, flat."""

    values: np.ndarray
    """`(M, i)`, or `(M, i, C)` for several classes."""
    truth: np.ndarray
    """`(i,)`"""
    rows: np.ndarray
    """`(i,)` the row of each."""
    column: np.ndarray
    """`(i,)` the column of measurements of each."""

    def take(self, items: np.ndarray) -> "_Items":
        return _Items(self.values[:, items], self.truth[items], self.rows[items], self.column[items])

    def calibrated(self, shift: np.ndarray, scale: np.ndarray) -> "_Items":
        own = shift[:, self.column], scale[:, self.column]
        added, factor = (each[..., None] for each in own) if self.values.ndim == 3 else own
        return replace(self, values=added + factor * self.values)


def combine(stacking: Stacking, members: Mapping[str, Members]) -> Members:
    """Return the prediction of the stack, with the members of all its models, calibrated and weighted."""
    used = [name for name, weight in stacking.weights.items() if weight > 0]

    def calibrated(each: Mapping[str, Sequence[Any]]) -> list[Any]:
        return [stacking.calibrate(name, own) for name in used for own in each[name]]

    each = {name: members[name].each for name in used}
    to_first = {name: own for name in used if (own := members[name].to_first) is not None}
    return Members(
        mean=stacking.predict({name: members[name].mean for name in used}),
        each=calibrated(each),
        weights=np.concatenate([stacking.weights[name] * members[name].weights for name in used]),
        to_first=calibrated({**each, **to_first}) if to_first else None,
    )


def fit_stacking(
    target: Target,
    predictions: Mapping[str, Any],
    *,
    is_out_of_fold: bool = False,
) -> Stacking:
    """Return the stack of models, fitted on rows that none of them was trained on.

    With fewer than five rows, or if all have the same value, the models count equally and are not calibrated.

    Args:
        target: Measured values of n rows.
        predictions: Predictions of these rows by each model; see `Target.outputs`.
        is_out_of_fold: The rows are training rows, predicted by models of other folds.

    Raises:
        ValueError: No models, or predictions of another shape.
    """
    names = list(predictions)
    if not names:
        raise ValueError("a stack needs at least one model")
    columns = len(target.names) if target.task_type == "regression" else 1
    weights = dict.fromkeys(names, 1 / len(names))
    stacking = Stacking(
        task_type=target.task_type,
        weights=weights,
        shift={},
        scale={},
        rows=len(target),
        is_out_of_fold=is_out_of_fold,
    )
    stacking = stacking.calibrated(np.zeros((len(names), columns)), np.ones((len(names), columns)))
    items = _items(target, list(predictions.values())) if len(target) else None
    if items is None or len(np.unique(items.rows)) < 5 or np.ptp(items.truth) == 0:
        return stacking
    random = np.random.default_rng(0)
    few = items.take(random.choice(len(items.truth), MAX_ITEMS, False)) if len(items.truth) > MAX_ITEMS else items
    shift, scale = _calibration(target.task_type, few, columns)
    few, uncalibrated, stacking = few.calibrated(shift, scale), stacking, stacking.calibrated(shift, scale)
    found = _weights(target, predictions, few, stacking, random)
    if is_out_of_fold and (found > 0).sum() == 1:
        # models of the folds have fewer rows than the whole one: their calibration serves only to share a scale
        return uncalibrated.with_weights(found)
    blend = replace(few, values=np.tensordot(found, few.values, 1)[None])
    last_shift, last_scale = _calibration(target.task_type, blend, columns)
    return stacking.with_weights(found).calibrated(last_shift + last_scale * shift, last_scale * scale)


def _linked(task_type: TaskType, prediction: Any) -> np.ndarray:
    """Return what is averaged: measurements, log-odds, or logarithms of probabilities."""
    return linked(np.asarray(prediction, dtype=np.float64), task_type, MIN_PROBABILITY)


def _items(target: Target, predictions: list[Any]) -> _Items:
    if target.task_type == "pairs":
        return _pair_items(target, predictions)
    y = np.asarray(target.y)
    cells = y if y.ndim == 2 else y[:, None]
    known = target.is_known.reshape(cells.shape)
    rows, places = np.nonzero(known)
    values = []
    for prediction in predictions:
        own = _linked(target.task_type, prediction)
        own = own.reshape(*y.shape[: 2 if target.is_residue else 1], target.outputs)
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
        values.append(np.stack([_linked("pairs", prediction[row])[first, second] for prediction in predictions]))
        rows.append(np.full(len(first), row))
    row = np.concatenate(rows)
    return _Items(np.concatenate(values, axis=1), np.concatenate(truth), row, np.zeros_like(row))


def _calibration(task_type: TaskType, items: _Items, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shift and the scale of each model and column, `(M, columns)`, that calibrate it to the target."""
    shift, scale = np.zeros((len(items.values), columns)), np.ones((len(items.values), columns))
    for model, values in enumerate(items.values):
        if not task_type.endswith("regression"):
            scale[model] = _temperature(values, items.truth)
            continue
        for k in range(columns):
            p, y = values[items.column == k], items.truth[items.column == k]
            if len(y):
                scale[model, k] = _slope(p, y)
                shift[model, k] = y.mean() - scale[model, k] * p.mean()
    return shift, scale


def _slope(p: np.ndarray, y: np.ndarray) -> float:
    variance = p.var()
    # the variance of a constant is rounding error, and a slope fitted to it is arbitrarily large
    if np.sqrt(variance) <= 1e-9 * max(np.abs(p).max(), y.std()):
        return 0.0
    covariance = ((p - p.mean()) * (y - y.mean())).mean()
    # a few rows may suggest that a model is worthless or worse; its order is kept nevertheless
    least = 0.05 * y.std() / np.sqrt(variance)
    return float(max((covariance * len(y) + PRIOR * variance) / (variance * (len(y) + PRIOR)), least))


def _temperature(values: np.ndarray, truth: np.ndarray) -> float:
    def loss(log_scale: float) -> float:
        return _log_loss(np.exp(log_scale) * values, truth) * len(truth) + PRIOR / 2 * log_scale**2

    result: Any = minimize_scalar(loss, bounds=(-3.0, 2.0), method="bounded")
    return float(np.exp(result.x))


def _log_loss(values: np.ndarray, truth: np.ndarray) -> float:
    if values.ndim == 1:
        return float(np.logaddexp(0, np.where(truth > 0, -values, values)).mean())
    return -float(log_softmax(values, axis=1)[np.arange(len(truth)), truth.astype(np.int64)].mean())


def _weights(
    target: Target,
    predictions: Mapping[str, Any],
    items: _Items,
    stacking: Stacking,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the weights of the candidates, averaged by how often each has the best main metric."""
    count = len(items.values)
    candidates = [*np.eye(count), np.full(count, 1 / count), _least_loss(target.task_type, items)]
    blends = [stacking.with_weights(weights).predict(predictions) for weights in candidates[:-1]]
    blends.append(_out_of_fold(target, predictions, items, stacking, random))
    name, seed = MAIN_METRIC[target.task_type], int(random.integers(2**31))
    values = np.stack([bootstrap_metric(target, own, name, draws=DRAWS, seed=seed) for own in blends])
    values = np.where(np.isnan(values), -np.inf, values)
    is_best = values >= values.max(0) - 1e-12
    frequency = (is_best / is_best.sum(0)).mean(1) ** SHARPNESS
    weights = (frequency / frequency.sum()) @ np.stack(candidates)
    # models that hardly count are left out, so that they need not run
    weights = np.where(weights < 0.01, 0.0, weights)
    return weights / weights.sum()


def _out_of_fold(
    target: Target,
    predictions: Mapping[str, Any],
    items: _Items,
    stacking: Stacking,
    random: np.random.Generator,
) -> Any:
    """Return predictions of each row with the weights of least loss on the other folds."""
    folds = np.array_split(random.permutation(np.arange(len(target))), min(FOLDS, len(target)))
    parts: list[Any] = [None] * len(target)
    for rows in folds:
        weights = _least_loss(target.task_type, items.take(np.flatnonzero(~np.isin(items.rows, rows))))
        own = {
            name: [value[row] for row in rows] if target.task_type == "pairs" else np.asarray(value)[rows]
            for name, value in predictions.items()
        }
        for row, value in zip(rows, stacking.with_weights(weights).predict(own), strict=True):
            parts[row] = value
    return parts if target.task_type == "pairs" else np.stack(parts)


def _least_loss(task_type: TaskType, items: _Items) -> np.ndarray:
    """Return the non-negative weights with sum one that minimise the loss, shrunk towards equal weights."""
    count = len(items.values)
    equal = np.full(count, 1 / count)
    if count == 1 or not len(items.truth):
        return equal
    pull = PRIOR / max(len(np.unique(items.rows)), 1)
    if task_type.endswith("regression"):
        error = (items.values - items.truth) / _spreads(items)
        C = error @ error.T / error.shape[1]
        pull *= np.trace(C) / count
        # the sum is fixed to one by a row that outweighs all others
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
    """Return the standard deviation of each value's column, so that all columns count equally."""
    spreads = np.ones(int(items.column.max()) + 1)
    for k in np.unique(items.column):
        spreads[k] = items.truth[items.column == k].std() or 1.0
    return spreads[items.column]
