"""Gradient boosting with size and number of trees selected on the validation rows. Costs up to about half a minute.

Trees use the features of ridge or, if those would allow only few trees, the letter at each position as a categorical
feature: the same information in a twentieth of the columns. For residues they use properties of the letters around.

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

MAX_TREES, FEW_TREES, MIN_TREES = 300, 100, 50
"""Maximum number; number below which letters replace features; minimum number, on fewer rows if necessary."""
NUMERIC_RATE, LETTER_RATE = 1.5e8, 1.2e8
"""Rows times columns times trees per second on one thread, for numeric and for categorical columns."""
OVERHEAD_ROWS = 2000
"""Number of rows that cost as much as finding the splits of a tree."""
SEVERAL_SIZES = 5000
"""Maximum number of training sequences for which two sizes of trees are tried."""
BINS = 255
"""Maximum number of bins of scikit-learn's trees."""
BIN_ROWS = 20_000
"""Number of rows that determine the bins."""
LEAF_PENALTY = 1.0
"""Keeps a leaf with one row of a rare class from predicting with certainty."""
MIN_RESIDUES_PER_LEAF = 100
"""Neighbouring residues of a protein are not independent."""
STEP = 5
"""Trees between two validations."""

PAIRS = ("pairs", "type")
"""Blocks of features that are products of other features."""

View = Literal["numbers", "letters", "residues"]


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Fitted trees and their input columns."""

    task_type: TaskType
    """Task type, with residues as rows."""
    view: View
    columns: list[int]
    """Features used in the view `numbers`."""
    models: list[Any]
    """One model per column of measurements or label, otherwise one. A number stands for a constant column."""
    counts: list[int]
    """Number of trees of each model that are used, per class."""
    outputs: int
    edges: dict[int, np.ndarray]
    """Bin edges of columns with many values: scikit-learn's own binning takes minutes if rows are weighted."""

    def predict(self, features: Any, inputs: Inputs, *residues: np.ndarray) -> np.ndarray:
        """Return measurements or probabilities of rows or of the given residues, `(n, O)`."""
        X = _columns_of(features, inputs, *residues, view=self.view, columns=self.columns)
        _apply_bins(X, self.edges)
        classes = self.outputs if self.task_type == "multiclass" else 0
        found = [_predict(model, X, count, classes) for model, count in zip(self.models, self.counts, strict=True)]
        return found[0] if classes else np.stack(found, axis=1)


