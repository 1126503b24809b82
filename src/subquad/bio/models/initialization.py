"""Linear model at which networks start, and its predictions of the training rows out of fold. Costs seconds.

Ridge regression with a weak penalty predicts its own training rows almost exactly, so that a network that starts at it
would find nothing left to learn. During training the network therefore starts, for each training row, at the prediction
of a linear model that was fitted without this row, and learns what the linear model gets wrong on new rows.

Axes: n rows, F features, O outputs.
"""

from dataclasses import dataclass, replace

import numpy as np

from subquad.bio.data.dataset import Dataset
from subquad.bio.features.pairs import RowFeatures
from subquad.bio.models.baselines import Baseline, fit_ridge, refit_ridge
from subquad.bio.models.linear import Linear, SparseMatrix
from subquad.bio.models.target_scaling import TargetScaler
from subquad.bio.settings import FitSettings

__all__ = ["LinearStart", "fit_linear_start", "fit_target_scaler", "folds_of", "validation_subset"]

FOLDS = 5
"""Number of folds of the predictions out of fold."""
MAX_VALIDATION_ROWS = 5000
"""Maximum number of validation rows that the choices of one network are made on."""


@dataclass(frozen=True, kw_only=True)
class LinearStart:
    """A linear model on the training scale."""

    features: RowFeatures
    matrix: SparseMatrix
    """`(n, F)` features of all rows."""
    linear: Linear
    out_of_fold: np.ndarray
    """`(n, O)` float32: its outputs for all rows; for a training row, of a model that was fitted without its fold."""


def fit_target_scaler(dataset: Dataset, settings: FitSettings, kind: str = "lyra") -> TargetScaler:
    """Return the transform of the measurements to the training scale of a model, fitted to the training rows."""
    target = dataset.target
    if not target.task_type.endswith("regression"):
        return TargetScaler.identity(1)
    train = target.y[dataset.split["train"]]
    if target.is_residue:
        return TargetScaler.fit(train.reshape(-1, 1), "none" if settings.transform == "auto" else settings.transform)
    return TargetScaler.fit(train, "none" if kind == "lyra-paper" else settings.transform)


def validation_subset(dataset: Dataset, seed: int) -> np.ndarray:
    """Return the validation rows, or a random subset if they are very many."""
    rows = dataset.split["validation"]
    if len(rows) <= MAX_VALIDATION_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_VALIDATION_ROWS, replace=False))


def fit_linear_start(dataset: Dataset, ridge: Baseline, settings: FitSettings, *, seed: int = 0) -> LinearStart:
    """Return ridge (or logistic) regression on the training scale.

    Args:
        dataset: Data with one target value or class per row.
        ridge: Ridge regression fitted to it.
        settings: Transform of the measurements.
        seed: Seed of the folds.
    """
    scaler = fit_target_scaler(dataset, settings)
    if dataset.target.task_type == "regression":
        dataset = replace(dataset, target=replace(dataset.target, y=scaler.transform(dataset.target.y)))
        if any(column.values is not None for column in scaler.columns):
            # the transform is not linear, so that the penalty is selected anew
            ridge = fit_ridge(dataset, seed=seed)
    features, train = ridge.features, dataset.split["train"]
    assert isinstance(features, RowFeatures)
    X = features.matrix(dataset.inputs)
    linear = refit_ridge(ridge, dataset, X, train)
    found = linear(X)
    fold = folds_of(dataset, seed)
    for k in np.unique(fold) if fold.any() else ():
        held_out, rest = train[fold == k], train[fold != k]
        found[held_out] = refit_ridge(ridge, dataset, X, rest)(X[held_out])
    return LinearStart(features=features, matrix=X, linear=linear, out_of_fold=found.astype(np.float32))


def folds_of(dataset: Dataset, seed: int) -> np.ndarray:
    """Return the fold of each training row; units of the split stay together."""
    train = dataset.split["train"]
    units = train if dataset.units is None else dataset.units[train]
    names, unit = np.unique(units, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[unit.ravel()]
