"""Records that fits, benchmarks, simulated rounds and reports read: damage is an error with file and remedy."""

import json
import re

import numpy as np
import pytest
from subquad.bio.design_search.simulation import _read_picks
from support.bio_bench import write_tasks
from support.bio_runs import folder
from support.weights import accept_changes

from subquad.bio.commands import bench as bench_command
from subquad.bio.commands.bench import _add_failures, bench
from subquad.bio.commands.report import report
from subquad.bio.models import fit
from subquad.errors import SubquadError
from subquad.runs.storage import read_json, write_json

MODEL = {"validation": 0.5, "cpu_seconds": 1.5}


def refused(path, content, read):
    """Return the error of a reader of a damaged file, which begins with the name of the file."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(SubquadError, match=f"^{re.escape(str(path))}: ") as error:
        read(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ([], "must be an object with , and is []"),
        ({"ridge": 3}, "ridge: must be an object with validation (a number or null), cpu_seconds (a number), and is 3"),
        ({"ridge": {**MODEL, "validation": "x"}}, 'ridge: validation must be a number or null, got "x"'),
        ({"ridge": {"validation": None}}, "ridge: cpu_seconds is missing (a number)"),
    ],
)
def test_a_damaged_list_of_fitted_models_is_refused(tmp_path, content, message):
    text = refused(tmp_path / "validation.json", content, lambda path: fit._read_validations(path.parent))
    assert message in text
    assert text.endswith("delete it, and the same command resumes the fit")


def test_a_damaged_time_of_a_baseline_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fit.Baseline, "load", lambda path: None)
    options = {"directory": tmp_path, "seed": 0, "quiet": True}
    for content, message in (({}, "cpu_seconds is missing (a number)"), ([], "must be an object"), ("", "not JSON")):
        text = refused(tmp_path / "ridge.json", content, lambda path: fit._fit_baseline("ridge", None, None, **options))
        assert message in text
        assert text.endswith("delete it, and the same command fits ridge again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ({}, "must be a list of objects, and is {}"),
        ([3], "entry 0: must be an object with id (a string), seed (an integer), message (a string), and is 3"),
        ([{}], "entry 0: id is missing (a string), seed is missing (an integer), message is missing (a string)"),
        ([{"id": [], "seed": 0, "message": "m"}], "entry 0: id must be a string, got []"),
    ],
)
def test_a_damaged_list_of_failed_tasks_is_refused(tmp_path, content, message):
    text = refused(tmp_path / "failed.json", content, lambda path: _add_failures(path.parent, []))
    assert message in text
    assert text.endswith("delete it, and the same command runs the tasks that failed again")


def test_a_benchmark_refuses_a_damaged_list_of_failed_tasks_before_it_runs_any(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_command, "_run_all", None)
    tasks = write_tasks(tmp_path, {"a/one": "ACGT"})
    write_json(tmp_path / "out" / "bench.json", {"benchmark": "subquad bio bench"})
    text = refused(tmp_path / "out" / "failed.json", [{}], lambda path: bench(tasks, out=path.parent, quiet=True))
    assert "entry 0: id is missing" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "picks is missing (a list of lists), cpu_seconds is missing (a number)"),
        ([], "must be an object with picks (a list of lists), cpu_seconds (a number), and is []"),
        ({"picks": [3], "cpu_seconds": 0.0}, "picks[0] must be a list, got 3"),
        ({"picks": [[4], ["x"]], "cpu_seconds": 0.0}, 'round 2: picks[0] must be an integer, got "x"'),
        # a row of the start, one of an earlier round, and none of the assay
        ({"picks": [[2]], "cpu_seconds": 0.0}, "round 1: row 2 was measured before, or is none of the 11 of the assay"),
        ({"picks": [[4], [4]], "cpu_seconds": 0.0}, "round 2: row 4 was measured before"),
        ({"picks": [[11]], "cpu_seconds": 0.0}, "round 1: row 11 was measured before"),
    ],
)
def test_damaged_rounds_of_a_simulation_are_refused(tmp_path, content, message):
    text = refused(tmp_path / "ridge-0.json", content, lambda path: _read_picks(path, np.array([2, 3]), 11))
    assert message in text
    assert text.endswith("delete it, and the same command replays these rounds again")


def test_the_rounds_of_a_simulation_are_read_again(tmp_path):
    write_json(tmp_path / "ridge-0.json", {"picks": [[4, 0], []], "cpu_seconds": 1.5})
    assert _read_picks(tmp_path / "ridge-0.json", np.array([2, 3]), 11) == ([[4, 0], []], 1.5)


def without(record, *names):
    *above, last = names
    inner = record
    for name in above:
        inner = inner[name]
    del inner[last]
    return record


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "metrics.json",
            lambda own: {("task_typf" if key == "task_type" else key): value for key, value in own.items()},
            'task_type is missing ("regression" or ',
        ),
        ("metrics.json", lambda own: {**own, "task_type": None}, "got null"),
        ("metrics.json", lambda own: [own], "must be an object"),
        ("metrics.json", lambda own: without(own, "rows", "test"), "rows: test is missing (an integer)"),
        ("metrics.json", lambda own: without(own, "test", "lyra", "spearman"), "test: lyra: spearman is missing"),
        ("metrics.json", lambda own: {**own, "test": {}}, "test has no model"),
        ("metrics.json", lambda own: {**own, "undefined": 3}, "undefined must be an object, got 3"),
        ("config.json", lambda own: without(own, "subquad", "settings"), "subquad: settings is missing (an object)"),
        ("config.json", lambda own: without(own, "target", "names"), "target: names is missing (a list of strings)"),
        ("config.json", lambda own: {**own, "models": []}, "models has no model"),
        ("config.json", lambda own: {**own, "networks": None}, "networks must be an object, got null"),
    ],
)
def test_a_report_on_a_damaged_run_names_the_file_and_the_entry(tmp_path, file, change, message):
    folder(tmp_path / "run", "regression")
    # as a run from before checksums, by which the change would be noticed first
    accept_changes(tmp_path / "run")
    path = tmp_path / "run" / file
    text = refused(path, change(read_json(path)), lambda path: report(path.parent, out=tmp_path / "page.html"))
    assert message in text
    assert text.endswith("fit again, or copy the whole folder again")
    assert not (tmp_path / "page.html").exists()
