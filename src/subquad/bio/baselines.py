"""What the net has to beat: ridge (logistic for classes) and gradient boosting, on the same split and features.

Ridge costs some seconds, boosting up to about a minute. What can be chosen is chosen on the validation rows alone.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from subquad.bio.metrics import MAIN, score
from subquad.bio.net import features

__all__ = ["Problem", "feature_matrix", "fit_boosting", "fit_ridge"]

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Of ridge. Logistic regression takes half of them, from the weakest on."""
MOST_TREES, FEW_TREES = 300, 100
ONE_HOT_CELLS, CATEGORY_CELLS = 8e9, 2e9
"""Rows times columns times trees that are gone through in less than a minute on two cores."""
SEVERAL_SIZES = 5000
"""Up to so many training rows two sizes of trees are tried."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is learned from, and what choices are made on."""

    codes: np.ndarray
    """One row a sequence, padded with -1."""
    y: np.ndarray
    """Measurements, or classes as numbers from 0."""
    split: dict[str, np.ndarray]
    """Row numbers of `train`, `validation` and `test`."""
    task: str
    """`regression` or `classification`."""
    classes: list[str]
    """Names of the classes; none in a regression."""
    letters: int
    """Of the alphabet."""
    has_positions: bool
    """All sequences have one length."""

    @property
    def outputs(self) -> int:
        """Outputs of a model: one, or one a class where there are more than two."""
        return len(self.classes) if len(self.classes) > 2 else 1

    @property
    def standard(self) -> tuple[float, float]:
        """Mean and spread of the training rows' measurements; 0 and 1 for classes."""
        if self.task != "regression":
            return 0.0, 1.0
        y = self.y[self.split["train"]]
        return float(y.mean()), float(y.std())

    def figures(self, part: str, prediction: np.ndarray) -> dict[str, float]:
        """Return how good the predictions of one part are."""
        return score(self.y[self.split[part]], prediction, task=self.task)

    def main(self, part: str, prediction: np.ndarray) -> float:
        """Return the figure that choices are made by."""
        return self.figures(part, prediction)[MAIN[self.task]]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted rival."""

    predictions: dict[str, np.ndarray]
    """Of the `validation` and the `test` rows."""
    chosen: dict[str, Any]
    """What was chosen on the validation rows."""
    linear: dict[str, np.ndarray]
    """`weight`, `bias` and `scale` of a linear model."""


def feature_matrix(problem: Problem, part: str) -> sparse.csr_matrix:
    """Return the features of one part of the rows."""
    blocks = []
    for rows in np.array_split(problem.split[part], max(1, len(problem.split[part]) // 2048)):
        block = features(torch.from_numpy(problem.codes[rows]), problem.letters, has_positions=problem.has_positions)
        blocks.append(sparse.csr_matrix(block.numpy().astype(np.float64)))
    return sparse.vstack(blocks, format="csr")


def fit_ridge(problem: Problem, matrices: dict[str, sparse.csr_matrix]) -> Fitted:
    """Return the ridge, or the logistic regression, whose penalty does best on the validation rows."""
    y = problem.y[problem.split["train"]]
    scale = np.ones(matrices["train"].shape[1])
    if not problem.has_positions:
        # frequencies of rare pairs are tiny; the penalty must not depend on that
        spread = np.sqrt(_variances(matrices["train"]))
        scale = np.where(spread > 0, 1 / np.maximum(spread, 1e-12), 0.0)
    scaled = {part: (matrix @ sparse.diags(scale)).tocsr() for part, matrix in matrices.items()}
    best: tuple[float, float, Any] | None = None
    for penalty in PENALTIES if problem.task == "regression" else PENALTIES[::2]:
        model = _linear(problem.task, penalty)
        with warnings.catch_warnings():
            # a slow penalty is judged on the validation rows like any other
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled["train"], y)
        value = problem.main("validation", _predict(model, scaled["validation"]))
        if best is None or value > best[0]:
            best = (value, penalty, model)
    assert best is not None
    value, penalty, model = best
    return Fitted(
        predictions={part: _predict(model, scaled[part]) for part in ("validation", "test")},
        chosen={"penalty": penalty, "validation": value},
        linear={"weight": np.atleast_2d(model.coef_), "bias": np.atleast_1d(model.intercept_), "scale": scale},
    )


def fit_boosting(
    problem: Problem, matrices: dict[str, sparse.csr_matrix], *, iterations: int | None, seed: int
) -> Fitted:
    """Return the boosting whose size of trees and number of trees do best on the validation rows.

    It sees the same features as ridge, or, where those allow fewer than `FEW_TREES` trees, the letter at each position
    as one categorical feature: the same knowledge in a twentieth of the columns.
    """
    X, options, most = _boosting_input(problem, matrices, iterations)
    y = problem.y[problem.split["train"]]
    kind = HistGradientBoostingRegressor if problem.task == "regression" else HistGradientBoostingClassifier
    # large tables have the time for one size of trees only
    sizes = (8, 31) if len(y) <= SEVERAL_SIZES else (31,)
    best: tuple[float, dict[str, int], Any] | None = None
    for size in sizes:
        # fewer trees must each go further
        rate = 0.1 if most >= 150 else 0.2
        model = kind(
            max_iter=most, max_leaf_nodes=size, learning_rate=rate, early_stopping=False, random_state=seed, **options
        ).fit(X["train"], y)
        for count, prediction in enumerate(_stages(model, X["validation"]), start=1):
            value = problem.main("validation", prediction) if count % 5 == 0 or count == most else -np.inf
            if best is None or value > best[0]:
                best = (value, {"leaves": size, "trees": count}, model)
    assert best is not None
    value, chosen, model = best
    predictions = {part: _stage(model, X[part], chosen["trees"]) for part in ("validation", "test")}
    return Fitted(predictions=predictions, chosen={**chosen, "validation": value}, linear={})


def _boosting_input(
    problem: Problem, matrices: dict[str, sparse.csr_matrix], iterations: int | None
) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
    """Return the features, what to say of them, and the most trees."""
    rows = matrices["train"].shape[0]
    # a letter that is never or always there splits nothing
    varies = np.flatnonzero(_variances(matrices["train"]) > 0)
    options: dict[str, Any] = {}
    affordable = ONE_HOT_CELLS / (rows * max(len(varies), 1))
    if problem.has_positions and affordable < FEW_TREES:
        X = {part: problem.codes[own].astype(np.float32) for part, own in problem.split.items()}
        options["categorical_features"] = list(range(problem.codes.shape[1]))
        affordable = CATEGORY_CELLS / (rows * problem.codes.shape[1])
    else:
        X = {part: matrix[:, varies].toarray().astype(np.float32) for part, matrix in matrices.items()}
    return X, options, iterations or int(np.clip(affordable, FEW_TREES // 2, MOST_TREES))


def _linear(task: str, penalty: float) -> Any:
    if task == "regression":
        return Ridge(alpha=penalty, solver="sparse_cg", tol=1e-5)
    return LogisticRegression(C=1 / penalty, max_iter=300)


def _predict(model: Any, X: Any) -> np.ndarray:
    if not hasattr(model, "predict_proba"):
        return model.predict(X)
    probabilities = model.predict_proba(X)
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities


def _stages(model: Any, X: np.ndarray) -> Any:
    if not hasattr(model, "staged_predict_proba"):
        yield from model.staged_predict(X)
        return
    for probabilities in model.staged_predict_proba(X):
        yield probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities


def _stage(model: Any, X: np.ndarray, count: int) -> np.ndarray:
    for number, prediction in enumerate(_stages(model, X), start=1):
        if number == count:
            return prediction
    raise AssertionError(f"no stage {count}")


def _variances(X: sparse.csr_matrix) -> np.ndarray:
    mean = np.asarray(X.mean(0)).ravel()
    square = np.asarray(X.multiply(X).mean(0)).ravel()
    return np.maximum(square - mean**2, 0.0) * (square > 0)
