"""Fit of ridge and logistic regression: for each column the penalty that is best on the validation rows.

Costs one pass over the rows per penalty; see `subquad.bio.models.linear`.

Axes: n rows, F features, K columns of measurements, O outputs.
"""

from typing import Any, cast

import numpy as np

from subquad.bio.data.dataset import Dataset, Target
from subquad.bio.features.rows import Part
from subquad.bio.metrics.scores import score
from subquad.bio.models.linear import Linear, SparseMatrix, logistic_path, ridge_path, scale_of

__all__ = ["fit_linear", "refit_linear"]

MAX_PENALTY_ROWS = 50_000
"""Maximum number of rows or residues on which penalties of logistic regression are compared."""


def fit_linear(
    features: Any, train: Part, validation: Part, *, metric: str, seed: int
) -> tuple[Linear, dict[str, Any]]:
    """Return the linear model of the training rows, and what the validation rows selected.

    Args:
        features: `Features`, or `ResidueFeatures` for one value per residue.
        train: Training rows or residues.
        validation: Validation rows or residues.
        metric: Main metric of the task.
        seed: Seed of random subsets of the rows.
    """
    X, V = (features.matrix(part.inputs, *part.residues) for part in (train, validation))
    scale, task_type = scale_of(X, features.is_unit), train.target.task_type
    if task_type == "regression":
        found = _ridge(X, train, V, validation, scale=scale)
    else:
        found = []
        for column in range(train.target.outputs if task_type == "multilabel" else 1):
            (rows, own), (known, held_out) = train.column(column), validation.column(column)
            found.append(_logistic(X[rows], own, V[known], held_out.target, scale=scale, seed=seed))
    linear = Linear(
        weight=np.concatenate([own.weight for _, own in found]),
        bias=np.concatenate([own.bias for _, own in found]),
        scale=scale,
    )
    penalties = [penalty for penalty, _ in found]
    predicted = linear.predict(V, task_type)
    selected = {
        "penalty": penalties[0] if len(penalties) == 1 else penalties,
        "validation": score(validation.target, predicted)[metric],
    }
    return linear, selected


def refit_linear(
    penalty: float | list[float], scale: np.ndarray, dataset: Dataset, X: SparseMatrix, rows: np.ndarray
) -> Linear:
    """Return ridge or logistic regression on some rows with one value or class per row, with known penalties.

    Args:
        penalty: Penalty of each column, or of all.
        scale: `(F,)` scale of the features.
        dataset: Targets and weights.
        X: Features of all rows.
        rows: Rows to fit it to.
    """
    target = dataset.target.take(rows)
    weight = None if dataset.weight is None else dataset.weight[rows]
    part = Part(inputs=dataset.inputs.take(rows), target=target, residues=(), weight=weight)
    columns = target.outputs if target.task_type in ("regression", "multilabel") else 1
    penalties = np.broadcast_to(penalty, columns)
    found = []
    for k in range(columns):
        (known, own), chosen = part.column(k), (float(penalties[k]),)
        if not len(known):
            # the mean on the training scale, or even odds
            found.append(Linear(weight=np.zeros((1, len(scale))), bias=np.zeros(1), scale=scale))
            continue
        if target.task_type == "regression":
            path = ridge_path(X[rows[known]], own.target.y, own.weight, scale, penalties=chosen)
        else:
            classes = len(own.target.classes)
            options = {"weight": own.weight, "scale": scale, "penalties": chosen}
            path = logistic_path(X[rows[known]], own.target.y, classes, **options)
        found.append(next(iter(path))[1])
    return Linear(
        weight=np.concatenate([own.weight for own in found]),
        bias=np.concatenate([own.bias for own in found]),
        scale=scale,
    )


def _ridge(
    X: SparseMatrix, train: Part, V: SparseMatrix, validation: Part, *, scale: np.ndarray
) -> list[tuple[float, Linear]]:
    """Return the penalty and the model of each column with the best R² on the validation rows."""
    outputs = train.target.outputs
    best: list[tuple[float, Linear] | None] = [None] * outputs
    values, held_out = np.full(outputs, -np.inf), [validation.column(k) for k in range(outputs)]
    # columns that miss the same rows share their normal equations
    patterns, group = np.unique(np.isfinite(train.target.y), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows, columns = np.flatnonzero(patterns[:, number]), np.flatnonzero(group.ravel() == number)
        weight = None if train.weight is None else train.weight[rows]
        own = X if len(rows) == X.shape[0] else X[rows]
        for penalty, linear in ridge_path(own, train.target.y[np.ix_(rows, columns)], weight, scale):
            predicted = linear(V)
            for k, column in enumerate(columns):
                known, part = held_out[column]
                # squared error instead of ranks, which do not depend on the scale of the predictions
                value = score(part.target, predicted[known][:, [k]])["r2"]
                if value > values[column]:
                    one = Linear(weight=linear.weight[[k]], bias=linear.bias[[k]], scale=scale)
                    values[column], best[column] = value, (penalty, one)
    return cast(list[tuple[float, Linear]], best)


def _logistic(
    X: SparseMatrix, train: Part, V: SparseMatrix, validation: Target, *, scale: np.ndarray, seed: int
) -> tuple[float, Linear]:
    """Return the penalty and the model with the lowest log loss on the validation rows."""
    task_type, classes = train.target.task_type, len(train.target.classes)
    subset, x = train, X
    if X.shape[0] > MAX_PENALTY_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(X.shape[0], MAX_PENALTY_ROWS, replace=False))
        subset, x = train.take(rows), X[rows]
    path = logistic_path(x, subset.target.y, classes, weight=subset.weight, scale=scale)
    losses = ((_log_loss(validation, linear.predict(V, task_type)), penalty, linear) for penalty, linear in path)
    _, penalty, linear = min(losses, key=lambda one: one[0])
    if subset is not train:
        (penalty, linear), *_ = logistic_path(
            X, train.target.y, classes, weight=train.weight, scale=scale, penalties=(penalty,)
        )
    return penalty, linear


def _log_loss(target: Target, probabilities: np.ndarray) -> float:
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    own = probabilities[np.arange(len(target)), np.asarray(target.y, dtype=np.int64).reshape(-1)]
    return float(-np.log(np.maximum(own, 1e-9)).mean())
