"""scikit-learn estimators of the networks: measurements, classes, values of residues, base pairs. As costly as `fit`.

They work in scikit-learn's pipelines, searches and cross-validation.

Axes: n rows, K columns of measurements or labels, C classes, L letters of a sequence, p pairs.
"""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from subquad.bio.data.alphabet import alphabet_of
from subquad.bio.data.dataset import Inputs, Target
from subquad.bio.data.inputs import check_task
from subquad.bio.metrics.base_pairs import agreement, decode_pairs, dot_bracket
from subquad.bio.metrics.conformal import LEVELS, Conformal
from subquad.bio.models.base_estimator import MORE_PARAMETERS, PARAMETERS, Estimator
from subquad.bio.models.estimator_targets import base_pairs, is_known, residue_labels, residue_target
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.errors import SubquadError
from subquad.runs.options import takes_settings

__all__ = ["LyraClassifier", "LyraPairing", "LyraRegressor", "LyraTagger"]

MIN_PROBABILITY = 1e-7
"""Distance of label probabilities from 0 and 1: float32 cannot represent smaller ones."""


class LyraRegressor(RegressorMixin, Estimator):
    """Regression of measurements on sequences with Lyra around a linear model.

    y is `(n,)`, or `(n, K)` for K measurements that are learned jointly, some of which may be NaN.

    ```python
    from subquad.bio import LyraRegressor

    model = LyraRegressor(random_state=0).fit(["ACGTA", "ACGTC", …], [0.3, 1.2, …])
    value, spread = model.predict(["ACGTG"], return_std=True)
    low, high = model.predict_interval(["ACGTG"], level=0.9)
    ```

    It passes scikit-learn's `check_estimator` except `check_sample_weight_equivalence_on_dense_data`: a weight scales
    the loss of a row, while repeated rows fall into other batches and may be held out, so that both agree on average
    and not exactly. A weight of 0 is exactly equivalent to leaving out the row.

    Attributes:
        ensemble_: The fitted networks.
        n_features_in_: Number of columns of X; 1 if X is a list of sequences.
        feature_names_in_: Names of the columns, if X is a data frame.
    """

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the measurements, of the shape of y; with `return_std` also the standard deviation of the ensemble.

        Raises:
            SubquadError: X does not fit the model, or `return_std` with a single network.
        """
        _, members = self._members(X)
        shape = (-1,) if self._form == "flat" else members.mean.shape
        mean, spread = members.mean.reshape(shape), members.std()
        if not return_std:
            return mean
        if spread is None:
            raise SubquadError("a single network has no standard deviation; fit with ensemble_size=2 or more")
        return mean, spread.reshape(shape)

    def predict_interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end of prediction intervals, each of the shape of y.

        The intervals are split-conformal: calibrated on the validation rows, they contain the fraction `level` of new
        rows from the same distribution. They are infinite if too few rows were held out (90 % needs nine).

        Args:
            X: As for `predict`.
            level: Nominal coverage: 0.5, 0.8, 0.9 or 0.95.

        Raises:
            SubquadError: X does not fit the model, or no rows were held out.
            ValueError: There is no such level.
        """
        _, members = self._members(X)
        if self._intervals is None:
            raise SubquadError("no rows were held out to calibrate intervals; fit with ten rows or more")
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(map(str, LEVELS))}, got {level}")
        mean, spread = members.mean, members.std()
        ends = np.full((2, *mean.shape), [[[-np.inf]], [[np.inf]]])
        for k, values in enumerate(self._intervals):
            if values is not None:
                own = None if spread is None else spread[:, k]
                ends[:, :, k] = Conformal.from_dict(values).interval(mean[:, k], own, level)
        shape = (-1,) if self._form == "flat" else mean.shape
        return ends[0].reshape(shape), ends[1].reshape(shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _read_target(self, y: Any, inputs: Inputs) -> Target:
        names = [str(name) for name in getattr(y, "columns", [])]
        options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
        y = check_array(y, ensure_2d=False, input_name="y", **options)
        self._form = "flat" if y.ndim == 1 else "wide"
        wide = y.reshape(len(y), -1)
        if np.isnan(wide).all(1).any():
            row = int(np.isnan(wide).all(1).argmax()) + 1
            raise ValueError(f"Input y contains NaN in all of row {row}; leave the row out")
        if np.isnan(wide).all(0).any():
            raise ValueError("Input y contains a column of NaN alone; leave it out")
        count = wide.shape[1]
        names = names or (["target"] if count == 1 else [f"target {k + 1}" for k in range(count)])
        return Target(task_type="regression", y=wide, names=names)


class LyraClassifier(ClassifierMixin, Estimator):
    """Classification of sequences with Lyra around logistic regression.

    y is `(n,)` of two or more classes, or `(n, K)` of 0 and 1 for K labels (multilabel).

    ```python
    from subquad.bio import LyraClassifier

    model = LyraClassifier(random_state=0).fit(["GLFDIVKKVV", "MKTAYIAKQR", …], ["active", "inactive", …])
    model.predict_proba(["GLFDIIKKIA"])
    ```

    It passes scikit-learn's `check_estimator` with the same exception as `LyraRegressor`.

    Attributes:
        classes_: `(C,)` sorted classes; `0 … K-1` for labels.
        ensemble_: The fitted networks.
        n_features_in_: Number of columns of X; 1 if X is a list of sequences.
        feature_names_in_: Names of the columns, if X is a data frame.
    """

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of each row, or `(n, K)` labels that are 1 if their probability exceeds 0.5."""
        probability = self.predict_proba(X)
        if self._form == "labels":
            return (probability > 0.5).astype(np.int64)
        return self.classes_[probability.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, `(n, C)`, or of each label, `(n, K)`."""
        _, members = self._members(X)
        probability = members.mean
        if self._form == "labels":
            return probability.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return _class_probabilities(probability)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _read_target(self, y: Any, inputs: Inputs) -> Target:
        names = [str(name) for name in getattr(y, "columns", [])]
        options: dict[str, Any] = {"dtype": None, "accept_sparse": "csr"}
        y = check_array(y, ensure_2d=False, input_name="y", **options)
        check_classification_targets(y)
        if type_of_target(y, input_name="y") == "multilabel-indicator":
            table = (y if isinstance(y, np.ndarray) else y.toarray()).astype(np.float64)
            self._form, self.classes_ = "labels", np.arange(table.shape[1])
            return Target(task_type="multilabel", y=table, names=names or [f"label {k + 1}" for k in self.classes_])
        self._form = "flat"
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs two classes, and y has one class only ({self.classes_.tolist()[0]!r})"
            )
        task_type = "binary" if len(self.classes_) == 2 else "multiclass"
        return Target(task_type=task_type, y=places.astype(np.int64), classes=[str(name) for name in self.classes_])


