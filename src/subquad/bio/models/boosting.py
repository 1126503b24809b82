"""Gradient boosting with trees selected on the validation rows. Costs as many seconds as it may.

Trees use the features of ridge, or the letter at each position as a categorical feature instead of one-hot: the same
information in a twentieth of the columns, of which a split takes several letters at once. Both are tried if the time
allows, and the validation rows decide. For residues trees use properties of the letters around. A small search decides
on leaves per tree and rows per leaf, early stopping on the number of trees.

Axes: n rows, F features, O outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from subquad.bio.data.dataset import Inputs, Target, TaskType
from subquad.bio.features.pairs import letter_channels
from subquad.bio.features.rows import Part
from subquad.bio.features.sequences import LETTERS, PRODUCTS
from subquad.bio.metrics.scores import score
from subquad.bio.models.forest import Forest

__all__ = ["Trees", "fit_trees"]

MAX_TREES = 500
FEW_TREES = 100
"""Number of trees below which letters replace features."""
LETTERS_TIME = 0.25
"""Fraction of the time for trees on letters, where trees on features are tried too."""
MIN_TREES = 50
"""Minimum number of trees, on fewer rows if necessary."""
PATIENCE = 50
"""Number of trees without a lower validation loss after which no more are grown."""
NUMERIC_RATE, LETTER_RATE = 1.5e8, 1.2e8
"""Rows times columns times trees per second on one thread, for numeric and for categorical columns."""
OVERHEAD_ROWS = 2000
"""Number of rows that cost as much as finding the splits of a tree."""
FEW_ROWS = 5000
"""Maximum number of training sequences for which the whole search is affordable."""
SEARCH = ((8, 20), (15, 5), (15, 2), (31, 20))
"""Maximum number of leaves per tree and minimum number of rows per leaf that are tried on few rows. One-hot letters and
substitutions are rare: with 20 rows per leaf, scikit-learn's default, trees never see a letter that 19 rows have."""
SHORT_SEARCH = ((31, 5), (31, 20))
"""The same on many rows."""
MANY_COLUMNS, COLUMN_FRACTION = 50, 0.3
"""Number of columns above which each split sees a random fraction of them: faster, and more accurate on average."""
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

View = Literal["numbers", "letters", "residues"]


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Fitted trees and their input columns."""

    task_type: TaskType
    """Task type, with residues as rows."""
    view: View
    columns: list[int]
    """Features used in the views `numbers` and `letters`."""
    models: list[Forest | float]
    """One model per column of measurements or label, otherwise one. A number stands for a constant column."""
    outputs: int
    edges: dict[int, np.ndarray]
    """Bin edges of columns with many values: scikit-learn's own binning takes minutes if rows are weighted."""

    def predict(self, features: Any, inputs: Inputs, *residues: np.ndarray) -> np.ndarray:
        """Return measurements or probabilities of rows or of the given residues, `(n, O)`."""
        X = _columns_of(features, inputs, *residues, view=self.view, columns=self.columns)
        _apply_bins(X, self.edges)
        classes = self.outputs if self.task_type == "multiclass" else 0
        found = [_predict(model, X, classes) for model in self.models]
        return found[0] if classes else np.stack(found, axis=1)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        models = [dict(vars(model)) if isinstance(model, Forest) else model for model in self.models]
        edges = {str(column): values for column, values in self.edges.items()}
        return {**vars(self), "models": models, "edges": edges}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Trees":
        """Return the trees from the result of `as_dict`."""
        models = [model if isinstance(model, float) else Forest(**model) for model in values["models"]]
        edges = {int(column): values for column, values in values["edges"].items()}
        return cls(**{**values, "models": models, "edges": edges})


