import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.bio_runs import ROWS, finished, folder, target_and_predictions

from subquad.bio.analysis.audit import audit, nearest
from subquad.bio.commands.report import report
from subquad.bio.data.dataset import PAD, Inputs, InputSchema, Target
from subquad.bio.data.table import Table
from subquad.bio.metrics.scores import (
    MAIN_METRIC,
    METRICS,
    MIN_TEST_ROWS,
    by_group,
    difference,
    score,
    undefined_metrics,
)
from subquad.bio.models.finished_run import best_model
from subquad.bio.plots.figures import dot_plot
from subquad.bio.plots.fit_page import card, render, sections
from subquad.errors import SubquadError
from subquad.reporting.page import Table as PageTable

EMPTY = '<svg viewBox="0 0 7 5"></svg>'


@pytest.fixture
def undrawn(monkeypatch):
    """Skip the drawing of figures, which takes most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **how: buffer.write(EMPTY))


class Whole(HTMLParser):
    """Checks that all that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.opened = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag


@pytest.mark.parametrize("task_type", list(MAIN_METRIC))
def test_every_metric_has_a_title(task_type):
    target, predictions = target_and_predictions(task_type, np.random.default_rng(0))
    found = score(target, predictions["lyra"])
    # those of single columns and classes are named after these
    assert {name for name in found if ":" not in name} <= set(METRICS)


@pytest.mark.long
@pytest.mark.parametrize("task_type", list(MAIN_METRIC))
def test_every_task_type_has_a_complete_and_self_contained_page(tmp_path, task_type):
    folder(tmp_path / "run", task_type)
    page = report(tmp_path / "run", out=tmp_path / "page.html").read_text()
    whole = Whole()
    whole.feed(page)
    assert whole.opened == []
    assert "http" not in page
    # the predictions of pairs are all equal
    best = "ViennaRNA MFE" if task_type == "pairs" else "Lyra"
    assert re.search(rf"Best single model on 67 test \w+: {best}, ", page)
    assert page.count("<figure") >= 3
    assert "Test rows that are near-duplicates of a training or validation row: up to 1 substitution" in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| Lyra − {'ViennaRNA MFE' if task_type == 'pairs' else 'ridge'} |" in card
    assert "without `--model` the model is ensemble." in card


def test_the_page_of_the_folder_is_that_of_the_run(tmp_path, undrawn):
    # earlier versions read numbers with another last digit than was written
    pytest.importorskip("pandas", minversion="3")
    page = render(folder(tmp_path / "run", "regression"))
    assert report(tmp_path / "run", out=tmp_path / "page.html").read_text() == page
    assert (tmp_path / "run" / "report.html").read_text() == ""
    assert sections(tmp_path / "run")[0].title == "Result"


def test_of_existing_reports_only_that_of_the_run_is_overwritten_without_force(tmp_path, undrawn):
    # earlier versions read numbers with another last digit than was written
    pytest.importorskip("pandas", minversion="3")
    page = render(folder(tmp_path / "run", "regression"))
    assert report(tmp_path / "run").read_text() == page
    out = tmp_path / "page.html"
    out.write_text("another")
    with pytest.raises(SubquadError, match=r"page\.html: exists already"):
        report(tmp_path / "run", out=out)
    assert report(tmp_path / "run", out=out, force=True).read_text() == page


def test_of_equal_models_the_simplest_is_best():
    test = {name: {"spearman": 0.7} for name in ("lyra", "ensemble", "boosting", "ridge")}
    metrics = {"task_type": "regression", "main_metric": "spearman", "rows": {"test": 23}, "test": test}
    assert best_model(metrics) == "ridge"
    test["ensemble"]["spearman"] = 0.8
    assert best_model(metrics) == "ensemble"


def test_below_twenty_test_rows_no_model_is_named_best(undrawn):
    run = finished("regression")
    run.metrics["rows"]["test"] = MIN_TEST_ROWS
    assert "Best single model on 20 test rows: Lyra, Spearman" in render(run)
    assert "| Lyra − ridge |" in card(run)
    assert 'class="winner"' in render(run)
    run.metrics["rows"]["test"] = MIN_TEST_ROWS - 1
    assert run.best is None
    for text in (render(run), card(run)):
        assert "No model is named best: 19 test rows, fewer than the 20 that a comparison needs." in text
        assert "Best single model" not in text
        assert "difference in Spearman" not in text
        assert 'class="winner"' not in text


