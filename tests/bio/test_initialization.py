"""Where networks start: at ridge regression, and in training at its predictions out of fold."""

from dataclasses import replace

import numpy as np
import pytest

from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.metrics.scores import score
from subquad.bio.models.baselines import fit_ridge
from subquad.bio.models.initialization import fit_linear_start, fit_target_scaler
from subquad.bio.models.target_scaling import to_predictions
from subquad.bio.settings import FitSettings


def dataset(task_type="regression", *, rows=307, length=11, noise=0.3, repeats=1, seed=0):
    """Two sites add up; each sequence stands in the table several times, with other measurements."""
    random = np.random.default_rng(seed)
    codes = np.repeat(random.integers(0, 4, (rows, length)), repeats, axis=0).astype(np.int8)
    hidden = 2.0 * (codes[:, 7] == 1) - 1.5 * (codes[:, 3] == 2)
    y, classes, names = hidden + noise * random.normal(size=len(codes)), (), ("target",)
    match task_type:
        case "regression":
            y, names = np.stack([y, 70 - 3 * y], axis=1), ("a", "b")
        case "binary":
            y, classes = (y > 0).astype(np.int64), ("no", "yes")
        case "multilabel":
            y, names = np.stack([y > 0, y > 1], axis=1).astype(float), ("a", "b")
        case _:
            y, classes = np.digitize(y, [-0.3, 1.0]).astype(np.int64), ("a", "b", "c")
    n = len(codes)
    split = np.split(np.arange(n), [n // 2 - n // 2 % repeats, 3 * n // 4])
    return Dataset(
        inputs=Inputs(codes=codes, letters=4, covariates=np.zeros((n, 0)), is_aligned=True),
        target=Target(task_type=task_type, y=y, classes=classes, names=names),
        split=dict(zip(("train", "validation", "test"), split, strict=True)),
    )


@pytest.mark.parametrize("task_type", ["regression", "binary", "multilabel", "multiclass"])
def test_networks_start_at_the_predictions_of_ridge(task_type):
    own, settings = dataset(task_type), FitSettings(transform="none")
    ridge = fit_ridge(own)
    start = fit_linear_start(own, ridge, settings)
    scaler = fit_target_scaler(own, settings)
    test, _ = own.part("test")
    z = start.linear(start.features.matrix(test))
    np.testing.assert_allclose(to_predictions(z, task_type, scaler), ridge.predict(test), rtol=2e-3, atol=2e-3)
    # rows that are not trained on start there too
    np.testing.assert_allclose(start.out_of_fold[own.split["test"]], z, rtol=1e-4, atol=1e-4)


def test_ridge_is_fitted_again_to_measurements_that_are_transformed_to_ranks():
    own, effects = dataset(rows=607), np.random.default_rng(1).normal(size=(11, 4))
    # all sites add up on a logarithmic scale
    y = np.exp(effects[np.arange(11), own.inputs.codes].sum(1, keepdims=True))
    own = replace(own, target=Target(task_type="regression", y=y))
    test, truth = own.part("test")
    ridge, settings = fit_ridge(own), FitSettings(transform="rank")
    start = fit_linear_start(own, ridge, settings)
    expected = fit_target_scaler(own, settings).transform(truth.y)[:, 0]
    z = start.linear(start.features.matrix(test))[:, 0]
    assert np.corrcoef(z, expected)[0, 1] > 0.95
    assert np.corrcoef(ridge.predict(test)[:, 0], expected)[0, 1] < 0.85


def r2(values, truth):
    return score(Target(task_type="regression", y=truth, names=("a", "b")), values)["r2"]


def test_a_training_row_starts_at_a_prediction_that_has_not_seen_it():
    # nothing but noise, which many features fit
    own = dataset(rows=181, length=61)
    noise = np.random.default_rng(1).normal(size=own.target.y.shape)
    own = replace(own, target=replace(own.target, y=noise))
    ridge, train = fit_ridge(own), own.split["train"]
    weak = replace(ridge, selected=ridge.selected | {"penalty": [0.1, 0.1]})
    start = fit_linear_start(own, weak, FitSettings(transform="none"))
    scaled = fit_target_scaler(own, FitSettings(transform="none")).transform(noise)[train]
    fitted = start.linear(start.features.matrix(own.inputs))[train]
    assert r2(fitted, scaled) > 0.9
    assert r2(start.out_of_fold[train], scaled) < 0


def test_units_of_the_split_are_in_one_fold():
    own = dataset(rows=181, length=61, repeats=2)
    # the measurement of a sequence is noise, but the same for both of its rows
    noise = np.repeat(np.random.default_rng(1).normal(size=(181, 2)), 2, axis=0)
    own = replace(own, target=replace(own.target, y=noise))
    train, settings = own.split["train"], FitSettings(transform="none")
    scaled = fit_target_scaler(own, settings).transform(noise)[train]
    ridge = fit_ridge(own)
    weak = replace(ridge, selected=ridge.selected | {"penalty": [0.1, 0.1]})
    apart = fit_linear_start(own, weak, settings)
    together = fit_linear_start(replace(own, units=np.arange(362) // 2), weak, settings)
    assert r2(apart.out_of_fold[train], scaled) > 0.3
    assert r2(together.out_of_fold[train], scaled) < 0


def test_a_single_unit_has_no_folds():
    own = replace(dataset(), units=np.zeros(307, dtype=np.int64))
    start = fit_linear_start(own, fit_ridge(own), FitSettings())
    np.testing.assert_allclose(start.out_of_fold, start.linear(start.features.matrix(own.inputs)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task_type", ["regression", "multilabel"])
def test_a_column_that_is_known_in_one_training_row_only_has_a_start(task_type):
    own = dataset(task_type)
    y = own.target.y.copy()
    y[own.split["train"][1:], 1] = np.nan
    own = replace(own, target=replace(own.target, y=y))
    start = fit_linear_start(own, fit_ridge(own), FitSettings())
    assert np.isfinite(start.out_of_fold).all()
    # of the row itself nothing is known
    assert start.out_of_fold[0, 1] == 0
