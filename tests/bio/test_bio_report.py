import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from subquad.bio.analysis.audit import audit, nearest
from subquad.bio.data.dataset import PAD, Inputs, Target
from subquad.bio.data.table import Table
from subquad.bio.metrics.scores import (
    MAIN_METRIC,
    MIN_TEST_ROWS,
    by_group,
    difference,
    intervals,
    score,
    undefined_metrics,
)
from subquad.bio.plots.fit_page import card, render, report, sections, winner
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError
from subquad.runs.folder import open_run
from subquad.runs.storage import write_json

ROWS, LENGTH = 67, 23


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take most of the time, and some tests read words only."""
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **how: buffer.write(b"picture"))


def noisy(random, y, size):
    return y + random.normal(0, size, np.shape(y))


def target_and_predictions(task_type, random):
    """Return a target and predictions of four models, the net's the best."""
    noise = {"net": 0.3, "ridge": 0.7, "boosting": 0.5, "stack": 0.4}
    if task_type == "pairs":
        y = [np.array([[0, 11], [1, 10], [2, 9]]) for _ in range(ROWS)]
        square = []
        for row in range(ROWS):
            P = np.zeros((LENGTH, LENGTH))
            for i, j in y[row][: 1 + row % 3]:
                P[i, j] = P[j, i] = 0.9
            square.append(P)
        return Target(task_type=task_type, y=y), dict.fromkeys(("net", "vienna", "stack"), square)
    if task_type == "regression":
        y = random.normal(size=(ROWS, 1))
        return Target(task_type=task_type, y=y, names=("score",)), {m: noisy(random, y, s) for m, s in noise.items()}
    if task_type == "residue_regression":
        y = random.normal(size=(ROWS, LENGTH))
        y[:, -3:] = np.nan
        predicted = {m: noisy(random, np.nan_to_num(y), s)[..., None] for m, s in noise.items()}
        return Target(task_type=task_type, y=y, names=("order",)), predicted
    if task_type == "multilabel":
        y = (random.random((ROWS, 2)) < 0.4).astype(float)
        predicted = {m: np.clip(noisy(random, 0.2 + 0.6 * y, s / 2), 0, 1) for m, s in noise.items()}
        return Target(task_type=task_type, y=y, names=("liver", "brain")), predicted
    shape = (ROWS, LENGTH) if task_type.startswith("residue") else (ROWS,)
    count = 3 if task_type.endswith("multiclass") else 2
    y = random.integers(0, count, shape)
    predicted = {}
    for model, size in noise.items():
        logits = noisy(random, 2.0 * np.eye(count)[y], 3 * size)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        predicted[model] = p if count > 2 else p[..., 1:]
    dtype = np.int16 if task_type.startswith("residue") else np.int64
    return Target(task_type=task_type, y=y.astype(dtype), classes=("no", "yes", "very")[:count]), predicted


def finished(task_type, seed=0):
    """Return metrics, facts, rows and history of a run, as the files have them."""
    random = np.random.default_rng(seed)
    target, predictions = target_and_predictions(task_type, random)
    metrics = {
        "task_type": task_type,
        "main_metric": MAIN_METRIC[task_type],
        "test": {name: score(target, p) for name, p in predictions.items()},
        "intervals": {"test": {name: intervals(target, p, 20) for name, p in predictions.items()}},
        "differences": {name: difference(target, predictions["net"], p) for name, p in predictions.items() if name != "net"},
        "rows": {"train": 500, "validation": 50, "test": ROWS},
        "seconds": dict.fromkeys(predictions, 1.0),
        "parameters": 47_169,
        "memory_mb": 512,
        "stacking": {"weights": {"net": 0.7, "ridge": 0.3}},
        "leakage": {"exact": 2, "near_duplicates": 5, "definition": "up to 1 substitution", "removed": 7, "marked": 0},
    }
    rivals = [name for name in predictions if name not in ("net", "stack")]
    stack = difference(target, predictions["stack"], predictions[rivals[0]])
    metrics["stack_versus_best"] = {"best": rivals[0], **stack}
    facts = {
        "table": {"alphabet": "protein", "wild_type": None},
        "file": "assay.csv",
        "target": {"task_type": task_type, "classes": list(target.classes), "names": list(target.names)},
        "split": {"how": "at random", "rows": metrics["rows"]},
        "selected": {"ridge": {"penalty": 10.0}, "net": [{"best_step": 41, "steps": 100}]},
        "settings": {"preset": "auto", "seed": seed, "fingerprint": "0123456789abcdef"},
    }
    history = [{"part": "net", "step": k, "loss": 1 / k} for k in range(1, 31)]
    history += [{"part": "net", "step": k, f"validation_{MAIN_METRIC[task_type]}": k / 30} for k in (10, 20, 30)]
    sequences = ["".join(random.choice(list(ALPHABETS["protein"]), LENGTH)) for _ in range(ROWS)]
    return metrics, facts, rows_of(target, predictions, sequences), history