@takes_settings(FitSettings, *PARAMETERS, **MORE_PARAMETERS, values="auto")
class LyraTagger(Estimator):
    """One value per residue: classes (secondary structure, binding) or numbers (disorder, reactivity).

    y is n strings with one character per letter, or n lists or arrays with one label or number per letter; `-`, `?`,
    None and NaN are unknown. Predictions have the form of y.

    ```python
    from subquad.bio import LyraTagger

    model = LyraTagger(random_state=0).fit(["MKTAYIAK", …], ["CCHHHHCC", …])
    model.predict(["MKTWYIAKQ"])
    ```

    It works in searches and cross-validation; scikit-learn's `check_estimator` has no such y.

    Attributes:
        classes_: `(C,)` sorted classes; absent if numbers are predicted.
        ensemble_: The fitted networks.
    """

    values: str
    """`classes` or `numbers`; `auto` treats fractional numbers as numbers and everything else as classes."""

    def predict(self, X: Any) -> list[Any]:
        """Return the values of each row in the form of y: a string, or an array `(L,)` of labels or numbers."""
        if not self._has_classes:
            inputs, members = self._members(X)
            return [values[:, 0] for values in _unpadded(members.mean, inputs)]
        labels = [self.classes_[probability.argmax(1)] for probability in self.predict_proba(X)]
        return ["".join(own) for own in labels] if self._form == "text" else labels

    def predict_proba(self, X: Any) -> list[np.ndarray]:
        """Return the probability of each class at each letter, one `(L, C)` array per row.

        Raises:
            SubquadError: X does not fit the model, or it predicts numbers.
        """
        inputs, members = self._members(X)
        if not self._has_classes:
            raise SubquadError("this tagger predicts numbers, which have no probabilities; use predict")
        return [_class_probabilities(probability) for probability in _unpadded(members.mean, inputs)]

    def score(self, X: Any, y: Any) -> float:
        """Return the accuracy over all known residues, or R² if numbers are predicted."""
        known = [is_known(own) for own in y]
        predicted = [np.asarray(list(own))[there] for own, there in zip(self.predict(X), known, strict=True)]
        true = [np.asarray(list(own), dtype=object)[there] for own, there in zip(y, known, strict=True)]
        found, truth = np.concatenate(predicted), np.concatenate(true)
        return float((found == truth).mean()) if self._has_classes else float(r2_score(truth.astype(float), found))

    def __sklearn_tags__(self) -> Any:
        return _sequence_tags(super().__sklearn_tags__())

    @property
    def _has_classes(self) -> bool:
        check_is_fitted(self, "ensemble_")
        return self._target["task_type"] != "residue_regression"

    def _read_target(self, y: Any, inputs: Inputs) -> Target:
        check_task(inputs, alphabet="auto", task_type="residue_binary")
        if self.values not in ("auto", "classes", "numbers"):
            raise ValueError(f"values must be auto, classes or numbers, got {self.values!r}")
        rows = [own if isinstance(own, str) else np.asarray(own, dtype=object).tolist() for own in y]
        self._form = "text" if all(isinstance(own, str) for own in rows) else "lists"
        labels = residue_labels(rows)
        if not labels:
            raise ValueError("y has no known value")
        has_fractions = any(isinstance(label, float) and not label.is_integer() for label in labels)
        if self.values == "numbers" or (self.values == "auto" and has_fractions):
            self.__dict__.pop("classes_", None)
            return residue_target(rows, inputs, None)
        self.classes_ = np.unique(np.array(labels))
        if len(self.classes_) < 2:
            raise ValueError(f"LyraTagger needs two classes, and y has one class only ({self.classes_.tolist()[0]!r})")
        return residue_target(rows, inputs, self.classes_)


