"""What the page makes of the output of jobs and of files."""

import json
import re
from dataclasses import replace

import awkward as ak
import numpy as np
import pandas as pd
import pytest
import uproot

from subquad.app.jet_results import _curves, describe_files, display_jets, performance
from subquad.app.jobs import Job
from subquad.app.language_results import linearize_progress
from subquad.app.sequence_results import design_result, epistasis_result, fit_progress, rounds_result, scan_result
from subquad.errors import SubquadError
from subquad.hep.data.examples import example_path
from subquad.hep.metrics.predictions import Predictions
from subquad.runs.examples import run_folder
from subquad.runs.storage import write_json


def job_with_output(session, kind):
    """Return a job of a session whose output is an empty folder."""
    folder = session.new_job_folder()
    write_json(folder / "job.json", {"output": "out", "kind": kind, "title": "A job", "words": []})
    (folder / "out").mkdir()
    return Job(folder)


def test_jets_of_a_file_that_was_deleted_are_not_shown_again(tmp_path):
    file = tmp_path / "jets.root"
    file.write_bytes(example_path("example:jets").read_bytes())
    tagger = run_folder("example:tagger")
    assert "Jet 1 of" in display_jets(tagger, [file], None, 1)
    file.unlink()
    with pytest.raises(SubquadError, match=r"jets\.root"):
        display_jets(tagger, [file], None, 1)


def test_files_of_a_layout_that_is_not_recognized_say_so_before_a_training(tmp_path):
    numbers = [[1.0, 2.0], [3.0]]
    with uproot.recreate(tmp_path / "own.root") as file:
        file["tree"] = {"cand_pt": ak.Array(numbers), "truth": np.array([0, 1])}
    html = describe_files([tmp_path / "own.root"])
    assert "The layout of own.root was not recognized, so no tagger can be trained on it here." in html
    assert "subquad hep fit --card" in html
    assert "not recognized" not in describe_files([example_path("example:jets")])


def test_a_jet_beyond_the_last_one_of_its_class_is_not_replaced_silently():
    html = display_jets(run_folder("example:tagger"), [example_path("example:jets")], "QCD", 500)
    assert "There is no jet 500 of class QCD among the first 400 jets; the last one is shown." in html
    count = re.search(r"Jet (\d+) of (\d+) of class QCD", html)
    assert count[1] == count[2]


def test_the_class_without_jets_is_named_and_no_ratio_is_drawn_where_no_background_passes():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    one = Predictions(
        model="tagger", probabilities=probabilities, labels=np.array([0, 0, 1, 1]), source="test jets", seed=0
    )
    html = _curves([replace(one, labels=np.ones(4, int))], ["QCD", "Hbb"], "QCD", "Hbb")
    assert "There are no jets of QCD, so that no curve can be drawn." in html
    html = _curves([one, replace(one, model="gradient boosting")], ["QCD", "Hbb"], "QCD", "Hbb")
    assert "its ratio to" not in html


def test_curves_and_table_name_the_models_alike_and_the_matrix_has_the_whole_width():
    html = performance(run_folder("example:tagger"), None)
    curves, matrix = html.split("Rejection of", 1)[1].rsplit("Confusion matrix of tagger", 1)
    assert "its ratio to gradient boosting" in curves
    assert re.search(r"<th[^>]*>gradient boosting", curves)
    assert not re.search(r"<t[dh]", matrix)


def test_a_map_of_mutants_names_the_target_and_hatches_what_training_does_not_support(session):
    job = job_with_output(session, "bio scan")
    write_json(job.out / "scan.json", {"target": "a < b"})
    shared = {"from": "A", "prediction": 1.0, "prediction_low": 0.5, "prediction_high": 1.5, "measured": None}
    rows = [
        {"position": k, "to": letter, "mutant": f"A{k}{letter}", "difference": k / 9, "observed": observed, **shared}
        for k in range(1, 10)
        for letter, observed in (("C", "yes"), ("D", "no"))
    ]
    pd.DataFrame(rows).to_csv(job.out / "scan.csv", index=False)
    html = scan_result(job)
    assert "<h3>Single mutants of positions 1 to 9</h3>" in html
    assert "Difference of a &lt; b to the wild type:" in html
    assert "Hatched: no training sequence" in html
    assert html.count("<path") == 9


def test_members_of_an_ensemble_have_the_dashes_of_their_model(session):
    job = job_with_output(session, "bio fit")
    parts = ("mlp", "lyra 1", "lyra 2")
    lines = [f'{{"part": "{part}", "step": {k}, "seconds": {k}, "loss": {k}}}' for part in parts for k in (1, 2)]
    (job.out / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    strokes = [piece.split("stroke-dasharray=")[1].split('"')[1] for piece in fit_progress(job).split("<polyline")[1:]]
    assert strokes[0] != strokes[1] == strokes[2]


def write_history(job, entries):
    (job.out / "history.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")


def test_the_validation_metric_has_its_usual_name_and_its_first_value_is_seen(session):
    job = job_with_output(session, "bio fit")
    write_history(job, [{"part": "mlp", "step": 7, "seconds": 0.5, "validation_spearman": 0.75}])
    html = fit_progress(job)
    assert "validation Spearman" in html
    assert html.count('class="sq-point"') == 1


def test_each_stage_of_a_linearization_has_a_chart_of_its_own_loss(session):
    job = job_with_output(session, "llm linearize")
    transfer = [{"part": f"transfer-{block}", "step": k, "loss": 0.001} for block in (0, 1) for k in (1, 2)]
    write_history(job, [*transfer, *({"part": "lora", "step": k, "loss": 5.0} for k in (1, 2))])
    captions = re.findall("<figcaption>([^<]*)", linearize_progress(job))
    assert captions == ["Training loss of attention transfer", "Training loss of fine-tuning"]
    assert "attention transfer, block 1" in linearize_progress(job)


@pytest.mark.parametrize(
    ("count", "caption"),
    [(1, "1 design, best first."), (4, "4 designs, best first."), (23, "First 20 of 23 designs, best first.")],
)
def test_all_designs_are_counted_and_the_table_says_if_it_has_only_the_first(session, count, caption):
    job = job_with_output(session, "bio design")
    row = {"mutants": "A1C", "prediction": 0.5, "prediction_low": 0.25, "prediction_high": 0.75}
    pd.DataFrame([{"name": f"D{k}", **row} for k in range(count)]).to_csv(job.out / "designs.csv", index=False)
    html = design_result(job)
    assert f"<caption>{caption}</caption>" in html
    assert html.count("<tr>") - 1 == min(count, 20)


def test_pairs_of_positions_have_a_header_in_words(session):
    job = job_with_output(session, "bio epistasis")
    row = {"i": 13, "j": 41, "rms": 0.5, "max": 0.7, "mean": -0.5, "double_mutants": 3}
    pd.DataFrame([row]).to_csv(job.out / "pairs.csv", index=False)
    header = re.findall('<th[^>]*scope="col">([^<]*)', epistasis_result(job))
    assert header == ["position 1", "position 2", "root mean square", "largest", "mean", "double mutants"]


@pytest.mark.parametrize(("count", "text"), [(1, "with 1 new measurement."), (1200, "with 1,200 new measurements.")])
def test_a_round_counts_the_measurements_that_it_read(session, count, text):
    job = job_with_output(session, "bio rounds")
    write_json(job.out / "rounds.json", {"rounds": [{"new_measurements": count}]})
    assert f"The models were fitted again, {text}" in rounds_result(job)
