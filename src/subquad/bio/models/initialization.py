"""Where nets start: between ridge and a linear model of few features, as the validation rows want it. Costs seconds."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Dataset
from subquad.bio.features.sequences import Features
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.baselines import Baseline, Linear, fit_ridge
from subquad.bio.models.blending import best_blending
from subquad.bio.models.stagewise import stagewise_path
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.settings import FitSettings

__all__ = ["LinearStart", "fit_linear_start", "fit_target_scaler"]

STEPS = 2000
"""Of the path of few features."""
MOST_JUDGES = 5000
SHARES = [(share / 4,) for share in range(5)]
"""Of the model of few features that are tried; the rest is ridge."""


@dataclass(frozen=True, kw_only=True)
class LinearStart:
    """A linear model on the scale of learning."""

    features: Features
    linear: Linear
    is_few: np.ndarray
    """`(F,)`: which features the model of few has."""
    chosen: dict[str, Any]
    """How much of that model counts (`few`), and its number of features."""


def fit_target_scaler(dataset: Dataset, settings: FitSettings) -> TargetScaler:
    """Return the map of the measurements to the scale of learning, from the training rows."""
    task_type, y = dataset.target.task_type, dataset.target.y
    if not task_type.endswith("regression"):
        return TargetScaler.identity(1)
    train = y[dataset.split["train"]]
    if dataset.target.is_residue:
        return TargetScaler.fit(train.reshape(-1, 1), "none" if settings.transform == "auto" else settings.transform)
    return TargetScaler.fit(train, "none" if settings.preset == "paper" else settings.transform)


def fit_linear_start(dataset: Dataset, ridge: Baseline, settings: FitSettings, *, seed: int = 0) -> LinearStart:
    """Return a linear model between ridge and one of few features.

    Args:
        dataset: what to learn, of rows.
        ridge: fitted to it.
        settings: the transform of measurements.
        seed: of rows that are drawn.
    """
    scale = fit_target_scaler(dataset, settings)
    start = _on_scale(dataset, ridge, scale)
    rows = dataset.split["validation"]
    if len(rows) > MOST_JUDGES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_JUDGES, replace=False))
    truth, V = dataset.target.take(rows), start.features.matrix(dataset.inputs.take(rows))
    main, best, found = MAIN_METRIC[truth.task_type], -np.inf, None
    X = start.features.matrix(dataset.inputs.take(dataset.split["train"]))
    path = stagewise_path(X, *_values(dataset, scale), task_type=truth.task_type, steps=STEPS, seed=seed)
    for linear in path:
        value = score(truth, to_predictions(linear(V), truth.task_type, scale))[main]
        # where the validation rows cannot tell (one class alone), the figure is not a number
        if found is None or value > best:
            best, found = (value if np.isfinite(value) else -np.inf), linear
    ends = start.linear(V), found(V)
    mixed = [to_predictions(ends[0] + share * (ends[1] - ends[0]), truth.task_type, scale) for (share,) in SHARES]
    share = float(best_blending(truth, mixed, SHARES, seed=seed)[0])
    is_few = (found.weight != 0).any(0)
    return LinearStart(
        features=start.features,
        linear=_between(start.linear, found, share),
        is_few=is_few,
        chosen={"few": round(share, 4), "features": int(is_few.sum())},
    )


def _on_scale(dataset: Dataset, ridge: Baseline, scale: TargetScaler) -> Baseline:
    """Return ridge on the scale of learning: moved there, or fitted there where that scale is not linear."""
    if dataset.target.task_type != "regression":
        return ridge
    if any(column.values is not None for column in scale.columns):
        target = replace(dataset.target, y=scale.transform(dataset.target.y))
        return fit_ridge(replace(dataset, target=target))
    mean = np.array([column.mean for column in scale.columns])
    spread = np.array([column.spread for column in scale.columns])
    linear = ridge.linear
    moved = Linear(weight=linear.weight / spread[:, None], bias=(linear.bias - mean) / spread, scale=linear.scale)
    return replace(ridge, linear=moved)


def _values(dataset: Dataset, scale: TargetScaler) -> tuple[np.ndarray, np.ndarray]:
    """Return what each output of the training rows is to be, and how much it counts."""
    rows, target = dataset.split["train"], dataset.target
    y = target.y[rows]
    match target.task_type:
        case "regression":
            values = scale.transform(y)
        case "multilabel":
            values = y
        case "binary":
            values = y[:, None].astype(np.float64)
        case _:
            values = np.eye(target.outputs)[y]
    weight = np.isfinite(values).astype(np.float64)
    if dataset.weight is not None:
        weight *= dataset.weight[rows][:, None]
    return np.nan_to_num(values), weight


def _between(ridge: Linear, few: Linear, share: float) -> Linear:
    """Return the linear model between two, in the scale of the first."""
    back = few.scale / np.where(ridge.scale > 0, ridge.scale, 1.0)
    weight = (1 - share) * ridge.weight + share * few.weight * back
    return Linear(weight=weight, bias=(1 - share) * ridge.bias + share * few.bias, scale=ridge.scale)
