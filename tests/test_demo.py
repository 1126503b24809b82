"""The demo: two jobs at a time, a page after each, and errors that do not stop the other jobs."""

import pytest

from subquad import demo as module
from subquad.demo import demo
from subquad.errors import SubquadError
from subquad.reporting.page import Section
from subquad.runs.folder import open_run
from subquad.runs.storage import write_json


@pytest.fixture
def commands(monkeypatch):
    """Replace the commands of the three jobs, none by default, and the reports of their runs."""
    commands = {"llm": [], "bio": [], "hep": []}
    sections = type("Report", (), {"sections": lambda _, run: [Section("", [f"The result of {run.name}."])]})
    monkeypatch.setattr(module, "_commands", lambda *_, **__: commands)
    monkeypatch.setattr(module, "require", lambda *_, **__: sections())
    return commands


def finish(out, *names, **settings):
    open_run(out, kind="demo", settings={"quick": False, "seed": 0, "text": None, **settings})
    for name in names:
        write_json(out / name / "metrics.json", {"seconds": {"total": 61.0}})


def test_finished_runs_are_shown_and_not_repeated(tmp_path, commands, capsys):
    finish(tmp_path, "llm", "bio", "hep")
    commands["bio"] = ["no-such-command"]
    demo(out=tmp_path, quiet=True)
    html = (tmp_path / "report.html").read_text()
    assert all(f"The result of {name}." in html for name in commands)
    assert "3 of 3 are finished" in html
    assert "The result of hep." in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_job_is_reported_and_the_others_are_finished(tmp_path, commands):
    finish(tmp_path, "llm", "bio")
    commands["hep"] = [f"hep fit missing.root --out {tmp_path / 'hep'}"]
    with pytest.raises(SubquadError, match=r"jets: subquad hep fit missing.root .* failed:\n(.*\n)*.*no such file"):
        demo(out=tmp_path, quiet=True)
    html = (tmp_path / "report.html").read_text()
    assert "The result of llm." in html
    assert "The result of hep." not in html
    assert "2 of 3 are finished" in html


def test_a_text_that_is_not_there_is_refused_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        demo(out=tmp_path / "demo", text=tmp_path / "missing.txt")
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_another_demo_is_not_shown_as_this_one(tmp_path, commands):
    finish(tmp_path, "llm", "bio", "hep", quick=True)
    demo(out=tmp_path, quick=True, quiet=True)
    demo(out=tmp_path, quick=True, quiet=True)
    with pytest.raises(SubquadError, match=r"other settings \(quick was True and is False; seed was 0 and is 3\)"):
        demo(out=tmp_path, seed=3, quiet=True)
