"""Reports: their files, and the page that compares runs."""

import pytest

from subquad.errors import SubquadError
from subquad.reporting.metrics import Metric
from subquad.reporting.run_comparison import ComparedRun, comparison_page, report_file, run_names
from subquad.reporting.statistics import Difference


@pytest.mark.parametrize("name", ["rep.pdf", "rep", "rep.html.txt"])
def test_a_report_whose_name_promises_another_format_is_refused(name, tmp_path):
    with pytest.raises(SubquadError, match=r"\.html or \.htm"):
        report_file(["run"], tmp_path, out=tmp_path / name, force=False)


@pytest.mark.parametrize("name", ["rep.html", "rep.htm", "REP.HTML"])
def test_a_report_is_an_html_file(tmp_path, name):
    assert report_file(["run"], tmp_path, out=tmp_path / name, force=False) == tmp_path / name


def test_only_a_single_run_of_the_user_has_a_report_without_a_file(tmp_path):
    assert report_file([tmp_path], tmp_path, out=None, force=False) == tmp_path / "report.html"
    for runs in ([tmp_path, tmp_path / "b"], ["example:tagger"]):
        with pytest.raises(SubquadError, match="needs an output file"):
            report_file(runs, tmp_path, out=None, force=False)


def test_runs_have_the_names_of_their_folders_if_these_differ(tmp_path):
    folders = [tmp_path / name for name in ("a/fit", "b/fit", "c")]
    assert run_names(folders[1:]) == ["fit", "c"]
    assert run_names(folders) == list(map(str, folders))
    with pytest.raises(SubquadError, match="itself"):
        run_names([folders[0], folders[0]])


def compared(*, seeds, gap):
    runs = {
        name: ComparedRun(
            values={"accuracy": (value, (value - 0.01, value + 0.01))},
            settings={"seed": seed, "inner": {"epochs": epochs}, "file": "x"},
            facts={"jets": "300"},
        )
        for name, value, seed, epochs in zip(("a", "b"), (0.7, 0.75), seeds, (3, 5), strict=True)
    }
    return comparison_page("taggers", runs, {"accuracy": Metric(title="Accuracy")}, lambda *_: gap)


def test_runs_are_compared_by_paired_differences_on_the_same_items():
    text = compared(seeds=(0, 0), gap={"accuracy": Difference(0.05, 0.03, 0.07)})
    assert "b against a: clearly better (+0.0500 [+0.0300, +0.0700], 95 % interval)." in text
    assert "Training seeds were not varied." in text
    assert "--inner.epochs" in text
    assert "--file" not in text


def test_without_differences_the_page_says_why_and_with_several_seeds_it_says_so():
    text = compared(seeds=(0, 1), gap="other test items")
    assert text.count("b against a: other test items.") == 2
    assert "The runs differ in their seed" in text