def fit_trees(
    features: Any, train: Part, validation: Part, *, metric: str, iterations: int | None, seed: int, budget: float
) -> tuple[Trees, dict[str, Any]]:
    """Return the trees that are best on the validation rows, and what was selected: `leaves`, `trees` and `rows`.

    Args:
        features: Features fitted to the training rows.
        train: Training rows or residues.
        validation: Validation rows or residues.
        metric: Metric that selects.
        iterations: Maximum number of trees. Default: as many as the budget allows.
        seed: Seed of random subsets of the rows and of ties.
        budget: Cost on one thread, in seconds.
    """
    target = train.target
    models = target.outputs if target.task_type in ("regression", "multilabel") else 1
    forests = models * (target.outputs if target.task_type == "multiclass" and target.outputs > 2 else 1)
    # residues of a sequence are correlated, so sequences count
    sizes = (8, 31) if (len(train.inputs) if train.residues else len(target)) <= SEVERAL_SIZES else (31,)
    view, columns, wide, rate = _view(features, train, budget / forests)
    affordable = budget * rate / (forests * wide * len(sizes))
    most = iterations or int(np.clip(affordable / (len(target) + OVERHEAD_ROWS), MIN_TREES, MAX_TREES))
    rows = int(max(affordable / MIN_TREES - OVERHEAD_ROWS, 5 * OVERHEAD_ROWS))
    if len(target) > rows:
        train = train.take(np.sort(np.random.default_rng(seed).choice(len(target), rows, replace=False)))
    X, V = (
        _columns_of(features, part.inputs, *part.residues, view=view, columns=columns) for part in (train, validation)
    )
    # columns without values (far beyond the ends of short sequences) have no thresholds
    X[:, np.isnan(X).all(0)] = 0.0
    edges = {} if train.weight is None else _bin_edges(X, seed)
    for values in (X, V):
        _apply_bins(values, edges)
    options: dict[str, Any] = {"random_state": seed}
    if view == "letters":
        options["categorical_features"] = _categories(train.inputs)
    elif view == "residues":
        options["min_samples_leaf"] = min(MIN_RESIDUES_PER_LEAF, max(len(train.target) // 100, 1))
    found = []
    for k in range(models):
        (rows, own), (known, held_out) = train.column(k), validation.column(k)
        choice = {"metric": metric, "sizes": sizes, "most": most, "options": options}
        found.append(_fit_sizes(X[rows], own, V[known], held_out.target, **choice))
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
    """Return the view of the trees, its columns, the number of values per row, and the values processed per second."""
    if train.residues:
        return "residues", [], features.numbers_count, NUMERIC_RATE
    affordable = seconds * NUMERIC_RATE / FEW_TREES / (len(train.target) + OVERHEAD_ROWS)
    # products are left out first: trees find them by splitting twice
    for left_out in ((), PAIRS):
        columns = np.flatnonzero(~np.isin(features.blocks, left_out))
        if len(columns) <= affordable:
            break
    letters = train.inputs.codes.shape[1] * (1 + features.has_partner) + len(features.covariate_mean)
    is_cheaper = letters / LETTER_RATE < len(columns) / NUMERIC_RATE
    if len(columns) > affordable and features.positions and is_cheaper:
        return "letters", [], letters, LETTER_RATE
    return "numbers", columns.tolist(), max(len(columns), 1), NUMERIC_RATE


def _columns_of(features: Any, inputs: Inputs, *residues: np.ndarray, view: View, columns: list[int]) -> np.ndarray:
    if view == "residues":
        return features.numbers(inputs, *residues)
    if view == "numbers":
        if not columns:
            return np.zeros((len(inputs), 1), dtype=np.float32)
        return features.matrix(inputs)[:, columns].astype(np.float32).toarray()
    channels = [_letters(inputs.codes)]
    if inputs.partner is not None:
        first, second = channels[0], _letters(inputs.partner)
        is_mismatch = np.where(np.isnan(first) | np.isnan(second), np.nan, first != second)
        channels += [second, is_mismatch, np.nansum(is_mismatch, axis=1, keepdims=True)]
    return np.hstack([*channels, inputs.covariates]).astype(np.float32)


def _bin_edges(X: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """Return the bin edges of the columns with more values than bins."""
    if len(X) > BIN_ROWS:
        X = X[np.random.default_rng(seed).choice(len(X), BIN_ROWS, replace=False)]
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    return {k: np.unique(np.nanquantile(X[:, k], inner)) for k in range(X.shape[1]) if len(np.unique(X[:, k])) > BINS}


def _apply_bins(X: np.ndarray, edges: dict[int, np.ndarray]) -> None:
    """Replace each value by its bin, in place; missing values stay missing."""
    for k, own in edges.items():
        X[:, k] = np.where(np.isnan(X[:, k]), np.nan, np.searchsorted(own, X[:, k]))


def _categories(inputs: Inputs) -> list[int]:
    T = inputs.codes.shape[1]
    return list(range(T if inputs.partner is None else 2 * T))


def _letters(codes: np.ndarray) -> np.ndarray:
    # padding and ambiguous letters are missing values
    return np.where(codes < 0, np.nan, codes)


def _fit_sizes(
    X: np.ndarray,
    train: Part,
    V: np.ndarray,
    validation: Target,
    *,
    metric: str,
    sizes: tuple[int, ...],
    most: int,
    options: dict[str, Any],
) -> tuple[Any, dict[str, int]]:
    """Return the model that is best on the validation rows, and its size and number of trees."""
    target = train.target
    classes = target.outputs if target.task_type == "multiclass" else 0
    y = target.y[:, 0] if target.task_type == "regression" else target.y
    if target.task_type != "regression" and len(np.unique(y)) == 1:
        return float(y[0]), {"leaves": 1, "trees": 0}
    best: tuple[float, Any, dict[str, int]] | None = None
    for size in sizes:
        model = _new(target.task_type, max_leaf_nodes=size, max_iter=most, **options)
        model.fit(X, y, sample_weight=train.weight)
        for count, prediction in enumerate(_stages(model, V, classes), start=1):
            if count % STEP and count != most:
                continue
            value = score(validation, prediction)[metric]
            if best is None or value > best[0]:
                best = (value, model, {"leaves": size, "trees": count})
    assert best is not None
    return best[1:]


def _new(task_type: str, *, max_iter: int, **options: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make = HistGradientBoostingRegressor if task_type == "regression" else HistGradientBoostingClassifier
    # fewer trees need larger steps
    rate = 0.1 if max_iter >= 150 else 0.2
    options |= {"l2_regularization": LEAF_PENALTY, "early_stopping": False}
    return make(max_iter=max_iter, learning_rate=rate, **options)


def _stages(model: Any, X: np.ndarray, classes: int) -> Iterator[np.ndarray]:
    """Yield the predictions of the first tree, the first two … : `(n,)`, or `(n, classes)`."""
    if not hasattr(model, "staged_predict_proba"):
        yield from model.staged_predict(X)
        return
    there = model.classes_.astype(int)
    for found in model.staged_predict_proba(X):
        if not classes:
            yield found[:, 1]
            continue
        # a class without training rows is never predicted
        probabilities = np.zeros((len(X), classes))
        probabilities[:, there] = found
        yield probabilities


def _predict(model: Any, X: np.ndarray, count: int, classes: int) -> np.ndarray:
    if isinstance(model, float):
        return np.eye(classes)[np.full(len(X), int(model))] if classes else np.full(len(X), model)
    return next(islice(_stages(model, X, classes), count - 1, None))
