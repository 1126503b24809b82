"""Reports of linearized models, and comparisons of several, from the files of finished runs."""

import re
import shutil
from pathlib import Path

import pytest

from subquad.errors import SubquadError
from subquad.llm.commands.report import report
from subquad.llm.plots.linearize_page import linearize_page
from subquad.runs.history import read_history
from subquad.runs.storage import read_json, write_json

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path):
    """Return a function that copies a finished run, with other entries in its files."""

    def copied(name, *, of="llm_default", **files):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / of, folder)
        for file, changes in files.items():
            path = folder / f"{file}.json"
            write_json(path, {**read_json(path), **changes})
        return folder

    return copied


def shifted(amounts):
    """Return losses of which the student's are higher by these amounts."""
    losses = read_json(GOLDEN / "llm_default" / "evaluations.json")["losses"]
    return {**losses, "fine_tuned": [loss + shift for loss, shift in zip(losses["fine_tuned"], amounts, strict=True)]}


def lead_of(path):
    return re.search(r"<header>.*?<p>(.*?)</p>", path.read_text(), flags=re.DOTALL)[1]


def test_the_report_of_one_run_is_its_page(run, tmp_path):
    folder = run("linear")
    page = report(folder, out=tmp_path / "page.html").read_text()
    notes = read_json(folder / "evaluations.json")
    assert page == linearize_page(read_json(folder / "metrics.json"), notes, read_history(folder))
    with pytest.raises(SubquadError, match=r"page\.html: exists already; choose another --out, or overwrite it"):
        report(folder, out=tmp_path / "page.html")
    # its own is written again
    (folder / "report.html").write_text("old")
    assert report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("amounts", "verdict"),
    [
        ((0.1, 0.11, 0.09), "other against linear: worse (+10.5 % [+7.8, +13.3], 95 % interval paired by sequence)"),
        ((-0.1, -0.11, -0.09), "other against linear: better (−9.5 % ["),
        ((0.2, -0.1, 0.2), "other against linear: not told apart (+10.5 % ["),
    ],
)
def test_a_run_is_better_only_if_a_paired_interval_says_so(run, tmp_path, amounts, verdict):
    folders = run("linear"), run("other", evaluations={"losses": shifted(amounts)})
    path = report(*folders, out=tmp_path / "page.html")
    assert verdict in lead_of(path)
    assert "Training seeds were not varied" in lead_of(path)


def test_a_comparison_of_runs_with_other_seeds_says_so(run, tmp_path):
    config = read_json(GOLDEN / "llm_default" / "config.json")
    config["subquad"]["settings"]["seed"] = 7
    page = report(run("linear"), run("other", config=config), out=tmp_path / "page.html")
    assert lead_of(page).endswith("The runs differ in their seed, with one training each.")
    assert "Training seeds were not varied" not in page.read_text()


def test_a_comparison_shows_the_settings_that_differ_and_all_models(run, tmp_path):
    page = report(run("linear"), run("plain", of="llm_model"), out=tmp_path / "page.html").read_text()
    assert ">--attention.feature-map</td>" in page
    assert "--seed" not in page
    assert "window and cache" in page
    # measured in one of them only
    assert "–" in page


def test_without_the_same_sequences_there_is_no_winner(run, tmp_path):
    losses = read_json(GOLDEN / "llm_default" / "evaluations.json")["losses"]
    other_text = {name: [loss + 0.1 for loss in own] for name, own in losses.items()}
    first = run("linear")
    lead = lead_of(report(first, run("other", evaluations={"losses": other_text}), out=tmp_path / "page.html"))
    assert "other against linear: no winner, since their held-out texts differ." in lead
    bare = run("bare")
    (bare / "evaluations.json").unlink()
    lead = lead_of(report(first, bare, out=tmp_path / "bare.html"))
    assert "no winner, since a run has no losses of single sequences" in lead
    one = {name: own[:1] for name, own in losses.items()}
    folders = (run(name, evaluations={"losses": one}) for name in ("a", "b"))
    assert "they were measured on one sequence" in lead_of(report(*folders, out=tmp_path / "one.html"))


def test_what_cannot_be_reported_or_compared_is_refused(run, tmp_path):
    folder, out = run("linear"), tmp_path / "page.html"
    with pytest.raises(SubquadError, match="a comparison of several runs needs an output file: name it with --out"):
        report(folder, run("other"))
    with pytest.raises(SubquadError, match="a run cannot be compared with itself"):
        report(folder, folder, out=out)
    with pytest.raises(SubquadError, match="holds a model of `subquad hep`, not of `subquad llm`"):
        report(folder, "example:tagger", out=out)
    with pytest.raises(SubquadError, match=r"its teacher is .*checkpoint, that of linear_smollm2 is smollm2"):
        report("example:linear-smollm2", folder, out=out)
    with pytest.raises(SubquadError, match=r"no evaluations\.json in it"):
        report("example:linear-smollm2", out=out)
    (folder / "metrics.json").unlink()
    with pytest.raises(SubquadError, match="this run is not finished"):
        report(folder, out=out)
    assert not out.exists()


def test_a_file_of_another_kind_is_never_replaced(run, tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("mine")
    with pytest.raises(SubquadError, match=r"corpus.txt: is no HTML file, and --force replaces only pages"):
        report(run("linear"), out=text, force=True)
    assert text.read_text() == "mine"


def test_the_shipped_example_has_no_report_of_its_own(tmp_path):
    with pytest.raises(SubquadError, match=r"^example:linear-smollm2: no evaluations.json in it; it can only"):
        report("example:linear-smollm2", out=tmp_path / "page.html")


@pytest.mark.parametrize(("place", "name"), [("about", "state_as_tokens"), ("errors", "transferred")])
def test_a_damaged_entry_of_the_notes_is_an_error_that_names_their_file(run, tmp_path, place, name):
    folder = run("run")
    notes = read_json(folder / "evaluations.json")
    del notes[place][name]
    write_json(folder / "evaluations.json", notes)
    with pytest.raises(SubquadError, match=rf"run: cannot be read as a run of subquad llm .*{name}"):
        report(folder, out=tmp_path / "report.html")
