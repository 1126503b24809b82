"""What the net has to beat: ridge (logistic for classes) and gradient boosting, on the same split and features.

Ridge costs some seconds, boosting up to a minute. What can be chosen is chosen on the validation rows alone. Base pairs
are folded by ViennaRNA instead.

Axes: n rows, T positions, m residues, F features, K columns of measurements, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import PAD, Dataset, Inputs, Target, TaskType
from subquad.bio.features.residues import ResidueFeatures
from subquad.bio.features.rows import Part, part_of
from subquad.bio.features.sequences import Features
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.boosting import Trees, fit_trees
from subquad.bio.models.linear import Linear, logistic_path, ridge_path, scale_of
from subquad.errors import SubquadError, unknown

__all__ = ["Baseline", "Linear", "baselines_for", "fit_baselines", "fit_boosting", "fit_ridge", "fit_vienna"]

MOST_RESIDUES = 200_000
"""Training residues that the linear model of residues is fitted on, drawn at random."""
TRIED = 50_000
"""Rows or residues on which the penalties of logistic regression are compared."""
MOST_BOOSTED = 100_000
TRUSTED = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)
"""Types in saved files beside numbers, text, arrays and what skops trusts of scikit-learn."""
CHUNK = 1 << 17
"""Residues predicted at a time."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted rival."""

    name: str
    """ridge, boosting, vienna or vienna_bpp."""
    task_type: TaskType
    chosen: dict[str, Any]
    """What was chosen on the validation rows, and `validation`, the main figure there."""
    features: Features | ResidueFeatures | None = None
    linear: Linear | None = None
    """Of ridge."""
    trees: Trees | None = None
    """Of boosting."""

    def predict(self, inputs: Inputs) -> Any:
        """Return the predictions of new rows: see `Target.outputs`."""
        if inputs.is_double_stranded:
            return (self.predict(replace(inputs, is_double_stranded=False)) + self.predict(inputs.reverse_complement())) / 2
        if self.task_type == "pairs":
            from subquad.bio.models.vienna import predict_pairs

            return predict_pairs(self.name, inputs)
        if not self.task_type.startswith("residue"):
            return self._values(inputs)
        rows, positions = np.nonzero(inputs.codes != PAD)
        parts = [
            self._values(inputs, rows[begin : begin + CHUNK], positions[begin : begin + CHUNK])
            for begin in range(0, len(rows), CHUNK)
        ]
        outputs = self.linear.weight.shape[0] if self.linear else self.trees.outputs
        predicted = np.zeros((*inputs.codes.shape, outputs))
        if parts:
            predicted[rows, positions] = np.concatenate(parts)
        return predicted

    def save(self, path: Path | str) -> None:
        """Write the rival into one file, as skops does: no code is in it."""
        from skops.io import dump

        from subquad.runs.storage import atomic

        values = {
            "name": self.name,
            "task_type": self.task_type,
            "chosen": self.chosen,
            "features": None if self.features is None else self.features.as_dict(),
            "linear": None if self.linear is None else vars(self.linear),
            "trees": None if self.trees is None else vars(self.trees),
        }
        with atomic(path) as temporary:
            dump(values, temporary)

    @classmethod
    def load(cls, path: Path | str) -> "Baseline":
        """Return what `save` wrote.

        Raises:
            SubquadError: no such file, or one that holds anything else than a rival.
        """
        from skops.io import get_untrusted_types, load

        if not Path(path).is_file():
            raise SubquadError(f"{path}: no such file; fit again")
        if not is_zipfile(path):
            raise SubquadError(f"{path}: damaged, or no file of a fitted rival; fit again")
        strange = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED))
        if strange:
            raise SubquadError(f"{path}: holds {', '.join(strange)}, which no fitted rival does; fit again")
        values = load(path, trusted=list(TRUSTED))
        task_type = values["task_type"]
        shape = ResidueFeatures if task_type.startswith("residue") else Features
        return cls(
            name=values["name"],
            task_type=task_type,
            chosen=values["chosen"],
            features=None if values["features"] is None else shape.from_dict(values["features"]),
            linear=None if values["linear"] is None else Linear(**values["linear"]),
            trees=None if values["trees"] is None else Trees(**values["trees"]),
        )

    def _values(self, inputs: Inputs, *residues: np.ndarray) -> np.ndarray:
        if self.trees is not None:
            return self.trees.predict(self.features, inputs, *residues)
        X = self.features.matrix(inputs, *residues)
        task_type = self.task_type.removeprefix("residue_")
        return self.linear(X) if task_type == "regression" else self.linear.probabilities(X, task_type)


