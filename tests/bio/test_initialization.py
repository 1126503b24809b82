"""Where nets start: ridge, or a linear model of few features, or between."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import lars_path

from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.baselines import fit_ridge
from subquad.bio.models.initialization import fit_linear_start, fit_target_scaler
from subquad.bio.models.linear import stagewise_path
from subquad.bio.models.stacking import best_blending
from subquad.bio.models.target_scaling import to_predictions
from subquad.bio.settings import FitSettings


def table(rows=307, length=61, seed=0):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (rows, length)).astype(np.int8)
    return Inputs(codes=codes, letters=4, covariates=np.zeros((rows, 0)), is_aligned=True), random


def dataset(task_type, y, inputs, **more):
    n = len(inputs)
    split = {
        "train": np.arange(n // 2),
        "validation": np.arange(n // 2, 3 * n // 4),
        "test": np.arange(3 * n // 4, n),
    }
    return Dataset(inputs=inputs, target=Target(task_type=task_type, y=y, **more), split=split)


def test_the_path_is_close_to_the_lasso():
    random = np.random.default_rng(1)
    X = (random.random((211, 17)) < 0.4).astype(np.float32)
    X = X / X.std(0)
    y = X @ np.r_[2.0, -1.5, 1.0, np.zeros(14)] + random.normal(size=211)
    _, order, coefficients = lars_path(X - X.mean(0), y - y.mean(), method="lasso")
    path = list(
        stagewise_path(sparse.csr_matrix(X), y[:, None], np.ones((211, 1)), task_type="regression", steps=400, seed=0)
    )
    assert np.abs(path[0].weight[0]).argmax() == order[0]
    size = [np.abs(linear.weight).sum() for linear in path]
    # it has come far within the twenty steps before its first model
    for k in (3, 5):
        lasso = coefficients[:, k]
        nearest = path[int(np.argmin(np.abs(np.array(size) - np.abs(lasso).sum())))]
        np.testing.assert_allclose(nearest.weight[0], lasso, atol=0.15)
    # at its end it is least squares
    whole = np.linalg.lstsq(np.c_[X, np.ones(211)], y, rcond=None)[0]
    np.testing.assert_allclose(path[-1].weight[0] * path[-1].scale, whole[:-1], atol=0.05)
    assert path[-1].bias[0] == pytest.approx(whole[-1], abs=0.1)


def test_what_is_not_known_does_not_count_and_rows_count_as_they_weigh():
    random = np.random.default_rng(2)
    X = sparse.csr_matrix((random.random((101, 5)) < 0.5).astype(np.float32))
    y = random.normal(size=(101, 2))
    weight = np.ones((101, 2))
    weight[:50, 0] = 0
    first = list(stagewise_path(X, y, weight, task_type="regression", steps=100, seed=0))[-1]
    y[:50, 0] = 1e6
    again = list(stagewise_path(X, y, weight, task_type="regression", steps=100, seed=0))[-1]
    np.testing.assert_array_equal(first.weight, again.weight)


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["regression", "binary", "multilabel", "multiclass"])
def test_few_letters_that_count_are_found_where_ridge_spreads_out(task_type):
    inputs, random = table()
    hidden = 2.0 * (inputs.codes[:, 7] == 1) - 1.5 * (inputs.codes[:, 31] == 2) + (inputs.codes[:, 53] == 3)
    y = hidden + 0.7 * random.normal(size=len(inputs))
    match task_type:
        case "regression":
            own = dataset(task_type, np.stack([y, -y], axis=1), inputs, names=("a", "b"))
        case "binary":
            own = dataset(task_type, (y > 0.3).astype(np.int64), inputs, classes=("no", "yes"))
        case "multilabel":
            own = dataset(task_type, np.stack([y > 0.3, y > 1], axis=1).astype(float), inputs, names=("a", "b"))
        case _:
            own = dataset(task_type, np.digitize(y, [-0.3, 1.0]).astype(np.int64), inputs, classes=("a", "b", "c"))
    ridge, settings = fit_ridge(own), FitSettings(transform="none")
    start = fit_linear_start(own, ridge, settings)
    assert start.selected["sparse_weight"] > 0.5
    assert start.selected["features"] == start.is_sparse.sum() < ridge.features.count / 2
    test, truth = own.part("test")
    found = to_predictions(start.linear(start.features.matrix(test)), task_type, fit_target_scaler(own, settings))
    main = MAIN_METRIC[task_type]
    assert score(truth, found)[main] > score(truth, ridge.predict(test))[main]


@pytest.mark.slow
def test_many_letters_that_count_are_left_to_ridge():
    inputs, random = table(rows=811, length=31)
    effects = random.normal(size=(31, 4))
    y = effects[np.arange(31), inputs.codes].sum(1) + 3 * random.normal(size=811)
    own = dataset("regression", y[:, None], inputs)
    start = fit_linear_start(own, fit_ridge(own), FitSettings())
    assert start.selected["sparse_weight"] < 0.5


def test_shares_are_clear_where_one_is_best_and_middling_where_rows_cannot_tell():
    random = np.random.default_rng(3)
    y = random.normal(size=(203, 1))
    truth = Target(task_type="regression", y=y)
    good, bad = y + 0.1 * random.normal(size=y.shape), random.normal(size=y.shape)
    assert best_blending(truth, [bad, good], [(0.0,), (1.0,)], seed=0) == 1
    few = replace(truth, y=y[:9])
    alike = [y[:9] + random.normal(size=(9, 1)) for _ in range(2)]
    assert 0 < best_blending(few, alike, [(0.0,), (1.0,)], seed=0)[0] < 1
