"""Linear model at which networks start: between ridge and a sparse model, as the validation rows decide. Costs seconds.

Axes: n rows, F features, O outputs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Dataset
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.baselines import Baseline, fit_ridge
from subquad.bio.models.linear import Linear, stagewise_path
from subquad.bio.models.stacking import best_blending
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.settings import FitSettings

__all__ = ["LinearStart", "fit_linear_start", "fit_target_scaler", "validation_subset"]

STEPS = 2000
"""Number of forward stagewise steps."""
MAX_VALIDATION_ROWS = 5000
"""Maximum number of validation rows that the choices of one network are made on."""
SPARSE_WEIGHTS = [(weight / 4,) for weight in range(5)]
"""Blending weights of the sparse model that are tried; the rest is ridge."""


@dataclass(frozen=True, kw_only=True)
class LinearStart:
    """A linear model on the training scale."""

    features: SequenceFeatures
    linear: Linear
    is_sparse: np.ndarray
    """`(F,)` features that the sparse model uses."""
    selected: dict[str, Any]
    """`sparse_weight`, the blending weight of the sparse model, and `features`, the number of its features."""


def fit_target_scaler(dataset: Dataset, settings: FitSettings) -> TargetScaler:
    """Return the transform of the measurements to the training scale, fitted to the training rows."""
    target = dataset.target
    if not target.task_type.endswith("regression"):
        return TargetScaler.identity(1)
    train = target.y[dataset.split["train"]]
    if target.is_residue:
        return TargetScaler.fit(train.reshape(-1, 1), "none" if settings.transform == "auto" else settings.transform)
    return TargetScaler.fit(train, "none" if settings.preset == "paper" else settings.transform)


def validation_subset(dataset: Dataset, seed: int) -> np.ndarray:
    """Return the validation rows, or a random subset if they are very many."""
    rows = dataset.split["validation"]
    if len(rows) <= MAX_VALIDATION_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_VALIDATION_ROWS, replace=False))


def fit_linear_start(dataset: Dataset, ridge: Baseline, settings: FitSettings, *, seed: int = 0) -> LinearStart:
    """Return a linear model between ridge regression and a sparse model with few features.

    Args:
        dataset: Data with one target value or class per row.
        ridge: Ridge (or logistic) regression fitted to it.
        settings: Transform of the measurements.
        seed: Seed of random subsets of the rows.
    """
    scaler = fit_target_scaler(dataset, settings)
    features, dense = _on_training_scale(dataset, ridge, scaler)
    rows = validation_subset(dataset, seed)
    truth, V = dataset.target.take(rows), features.matrix(dataset.inputs.take(rows))
    main, best, found = MAIN_METRIC[truth.task_type], -np.inf, dense
    X = features.matrix(dataset.inputs.take(dataset.split["train"]))
    path = stagewise_path(X, *_values(dataset, scaler), task_type=truth.task_type, steps=STEPS, seed=seed)
    for linear in path:
        value = score(truth, to_predictions(linear(V), truth.task_type, scaler))[main]
        if found is dense or value > best:
            best, found = value, linear
    start, end = dense(V), found(V)
    blends = [to_predictions(start + weight * (end - start), truth.task_type, scaler) for (weight,) in SPARSE_WEIGHTS]
    weight = float(best_blending(truth, blends, SPARSE_WEIGHTS, seed=seed)[0])
    is_sparse = (found.weight != 0).any(0)
    return LinearStart(
        features=features,
        linear=_between(dense, found, weight),
        is_sparse=is_sparse,
        selected={"sparse_weight": round(weight, 4), "features": int(is_sparse.sum())},
    )


def _on_training_scale(dataset: Dataset, ridge: Baseline, scaler: TargetScaler) -> tuple[SequenceFeatures, Linear]:
    """Return ridge on the training scale: transformed, or fitted again if the transform is not linear."""
    if any(column.values is not None for column in scaler.columns):
        target = replace(dataset.target, y=scaler.transform(dataset.target.y))
        ridge = fit_ridge(replace(dataset, target=target))
        scaler = TargetScaler.identity(len(scaler.columns))
    features, linear = ridge.features, ridge.linear
    assert isinstance(features, SequenceFeatures)
    assert linear is not None
    if dataset.target.task_type != "regression":
        return features, linear
    mean = np.array([column.mean for column in scaler.columns])
    spread = np.array([column.spread for column in scaler.columns])
    return features, Linear(
        weight=linear.weight / spread[:, None], bias=(linear.bias - mean) / spread, scale=linear.scale
    )


def _values(dataset: Dataset, scaler: TargetScaler) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that each output is fitted to in the training rows, and their weights."""
    rows, target = dataset.split["train"], dataset.target
    y = target.y[rows]
    match target.task_type:
        case "regression":
            values = scaler.transform(y)
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


def _between(dense: Linear, sparse: Linear, blending: float) -> Linear:
    """Return the linear model between two, with the scale of the first."""
    rescale = sparse.scale / np.where(dense.scale > 0, dense.scale, 1.0)
    weight = (1 - blending) * dense.weight + blending * sparse.weight * rescale
    return Linear(weight=weight, bias=(1 - blending) * dense.bias + blending * sparse.bias, scale=dense.scale)
