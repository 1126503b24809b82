"""Checks of gradient boosting from a file: scikit-learn's compiled code follows trees without any."""

from typing import Any

import numpy as np

__all__ = ["check_trees"]

BITSET = 8
"""Words of 32 bits that hold a set of categories."""


def check_trees(model: Any, count: int, width: int) -> None:
    """Check a fitted model.

    Args:
        model: A `HistGradientBoostingRegressor` or `HistGradientBoostingClassifier`.
        count: Number of iterations that are used.
        width: Number of columns.

    Raises:
        ValueError: It is another model, has other columns, or a tree in it refers to a node or column that does not
            exist or never ends.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if type(model) not in (HistGradientBoostingClassifier, HistGradientBoostingRegressor):
        raise ValueError(f"it holds a {type(model).__name__}, not gradient boosting")
    if model._n_features != width:
        raise ValueError(f"its trees have {model._n_features} columns, and the features need {width}")
    trees, per_iteration, classes = model._predictors, model.n_trees_per_iteration_, getattr(model, "classes_", ())
    if per_iteration != (len(classes) if len(classes) > 2 else 1) or len(classes) == 1:
        raise ValueError(f"it has {per_iteration} trees per iteration, and {len(classes)} classes")
    if not 1 <= count <= len(trees) or any(len(own) != per_iteration for own in trees):
        raise ValueError(f"it has {len(trees)} iterations, not {count} with {per_iteration} trees each")
    if np.broadcast_shapes(np.shape(model._baseline_prediction), (1, per_iteration)) != (1, per_iteration):
        raise ValueError(f"its baseline prediction has the shape {np.shape(model._baseline_prediction)}")
    is_categorical = _categorical_columns(model._bin_mapper, width)
    for iteration, own in enumerate(trees):
        for tree in own:
            _check_tree(tree, is_categorical, f"tree {iteration}")


def _categorical_columns(mapper: Any, width: int) -> np.ndarray:
    """Return `(width,)` bool: the column has categories, all of which fit into a set."""
    is_categorical, thresholds = mapper.is_categorical_, mapper.bin_thresholds_
    if not isinstance(is_categorical, np.ndarray) or is_categorical.shape != (width,) or len(thresholds) != width:
        raise ValueError(f"it has no bins for each of its {width} columns")
    is_categorical = is_categorical != 0
    for column in np.flatnonzero(is_categorical):
        own = np.asarray(thresholds[column], dtype=np.float64)
        if not ((own >= 0) & (own < 32 * BITSET)).all():
            raise ValueError(f"column {column} has a category that is not a number from 0 to {32 * BITSET - 1}")
    return is_categorical


def _check_tree(tree: Any, is_categorical: np.ndarray, place: str) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    if type(tree) is not TreePredictor:
        raise ValueError(f"{place} is a {type(tree).__name__}")
    nodes, sets = tree.nodes, tree.raw_left_cat_bitsets
    if not isinstance(nodes, np.ndarray) or nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1 or not len(nodes):
        raise ValueError(f"{place} has no nodes of the type that scikit-learn reads")
    if not isinstance(sets, np.ndarray) or sets.dtype != np.uint32 or sets.ndim != 2 or sets.shape[1] != BITSET:
        raise ValueError(f"{place} has no sets of categories of the type that scikit-learn reads")
    number = np.flatnonzero(nodes["is_leaf"] == 0)
    inner = nodes[number]
    for side in ("left", "right"):
        # children come after their parent, so that every way ends at a leaf
        wrong = (inner[side] <= number) | (inner[side] >= len(nodes))
        _refuse(wrong, number, f"{place}: the {side} child", inner[side], f"{len(nodes)} nodes")
    columns = inner["feature_idx"]
    wrong = (columns < 0) | (columns >= len(is_categorical))
    _refuse(wrong, number, f"{place}: the column", columns, f"{len(is_categorical)} columns")
    has_set = inner["is_categorical"] != 0
    wrong = has_set & ~is_categorical[columns]
    _refuse(wrong, number, f"{place}: the column of categories", columns, "columns without categories")
    wrong = has_set & (inner["bitset_idx"] >= len(sets))
    _refuse(wrong, number, f"{place}: the set of categories", inner["bitset_idx"], f"{len(sets)} sets")


def _refuse(wrong: np.ndarray, number: np.ndarray, what: str, values: np.ndarray, of: str) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{what} of node {number[first]} is {values[first]}, of {of}")
