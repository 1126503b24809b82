"""Reports of runs with unusual targets: unmeasured columns, odd names, undefined metrics, and few rows."""

import io
import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from support.bio_runs import ROWS, finished, folder

from subquad.bio.commands.report import report
from subquad.bio.data.dataset import Target
from subquad.bio.design_search import page as design_page
from subquad.bio.design_search import rounds_page
from subquad.bio.metrics.scores import undefined_metrics
from subquad.bio.models import learning_curve as curve_module
from subquad.bio.models.finished_run import lead_of
from subquad.bio.models.fit import _coverage
from subquad.bio.plots import figures, maps
from subquad.bio.plots.comparison_page import compare
from subquad.bio.plots.figures import profiles
from subquad.bio.plots.fit_page import render
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.reporting.page import show
from subquad.runs.storage import read_json, write_json

EMPTY = '<svg viewBox="0 0 7 5"></svg>'
PARTS = ("train", "validation", "test")


@pytest.fixture
def undrawn(monkeypatch):
    """Skip the drawing of figures, which takes most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **how: buffer.write(EMPTY))


def table_rows(page):
    """Return the cells of all rows of tables of a page."""
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)]


def two_columns():
    """Return a regression of two columns, of which the test rows have measurements of the second one only."""
    run = finished("regression")
    for model in ("measured", *run.metrics["test"]):
        run.rows[f"{model}:first"] = run.rows[f"{model}:second"] = run.rows.pop(model)
    run.rows["measured:first"] = np.nan
    run.config["target"]["names"] = ["first", "second"]
    return run


def with_audit(task_type, target):
    length = {"min": 7, "max": 7, "median": 7.0, "edges": [7.0, 8.0], "counts": [ROWS]}
    run = finished(task_type)
    run.metrics["audit"] = {
        **{"rows": ROWS, "measured": ROWS, "length": length, "varying": None, "ambiguous": 0, "covariates": []},
        **{"duplicates": {"rows": 0}, "mutations": None, "target": target},
    }
    return run


@pytest.mark.usefixtures("undrawn")
def test_figures_show_the_first_column_that_the_test_rows_measure():
    page = render(two_columns())
    assert "equality. The first of 2 target columns that are measured in test rows." in page
    assert "Residuals of the predictions of second (" in page


@pytest.mark.usefixtures("undrawn")
def test_classes_and_columns_may_have_the_names_of_what_is_counted():
    counts = dict.fromkeys(PARTS, 7)
    page = render(with_audit("binary", {"classes": {"lowest": counts, "edges": counts, "highest": counts}}))
    for name in ("lowest", "edges", "highest"):
        assert [name, "7", "7", "7"] in table_rows(page)
    histogram = {"edges": [0.0, 1.0], **{part: [7] for part in PARTS}, "known": 1.0, "lowest": 0.25, "highest": 0.0}
    page = render(with_audit("regression", {"classes": histogram}))
    assert "25 % of the measurements of classes equal the lowest value" in page
    assert "Histograms of targets by part of the split" in page
    assert ("sequence lengths" in page) == ("sequence length</text>" in page)


@pytest.mark.usefixtures("undrawn")
def test_repeated_rows_differ_by_column():
    run = with_audit("regression", None)
    run.metrics["audit"]["duplicates"] = {"rows": 3, "differences": {"yield": 0.25, "mass": 1250.0}}
    assert "median differences of two such measurements are yield 0.25, mass 1.25e+03, which limit" in render(run)


@pytest.mark.usefixtures("undrawn")
def test_groups_that_do_not_define_the_metric_do_not_count_and_ties_count_for_each_model():
    run = finished("regression")
    tie, none = ({"rows": 9, **more} for more in ({"spearman": 0.5}, {}))
    run.metrics["groups"] = {"tied": dict.fromkeys(run.models, tie), "constant": dict.fromkeys(run.models, none)}
    page = render(run)
    assert "The model ensemble is best in 1 of 1 that define it." in page
    assert ["constant (9)", *["–"] * len(run.models)] in table_rows(page)


def test_infinite_intervals_have_no_coverage():
    low, high = np.full(7, -np.inf), np.full(7, np.inf)
    assert _coverage(np.zeros(7), low, high) == {"coverage": None, "width": None}
    assert _coverage(np.zeros(7), np.full(7, -1.0), np.ones(7)) == {"coverage": 1.0, "width": 2.0}


@pytest.mark.usefixtures("undrawn")
def test_coverage_and_width_have_a_row_for_each_column():
    run = two_columns()
    levels = {"0.5": {"coverage": 0.5, "width": 0.25}, "0.95": {"coverage": None, "width": None}}
    wide = {"0.5": {"coverage": 0.625, "width": 500.0}, "0.95": {"coverage": None, "width": None}}
    run.metrics["conformal"] = {"ensemble": {"first": levels, "second": wide}}
    page = render(run)
    assert ["ensemble", "first", "50.0 % (0.250)", "–"] in table_rows(page)
    assert ["ensemble", "second", f"62.5 % ({show(500.0)})", "–"] in table_rows(page)


def test_models_that_are_no_better_than_a_mean_are_called_so():
    metrics = {"task_type": "regression", "main_metric": "spearman", "rows": {"test": 45}}
    test = {"ridge": {"spearman": 0.08, "r2": -0.07}, "boosting": {"spearman": 0.1, "r2": -0.0031}}
    said = "No model is closer to the test rows than their mean (R² of at most -0.003)."
    assert lead_of({**metrics, "test": test}).endswith(said)
    assert said[:20] not in lead_of({**metrics, "test": {**test, "ridge": {"spearman": 0.08, "r2": 0.01}}})


def test_runs_whose_test_rows_do_not_define_the_metric_are_compared_without_values(tmp_path):
    for name in ("one", "other"):
        run = folder(tmp_path / name, "binary")
        metrics = read_json(tmp_path / name / "metrics.json")
        target = Target(task_type="binary", y=np.zeros(ROWS, dtype=np.int64), classes=("no", "yes"))
        write_json(tmp_path / name / "metrics.json", metrics | {"undefined": undefined_metrics(target)})
        draws = dict.fromkeys(run.metrics["test"], [None] * 7)
        write_json(tmp_path / name / "bootstrap.json", draws)
    page = report(tmp_path / "one", tmp_path / "other", out=tmp_path / "page.html").read_text()
    assert f"AUROC: one –; other –. other against one: no positive among the {ROWS} test rows" in page
    assert ["ridge", "–", "–"] in table_rows(page)
    assert "nan" not in page


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_of_runs_with_other_seeds_says_so(tmp_path):
    runs = {f"run {seed}": finished("regression") for seed in (0, 7)}
    draws = {}
    for seed, (name, run) in zip((0, 7), runs.items(), strict=True):
        run.config["settings"]["seed"], draws[name] = seed, run.metrics["bootstrap"]
    page = compare(runs, draws)
    assert page.count("The runs differ in their seed, with one training each.") == 2
    assert "Training seeds were not varied" not in page


def test_a_damaged_file_of_bootstrap_samples_is_refused(tmp_path):
    for name in ("one", "other"):
        run = folder(tmp_path / name, "binary")
        write_json(
            tmp_path / name / "bootstrap.json", {key: [0.5, None] for key in run.metrics["test"]} | {"ridge": ["a"]}
        )
    with pytest.raises(SubquadError, match="one: cannot be read as a finished run"):
        report(tmp_path / "one", tmp_path / "other", out=tmp_path / "page.html")


def test_unknown_residues_are_no_zeros_in_a_profile():
    measured = np.array([1.0, 0.0, np.nan, 1.0, np.nan])
    shown = ("known", np.array([1.0, 0.0, 0.0, 1.0, 1.0]), {"lyra": np.full(5, 0.5)})
    figure = profiles([shown, ("unknown", measured, {"lyra": np.full(5, 0.5)})], label="score")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "measured",
        "Lyra",
        "not measured",
    ]
    # of several classes there is no measured value to draw
    figure = profiles([("classes", np.full(5, np.nan), {"lyra": np.full(5, 0.5)})], label="probability")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["Lyra"]


NAME = r"a $\frac$ b"
"""Of a column, group, class or sequence; matplotlib takes what is between two `$` for a formula, here a wrong one."""
X = np.linspace(0, 1, 7)
WITH_NAMES = {
    "histograms": lambda: figures.histograms([{"edges": X, "counts": {"all": [1] * 6}, "label": NAME}]),
    "measured_predicted": lambda: figures.measured_predicted([("ridge", X, X)], target=NAME),
    "probability_histogram": lambda: figures.probability_histogram(X > 0.5, X, ["0", NAME]),
    "confusion": lambda: figures.confusion(np.arange(2), np.arange(2), ["0", NAME]),
    "dot_plot": lambda: figures.dot_plot([NAME], {"ridge": [0.5]}, label="Spearman"),
    "profiles": lambda: profiles([(NAME, X, {"ridge": X})], label=NAME),
    "base_pair_panels": lambda: figures.base_pair_panels([(NAME, 9, np.array([[1, 5]]), np.array([[1, 5]]))]),
    "heat_map": lambda: maps.heat_map(np.eye(4), "ACGT", "ACGT", label=NAME),
    "profile": lambda: maps.profile(np.stack([X, X], axis=1), "ACDEFGH", names=[NAME, "other"], label=NAME),
    "scatter": lambda: maps.scatter(X, X, labels=(NAME, NAME)),
    "plate": lambda: design_page._plate(pd.DataFrame(columns=["plate"]), (8, 12), ScalarMappable(), NAME),
    "rounds": lambda: rounds_page._compared({1: MEASURED}, NAME, sign=1)[0],
}
MEASURED = pd.DataFrame(dict.fromkeys(("measured", "prediction", "prediction_low", "prediction_high"), X))


@pytest.mark.parametrize("name", WITH_NAMES)
def test_names_with_dollars_are_drawn_as_they_are(name, monkeypatch):
    monkeypatch.setattr(rounds_page, "picture", lambda figure, *_, **__: figure)
    figure, file = WITH_NAMES[name](), io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    assert NAME in file.getvalue()


@pytest.mark.usefixtures("undrawn")
def test_correct_predictions_are_no_errors_however_unsure_they_are():
    run = finished("multiclass")
    measured = run.measured_classes()
    for k, name in enumerate(run.classes):
        run.rows[f"ensemble:{name}"] = np.where(measured == k, 0.4, 0.3)
    assert "some may be mislabelled" not in render(run)
    own, other = run.classes[measured[5]], run.classes[(measured[5] + 1) % 3]
    run.rows.loc[5, f"ensemble:{other}"] = 0.6
    worst = [row for row in table_rows(render(run)) if row[2:4] == [own, other]]
    assert [(row[0], row[4]) for row in worst] == [("6", "0.400")]


@pytest.mark.usefixtures("undrawn")
def test_a_single_size_is_no_learning_curve():
    run = finished("regression")
    run.metrics["learning_curve"] = [{"rows": 500, "lyra": 0.5}]
    assert "Learning curve" not in render(run)


def test_sizes_that_a_learning_curve_leaves_out_are_named(tmp_path, capsys, monkeypatch):
    data = SimpleNamespace(split={"train": np.arange(40)})
    monkeypatch.setattr(curve_module, "fit_models", None)
    metrics = {"main_metric": "spearman", "test": {"ridge": {"spearman": 0.5}}}
    own = FitSettings(learning_sizes=(40, 5000))
    found = curve_module.learning_curve(data, own, metrics, directory=tmp_path, seed=0, quiet=False)
    assert found == []
    shown = " ".join(capsys.readouterr().err.split())
    assert "left out 5,000, 40 rows; a size must be at least 10 and below the number of training rows, 40" in shown
    assert "none, because no size is left beside all training rows" in shown
