"""Where nets start: between ridge and a linear model of few features, as the validation rows want it. Costs seconds."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Problem
from subquad.bio.features.sequences import Features
from subquad.bio.metrics.scores import MAIN, score
from subquad.bio.models.baselines import Linear, Rival, fit_ridge
from subquad.bio.models.blending import best_shares
from subquad.bio.models.stagewise import stagewise_path
from subquad.bio.models.target_scaling import Scale, finished
from subquad.bio.settings import FitSettings

__all__ = ["Start", "scale_for", "start_from"]

STEPS = 2000
"""Of the path of few features."""
MOST_JUDGES = 5000
SHARES = [(share / 4,) for share in range(5)]
"""Of the model of few features that are tried; the rest is ridge."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A linear model on the scale of learning."""

    features: Features
    linear: Linear
    is_few: np.ndarray
    """`(F,)`: which features the model of few has."""
    chosen: dict[str, Any]
    """How much of that model counts (`few`), and its number of features."""


def scale_for(problem: Problem, settings: FitSettings) -> Scale:
    """Return the map of the measurements to the scale of learning, from the training rows."""
    kind, y = problem.target.kind, problem.target.y
    if not kind.endswith("regression"):
        return Scale.none(1)
    train = y[problem.split["train"]]
    if problem.target.is_residue:
        return Scale.fit(train.reshape(-1, 1), "none" if settings.transform == "auto" else settings.transform)
    return Scale.fit(train, "none" if settings.preset == "paper" else settings.transform)


def start_from(problem: Problem, ridge: Rival, settings: FitSettings, *, seed: int = 0) -> Start:
    """Return a linear model between ridge and one of few features.

    Args:
        problem: what to learn, of rows.
        ridge: fitted to it.
        settings: the transform of measurements.
        seed: of rows that are drawn.
    """
    scale = scale_for(problem, settings)
    start = _on_scale(problem, ridge, scale)
    rows = problem.split["validation"]
    if len(rows) > MOST_JUDGES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_JUDGES, replace=False))
    truth, V = problem.target.take(rows), start.features.matrix(problem.inputs.take(rows))
    main, best, found = MAIN[truth.kind], -np.inf, None
    X = start.features.matrix(problem.inputs.take(problem.split["train"]))
    path = stagewise_path(X, *_values(problem, scale), kind=truth.kind, steps=STEPS, seed=seed)
    for linear in path:
        value = score(truth, finished(linear(V), truth.kind, scale))[main]
        # where the validation rows cannot tell (one class alone), the figure is not a number
        if found is None or value > best:
            best, found = (value if np.isfinite(value) else -np.inf), linear
    ends = start.linear(V), found(V)
    mixed = [finished(ends[0] + share * (ends[1] - ends[0]), truth.kind, scale) for (share,) in SHARES]
    share = float(best_shares(truth, mixed, SHARES, seed=seed)[0])
    is_few = (found.weight != 0).any(0)
    return Start(
        features=start.features,
        linear=_between(start.linear, found, share),
        is_few=is_few,
        chosen={"few": round(share, 4), "features": int(is_few.sum())},
    )


def _on_scale(problem: Problem, ridge: Rival, scale: Scale) -> Rival:
    """Return ridge on the scale of learning: moved there, or fitted there where that scale is not linear."""
    if problem.target.kind != "regression":
        return ridge
    if any(column.values is not None for column in scale.columns):
        target = replace(problem.target, y=scale.forward(problem.target.y))
        return fit_ridge(replace(problem, target=target))
    mean = np.array([column.mean for column in scale.columns])
    spread = np.array([column.spread for column in scale.columns])
    linear = ridge.linear
    moved = Linear(weight=linear.weight / spread[:, None], bias=(linear.bias - mean) / spread, scale=linear.scale)
    return replace(ridge, linear=moved)


def _values(problem: Problem, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Return what each output of the training rows is to be, and how much it counts."""
    rows, target = problem.split["train"], problem.target
    y = target.y[rows]
    match target.kind:
        case "regression":
            values = scale.forward(y)
        case "multilabel":
            values = y
        case "binary":
            values = y[:, None].astype(np.float64)
        case _:
            values = np.eye(target.outputs)[y]
    weight = np.isfinite(values).astype(np.float64)
    if problem.weight is not None:
        weight *= problem.weight[rows][:, None]
    return np.nan_to_num(values), weight


def _between(ridge: Linear, few: Linear, share: float) -> Linear:
    """Return the linear model between two, in the scale of the first."""
    back = few.scale / np.where(ridge.scale > 0, ridge.scale, 1.0)
    weight = (1 - share) * ridge.weight + share * few.weight * back
    return Linear(weight=weight, bias=(1 - share) * ridge.bias + share * few.bias, scale=ridge.scale)
