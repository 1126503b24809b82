"""Reports of linearized models, and comparisons of several, from the files of finished runs."""

import shutil
from pathlib import Path

import pytest
from support.llm_pages import lead_of

from subquad.errors import SubquadError
from subquad.llm.commands.report import report
from subquad.llm.plots.linearize_page import linearize_page
from subquad.runs.history import read_history
from subquad.runs.storage import read_json, write_json

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path):
    """Return a function that copies a finished run, with other entries in its files."""

    def copied(name, *, of="llm_model", **files):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / of, folder)
        for file, changes in files.items():
            path = folder / f"{file}.json"
            write_json(path, {**read_json(path), **changes})
        return folder

    return copied


def shifted(amounts):
    """Return losses of which the student's are higher by these amounts."""
    losses = read_json(GOLDEN / "llm_model" / "evaluations.json")["losses"]
    return {**losses, "fine_tuned": [loss + shift for loss, shift in zip(losses["fine_tuned"], amounts, strict=True)]}


def test_the_report_of_one_run_is_its_page(run, tmp_path):
    folder = run("linear")
    page = report(folder, out=tmp_path / "page.html").read_text()
    notes = read_json(folder / "evaluations.json")
    assert page == linearize_page(read_json(folder / "metrics.json"), notes, read_history(folder))
    with pytest.raises(SubquadError, match=r"page\.html: exists already"):
        report(folder, out=tmp_path / "page.html")
    # that of the folder is written again
    (folder / "report.html").write_text("old")
    assert report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("amounts", "verdict"),
    [
        ((0.1, 0.11, 0.09), "other against linear: clearly worse (+10.5 % [+7.8, +13.3], 95 % interval)"),
        ((-0.1, -0.11, -0.09), "other against linear: clearly better (−9.5 % ["),
        ((0.2, -0.1, 0.2), "other against linear: no clear difference (+10.5 % ["),
        ((1e-5, 1.1e-5, 0.9e-5), "other against linear: no clear difference (+0.001 % ["),
        ((0.0, 0.0, 0.0), "other against linear: no clear difference (equal"),
    ],
)
def test_a_run_is_better_only_if_a_paired_interval_says_so_and_it_matters(run, tmp_path, amounts, verdict):
    folders = run("linear"), run("other", evaluations={"losses": shifted(amounts)})
    path = report(*folders, out=tmp_path / "page.html")
    assert verdict in lead_of(path.read_text())
    assert "Training seeds were not varied" in lead_of(path.read_text())


def test_a_comparison_shows_the_settings_that_differ_and_all_models(run, tmp_path):
    config = read_json(GOLDEN / "llm_model" / "config.json")
    config["subquad"]["settings"] |= {"seed": 7, "lora_rank": 3}
    other = run("other", config=config)
    metrics = read_json(other / "metrics.json")
    del metrics["test"]["cache"]
    write_json(other / "metrics.json", metrics)
    page = report(run("linear"), other, out=tmp_path / "page.html").read_text()
    assert lead_of(page).endswith("The runs differ in their seed, with one training each.")
    for words in (
        ">--lora-rank</td>",
        ">--seed</td>",
        "window and cache, untrained",
        "student, after attention transfer",
    ):
        assert words in page
    assert "--lora-alpha" not in page


def test_without_the_same_sequences_there_is_no_winner(run, tmp_path):
    losses = read_json(GOLDEN / "llm_model" / "evaluations.json")["losses"]
    other_text = {name: [loss + 0.1 for loss in own] for name, own in losses.items()}
    first, bare = run("linear"), run("bare")
    (bare / "evaluations.json").unlink()
    other = run("other", evaluations={"losses": other_text})
    page = report(first, other, bare, out=tmp_path / "page.html").read_text()
    assert "other against linear: their held-out texts differ" in lead_of(page)
    assert "bare against linear: a run does not hold the losses of single sequences" in lead_of(page)
    short = {name: own[:1] for name, own in losses.items()}
    folders = (run(name, evaluations={"losses": short}) for name in ("a", "b"))
    assert "b against a: no clear difference (no interval)" in report(*folders, out=tmp_path / "one.html").read_text()


def test_what_cannot_be_reported_or_compared_is_refused(run, tmp_path):
    folder, out = run("linear"), tmp_path / "page.html"
    for runs, message in (
        ((folder, folder), "a run cannot be compared with itself"),
        ((folder, "example:tagger"), "is a run of `subquad hep`, not of `subquad llm`"),
        (("example:linear-smollm2", folder), r"its teacher is .*checkpoint, not smollm2"),
        (("example:linear-smollm2",), r"^example:linear-smollm2: no evaluations\.json in it; it can only be compared"),
    ):
        with pytest.raises(SubquadError, match=message):
            report(*runs, out=out)
    with pytest.raises(SubquadError, match="a comparison of several runs needs an output file"):
        report(folder, run("other"))
    text = tmp_path / "corpus.txt"
    text.write_text("mine")
    with pytest.raises(SubquadError, match=r"must end in \.html"):
        report(folder, out=text, force=True)
    assert text.read_text() == "mine"
    (folder / "metrics.json").unlink()
    with pytest.raises(SubquadError, match="this run is not finished"):
        report(folder, out=out)
    assert not out.exists()


@pytest.mark.parametrize(("place", "name"), [("about", "state_as_tokens"), ("errors", "transferred")])
def test_a_damaged_entry_of_the_notes_is_an_error_that_names_their_file(run, tmp_path, place, name):
    folder = run("run")
    notes = read_json(folder / "evaluations.json")
    del notes[place][name]
    write_json(folder / "evaluations.json", notes)
    with pytest.raises(SubquadError, match=rf"run: cannot be read as a run of subquad llm .*{name}"):
        report(folder, out=tmp_path / "report.html")
