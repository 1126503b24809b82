from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge

from subquad.bio.data.dataset import ANY, PAD, Dataset, Inputs, Target
from subquad.bio.features import rows as row_features
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.metrics.scores import score
from subquad.bio.models import boosting, linear
from subquad.bio.models.baselines import Baseline, fit_boosting, fit_ridge, refit_ridge


def split_of(n):
    thirds = np.array_split(np.arange(n), [n * 3 // 5, n * 4 // 5])
    return dict(zip(("train", "validation", "test"), thirds, strict=True))


def aligned(task_type, *, rows=701, length=7, letters=4, seed=0):
    """Two sites add up, a third one does too in the second column."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, letters, (rows, length)).astype(np.int8)
    z = (random.normal(size=letters) * 2)[codes[:, 2]] + (random.normal(size=letters) * 2)[codes[:, 5]]
    y, classes, names = z[:, None] + random.normal(size=(rows, 1)) * 0.1, (), ("target",)
    match task_type:
        case "binary":
            y, classes = (z > np.median(z)).astype(np.int64), ("no", "yes")
        case "multiclass":
            y, classes = np.digitize(z, np.quantile(z, [0.3, 0.7])), ("low", "mid", "high")
        case "multilabel" | "several":
            y, names = np.stack([z, 5 + 3 * codes[:, 1]], axis=1), ("one", "two")
            y = (y > np.median(y, axis=0)).astype(np.float64) if task_type == "multilabel" else y
            y[::3, 1] = np.nan
    task_type = "regression" if task_type == "several" else task_type
    inputs = Inputs(codes=codes, letters=letters, covariates=np.zeros((rows, 0)), is_aligned=True)
    return Dataset(
        inputs=inputs, target=Target(task_type=task_type, y=y, classes=classes, names=names), split=split_of(rows)
    )


def residues(task_type, *, rows=61, length=37, seed=0):
    """A residue follows the charge of its neighbours."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 20, (rows, length)).astype(np.int8)
    for row in range(rows):
        codes[row, random.integers(11, length + 1) :] = PAD
    charged = np.isin(codes, [8, 14]).astype(float)
    z = charged + np.roll(charged, 1, axis=1) + np.roll(charged, -1, axis=1)
    unknown = (codes == PAD) | (random.random(codes.shape) < 0.1)
    classes = ()
    if task_type == "residue_regression":
        y = np.where(unknown, np.nan, z)
    else:
        classes = ("a", "b") if task_type == "residue_binary" else ("a", "b", "c")
        y = np.where(unknown, -1, np.minimum(z, len(classes) - 1)).astype(np.int16)
    inputs = Inputs(codes=codes, letters=20, covariates=np.zeros((rows, 0)), is_aligned=False)
    return Dataset(inputs=inputs, target=Target(task_type=task_type, y=y, classes=classes), split=split_of(rows))


MAKE = {
    "regression": (aligned, "spearman", 0.97),
    "several": (aligned, "spearman", 0.95),
    "binary": (aligned, "auroc", 0.95),
    "multiclass": (aligned, "accuracy", 0.85),
    "multilabel": (aligned, "auroc", 0.95),
    "residue_regression": (residues, "r2", 0.85),
    "residue_binary": (residues, "auroc", 0.95),
    "residue_multiclass": (residues, "accuracy", 0.9),
}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("fitted", [fit_ridge, fit_boosting])
@pytest.mark.parametrize("task_type", MAKE)
def test_baselines_learn_each_kind_of_target_and_come_back_from_disk(tmp_path, task_type, fitted):
    make, figure, least = MAKE[task_type]
    dataset = make(task_type)
    baseline = fitted(dataset) if fitted is fit_ridge else fitted(dataset, iterations=41)
    inputs, target = dataset.part("test")
    predicted = baseline.predict(inputs)
    shape = (len(inputs), target.outputs)
    assert predicted.shape == (shape if not target.is_residue else (*inputs.codes.shape, target.outputs))
    assert score(target, predicted)[figure] > least
    assert baseline.selected["validation"] == pytest.approx(
        score(dataset.part("validation")[1], baseline.predict(dataset.part("validation")[0]))[figure]
    )
    baseline.save(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(Baseline.load(tmp_path / "b.safetensors").predict(inputs), predicted)


@pytest.mark.parametrize("has_weights", [False, True])
def test_ridge_is_scikit_learns(has_weights):
    random = np.random.default_rng(1)
    codes = random.integers(0, 4, (211, 7))
    codes[:, 0] = 2 * (random.random(211) < 0.1)
    X = sparse.csr_matrix(np.eye(4)[codes].reshape(211, -1).astype(np.float32))
    Y, weight = random.normal(size=(211, 2)) + 3, random.random(211) + 0.1 if has_weights else None
    scale = random.random(28) + 0.5
    for penalty, own in linear.ridge_path(X, Y, weight, scale):
        theirs = Ridge(alpha=penalty, solver="cholesky").fit(X.toarray() * scale, Y, sample_weight=weight)
        np.testing.assert_allclose(own(X), theirs.predict(X.toarray() * scale), atol=1e-4)


def test_the_rows_own_gradients_give_the_same_ridge(monkeypatch):
    dataset = aligned("regression")
    features = SequenceFeatures.for_inputs(dataset.inputs)
    X = features.matrix(dataset.inputs)
    whole = dict(linear.ridge_path(X, dataset.target.y, None, np.ones(features.count)))
    monkeypatch.setattr(linear, "MAX_DENSE", 0)
    for penalty, own in linear.ridge_path(X, dataset.target.y, None, np.ones(features.count)):
        np.testing.assert_allclose(own(X), whole[penalty](X), atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("most", [6000, 0])
def test_logistic_regression_is_scikit_learns(monkeypatch, classes, most):
    monkeypatch.setattr(linear, "MAX_DENSE", most)
    random = np.random.default_rng(2)
    X = sparse.csr_matrix(random.random((307, 11)) * (random.random((307, 11)) < 0.6))
    z = X @ random.normal(size=(11, classes)) * 2
    y = (z + random.gumbel(size=z.shape)).argmax(1)
    weight = random.random(307) + 0.3
    path = linear.logistic_path(X, y, classes, weight=weight, scale=np.ones(11), penalties=(10.0, 0.3))
    for penalty, own in path:
        theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(X, y, sample_weight=weight)
        expected = theirs.predict_proba(X)[:, 1:] if classes == 2 else theirs.predict_proba(X)
        task_type = "binary" if classes == 2 else "multiclass"
        np.testing.assert_allclose(own.predict(X, task_type), expected, atol=2e-3)


@pytest.mark.slow
def test_a_class_without_training_rows_is_never_predicted():
    dataset = aligned("multiclass")
    two = replace(dataset.target, classes=("low", "mid", "high", "never"))
    train = dataset.split["train"]
    one = replace(dataset, target=two, split=dataset.split | {"train": train[dataset.target.y[train] == 1]})
    for own, absent in ((replace(dataset, target=two), [3]), (one, [0, 2, 3])):
        inputs, target = own.part("test")
        for baseline in (fit_ridge(own), fit_boosting(own, iterations=5)):
            predicted = baseline.predict(inputs)
            assert predicted.shape == (len(target), 4)
            np.testing.assert_allclose(predicted.sum(1), 1)
            assert predicted[:, absent].max() < 1e-6


def test_a_row_of_double_weight_counts_as_two():
    dataset = aligned("binary", rows=211)
    train = dataset.split["train"]
    twice = np.concatenate([train, train[::2]])
    weight = np.ones(211)
    weight[train[::2]] = 2.0
    weighted = replace(dataset, weight=weight)
    doubled = replace(dataset, split=dataset.split | {"train": twice})
    inputs, _ = dataset.part("test")
    np.testing.assert_allclose(fit_ridge(weighted).predict(inputs), fit_ridge(doubled).predict(inputs), atol=2e-3)
    plain = fit_boosting(dataset, iterations=11).predict(inputs)
    assert not np.allclose(fit_boosting(weighted, iterations=11).predict(inputs), plain)


def test_the_linear_model_is_what_the_net_starts_from():
    dataset = aligned("binary", length=11)
    baseline = fit_ridge(dataset)
    inputs, _ = dataset.part("test")
    X = baseline.features.matrix(inputs).toarray()
    logits = (X * baseline.model.scale) @ baseline.model.weight.T + baseline.model.bias
    np.testing.assert_allclose(expit(logits), baseline.predict(inputs), atol=1e-6)
    tagged = fit_ridge(residues("residue_multiclass"))
    assert tagged.model.weight.shape == (3, tagged.features.count)


@pytest.mark.parametrize("task_type", ["regression", "several", "binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("has_weights", [False, True])
def test_ridge_that_is_fitted_again_to_its_training_rows_is_the_same(task_type, has_weights):
    dataset = aligned(task_type, rows=311)
    weight = np.random.default_rng(3).random(311) + 0.3 if has_weights else None
    dataset = replace(dataset, weight=weight)
    ridge, train = fit_ridge(dataset), dataset.split["train"]
    X = ridge.features.matrix(dataset.inputs)
    again = refit_ridge(ridge, dataset, X, train)
    np.testing.assert_allclose(again(X), ridge.model(X), rtol=1e-2, atol=2e-2)
    fewer = refit_ridge(ridge, dataset, X, train[:50])
    assert np.abs(fewer(X) - ridge.model(X)).max() > 0.05


@pytest.mark.long
def test_extra_columns_and_a_second_channel_are_learned_from():
    random = np.random.default_rng(5)
    codes = random.integers(0, 4, (503, 11)).astype(np.int8)
    partner = np.where(random.random(codes.shape) < 0.8, codes, random.integers(0, 4, codes.shape)).astype(np.int8)
    partner[:, :2] = PAD
    covariates = random.normal(3, 5, (503, 1))
    y = ((codes != partner) & (partner != PAD)).sum(1) + covariates[:, 0]
    dataset = Dataset(
        inputs=Inputs(codes=codes, letters=4, partner=partner, covariates=covariates, is_aligned=True),
        target=Target(task_type="regression", y=y[:, None]),
        split=split_of(503),
    )
    inputs, target = dataset.part("test")
    assert score(target, fit_ridge(dataset).predict(inputs))["spearman"] > 0.99
    assert score(target, fit_boosting(dataset).predict(inputs))["spearman"] > 0.95


@pytest.mark.long
def test_long_sequences_of_many_rows_show_their_letters_to_trees():
    dataset = aligned("regression", rows=503, length=29, letters=20)
    codes = dataset.inputs.codes.copy()
    codes[::7, 3] = ANY
    dataset = replace(dataset, inputs=replace(dataset.inputs, codes=codes))
    baseline = fit_boosting(dataset, iterations=53, seconds=0.5)
    assert baseline.model.view == "letters"
    inputs, target = dataset.part("test")
    assert score(target, baseline.predict(inputs))["spearman"] > 0.9


@pytest.mark.parametrize("view", ["letters", "numbers"])
def test_the_validation_rows_choose_between_letters_and_features(monkeypatch, view):
    tried = []

    def fitted(choice, *data, seconds, **options):
        tried.append((choice.view, seconds))
        model = SimpleNamespace(view=choice.view, predict=lambda _, inputs: np.zeros((len(inputs), 1)))
        return float(choice.view == view), model, {"view": choice.view}

    monkeypatch.setattr(boosting, "_fit_view", fitted)
    dataset = aligned("regression", rows=307, length=9, letters=20)
    baseline = fit_boosting(dataset, seconds=20.0)
    assert sorted(tried) == [("letters", 5.0), ("numbers", 15.0)]
    assert (baseline.model.view, baseline.selected["view"]) == (view, view)


@pytest.mark.long
def test_trees_on_letters_find_interactions_that_features_miss():
    random = np.random.default_rng(0)
    codes = random.integers(0, 20, (1501, 4)).astype(np.int8)
    table = random.normal(size=(20, 20))
    dataset = Dataset(
        inputs=Inputs(codes=codes, letters=20, covariates=np.zeros((1501, 0)), is_aligned=True),
        target=Target(task_type="regression", y=table[codes[:, 0], codes[:, 2]][:, None]),
        split=split_of(1501),
    )
    baseline = fit_boosting(dataset, iterations=61)
    assert baseline.selected["view"] == "letters"


def test_a_small_budget_takes_fewer_rows_and_trees(monkeypatch):
    monkeypatch.setattr(boosting, "OVERHEAD_ROWS", 23)
    baseline = fit_boosting(aligned("regression"), seconds=0.001)
    assert baseline.selected["rows"] < 420
    assert baseline.selected["trees"] <= 50


@pytest.mark.long
def test_weighted_trees_on_frequencies_come_back_from_disk(tmp_path):
    random = np.random.default_rng(7)
    codes = random.integers(0, 20, (907, 31)).astype(np.int8)
    for row in range(907):
        codes[row, random.integers(7, 32) :] = PAD
    z = np.isin(codes, [8, 14]).sum(1) / (codes != PAD).sum(1)
    dataset = Dataset(
        inputs=Inputs(codes=codes, letters=20, covariates=random.normal(size=(907, 1)), is_aligned=False),
        target=Target(task_type="regression", y=z[:, None]),
        split=split_of(907),
        weight=random.random(907) * 2,
    )
    baseline = fit_boosting(dataset, iterations=31)
    # the extra column has a value a row, more than trees have bins
    assert list(baseline.model.edges)
    inputs, target = dataset.part("test")
    assert score(target, baseline.predict(inputs))["spearman"] > 0.85
    baseline.save(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(Baseline.load(tmp_path / "b.safetensors").predict(inputs), baseline.predict(inputs))


def test_rare_classes_of_residues_are_kept_when_some_are_drawn():
    dataset = residues("residue_binary", rows=101)
    y = np.where(dataset.target.y >= 0, 0, -1).astype(np.int16)
    some = np.flatnonzero(y.ravel() == 0)[::53]
    y.ravel()[some] = 1
    dataset = replace(dataset, target=replace(dataset.target, y=y))
    known = (dataset.part("train")[1].y >= 0).sum()
    rare = (dataset.part("train")[1].y == 1).sum()
    part = row_features.part_of(dataset, "train", most=307, seed=0)
    assert (len(part.target), (part.target.y == 1).sum()) == (307, rare)
    assert part.weight.mean() == pytest.approx(1)
    assert part.weight[part.target.y == 1].sum() / part.weight.sum() == pytest.approx(rare / known)
    rows, positions = part.residues
    np.testing.assert_array_equal(part.inputs.codes[rows, positions] >= 0, True)
    held = row_features.part_of(dataset, "validation", most=101, seed=0)
    assert (held.target.y == 1).mean() < 0.1
