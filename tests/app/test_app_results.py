"""What the page makes of the output of jobs and of files."""

import pandas as pd
import pytest

from subquad.app.jet_results import display_jets
from subquad.app.jobs import Job
from subquad.app.sequence_results import fit_progress, scan_result
from subquad.errors import SubquadError
from subquad.hep.data.examples import example_path
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
