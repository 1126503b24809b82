"""Reports of runs whose test rows are damaged: an error that names the file, and no traceback."""

import json

import pytest
from support import bio_runs
from support.weights import accept_changes

from subquad.bio.commands.report import report
from subquad.errors import SubquadError

DAMAGE = {
    "no column row": ("regression", lambda lines: ["rov" + lines[0][3:], *lines[1:]]),
    "no measured values": ("regression", lambda lines: [lines[0].replace("measured", "measurep", 1), *lines[1:]]),
    "no predictions": ("regression", lambda lines: [lines[0].replace("ridge", "rigde"), *lines[1:]]),
    "no probabilities": ("multiclass", lambda lines: [lines[0].replace("ridge:", "rigde:"), *lines[1:]]),
    "text in place of a number": ("regression", lambda lines: [*lines[:2], lines[2] + ":", *lines[3:]]),
    "an unknown class": ("multiclass", lambda lines: [lines[0], *(line.replace(",no,", ",ni,") for line in lines[1:])]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_report_of_damaged_test_rows_names_their_file(damage, tmp_path):
    kind, change = DAMAGE[damage]
    bio_runs.folder(tmp_path / "run", kind)
    path = tmp_path / "run" / "test.csv"
    lines = path.read_text().splitlines()
    changed = change(lines)
    assert changed != lines
    path.write_text("\n".join(changed) + "\n")
    with pytest.raises(SubquadError, match=r"test\.csv: (has no column|column|missing or damaged)"):
        report(tmp_path / "run", out=tmp_path / "page.html")


@pytest.mark.parametrize("content", ["[]", "{}", "7"])
def test_a_report_without_test_sequences_names_their_file(content, tmp_path):
    bio_runs.folder(tmp_path / "run", "residue_regression")
    (tmp_path / "run" / "test.json").write_text(content)
    accept_changes(tmp_path / "run")
    with pytest.raises(SubquadError, match=r"run/test\.json: there is no list of test sequences"):
        report(tmp_path / "run", out=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("residue_regression", "test.json", lambda value: value[0]["measured"].insert(3, {})),
        ("regression", "metrics.json", lambda value: value["differences"]["ensemble"]["ridge"].pop("low")),
    ],
)
def test_a_report_of_entries_of_other_types_names_the_run(kind, name, change, tmp_path):
    bio_runs.folder(tmp_path / "run", kind)
    value = json.loads((tmp_path / "run" / name).read_text())
    change(value)
    (tmp_path / "run" / name).write_text(json.dumps(value))
    accept_changes(tmp_path / "run")
    with pytest.raises(SubquadError, match=r"run: results or settings are damaged; fit again, .* \("):
        report(tmp_path / "run", out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", r"history\.jsonl, line 1: no object with the stage of a training"),
        ('{"part": 3, "step": 1}', r"history\.jsonl, line 1: no object with the stage of a training"),
        ('{"part": "lyra", "stap": 1}', r"history\.jsonl, line 1: step is null, which is no number"),
        ('{"part": "lyra", "step": 1, "loss": "a"}', r'history\.jsonl, line 1: loss is "a", which is no number'),
        ('{"part": "nyra", "step": 1}', r'history\.jsonl: part is "nyra", which is no model'),
    ],
)
def test_a_report_of_a_damaged_history_names_its_line(line, message, tmp_path):
    bio_runs.folder(tmp_path / "run", "regression")
    (tmp_path / "run" / "history.jsonl").write_text(f"{line}\n")
    with pytest.raises(SubquadError, match=message):
        report(tmp_path / "run", out=tmp_path / "page.html")