@pytest.mark.parametrize(("measured", "reason"), [(0, "no positive"), (1, "no negative")])
def test_metrics_of_two_classes_are_dashes_if_the_test_rows_have_one(undrawn, measured, reason):
    # with another seed the Brier score of a model happens to be 0.500
    run = finished("binary", seed=1)
    target = Target(task_type="binary", y=np.full(ROWS, measured), classes=("no", "yes"))
    run.metrics["test"] = {model: score(target, run.rows[model].to_numpy()) for model in run.metrics["test"]}
    run.metrics["undefined"] = undefined_metrics(target)
    run.rows["measured"] = target.classes[measured]
    page = render(run)
    for text in (page, card(run)):
        assert f"No model is named best: {reason} among the {ROWS} test rows, so that AUROC is undefined." in text
        assert "0.500" not in text
    assert f"–: undefined, because there is {reason} among the test rows." in page
    assert "| Lyra | – | " in card(run)


def test_a_difference_that_is_not_significant_is_called_so(undrawn):
    run = finished("regression")
    clear = "It is clearly better than every other single model; training seeds were not varied."
    assert run.metrics["wins"] == "lyra"
    assert clear in render(run)
    # neither an ensemble that is better nor one that ties says anything about single models
    run.metrics["test"]["ensemble"]["spearman"] = 0.99
    run.metrics["differences"]["lyra"]["ensemble"] = {"value": -0.05, "low": -0.07, "high": -0.03}
    text = render(run)
    assert "rows: Lyra, Spearman 0.9" in text
    assert "(ensemble 0.990)." in text
    assert clear in text
    run.metrics["wins"] = None
    run.metrics["differences"]["lyra"]["ridge"] = {"value": 0.01, "low": -0.02, "high": 0.04}
    run.metrics["differences"]["lyra"]["boosting"] = {"value": -0.04, "low": -0.06, "high": -0.02}
    run.metrics["ensemble_versus_best"] = {"best": "lyra", "value": 0.05, "low": 0.03, "high": 0.07}
    run.metrics["differences"]["ensemble"]["ensemble-without-lyra"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    for whole in (render(run), card(run)):
        assert "It is not clearly better than every other single model." in whole
        cells = " ".join(re.sub(r"</?t[dhr][^>]*>|[|\n]", " ", whole).split())
        for row in (
            "Lyra − ridge +0.0100 [−0.0200, +0.0400] no clear difference",
            "Lyra − gradient boosting −0.0400 [−0.0600, −0.0200] clearly worse",
            "ensemble − best single model (Lyra) +0.0500 [+0.0300, +0.0700] clearly better",
            "ensemble − ensemble without Lyra equal no clear difference",
        ):
            assert row in cells, cells[:3000]


def test_the_page_states_what_the_ensemble_consists_of(undrawn):
    run, absent = finished("regression"), "Lyra does not contribute to its predictions."
    for text in (render(run), card(run)):
        assert (
            "Weights of the ensemble, chosen on the validation rows: ridge 0.30, gradient boosting 0.00, Lyra 0.70."
            in text
        )
        assert absent not in text
    run.metrics["weights"]["ensemble"] = {"ridge": 0.25, "boosting": 0.75, "lyra": 0.0}
    for text in (render(run), card(run)):
        weights = "ridge 0.25, gradient boosting 0.75, Lyra 0.00"
        assert f"Weights of the ensemble, chosen on the validation rows: {weights}. {absent}" in text
    # an ensemble without Lyra among the models of the run
    run.metrics["weights"]["ensemble"] = {"ridge": 0.25, "boosting": 0.75}
    assert absent not in render(run)
    run.metrics["weights"] = {}
    assert "Weights of the ensemble" not in render(run)


def test_the_first_table_has_the_weight_and_the_processor_time_of_each_model(tmp_path, undrawn):
    folder(tmp_path / "run", "regression")
    found = sections(tmp_path / "run")
    table = next(block for block in found[0].blocks if isinstance(block, PageTable))
    assert table.header[0] == "model"
    assert table.header[-2:] == ["weight", "CPU seconds"]
    assert {row[0]: row[-2:] for row in table.rows} == {
        "ridge": [0.3, 7],
        "gradient boosting": [0.0, 8],
        "Lyra": [0.7, 9],
        "ensemble without Lyra": [None, 10],
        "ensemble": [None, 11],
    }
    training = next(own for own in found if own.title == "Training and selected hyperparameters")
    networks = next(block for block in training.blocks if isinstance(block, PageTable))
    assert networks.rows == [["Lyra", 2, 47_169]]
    assert training.blocks[0].startswith("Total time 61 seconds, peak memory 512 MB.")


def test_a_run_of_one_model_has_neither_weights_nor_an_ensemble(undrawn):
    run = finished("regression")
    for name in ("test", "cpu_seconds"):
        run.metrics[name] = {"lyra": run.metrics[name]["lyra"]}
    run.metrics.update(weights={}, differences={"lyra": {}}, wins=None)
    del run.metrics["ensemble_versus_best"]
    run.config["models"] = ["lyra"]
    value = run.metrics["test"]["lyra"]["spearman"]
    for text in (render(run), card(run)):
        assert f"Best single model on 67 test rows: Lyra, Spearman {value:.3f}." in text
        for absent in ("Weights of the ensemble", "difference in", "do not separate", "Lyra is not clearly above"):
            assert absent not in text
    assert "without `--model` the model is Lyra." in card(run)


def test_groups_a_learning_curve_and_coverage_are_shown_if_they_are_known(undrawn):
    run = finished("regression")
    assert "Learning curve" not in render(run)
    target = Target(task_type="regression", y=run.rows[["measured"]].to_numpy(), names=("score",))
    names = np.array(["a gene", "b gene"])[np.arange(ROWS) % 2]
    found = {model: by_group(target, run.rows[[model]].to_numpy(), names) for model in run.metrics["test"]}
    run.metrics["groups"] = {group: {model: found[model][group] for model in found} for group in found["lyra"]}
    run.metrics["learning_curve"] = [{"rows": n, "lyra": 0.5 + n / 1e4, "ridge": 0.5} for n in (50, 200, 800)]
    levels = {"0.8": {"coverage": 0.79, "width": 1.25}, "0.9": {"coverage": 0.93, "width": None}}
    run.metrics["conformal"] = {"lyra": {"score": levels}, "ensemble": {"score": levels}}
    text = render(run)
    assert "a gene (34)" in text
    assert re.search(r"The model ensemble is best in \d of 2 that define it\.", text)
    assert "If it still rises at its end, more measurements may help." in text
    assert "79.0 %" in text


def test_a_metric_of_zero_is_better_than_a_negative_one_in_a_group(undrawn):
    run = finished("regression")
    values = {"lyra": -0.4, "ridge": 0.0, "boosting": -0.5, "ensemble": -0.3}
    run.metrics["groups"] = {"a gene": {model: {"rows": 31, "spearman": value} for model, value in values.items()}}
    assert "The model ensemble is best in 0 of 1 that" in render(run)
    run.metrics["groups"]["a gene"]["ensemble"]["spearman"] = 0.1
    assert "The model ensemble is best in 1 of 1 that" in render(run)


def test_near_duplicates_that_stay_and_rows_that_were_not_searched_are_reported(undrawn):
    run = finished("regression")
    run.metrics["leakage"] |= {"kept_because": "a column gave the split", "compared": 20_011, "not_compared": 1_003}
    text = render(run)
    assert "Near-duplicates stay in the test set: a column gave the split." in text
    assert "Near-duplicates were searched for in a random sample of 20,011 of 21,014 rows." in text


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(SubquadError, match=str(tmp_path)):
        report(tmp_path)


def made_table(codes, y, **more):
    sequences = ["".join("ACGT"[k] for k in row if k >= 0) for row in codes]
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((len(codes), 0)), is_aligned=bool((codes >= 0).all()))
    told = {"path": "t.csv", "frame": pd.DataFrame(), "inputs": inputs, "sequences": sequences, "mutants": None}
    told |= {"target": Target(task_type="regression", y=y, names=("score",)), "wild_type": None, "weight": None}
    told |= {
        "groups": None,
        "has_target": np.isfinite(y[:, 0]),
        "schema": InputSchema(alphabet="dna", is_aligned=True, length=3),
        "remarks": [],
    }
    return Table(**(told | more))


