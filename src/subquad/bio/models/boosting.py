"""Gradient boosting whose size and number of trees do best on the validation rows. Costs up to about half a minute.

Trees see the features of ridge, or, where those allow few trees only, the letter at each position as one class: the
same knowledge in a twentieth of the columns. Of a residue they see the properties of the letters around it.

Axes: n rows, F features, O outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from subquad.bio.data.dataset import Inputs, Target, TaskType
from subquad.bio.features.rows import Part
from subquad.bio.metrics.scores import score

__all__ = ["Trees", "fit_trees"]

MOST_TREES, FEW_TREES, LEAST_TREES = 300, 100, 50
"""Tried at most; wanted before letters are taken for features; had in any case, on fewer rows if need be."""
NUMBERS_A_SECOND, LETTERS_A_SECOND = 1.5e8, 1.2e8
"""Rows times columns times trees that one thread goes through, of numbers and of letters as classes."""
ROWS_ASIDE = 2000
"""Rows that cost as much as finding the splits of a tree does."""
SEVERAL_SIZES = 5000
"""Up to so many training sequences two sizes of trees are tried."""
BINS = 255
"""Of scikit-learn's trees."""
CUT_ROWS = 20_000
"""Rows that are enough to see where to cut."""
LEAF_PENALTY = 1.0
"""Keeps a leaf with one row of a rare class from answering with certainty."""
RESIDUES_A_LEAF = 100
"""At least; neighbouring residues of one protein are no independent rows."""
STEP = 5
"""Trees between two looks at the validation rows."""

PAIRS = ("pairs", "type")
"""Blocks of features that are products of others."""

