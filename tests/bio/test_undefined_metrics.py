"""Metrics that rows do not define: of equal measurements, of columns with few test rows, of groups and of folds."""

import numpy as np
import pytest

from subquad.bio.commands.cross_validate import _metrics
from subquad.bio.commands.printing import print_folds
from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import by_group, compare_models, score, undefined_metrics
from subquad.bio.models.finished_run import no_comparison
from subquad.bio.plots.cross_validation_page import render, verdict

ROWS = 31


def two_columns():
    """Return a target whose second column has a single measurement, and predictions without errors."""
    y = np.random.default_rng(0).normal(size=(ROWS, 2))
    y[1:, 1] = np.nan
    prediction = np.where(np.isfinite(y), y, 0.0)
    return Target(task_type="regression", y=y, names=("many", "one")), prediction


def test_a_column_with_a_single_test_value_is_left_out_of_the_mean():
    target, prediction = two_columns()
    found, undefined = score(target, prediction), undefined_metrics(target)
    for name in ("spearman", "pearson", "r2", "ndcg"):
        assert found[name] == pytest.approx(1)
        assert undefined[f"{name}:one"] == "a single value"
    assert found["rmse"] == 0
    assert not {"spearman", "rmse", "rmse:one", "spearman:many"} & set(undefined)
    nothing = Target(task_type="regression", y=np.column_stack([target.y[:, 0], np.full(ROWS, np.nan)]), names="ab")
    assert undefined_metrics(nothing)["r2:b"] == "no measurement"


def test_equal_measurements_define_no_correlation_and_no_winner():
    target = Target(task_type="regression", y=np.full((ROWS, 1), 0.5))
    random = np.random.default_rng(0)
    found = compare_models(target, {name: random.normal(size=(ROWS, 1)) for name in ("ridge", "gp")})
    assert found["undefined"]["spearman"] == "a single value"
    assert found["wins"] is None
    assert set(found["bootstrap"]["ridge"]) == {None}
    reason = no_comparison({**found, "rows": {"test": ROWS}})
    assert reason == f"a single value among the {ROWS} test rows, so that Spearman is undefined"


def test_groups_have_the_metrics_that_they_define():
    y = np.array([[0.1], [0.2], [0.5], [0.5]])
    found = by_group(Target(task_type="regression", y=y), y, ["a", "a", "b", "b"])
    assert found["a"]["spearman"] == pytest.approx(1)
    assert set(found["b"]) == {"rows", "rmse", "top10_recall"}


def folds_of(*positives):
    """Return the metrics of folds with the given fractions of positives; Lyra is right, and ridge guesses."""
    random, folds = np.random.default_rng(0), []
    for fraction in positives:
        y = (np.arange(ROWS) < fraction * ROWS).astype(np.int64)
        target = Target(task_type="binary", y=y, classes=("no", "yes"))
        predictions = {"ridge": random.random((ROWS, 1)), "lyra": 0.1 + 0.8 * y[:, None]}
        own = compare_models(target, predictions)
        folds.append(own | {"rows": {"train": 60, "validation": 10, "test": ROWS}, "seconds": {"total": 1.0}})
    return folds


def test_folds_of_one_class_are_left_out_of_the_mean(tmp_path, capsys):
    metrics = _metrics(folds_of(0.5, 0.25, 1.0), None, {"names": ["x"]}, None)
    assert metrics["folds"]["lyra"] == [1.0, 1.0, None]
    assert metrics["test"]["lyra"]["auroc"] == 1.0
    assert metrics["std"]["lyra"]["auroc"] == 0.0
    assert metrics["best_folds"] == {"ridge": 0, "lyra": 2}
    assert (metrics["defined_folds"]["auroc"], metrics["defined_folds"]["accuracy"]) == (2, 3)
    assert metrics["undefined"] == {}
    text = verdict(metrics)
    assert text.startswith("Best on average over 2 folds: Lyra, AUROC 1.000 ± 0.000")
    assert "the folds that define a metric" in render(metrics, "x", how="at random")
    print_folds(metrics, tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "without those that do not define a metric" in shown
    # no predictions of rows were written
    assert "predictions.csv," not in shown


def test_a_metric_that_no_fold_defines_is_a_dash(tmp_path, capsys):
    metrics = _metrics(folds_of(1.0, 1.0), None, {"names": ["x"]}, None)
    assert metrics["undefined"]["auroc"] == "no negative"
    assert metrics["best_folds"] == {"ridge": 0, "lyra": 0}
    text = "No model is named best: no fold defines AUROC (no negative in the test rows)."
    assert verdict(metrics) == text
    page = render(metrics, "x", how="at random")
    assert text in page
    assert "0.500" not in page
    print_folds(metrics, tmp_path)
    assert "–" in capsys.readouterr().out


def cross_validated(**folds):
    """Return the metrics of a cross-validation whose models have these values in the folds."""
    count = len(next(iter(folds.values())))
    return {
        "main_metric": "auroc", "undefined": {}, "defined_folds": {"auroc": count}, "folds": folds,
        "rows": [{"train": 60, "validation": 10, "test": 70 // (count - 1)}] * count,
        "test": {model: {"auroc": float(np.mean(own))} for model, own in folds.items()},
        "std": {model: {"auroc": float(np.std(own, ddof=1))} for model, own in folds.items()},
        "best_folds": dict.fromkeys(folds, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("leads", "is_clear"),
    [
        # p = 0.16 by a paired t test, and a mean difference of four standard errors
        ((0.03, 0.05), False),
        # p = 0.03, and 0.07 with the correction
        ((0.028, 0.04, 0.052), False),
        ((0.038, 0.04, 0.042), True),
    ],
)
def test_few_folds_distinguish_models_only_by_students_t_with_the_correction_for_overlap(leads, is_clear):
    metrics = cross_validated(ridge=[0.7] * len(leads), lyra=[0.7 + lead for lead in leads])
    assert ("No clear difference from ridge." in verdict(metrics)) != is_clear
    assert ("clearly better" in render(metrics, "x", how="at random")) == is_clear


def test_a_single_model_is_no_winner_of_a_cross_validation():
    page = render(cross_validated(lyra=[0.7, 0.8, 0.9]), "x", how="at random")
    assert "clear" not in page