class LyraPairing(Estimator):
    """Base pairs of RNA with Lyra and a pair network, starting at the pair probabilities of ViennaRNA.

    y is n dot-bracket strings, or n lists of paired positions counted from 0, `(p, 2)`. Predictions have the form of y.

    ```python
    from subquad.bio import LyraPairing

    model = LyraPairing(random_state=0).fit(["GGGAAAUCCC", …], ["(((...))).", …])
    model.predict(["GGCAAAGCC"])
    ```

    It works in searches and cross-validation; scikit-learn's `check_estimator` has no such y.

    Attributes:
        ensemble_: The fitted networks.
    """

    def predict(self, X: Any) -> list[Any]:
        """Return the structure of each row, in the form of y."""
        found = self.predict_proba(X)
        pairs = [decode_pairs(probability) for probability in found]
        if self._form == "lists":
            return pairs
        return [dot_bracket(own, len(probability)) for own, probability in zip(pairs, found, strict=True)]

    def predict_proba(self, X: Any) -> list[np.ndarray]:
        """Return the probability of each pair, one symmetric `(L, L)` array per row."""
        _, members = self._members(X)
        return members.mean

    def score(self, X: Any, y: Any) -> float:
        """Return the mean F1 of base pairs over the rows."""
        found = self.predict_proba(X)
        true = base_pairs(y, [len(probability) for probability in found])
        values = [agreement(own, decode_pairs(P))["f1"] for own, P in zip(true, found, strict=True)]
        return float(np.mean(values))

    def __sklearn_tags__(self) -> Any:
        return _sequence_tags(super().__sklearn_tags__())

    def _read_target(self, y: Any, inputs: Inputs) -> Target:
        check_task(inputs, alphabet=alphabet_of(inputs.letters), task_type="pairs")
        if inputs.letters != len(ALPHABETS["rna"]):
            raise SubquadError("X: base pairs need RNA or DNA, but these are proteins; set alphabet if that is wrong")
        y = list(y)
        self._form = "text" if all(isinstance(own, str) for own in y) else "lists"
        return Target(task_type="pairs", y=base_pairs(y, inputs.lengths))


def _class_probabilities(probability: np.ndarray) -> np.ndarray:
    """Return one column per class, with a sum of 1."""
    if probability.shape[-1] == 1:
        return np.concatenate([1 - probability, probability], axis=-1)
    # float32 sums to 1 except for its last digit
    return probability / probability.sum(-1, keepdims=True)


def _unpadded(values: np.ndarray, inputs: Inputs) -> list[np.ndarray]:
    return [own[:length] for own, length in zip(values, inputs.lengths, strict=True)]


def _sequence_tags(tags: Any) -> Any:
    tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, False
    tags.target_tags.one_d_labels, tags.target_tags.two_d_labels = False, False
    return tags