def test_the_audit_counts_what_is_there():
    codes = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3], [3, 1, 3], [0, 2, 2]], dtype=np.int8)
    y = np.array([[1.0], [1.5], [2.0], [np.nan], [1.0]])
    groups = np.array(["a", "a", "b", "b", "a"], dtype=object)
    mutants = ["", "", "G3T", "A1T:G3T", "C2G"]
    table = made_table(codes, y, wild_type="ACG", mutants=mutants, groups=groups)
    found = audit(table, SimpleNamespace(parts={"train": [0, 1], "validation": [4], "test": [2]}))
    assert (found["rows"], found["measured"], found["varying"]) == (5, 4, 3)
    assert found["duplicates"] == {"rows": 1, "difference": 0.5}
    assert found["mutations"] == {"0": 2, "1": 2, "2": 1}
    assert found["letters"] == {"A": 4, "C": 4, "G": 4, "T": 3}
    assert found["groups"] == {"count": 2, "largest": [["a", 3], ["b", 1]]}
    assert found["nearest"]["measure"] == "substitutions"
    assert found["nearest"]["counts"] == [0, 1]
    assert sum(found["target"]["score"]["train"]) == 2
    assert found["target"]["score"]["lowest"] == 0.5
    # without a column of variants they are counted from the wild type
    assert audit(
        made_table(codes, y, wild_type="ACG"), SimpleNamespace(parts={"train": [0], "validation": [4], "test": [2]})
    )["mutations"] == {"0": 2, "1": 2, "2": 1}