def fit_ridge(dataset: Dataset, *, seed: int = 0) -> Baseline:
    """Return the ridge, or the logistic regression, whose penalty does best on the validation rows.

    Several columns of measurements or labels have a penalty each. Residues are told by the letters around them; up to
    `MOST_RESIDUES` are drawn with the seed.
    """
    train, validation = (part_of(dataset, name, most=MOST_RESIDUES, seed=seed) for name in ("train", "validation"))
    features = _features(dataset, train)
    X, V = (features.matrix(part.inputs, *part.residues) for part in (train, validation))
    scale, figure = scale_of(X, features.is_unit), MAIN_METRIC[dataset.target.task_type]
    if train.target.task_type == "regression":
        found = _ridge(X, train, V, validation, scale=scale)
    else:
        found = []
        for column in range(train.target.outputs if train.target.task_type == "multilabel" else 1):
            (rows, own), (judged, judge) = train.column(column), validation.column(column)
            found.append(_logistic(X[rows], own, V[judged], judge.target, scale=scale, seed=seed))
    linear = Linear(
        weight=np.concatenate([own.weight for _, _, own in found]),
        bias=np.concatenate([own.bias for _, _, own in found]),
        scale=scale,
    )
    penalties = [penalty for _, penalty, _ in found]
    predicted = linear(V) if train.target.task_type == "regression" else linear.probabilities(V, train.target.task_type)
    chosen = {
        "penalty": penalties[0] if len(penalties) == 1 else penalties,
        "validation": score(validation.target, predicted)[figure],
    }
    return Baseline(name="ridge", task_type=dataset.target.task_type, chosen=chosen, features=features, linear=linear)


def fit_boosting(
    dataset: Dataset, *, iterations: int | None = None, seed: int = 0, budget_seconds: float = 30.0
) -> Baseline:
    """Return the boosting whose size and number of trees do best on the validation rows.

    Args:
        dataset: what to learn.
        iterations: most trees; by default what the budget allows, at most 300.
        seed: of residues and rows that are drawn.
        budget_seconds: about what fitting may cost on one thread.
    """
    train, validation = (part_of(dataset, name, most=MOST_BOOSTED, seed=seed) for name in ("train", "validation"))
    features, figure = _features(dataset, train), MAIN_METRIC[dataset.target.task_type]
    options = {"figure": figure, "iterations": iterations, "seed": seed, "budget": budget_seconds}
    trees, chosen = fit_trees(features, train, validation, **options)
    predicted = trees.predict(features, validation.inputs, *validation.residues)
    chosen = {**chosen, "validation": score(validation.target, predicted)[figure]}
    return Baseline(name="boosting", task_type=dataset.target.task_type, chosen=chosen, features=features, trees=trees)


def fit_baselines(
    dataset: Dataset, names: Sequence[str] | None = None, *, seed: int = 0, iterations: int | None = None
) -> dict[str, Baseline]:
    """Return the named rivals, fitted; by default all that the kind of target has.

    Raises:
        SubquadError: a rival that this kind of target does not have.
    """
    known, fitted = baselines_for(dataset.target.task_type), {}
    for name in known if names is None else names:
        if name not in known:
            raise unknown(f"rival of {dataset.target.task_type}", name, known)
        match name:
            case "ridge":
                fitted[name] = fit_ridge(dataset, seed=seed)
            case "boosting":
                fitted[name] = fit_boosting(dataset, iterations=iterations, seed=seed)
            case _:
                fitted[name] = fit_vienna(dataset, name)
    return fitted