def rows_of(target, predictions, sequences):
    task_type = target.task_type
    if task_type.startswith("residue") or task_type == "pairs":
        rows = []
        for k, sequence in enumerate(sequences):
            own = {"row": k + 1, "sequence": sequence}
            if task_type == "pairs":
                own["measured"] = target.y[k].tolist()
                own |= {m: np.argwhere(np.triu(p[k]) > 0.5).tolist() for m, p in predictions.items()}
            else:
                own["measured"] = [None if np.isnan(y) else float(y) for y in target.y[k].astype(float)]
                own |= {m: p[k].tolist() for m, p in predictions.items()}
            rows.append(own)
        return rows
    frame = pd.DataFrame({"row": np.arange(ROWS) + 1, "sequence": sequences, "mutations": np.arange(ROWS) % 3})
    many = target.classes if task_type == "multiclass" else target.names if task_type == "multilabel" else ()
    if target.classes:
        frame["measured"] = np.asarray(target.classes)[target.y]
    else:
        for k, name in enumerate(target.names):
            frame[f"measured:{name}" if many else "measured"] = target.y[:, k]
    for model, p in predictions.items():
        for k in range(p.shape[1]):
            frame[f"{model}:{many[k]}" if many else model] = p[:, k]
    return frame


def folder(directory, task_type):
    metrics, facts, rows, history = finished(task_type)
    run = open_run(directory, kind="bio", settings=facts["settings"], force=False)
    if isinstance(rows, list):
        write_json(run.directory / "test.json", rows)
    else:
        rows.to_csv(run.directory / "test.csv", index=False)
    (run.directory / "history.jsonl").write_text("\n".join(map(json.dumps, history)))
    told = {name: value for name, value in facts.items() if name != "settings"}
    tensors = {"w": torch.zeros(1)}
    run.finish(config=told, tensors=tensors, metrics=metrics, card=card(metrics, facts), report="")
    return metrics, facts, rows, history


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
def test_every_kind_has_a_page_of_its_own_that_needs_nothing_else(tmp_path, task_type):
    folder(tmp_path / "run", task_type)
    page = report(tmp_path / "run").read_text()
    whole = Whole()
    whole.feed(page)
    assert whole.opened == []
    assert "http" not in page
    assert "the winner is: net (Lyra)" in page or task_type == "pairs"
    assert page.count("data:image/png") >= 4
    assert "How to read this page" in page
    assert "further test rows that are nearly one of those: up to 1 substitution" in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page)
    assert "The net's lead in" in (tmp_path / "run" / "README.md").read_text()


def test_the_page_of_the_folder_is_that_of_the_run(tmp_path, undrawn):
    told = folder(tmp_path / "run", "regression")
    page = render(*told)
    assert report(tmp_path / "run", out=tmp_path / "page.html").read_text() == page
    assert (tmp_path / "run" / "report.html").read_text() == ""
    assert sections(tmp_path / "run")[0].title == "Result"


def test_a_level_race_is_won_by_the_simpler_model():
    test = {name: {"spearman": 0.7} for name in ("net", "stack", "boosting", "ridge")}
    metrics = {"task_type": "regression", "main_metric": "spearman", "rows": {"test": 23}, "test": test}
    assert winner(metrics) == "ridge"
    test["stack"]["spearman"] = 0.8
    assert winner(metrics) == "stack"


def test_below_twenty_test_rows_no_winner_is_named(undrawn):
    metrics, facts, rows, history = finished("regression")
    metrics["rows"]["test"] = MIN_TEST_ROWS
    assert "On 20 test rows the winner is: net (Lyra)" in render(metrics, facts, rows, history)
    metrics["rows"]["test"] = MIN_TEST_ROWS - 1
    assert winner(metrics) is None
    for text in (render(metrics, facts, rows, history), card(metrics, facts)):
        assert "No winner is named, with 19 test rows only: fewer than 20 tell no model from another." in text
        assert "the winner is" not in text
        assert "The net's lead" not in text
        assert "decides who wins" not in text
        assert 'class="winner"' not in text


@pytest.mark.parametrize(("measured", "lacking"), [(0, "no positive"), (1, "no negative")])
def test_one_class_among_the_test_rows_is_said_and_no_figure_of_two_is_shown(undrawn, measured, lacking):
    metrics, facts, rows, history = finished("binary")
    target = Target(task_type="binary", y=np.full(ROWS, measured), classes=("no", "yes"))
    metrics["test"] = {model: score(target, rows[model].to_numpy()) for model in metrics["test"]}
    metrics["undefined"] = undefined_metrics(target)
    rows["measured"] = target.classes[measured]
    page = render(metrics, facts, rows, history)
    for text in (page, card(metrics, facts)):
        assert f"No winner is named, with {lacking} among the {ROWS} test rows: AUROC cannot be measured." in text
        assert "0.500" not in text
    assert f"–: {lacking} among them, nothing to measure." in page
    assert re.search(r"\| net \(Lyra\) \| – \| ", card(metrics, facts))


