import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge

from subquad.bio.baselines import Problem, feature_matrix, fit_boosting, fit_ridge
from subquad.bio.metrics import difference, score
from subquad.bio.net import BioNet, feature_count, features, one_hot


def problem(task="regression", rows=211, length=7, seed=0, has_positions=True):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (rows, length)).astype(np.int8)
    if not has_positions:
        codes[np.arange(length) >= random.integers(3, length + 1, (rows, 1))] = -1
    y = random.normal(size=4)[codes[:, 2]] + random.normal(size=4)[codes[:, 3]] + 0.1 * random.normal(size=rows)
    classes = []
    if task == "classification":
        y, classes = (y > np.median(y)).astype(np.int64), ["no", "yes"]
    order = random.permutation(rows)
    split = {"train": order[:151], "validation": order[151:181], "test": order[181:]}
    return Problem(codes=codes, y=y, split=split, task=task, classes=classes, letters=4, has_positions=has_positions)


def matrices(task):
    return {part: feature_matrix(task, part) for part in task.split}


def test_padding_is_zero_in_the_vectors_and_false_in_the_mask():
    x, mask = one_hot(torch.tensor([[2, 0, -1]], dtype=torch.int8), 3)
    assert x.tolist() == [[[0, 0, 1], [1, 0, 0], [0, 0, 0]]]
    assert mask.tolist() == [[True, True, False]]


def test_composition_and_pairs_are_counted_by_hand():
    f = features(torch.tensor([[0, 1, 1, -1]]), 2, has_positions=False)
    expected = torch.tensor([[1 / 3, 2 / 3, 0, 1 / 2, 0, 1 / 2]])
    torch.testing.assert_close(f, expected)
    assert feature_count(2, 0) == 6
    assert feature_count(2, 5) == 10


def test_the_net_starts_exactly_at_ridge():
    task = problem()
    ridge = fit_ridge(task, matrices(task))
    net = BioNet(4, 1, preset="auto", positions=7, is_curved=True)
    net.start_at(*(torch.from_numpy(ridge.linear[name]).float() for name in ("weight", "bias", "scale")))
    with torch.no_grad():
        got = net.eval()(torch.from_numpy(task.codes[task.split["test"]]))[:, 0]
    torch.testing.assert_close(got.double(), torch.from_numpy(ridge.predictions["test"]), rtol=1e-4, atol=1e-4)


def test_the_output_curve_never_falls():
    net = BioNet(4, 1, preset="auto", positions=7, is_curved=True)
    with torch.no_grad():
        net.curve.height.copy_(torch.linspace(-9, 9, 8))
        net.curve.log_steepness.copy_(torch.linspace(2, -1, 8))
        values = net.curve(torch.linspace(-6, 6, 1001)[:, None])[:, 0]
    assert (values.diff() > 0).all()


def test_the_paper_preset_is_lyra_alone():
    net = BioNet(20, 1, preset="paper", positions=11, is_curved=True)
    assert sum(parameter.numel() for parameter in net.parameters()) == 47_169


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_padding_changes_no_prediction(preset):
    net = BioNet(4, 3, preset=preset, positions=0, is_curved=False).eval()
    codes = torch.randint(0, 4, (5, 11))
    with torch.no_grad():
        torch.testing.assert_close(net(torch.nn.functional.pad(codes, (0, 6), value=-1)), net(codes))


def test_ridge_is_scikit_learns_at_the_chosen_penalty():
    task = problem()
    parts = matrices(task)
    fitted = fit_ridge(task, parts)
    model = Ridge(alpha=fitted.chosen["penalty"]).fit(parts["train"].toarray(), task.y[task.split["train"]])
    np.testing.assert_allclose(fitted.predictions["test"], model.predict(parts["test"].toarray()), atol=1e-3)
    assert isinstance(parts["train"], sparse.csr_matrix)


def test_logistic_regression_stands_for_ridge_where_there_are_classes():
    task = problem("classification")
    parts = matrices(task)
    fitted = fit_ridge(task, parts)
    model = LogisticRegression(C=1 / fitted.chosen["penalty"], max_iter=300)
    model.fit(parts["train"], task.y[task.split["train"]])
    np.testing.assert_allclose(fitted.predictions["test"], model.predict_proba(parts["test"])[:, 1], atol=1e-6)
    assert task.main("test", fitted.predictions["test"]) > 0.9


@pytest.mark.parametrize("has_positions", [True, False])
def test_boosting_learns_from_both_kinds_of_features(has_positions):
    task = problem("classification", has_positions=has_positions)
    fitted = fit_boosting(task, matrices(task), iterations=30, seed=0)
    assert fitted.chosen["trees"] <= 30
    assert task.main("test", fitted.predictions["test"]) > (0.9 if has_positions else 0.55)


def test_boosting_takes_letters_as_categories_where_columns_are_too_many(monkeypatch):
    from subquad.bio import baselines

    monkeypatch.setattr(baselines, "ONE_HOT_CELLS", 1.0)
    task = problem()
    fitted = fit_boosting(task, matrices(task), iterations=30, seed=0)
    assert task.main("test", fitted.predictions["test"]) > 0.8


def test_the_lead_of_equal_predictions_is_nothing_and_of_better_ones_is_clear():
    random = np.random.default_rng(0)
    y = random.normal(size=211)
    good, bad = y + 0.1 * random.normal(size=211), y + random.normal(size=211)
    assert difference(y, good, good, task="regression") == {"value": 0, "low": 0, "high": 0}
    assert 0 < difference(y, good, bad, task="regression")["low"] < 1


def test_figures_that_are_checked_by_hand():
    figures = score(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0]), task="regression")
    assert figures == pytest.approx({"spearman": 0.8, "pearson": 0.8, "r2": 0.6})
    figures = score(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]), task="classification")
    assert figures == pytest.approx({"auroc": 0.75, "ap": 5 / 6, "accuracy": 0.5, "mcc": 0.0})
    assert score(np.array([1.0, 2.0]), np.array([5.0, 5.0]), task="regression")["spearman"] == 0
