"""Changed files of baselines: refused with their name and what is wrong, before compiled code reads them."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestRegressor

from subquad.bio.models.baselines import Baseline
from subquad.bio.models.saved_trees import check_trees
from subquad.errors import SubquadError
from subquad.runs import unpacking

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bio_model"


def trees():
    """Gradient boosting on a category and two numbers."""
    random = np.random.default_rng(0)
    X = np.column_stack([random.integers(0, 7, 211), random.normal(size=(211, 2))])
    y = (X[:, 0] % 2) + X[:, 1]
    return HistGradientBoostingRegressor(max_iter=2, categorical_features=[0], random_state=0).fit(X, y)


def changed(field, value, *, of=lambda nodes: nodes["is_leaf"] == 0):
    """Gradient boosting with another value in the first of some nodes of the second tree."""
    model = trees()
    tree = model._predictors[1][0]
    tree.nodes = tree.nodes.copy()
    tree.nodes[field][np.argmax(of(tree.nodes))] = value
    return model


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("left", 2_000_000_000, r"the left child of node 0 is 2000000000, of \d+ nodes"),
        ("left", 0, r"the left child of node 0 is 0, of"),
        ("right", 2_000_000_000, r"the right child of node 0 is 2000000000, of"),
        ("right", 0, r"the right child of node 0 is 0, of"),
        ("feature_idx", 10**9, r"the column of node 0 is 1000000000, of 3 columns"),
        ("feature_idx", -1, r"the column of node 0 is -1, of 3 columns"),
    ],
)
def test_trees_that_lead_nowhere_or_in_a_circle_are_refused(field, value, message):
    check_trees(trees(), 2, 3)
    with pytest.raises(ValueError, match=rf"^tree 1: {message}"):
        check_trees(changed(field, value), 2, 3)


def test_sets_of_categories_that_are_not_there_are_refused():
    def of(nodes):
        return (nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 1)

    with pytest.raises(ValueError, match=r"tree 1: the set of categories of node \d+ is 4294967295, of \d+ sets"):
        check_trees(changed("bitset_idx", 2**32 - 1, of=of), 2, 3)
    with pytest.raises(ValueError, match=r"tree 1: the column of categories of node \d+ is 1, of columns without"):
        check_trees(changed("feature_idx", 1, of=of), 2, 3)
    model = trees()
    model._predictors[0][0].raw_left_cat_bitsets = np.zeros((7, 3), dtype=np.uint32)
    with pytest.raises(ValueError, match="tree 0 has no sets of categories"):
        check_trees(model, 2, 3)
    model = trees()
    model._bin_mapper.bin_thresholds_[0] = np.array([300.0])
    with pytest.raises(ValueError, match="column 0 has a category that is not a number from 0 to 255"):
        check_trees(model, 2, 3)
    model._bin_mapper.is_categorical_ = np.ones(2)
    with pytest.raises(ValueError, match="no bins for each of its 3 columns"):
        check_trees(model, 2, 3)


def test_trees_of_another_form_are_refused():
    model = trees()
    for count, width, message in [(3, 3, "2 iterations, not 3"), (2, 5, "have 3 columns, and the features need 5")]:
        with pytest.raises(ValueError, match=message):
            check_trees(model, count, width)
    with pytest.raises(ValueError, match="it holds a RandomForestRegressor, not gradient boosting"):
        check_trees(RandomForestRegressor(), 2, 3)
    for nodes in (np.zeros(3), model._predictors[0][0].nodes[:0]):
        other = trees()
        other._predictors[0][0].nodes = nodes
        with pytest.raises(ValueError, match="tree 0 has no nodes of the type that scikit-learn reads"):
            check_trees(other, 2, 3)
    other = trees()
    other._predictors[0] = []
    with pytest.raises(ValueError, match="not 2 with 1 trees each"):
        check_trees(other, 2, 3)
    other = trees()
    other._baseline_prediction = np.zeros((1, 7))
    with pytest.raises(ValueError, match=r"its baseline prediction has the shape \(1, 7\)"):
        check_trees(other, 2, 3)
    X = np.arange(60.0)[:, None]
    classifier = HistGradientBoostingClassifier(max_iter=1, min_samples_leaf=1).fit(X, np.arange(60) % 3)
    check_trees(classifier, 1, 1)
    classifier.classes_ = np.arange(5)
    with pytest.raises(ValueError, match="3 trees per iteration, and 5 classes"):
        check_trees(classifier, 1, 1)


def refused(baseline, folder):
    """Return the error for a baseline that was saved again."""
    path = folder / f"{baseline.name}.skops"
    baseline.save(path)
    with pytest.raises(
        SubquadError, match=rf"^{re.escape(str(path))}: damaged, or written by another version"
    ) as caught:
        Baseline.load(path)
    return str(caught.value)


def test_boosting_that_does_not_fit_its_features_is_refused(tmp_path):
    # an earlier version opens no boosting model that a later one saved
    pytest.importorskip("sklearn", minversion="1.9")
    boosting = Baseline.load(GOLDEN / "boosting.skops")
    tree = boosting.model.models[0]._predictors[0][0]
    tree.nodes = tree.nodes.copy()
    tree.nodes["left"][0], tree.nodes["is_leaf"][0] = 0, 0
    assert "(tree 0: the left child of node 0 is 0, of " in refused(boosting, tmp_path)
    for change, message in [
        ({"columns": [*boosting.model.columns[:-1], 10**9]}, "its trees read columns up to 1000000000, of"),
        ({"edges": {10**9: np.zeros(3)}}, "it has bins of column 1000000000, of"),
        ({"edges": {0: np.zeros((3, 2))}}, "the bins of column 0 has the shape (3, 2)"),
        ({"models": [RandomForestRegressor()]}, "sklearn.ensemble._forest.RandomForestRegressor"),
    ]:
        other = replace(boosting, model=replace(boosting.model, **change))
        if "models" not in change:
            assert message in refused(other, tmp_path)
            continue
        other.save(tmp_path / "forest.skops")
        with pytest.raises(SubquadError, match=f"contains {message}, .*which no fitted baseline does"):
            Baseline.load(tmp_path / "forest.skops")


def test_ridge_that_does_not_fit_its_features_is_refused(tmp_path):
    ridge = Baseline.load(GOLDEN / "ridge.skops")
    count = ridge.features.count
    for name, value in {"weight": np.zeros((1, count + 1)), "scale": np.ones(count - 1)}.items():
        message = refused(replace(ridge, model=replace(ridge.model, **{name: value})), tmp_path)
        assert f"({name} has the shape {value.shape}, and the features need" in message
    message = refused(replace(ridge, model=replace(ridge.model, scale=np.array(["a"]))), tmp_path)
    assert "(scale is no array of real numbers)" in message


@pytest.mark.long
def test_a_gaussian_process_that_does_not_fit_its_features_is_refused(tmp_path):
    gp = Baseline.load(GOLDEN / "gp.skops")
    process, features = gp.model, gp.features
    assert "(y has the shape " in refused(replace(gp, model=replace(process, y=process.y[1:])), tmp_path)
    for name, value in {"X": process.X[:, 1:], "noise": process.noise[1:], "spread": np.ones(3)}.items():
        with pytest.raises(
            ValueError, match=f"{name} has the shape {re.escape(str(value.shape))}, and the features need"
        ):
            replace(process, **{name: value}).check(features)
    for change in ({"columns": process.terms[0].columns + 10**6}, {"shift": np.zeros(3)}, {"scale": np.ones(2)}):
        with pytest.raises(ValueError, match="a term ha"):
            replace(process, terms=[replace(process.terms[0], **change), *process.terms[1:]]).check(features)
    with pytest.raises(ValueError, match="it has hyperparameters of 0 columns, not 1"):
        replace(process, hyperparameters=[]).check(features)


def test_a_baseline_that_becomes_much_larger_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**16)
    path = tmp_path / "ridge.skops"
    with zipfile.ZipFile(GOLDEN / "ridge.skops") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + bytes(2**24) * name.endswith(".npy"))
    with pytest.raises(SubquadError, match=r"ridge.skops: its content would become [\d,]+ bytes from [\d,]+ bytes"):
        Baseline.load(path)
    # it is compressed in itself
    skops.io.dump({"model": sparse.csr_matrix((3, 5))}, path)
    with pytest.raises(SubquadError, match=r"contains scipy.sparse.*csr_matrix, which no fitted baseline does"):
        Baseline.load(path)