View = Literal["numbers", "letters", "residues"]


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Fitted trees, and what they look at."""

    task_type: TaskType
    """Of the target, with residues as rows."""
    view: View
    columns: list[int]
    """Features that they look at in the view `numbers`."""
    models: list[Any]
    """One for each column of measurements or label, else one. A number is a column that never changes."""
    counts: list[int]
    """Trees of each that are used, for each class."""
    outputs: int
    edges: dict[int, np.ndarray]
    """Of columns with many values, cut into steps before the trees see them: scikit-learn's own way to do so takes
    minutes where rows are weighted."""

    def predict(self, features: Any, inputs: Inputs, *residues: np.ndarray) -> np.ndarray:
        """Return `(n, O)` of rows, or of chosen residues: measurements or probabilities."""
        X = _seen(features, inputs, *residues, view=self.view, columns=self.columns)
        _cut(X, self.edges)
        many = self.outputs if self.task_type == "multiclass" else 0
        found = [_predict(model, X, count, many) for model, count in zip(self.models, self.counts, strict=True)]
        return found[0] if many else np.stack(found, axis=1)


def fit_trees(
    features: Any, train: Part, validation: Part, *, figure: str, iterations: int | None, seed: int, budget: float
) -> tuple[Trees, dict[str, Any]]:
    """Return the trees that do best, and what was chosen: `leaves` and `trees`.

    Args:
        features: made from the training rows.
        train: what is learned from.
        validation: what choices are made on.
        figure: that they are made by.
        iterations: most trees; by default what the budget allows.
        seed: of rows that are drawn and of ties.
        budget: seconds on one thread.
    """
    target = train.target
    models = target.outputs if target.task_type in ("regression", "multilabel") else 1
    forests = models * (target.outputs if target.task_type == "multiclass" and target.outputs > 2 else 1)
    # residues of one sequence are much alike
    sizes = (8, 31) if (len(train.inputs) if train.residues else len(target)) <= SEVERAL_SIZES else (31,)
    view, columns, wide, rate = _view(features, train, budget / forests)
    affordable = budget * rate / (forests * wide * len(sizes))
    most = iterations or int(np.clip(affordable / (len(target) + ROWS_ASIDE), LEAST_TREES, MOST_TREES))
    rows = int(max(affordable / LEAST_TREES - ROWS_ASIDE, 5 * ROWS_ASIDE))
    if len(target) > rows:
        train = train.take(np.sort(np.random.default_rng(seed).choice(len(target), rows, replace=False)))
    X, V = (_seen(features, part.inputs, *part.residues, view=view, columns=columns) for part in (train, validation))
    # a column that no row has (far beyond the ends of short sequences) has no thresholds
    X[:, np.isnan(X).all(0)] = 0.0
    edges = {} if train.weight is None else _edges(X, seed)
    for values in (X, V):
        _cut(values, edges)
    options: dict[str, Any] = {"random_state": seed}
    if view == "letters":
        options["categorical_features"] = _categories(train.inputs)
    elif view == "residues":
        options["min_samples_leaf"] = min(RESIDUES_A_LEAF, max(len(train.target) // 100, 1))
    found = []
    for k in range(models):
        (rows, own), (judged, judge) = train.column(k), validation.column(k)
        choice = {"figure": figure, "sizes": sizes, "most": most, "options": options}
        found.append(_best(X[rows], own, V[judged], judge.target, **choice))
    trees = Trees(
        task_type=target.task_type,
        view=view,
        columns=columns,
        models=[model for model, _ in found],
        counts=[own["trees"] for _, own in found],
        outputs=target.outputs,
        edges=edges,
    )
    chosen = found[0][1] if models == 1 else {key: [own[key] for _, own in found] for key in ("leaves", "trees")}
    return trees, {**chosen, "rows": len(train.target)}


def _view(features: Any, train: Part, seconds: float) -> tuple[View, list[int], int, float]:
    """Return what the trees look at, its columns, numbers a row, and how many of them a second are gone through."""
    if train.residues:
        return "residues", [], features.numbers_count, NUMBERS_A_SECOND
    affordable = seconds * NUMBERS_A_SECOND / FEW_TREES / (len(train.target) + ROWS_ASIDE)
    # pairs are left out first: trees find them, though later, by splitting twice
    for left_out in ((), PAIRS):
        columns = np.flatnonzero(~np.isin(features.blocks, left_out))
        if len(columns) <= affordable:
            break
    letters = train.inputs.codes.shape[1] * (1 + features.has_partner) + len(features.covariate_mean)
    is_cheaper = letters / LETTERS_A_SECOND < len(columns) / NUMBERS_A_SECOND
    if len(columns) > affordable and features.positions and is_cheaper:
        return "letters", [], letters, LETTERS_A_SECOND
    return "numbers", columns.tolist(), max(len(columns), 1), NUMBERS_A_SECOND


def _seen(features: Any, inputs: Inputs, *residues: np.ndarray, view: View, columns: list[int]) -> np.ndarray:
    if view == "residues":
        return features.numbers(inputs, *residues)
    if view == "numbers":
        X = features.matrix(inputs)
        return (X[:, columns] if columns else np.zeros((len(inputs), 1))).astype(np.float32).toarray()
    channels = [_letters(inputs.codes)]
    if inputs.partner is not None:
        first, second = channels[0], _letters(inputs.partner)
        is_mismatch = np.where(np.isnan(first) | np.isnan(second), np.nan, first != second)
        channels += [second, is_mismatch, np.nansum(is_mismatch, axis=1, keepdims=True)]
    return np.hstack([*channels, inputs.covariates]).astype(np.float32)


def _edges(X: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """Return where the columns with more values than bins are cut."""
    if len(X) > CUT_ROWS:
        X = X[np.random.default_rng(seed).choice(len(X), CUT_ROWS, replace=False)]
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    return {k: np.unique(np.nanquantile(X[:, k], inner)) for k in range(X.shape[1]) if len(np.unique(X[:, k])) > BINS}


def _cut(X: np.ndarray, edges: dict[int, np.ndarray]) -> None:
    """Put the number of the step in the place of each value; what is missing stays so."""
    for k, own in edges.items():
        X[:, k] = np.where(np.isnan(X[:, k]), np.nan, np.searchsorted(own, X[:, k]))


def _categories(inputs: Inputs) -> list[int]:
    T = inputs.codes.shape[1]
    return list(range(T if inputs.partner is None else 2 * T))


def _letters(codes: np.ndarray) -> np.ndarray:
    # what is no letter is a missing value
    return np.where(codes < 0, np.nan, codes)


def _best(
    X: np.ndarray,
    train: Part,
    V: np.ndarray,
    validation: Target,
    *,
    figure: str,
    sizes: tuple[int, ...],
    most: int,
    options: dict[str, Any],
) -> tuple[Any, dict[str, int]]:
    """Return the model that does best, and its size and number of trees."""
    target = train.target
    many = target.outputs if target.task_type == "multiclass" else 0
    y = target.y[:, 0] if target.task_type == "regression" else target.y
    if target.task_type != "regression" and len(np.unique(y)) == 1:
        return float(y[0]), {"leaves": 1, "trees": 0}
    best: tuple[float, Any, dict[str, int]] | None = None
    for size in sizes:
        model = _new(target.task_type, max_leaf_nodes=size, max_iter=most, **options)
        model.fit(X, y, sample_weight=train.weight)
        for count, prediction in enumerate(_stages(model, V, many), start=1):
            if count % STEP and count != most:
                continue
            value = score(validation, prediction)[figure]
            if best is None or value > best[0]:
                best = (value, model, {"leaves": size, "trees": count})
    assert best is not None
    return best[1:]


def _new(task_type: str, *, max_iter: int, **options: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make = HistGradientBoostingRegressor if task_type == "regression" else HistGradientBoostingClassifier
    # fewer trees must each go further
    rate = 0.1 if max_iter >= 150 else 0.2
    return make(max_iter=max_iter, learning_rate=rate, l2_regularization=LEAF_PENALTY, early_stopping=False, **options)


def _stages(model: Any, X: np.ndarray, many: int) -> Iterator[np.ndarray]:
    """Yield the predictions of the first tree, the first two … : `(n,)`, or `(n, many)` of classes."""
    if not hasattr(model, "staged_predict_proba"):
        yield from model.staged_predict(X)
        return
    there = model.classes_.astype(int)
    for found in model.staged_predict_proba(X):
        if not many:
            yield found[:, 1]
            continue
        # a class that no training row has is never predicted
        probabilities = np.zeros((len(X), many))
        probabilities[:, there] = found
        yield probabilities


def _predict(model: Any, X: np.ndarray, count: int, many: int) -> np.ndarray:
    if isinstance(model, float):
        return np.eye(many)[np.full(len(X), int(model))] if many else np.full(len(X), model)
    return next(islice(_stages(model, X, many), count - 1, None))