def fit_trees(
    features: Any, train: Part, validation: Part, *, metric: str, iterations: int | None, seed: int, seconds: float
) -> tuple[Trees, dict[str, Any]]:
    """Return the trees that are best on the validation rows, and what was selected.

    That is the `view`, `leaves` (per tree), `rows_per_leaf`, `trees` and `rows` (of training).

    Args:
        features: Features fitted to the training rows.
        train: Training rows or residues.
        validation: Validation rows or residues.
        metric: Metric that selects.
        iterations: Maximum number of trees. Default: as many as `seconds` allow.
        seed: Seed of random subsets of the rows and of ties.
        seconds: Approximate processor time of the fit.
    """
    choices = _choices(features, train, seconds / _forests(train.target))
    options = {"metric": metric, "iterations": iterations, "seed": seed}
    found = []
    for choice in choices:
        share = 1.0 if len(choices) == 1 else LETTERS_TIME if choice.view == "letters" else 1 - LETTERS_TIME
        found.append(_fit_view(choice, features, train, validation, seconds=share * seconds, **options))
    _, trees, selected = max(found, key=lambda one: one[0])
    return trees, selected


def _forests(target: Target) -> int:
    """Return the number of trees per iteration."""
    models = target.outputs if target.task_type in ("regression", "multilabel") else 1
    return models * (target.outputs if target.task_type == "multiclass" and target.outputs > 2 else 1)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A view of the trees, and what it costs."""

    view: View
    columns: list[int]
    """Features that it uses beside letters or residues."""
    width: int
    """Number of values per row."""
    rate: float
    """Values processed per second."""


def _choices(features: Any, train: Part, seconds: float) -> list[_Choice]:
    """Return the views to try in `seconds` per forest."""
    if train.residues:
        return [_Choice(view="residues", columns=[], width=features.numbers_count, rate=NUMERIC_RATE)]
    affordable = seconds * NUMERIC_RATE / FEW_TREES / (len(train.target) + OVERHEAD_ROWS)
    # a single substitution is known from its features; one-hot letters would only repeat it
    is_known = features.substitutions is not None and not features.has_several
    always = LETTERS if is_known else ()
    # products are left out first: trees find them by splitting twice
    for left_out in (always, (*always, *PRODUCTS)):
        columns = np.flatnonzero(~np.isin(features.blocks, left_out))
        if len(columns) <= affordable:
            break
    numbers = _Choice(view="numbers", columns=columns.tolist(), width=max(len(columns), 1), rate=NUMERIC_RATE)
    rest, count = np.flatnonzero(~np.isin(features.blocks, (*LETTERS, *PRODUCTS))), _categories(features)
    letters = _Choice(view="letters", columns=rest.tolist(), width=count + len(rest), rate=LETTER_RATE)
    if not count or count / LETTER_RATE >= (len(columns) - len(rest)) / NUMERIC_RATE:
        return [numbers]
    return [letters] if len(columns) > affordable else [numbers, letters]


def _fit_view(
    choice: _Choice,
    features: Any,
    train: Part,
    validation: Part,
    *,
    metric: str,
    iterations: int | None,
    seed: int,
    seconds: float,
) -> tuple[float, Trees, dict[str, Any]]:
    """Return the validation metric of the best trees of a view, the trees, and what was selected; see `fit_trees`."""
    target, view, columns = train.target, choice.view, choice.columns
    models = target.outputs if target.task_type in ("regression", "multilabel") else 1
    search = SEARCH if len(target) <= FEW_ROWS else SHORT_SEARCH
    if train.residues:
        # residues of a sequence are correlated, so sequences count
        rows_per_leaf = min(MIN_RESIDUES_PER_LEAF, max(len(target) // 100, 1))
        search = [(size, rows_per_leaf) for size in ((8, 31) if len(train.inputs) <= FEW_ROWS else (31,))]
    affordable = seconds * choice.rate / (_forests(target) * choice.width * len(search))
    most = iterations or int(np.clip(affordable / (len(target) + OVERHEAD_ROWS), MIN_TREES, MAX_TREES))
    fewest = min(MIN_TREES, iterations or MIN_TREES)
    rows = int(max(affordable / fewest - OVERHEAD_ROWS, 5 * OVERHEAD_ROWS))
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
        options["categorical_features"] = list(range(_categories(features)))
    if choice.width > MANY_COLUMNS:
        options["max_features"] = COLUMN_FRACTION
    found = []
    for k in range(models):
        (rows, own), (known, held_out) = train.column(k), validation.column(k)
        given = {"metric": metric, "search": search, "most": most, "options": options}
        found.append(_search(X[rows], own, V[known], held_out.target, **given))
    trees = Trees(
        task_type=target.task_type,
        view=view,
        columns=columns,
        models=[model if isinstance(model, float) else Forest.of(model, chosen["trees"]) for _, model, chosen in found],
        outputs=target.outputs,
        edges=edges,
    )
    chosen = found[0][2] if models == 1 else {key: [own[key] for *_, own in found] for key in found[0][2]}
    return fmean(value for value, *_ in found), trees, {"view": view, **chosen, "rows": len(train.target)}


def _columns_of(features: Any, inputs: Inputs, *residues: np.ndarray, view: View, columns: list[int]) -> np.ndarray:
    if view == "residues":
        return features.numbers(inputs, *residues)
    if view == "numbers" and not columns:
        return np.zeros((len(inputs), 1), dtype=np.float32)
    numbers = features.matrix(inputs)[:, columns].astype(np.float32).toarray()
    if view == "numbers":
        return numbers
    letters = [_letters(codes[:, features.varying]) for codes in letter_channels(features, inputs)]
    if inputs.partner is not None:
        first, second = letters
        letters.append(np.where(np.isnan(first) | np.isnan(second), np.nan, first != second))
    return np.hstack([*letters, numbers]).astype(np.float32)


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


def _categories(features: Any) -> int:
    """Return the number of categorical columns of the view `letters`: letters, those of the partner, mismatches."""
    return len(features.varying) * (3 if features.has_partner else 1)


def _letters(codes: np.ndarray) -> np.ndarray:
    # padding and ambiguous letters are missing values
    return np.where(codes < 0, np.nan, codes)


def _search(
    X: np.ndarray,
    train: Part,
    V: np.ndarray,
    validation: Target,
    *,
    metric: str,
    search: Sequence[tuple[int, int]],
    most: int,
    options: dict[str, Any],
) -> tuple[float, Any, dict[str, int]]:
    """Return the best validation metric, the model that has it, and its leaves, rows per leaf and number of trees."""
    target = train.target
    classes = target.outputs if target.task_type == "multiclass" else 0
    y, held_out = (own.y[:, 0] if own.task_type == "regression" else own.y for own in (target, validation))
    if target.task_type != "regression" and len(np.unique(y)) == 1:
        return 0.0, float(y[0]), {"leaves": 1, "rows_per_leaf": 1, "trees": 0}
    # the loss of a class without training rows is undefined
    known = np.isin(held_out, y) if target.task_type != "regression" else np.ones(len(held_out), dtype=bool)
    watched = {"X_val": V[known], "y_val": held_out[known]} if known.any() else {}
    best: tuple[float, Any, dict[str, int]] | None = None
    for leaves, rows_per_leaf in search:
        limits = {"max_leaf_nodes": leaves, "min_samples_leaf": min(rows_per_leaf, max(len(y) // 10, 1))}
        model = _new(target.task_type, max_iter=most, early_stopping=bool(watched), **limits, **options)
        model.fit(X, y, sample_weight=train.weight, **watched)
        for count, prediction in enumerate(_stages(model, V, classes), start=1):
            if count % STEP and count != model.n_iter_:
                continue
            value = score(validation, prediction)[metric]
            if best is None or value > best[0]:
                best = (value, model, {"leaves": leaves, "rows_per_leaf": rows_per_leaf, "trees": count})
    assert best is not None
    return best


def _new(task_type: str, *, max_iter: int, **options: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make = HistGradientBoostingRegressor if task_type == "regression" else HistGradientBoostingClassifier
    # fewer trees need larger steps
    rate = 0.05 if max_iter >= 300 else 0.1 if max_iter >= 150 else 0.2
    options |= {"l2_regularization": LEAF_PENALTY, "n_iter_no_change": PATIENCE, "tol": 0.0}
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


def _predict(model: Forest | float, X: np.ndarray, classes: int) -> np.ndarray:
    if isinstance(model, Forest):
        return model.predict(X, classes)
    return np.eye(classes)[np.full(len(X), int(model))] if classes else np.full(len(X), model)
