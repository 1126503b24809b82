"""Saved baselines: what is loaded predicts exactly the same, and trees that lead nowhere are refused."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from subquad.bio.models.baselines import Baseline
from subquad.bio.models.forest import Forest
from subquad.errors import SubquadError


def data(classes):
    """Return two categories, two numbers with missing values, and measurements or classes."""
    random = np.random.default_rng(classes)
    X = np.column_stack([random.integers(0, 7, 311), random.integers(2, 9, 311), random.normal(size=(311, 2))])
    X[random.random(X.shape) < 0.05] = np.nan
    y = np.nan_to_num(X[:, 0] % 2 + X[:, 2])
    return X, np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1])) if classes else y


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("categories", [None, [0, 1]])
def test_trees_as_arrays_predict_what_scikit_learn_predicts(classes, categories):
    X, y = data(classes)
    make = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = make(max_iter=11, categorical_features=categories, random_state=0).fit(X[:200], y[:200])
    found = Forest.of(model, 11).predict(X, classes if classes > 2 else 0)
    expected = model.predict_proba(X) if classes else model.predict(X)
    np.testing.assert_array_equal(found, expected[:, 1] if classes == 2 else expected)


@pytest.mark.parametrize(
    ("field", "value"), [("left", 2_000_000_000), ("left", 0), ("right", 0), ("feature_idx", 10**9), ("bitset_idx", 99)]
)
def test_trees_that_lead_nowhere_or_in_a_circle_are_refused(field, value):
    X, y = data(0)
    model = HistGradientBoostingRegressor(max_iter=2, categorical_features=[0], random_state=0).fit(X[:, [0, 2]], y)
    forest = Forest.of(model, 2)
    is_inner = forest.nodes["is_leaf"] == 0
    row = np.argmax(is_inner & (forest.nodes["is_categorical"] != 0) if field == "bitset_idx" else is_inner)
    forest.nodes[field][row] = value
    with pytest.raises(ValueError, match="refer to nodes or columns that do not exist"):
        forest.predict(X[:, [0, 2]], 0)


def test_a_file_that_holds_no_baseline_is_refused(tmp_path):
    path = tmp_path / "ridge.safetensors"
    path.write_bytes(b"sixteen bytes ..")
    with pytest.raises(SubquadError, match=r"ridge\.safetensors: cannot be read as"):
        Baseline.load(path)