def fit_vienna(dataset: Dataset, name: str = "vienna") -> Baseline:
    """Return a thermodynamic fold as a rival; nothing is fitted. `vienna_bpp` gives probabilities of pairs."""
    rival = Baseline(name=name, task_type=dataset.target.task_type, chosen={})
    inputs, target = dataset.part("validation")
    value = score(target, rival.predict(inputs))[MAIN_METRIC[target.task_type]] if len(target) else np.nan
    return replace(rival, chosen={"validation": value})


def baselines_for(task_type: TaskType) -> tuple[str, ...]:
    """Return the names of the rivals that a kind of target has."""
    return ("vienna", "vienna_bpp") if task_type == "pairs" else ("ridge", "boosting")


def _features(dataset: Dataset, train: Part) -> Features | ResidueFeatures:
    return (ResidueFeatures if dataset.target.is_residue else Features).for_inputs(train.inputs)


def _ridge(
    X: sparse.csr_matrix, train: Part, V: sparse.csr_matrix, validation: Part, *, scale: np.ndarray
) -> list[tuple[float, float, Linear]]:
    """Return the best of each column: its R², its penalty, and itself."""
    best: list[tuple[float, float, Linear]] = [(-np.inf, np.nan, None)] * train.target.outputs
    judges = [validation.column(k) for k in range(train.target.outputs)]
    # columns that miss the same rows share their equations
    patterns, group = np.unique(np.isfinite(train.target.y), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows, columns = np.flatnonzero(patterns[:, number]), np.flatnonzero(group.ravel() == number)
        weight = None if train.weight is None else train.weight[rows]
        own = X if len(rows) == X.shape[0] else X[rows]
        for penalty, linear in ridge_path(own, train.target.y[np.ix_(rows, columns)], weight, scale):
            predicted = linear(V)
            for k, column in enumerate(columns):
                measured, judge = judges[column]
                # squared error and not ranks: those do not see slopes that are far off
                value = score(judge.target, predicted[measured][:, [k]])["r2"]
                if value > best[column][0]:
                    one = Linear(weight=linear.weight[[k]], bias=linear.bias[[k]], scale=scale)
                    best[column] = (value, penalty, one)
    return best


def _log_loss(target: Target, probabilities: np.ndarray) -> float:
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    own = probabilities[np.arange(len(target)), np.asarray(target.y, dtype=np.int64).reshape(-1)]
    return float(-np.log(np.maximum(own, 1e-9)).mean())


def _logistic(
    X: sparse.csr_matrix,
    train: Part,
    V: sparse.csr_matrix,
    validation: Target,
    *,
    scale: np.ndarray,
    seed: int,
) -> tuple[float, float, Linear]:
    """Return the best: its log-likelihood, its penalty, and itself."""
    task_type, classes = train.target.task_type, len(train.target.classes)
    tried, x = train, X
    if X.shape[0] > TRIED:
        rows = np.sort(np.random.default_rng(seed).choice(X.shape[0], TRIED, replace=False))
        tried, x = train.take(rows), X[rows]
    best = (-np.inf, np.nan, None)
    for penalty, linear in logistic_path(x, tried.target.y, classes, weight=tried.weight, scale=scale):
        value = -_log_loss(validation, linear.probabilities(V, task_type))
        if value > best[0]:
            best = (value, penalty, linear)
    if tried is not train:
        again = logistic_path(X, train.target.y, classes, weight=train.weight, scale=scale, penalties=(best[1],))
        best = (*best[:2], next(again)[1])
    return best