def test_the_verdict_names_the_best_single_model_beside_the_stack_and_says_what_is_not_clear(undrawn):
    metrics, facts, rows, history = finished("regression")
    metrics["test"]["stack"]["spearman"] = 0.99
    metrics["differences"]["ridge"] = {"value": 0.01, "low": -0.02, "high": 0.04}
    text = render(metrics, facts, rows, history)
    assert "the winner is: stack of all" in text
    assert "Of the single models it is: net (Lyra)." in text
    assert "over ridge +0.0100 (95 % interval -0.0200 to +0.0400, no clear difference)" in text
    assert "not clearly better than all simple models" in text


def test_groups_a_learning_curve_and_coverage_are_shown_where_they_are_known(undrawn):
    metrics, facts, rows, history = finished("regression")
    assert "Learning curve" not in render(metrics, facts, rows, history)
    target = Target(task_type="regression", y=rows[["measured"]].to_numpy(), names=("score",))
    names = np.array(["a gene", "b gene"])[np.arange(ROWS) % 2]
    found = {model: by_group(target, rows[[model]].to_numpy(), names) for model in metrics["test"]}
    metrics["groups"] = {group: {model: found[model][group] for model in found} for group in found["net"]}
    metrics["learning_curve"] = [{"rows": n, "net": 0.5 + n / 1e4, "ridge": 0.5} for n in (50, 200, 800)]
    levels = {"0.8": {"coverage": 0.79, "width": 1.25}, "0.9": {"coverage": 0.93, "width": None}}
    metrics["conformal"] = {"net": {"score": levels}, "stack": {"score": levels}}
    text = render(metrics, facts, rows, history)
    assert "a gene (34)" in text
    assert re.search(r"The net is first in \d of 2\.", text)
    assert "Still rising at the end: measure more." in text
    assert "79.0 %" in text


def test_a_figure_of_nought_is_above_a_negative_one_in_a_group(undrawn):
    metrics, facts, rows, history = finished("regression")
    figures = {"net": -0.3, "ridge": 0.0, "boosting": -0.5, "stack": -0.4}
    metrics["groups"] = {"a gene": {model: {"rows": 31, "spearman": value} for model, value in figures.items()}}
    assert "The net is first in 0 of 1." in render(metrics, facts, rows, history)


def test_near_copies_that_stay_are_said_and_so_are_rows_that_were_not_looked_at(undrawn):
    metrics, facts, rows, history = finished("regression")
    assert "--leak-distance 1" not in render(metrics, facts, rows, history)
    metrics["leakage"] |= {"kept_because": "the split comes from a column", "compared": 20_011, "not_compared": 1_003}
    text = render(metrics, facts, rows, history)
    assert "are counted and stay in the test: a column gave the split. --leak-distance 1 leaves them out." in text
    assert "Near copies were looked for in 20,011 of 21,014 rows, drawn at random." in text
    # as older versions wrote it
    del metrics["leakage"]["definition"]
    assert "nearly one of those: few letters differ" in render(metrics, facts, rows, history)


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(SubquadError, match=str(tmp_path)):
        report(tmp_path)


def made_table(codes, y, **more):
    sequences = ["".join("ACGT"[k] for k in row if k >= 0) for row in codes]
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((len(codes), 0)), is_aligned=bool((codes >= 0).all()))
    told = {"path": "t.csv", "frame": pd.DataFrame(), "inputs": inputs, "sequences": sequences, "mutants": None}
    told |= {"target": Target(task_type="regression", y=y, names=("score",)), "wild_type": None, "weight": None}
    told |= {"groups": None, "has_target": np.isfinite(y[:, 0]), "about": {"alphabet": "dna"}, "remarks": []}
    return Table(**(told | more))


def test_the_audit_counts_what_is_there():
    codes = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3], [3, 1, 3], [0, 2, 2]], dtype=np.int8)
    y = np.array([[1.0], [1.5], [2.0], [np.nan], [1.0]])
    groups = np.array(["a", "a", "b", "b", "a"], dtype=object)
    mutants = ["", "", "G3T", "A1T:G3T", "C2G"]
    table = made_table(codes, y, wild_type="ACG", mutants=mutants, groups=groups)
    found = audit(table, SimpleNamespace(parts={"train": [0, 1], "validation": [4], "test": [2]}))
    assert (found["rows"], found["measured"], found["varying"]) == (5, 4, 3)
    assert found["duplicates"] == {"rows": 1, "spread": 0.5}
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


def test_neighbours_of_unequal_length_are_told_by_their_words():
    random = np.random.default_rng(0)
    codes = random.integers(0, 20, (11, 31)).astype(np.int8)
    codes[10] = codes[3]
    codes[10, 20:] = PAD
    inputs = Inputs(codes=codes, letters=20, covariates=np.zeros((11, 0)), is_aligned=False)
    found = nearest(inputs, np.arange(10), np.array([10]))
    assert (found["measure"], found["median"]) == ("words missing", 0.0)
    assert nearest(inputs, np.arange(5), np.array([6]))["median"] > 0.9


def test_neighbours_are_those_of_the_definition():
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (53, 7)).astype(np.int8)
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((53, 0)), is_aligned=True)
    train, test = np.arange(37), np.arange(37, 53)
    wanted = (codes[test][:, None] != codes[train][None]).sum(2).min(1)
    found = nearest(inputs, train, test)
    assert found["counts"] == np.bincount(wanted).tolist()