def test_repeated_rows_of_several_columns_differ_by_column():
    codes = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3], [3, 1, 3]], dtype=np.int8)
    y = np.array([[1.0, 100.0], [1.5, 300.0], [2.0, np.nan], [3.0, 1.0]])
    target = Target(task_type="regression", y=y, names=("mass", "count"))
    split = SimpleNamespace(parts={"train": [0, 1], "validation": [2], "test": [3]})
    assert audit(made_table(codes, y, target=target), split)["duplicates"] == {
        "rows": 1,
        "differences": {"mass": 0.5, "count": 200.0},
    }


def test_bins_of_lengths_hold_equally_many_integers():
    lengths = np.arange(50, 96)
    codes = np.where(np.arange(95) < lengths[:, None], 0, PAD).astype(np.int8)
    table = made_table(codes, np.ones((46, 1)))
    split = SimpleNamespace(parts={"train": np.arange(40), "validation": np.arange(40, 43), "test": np.arange(43, 46)})
    found = audit(table, split)["length"]
    assert set(np.diff(found["edges"])) == {2.0}
    assert found["counts"] == [2] * 23


def test_sequences_of_unequal_length_are_compared_by_k_mers():
    random = np.random.default_rng(0)
    codes = random.integers(0, 20, (11, 31)).astype(np.int8)
    codes[10] = codes[3]
    codes[10, 20:] = PAD
    inputs = Inputs(codes=codes, letters=20, covariates=np.zeros((11, 0)), is_aligned=False)
    found = nearest(inputs, np.arange(10), np.array([10]))
    assert (found["measure"], found["median"]) == ("missing k-mers", 0.0)
    assert nearest(inputs, np.arange(5), np.array([6]))["median"] > 0.9


def test_nearest_rows_are_those_of_the_definition():
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (53, 7)).astype(np.int8)
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((53, 0)), is_aligned=True)
    train, test = np.arange(37), np.arange(37, 53)
    wanted = (codes[test][:, None] != codes[train][None]).sum(2).min(1)
    found = nearest(inputs, train, test)
    assert found["counts"] == np.bincount(wanted).tolist()


@pytest.mark.parametrize("groups", [1, 7])
def test_the_legend_of_many_models_leaves_room_for_the_groups(groups):
    models = ["ridge", "boosting", "gp", "mlp", "lyra-additive", "lyra", "ensemble-without-lyra", "ensemble"]
    figure = dot_plot([f"g{k}" for k in range(groups)], {name: [0.5] * groups for name in models}, label="Spearman")
    figure.draw_without_rendering()
    width, height = figure.axes[0].get_position().size * figure.get_size_inches()
    assert width > 3
    assert height > 0.1 * groups


def table_rows(page):
    """Return the cells of all rows of tables of a page."""
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)]


def test_runs_with_the_same_test_rows_are_compared_by_paired_differences(tmp_path):
    one, other = (folder(tmp_path / n, "regression", errors=errors) for n, errors in (("one", 1.0), ("other", 0.5)))
    page = report(tmp_path / "one", tmp_path / "other", out=tmp_path / "page.html").read_text()
    target = Target(task_type="regression", y=one.rows[["measured"]].to_numpy(), names=("score",))
    for model in ("ridge", "ensemble"):
        gap = difference(target, other.rows[[model]].to_numpy(), one.rows[[model]].to_numpy())
        assert gap["low"] > 0
        assert f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" in page
    assert "other against one: clearly better" in page
    assert ["--epochs", "7.0", "3.5"] in table_rows(page)


@pytest.mark.usefixtures("undrawn")
def test_runs_with_other_test_rows_are_shown_without_differences(tmp_path):
    for seed in (0, 1):
        folder(tmp_path / f"seed {seed}", "residue_binary", seed=seed)
    page = report(tmp_path / "seed 0", tmp_path / "seed 1", out=tmp_path / "page.html").read_text()
    assert "their test rows differ" in page
    assert "clearly" not in page


def test_runs_of_other_targets_and_a_run_with_itself_are_not_compared(tmp_path):
    for task_type in ("regression", "binary"):
        folder(tmp_path / task_type, task_type)
    one, other, out = tmp_path / "regression", tmp_path / "binary", tmp_path / "page.html"
    with pytest.raises(SubquadError, match=r"binary: predicts another target, .* \(binary\)"):
        report(one, other, out=out)
    with pytest.raises(SubquadError, match="cannot be compared with itself"):
        report(one, one / ".", out=out)
    with pytest.raises(SubquadError, match="needs an output file"):
        report(one, other)
    assert not out.exists()
