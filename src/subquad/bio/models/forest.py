"""Fitted gradient boosting of scikit-learn as arrays: it is saved without pickle, and its compiled code predicts.

Axes: n rows, M nodes of all trees, S sets of categories, D categorical columns, which come first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

__all__ = ["Forest"]


@dataclass(frozen=True, kw_only=True)
class Forest:
    """The trees of a `HistGradientBoostingRegressor` or `HistGradientBoostingClassifier`."""

    nodes: dict[str, np.ndarray]
    """Fields of scikit-learn's nodes, `(M,)` each, one tree after the other."""
    sets: np.ndarray
    """`(S, 8)` uint32: categories that go to the left, one bit each."""
    ends: np.ndarray
    """`(trees, 2)`: end of each tree among the nodes and among the sets."""
    known: np.ndarray
    """`(D, 8)` uint32: categories that occurred in training."""
    categories: list[np.ndarray]
    """Values of each categorical column in training; missing ones are left out."""
    baseline: np.ndarray
    """`(1, trees per iteration)`: prediction without any tree."""
    classes: list[int]
    """Classes with training rows; empty for measurements."""

    @classmethod
    def of(cls, model: Any, count: int) -> "Forest":
        """Return the first iterations of a fitted model."""
        trees = [tree for iteration in model._predictors[:count] for tree in iteration]
        encoder = None if model._preprocessor is None else model._preprocessor.named_transformers_["encoder"]
        nodes = np.concatenate([tree.nodes for tree in trees])
        return cls(
            nodes={name: nodes[name].copy() for name in nodes.dtype.names or ()},
            sets=np.concatenate([tree.raw_left_cat_bitsets for tree in trees]),
            ends=np.cumsum([(len(tree.nodes), len(tree.raw_left_cat_bitsets)) for tree in trees], axis=0),
            known=np.asarray(model._bin_mapper.make_known_categories_bitsets()[0]),
            categories=[] if encoder is None else [values[~np.isnan(values)] for values in encoder.categories_],
            baseline=np.asarray(model._baseline_prediction, dtype=np.float64).reshape(1, -1),
            classes=[int(name) for name in getattr(model, "classes_", ())],
        )

    def predict(self, X: np.ndarray, classes: int) -> np.ndarray:
        """Return measurements or probabilities of the positive class, `(n,)`; or of all classes, `(n, classes)`."""
        from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        X = np.array(X, dtype=np.float64)
        self._check(X.shape[1])
        for k, values in enumerate(self.categories):
            place = np.searchsorted(values, X[:, k]).clip(0, max(len(values) - 1, 0))
            X[:, k] = np.where(np.append(values, np.nan)[place] == X[:, k], place, np.nan)
        nodes: Any = np.zeros(self.ends[-1, 0], dtype=PREDICTOR_RECORD_DTYPE)
        columns = np.zeros(X.shape[1], dtype=np.uint32)
        for name, values in self.nodes.items():
            nodes[name] = values
        columns[: len(self.categories)] = np.arange(len(self.categories))
        sets, known, threads = self.sets.astype(np.uint32), self.known.astype(np.uint32), _openmp_effective_n_threads()
        raw, begin = np.repeat(self.baseline, len(X), axis=0), (0, 0)
        for number, end in enumerate(self.ends.tolist()):
            tree = TreePredictor(nodes[begin[0] : end[0]], sets[:0], sets[begin[1] : end[1]])
            raw[:, number % raw.shape[1]] += tree.predict(X, known, columns, threads)
            begin = end
        if not self.classes:
            return raw[:, 0]
        if not classes:
            return expit(raw[:, 0])
        # a class without training rows is never predicted
        found = np.zeros((len(X), classes))
        positive = expit(raw[:, 0])
        found[:, self.classes] = (
            softmax(raw, axis=1) if raw.shape[1] > 1 else np.stack([1 - positive, positive], axis=1)
        )
        return found

    def _check(self, width: int) -> None:
        """Raise if a tree refers to a node, column or set that does not exist, which compiled code would follow."""
        sizes = np.diff(self.ends, axis=0, prepend=0)
        number = np.arange(len(self.nodes["left"])) - np.repeat(self.ends[:, 0] - sizes[:, 0], sizes[:, 0])
        size, sets = (np.repeat(column, sizes[:, 0]) for column in sizes.T)
        column, is_set = self.nodes["feature_idx"], self.nodes["is_categorical"] != 0
        is_wrong = (column < 0) | (column >= width) | (is_set & (column >= len(self.known)))
        is_wrong |= is_set & (self.nodes["bitset_idx"] >= sets)
        for side in ("left", "right"):
            # children come after their parent, so that every way ends at a leaf
            is_wrong |= (self.nodes[side] <= number) | (self.nodes[side] >= size)
        if (is_wrong & (self.nodes["is_leaf"] == 0)).any() or tuple(self.ends[-1]) != (len(number), len(self.sets)):
            raise ValueError("the trees refer to nodes or columns that do not exist")
