"""What the pages that compare runs have in common."""

import pytest

from subquad.cli import main
from subquad.reporting.run_comparison import report_file, seeds_text


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ((0, 0), "Training seeds were not varied."),
        ((0, 1), "The runs differ in their seed, with one training each."),
        ((3, 3, 4), "The runs differ in their seed, with one training each."),
    ],
)
def test_a_comparison_says_whether_runs_differ_in_their_seed(seeds, sentence):
    assert seeds_text([{"seed": seed, "epochs": place} for place, seed in enumerate(seeds)]) == sentence


def test_runs_that_do_not_record_a_seed_do_not_differ_in_it():
    assert seeds_text([{}, {}]) == "Training seeds were not varied."


@pytest.mark.parametrize("name", ["rep.pdf", "rep", "rep.html.txt", ".html"])
@pytest.mark.parametrize(
    "run", [("bio", "example:tdp43-model"), ("llm", "example:linear-smollm2"), ("hep", "example:tagger")]
)
def test_a_report_whose_name_promises_another_format_is_refused(run, name, tmp_path, capsys):
    out, (field, folder) = tmp_path / name, run
    assert main([field, "report", folder, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    if "is not installed; " in message:
        pytest.skip(message)
    assert message == f"subquad: {out}: --out must end in .html or .htm, since it is an HTML page\n"
    assert not out.exists()


@pytest.mark.parametrize("name", ["rep.html", "rep.htm", "REP.HTML"])
def test_a_report_is_an_html_file(tmp_path, name):
    assert report_file(["run"], tmp_path, out=tmp_path / name, force=False) == tmp_path / name
