"""Reports of fitted taggers, and comparisons of several, from the files of finished runs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.hep.commands.report import report
from subquad.hep.metrics.classification import classification_metrics
from subquad.hep.metrics.paired import accuracy_difference, auc_difference
from subquad.hep.metrics.predictions import TEST_SCORES, Predictions
from subquad.hep.plots.fit_page import verdict
from subquad.runs.examples import run_folder
from subquad.runs.storage import read_json, read_tensors, write_json, write_tensors

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def tagger(tmp_path):
    """Return a function that copies the tagger that ships with subquad, with other probabilities of its test jets."""

    def copied(name, change=None, **settings):
        folder = tmp_path / name
        shutil.copytree(run_folder("example:tagger"), folder)
        config = read_json(folder / "config.json")
        config["subquad"]["settings"] |= settings
        write_json(folder / "config.json", config)
        if change is not None:
            scores = read_tensors(folder / TEST_SCORES)
            write_tensors(folder / TEST_SCORES, change(scores))
        return folder

    return copied


def blurred(scale):
    def change(scores):
        noise = torch.randn(scores["probabilities"].shape, generator=torch.Generator().manual_seed(0))
        logits = scores["probabilities"].clamp(min=1e-9).log() + scale * noise
        return {**scores, "probabilities": logits.softmax(-1)}

    return change


def lead_of(path):
    return re.search(r"<header>.*?<p>(.*?)</p>", path.read_text(), flags=re.DOTALL)[1]


@pytest.mark.long
def test_a_report_begins_with_its_verdict_and_names_only_what_is_drawn(tagger, tmp_path):
    def without(scores):
        return {name: values for name, values in scores.items() if name not in ("pt", "sdmass")}

    text = report(tagger("some", without), out=tmp_path / "some.html").read_text()
    assert "Test jets by class: number of particles." in text
    assert "soft-drop mass" not in text
    path = report("example:tagger", out=tmp_path / "page.html")
    assert "Test jets by class: soft-drop mass." in path.read_text()
    assert "The tagger reaches a top-1 accuracy of 0.817" in lead_of(path)
    # computed from the scores, since metrics.json was written by an earlier version
    assert "clearly better (+0.08" in lead_of(path)
    assert path.read_text().count("The tagger reaches a top-1 accuracy") == 1
    with pytest.raises(SubquadError, match=r"page\.html: exists already"):
        report("example:tagger", out=path)


@pytest.mark.long
def test_a_tagger_is_better_only_if_a_paired_interval_says_so(tagger, tmp_path):
    worse, equal = tagger("worse", blurred(2.0), k=5), tagger("equal", blurred(0.01))
    path = report("example:tagger", worse, equal, out=tmp_path / "page.html")
    lead = lead_of(path)
    assert re.search(r"worse against tagger: clearly worse \(−\d+\.\d+ \[−\d+\.\d+, −\d+\.\d+\], 95 %", lead)
    assert "equal against tagger: no clear difference (" in lead
    assert "Training seeds were not varied" in lead
    page = path.read_text()
    assert "AUC, ovo" in page
    assert ">--k</td>" in page


def test_a_comparison_of_runs_with_other_seeds_says_so(tagger, tmp_path):
    path = report("example:tagger", tagger("other", blurred(0.01), seed=7), out=tmp_path / "page.html")
    for text in (lead_of(path), path.read_text().rpartition("</header>")[2]):
        assert "The runs differ in their seed, with one training each." in text
    assert "Training seeds were not varied" not in path.read_text()


def test_what_cannot_be_reported_or_compared_is_refused(tagger, tmp_path):
    out, folder = tmp_path / "page.html", tagger("unfinished")
    with pytest.raises(SubquadError):
        report("example:tagger")
    with pytest.raises(SubquadError):
        report("example:tagger", GOLDEN / "hep_tagger", out=out)
    with pytest.raises(SubquadError):
        report(GOLDEN / "hep_tagger", out=out)
    with pytest.raises(SubquadError):
        report("example:tagger", "example:linear-smollm2", out=out)
    (folder / "metrics.json").unlink()
    with pytest.raises(SubquadError):
        report(folder, out=out)
    assert not out.exists()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_paired_differences_are_those_of_the_metrics_and_narrower_than_unpaired_ones(is_weighted):
    generator, classes = np.random.default_rng(0), ("QCD", "Hbb", "Tbl")
    labels = generator.integers(3, size=2003)
    logits = generator.normal(size=(2003, 3)) + 1.5 * np.eye(3)[labels]
    weights = generator.random(2003) + 0.5 if is_weighted else None

    def predictions(logits):
        exps = np.exp(logits)
        probabilities = exps / exps.sum(1, keepdims=True)
        return Predictions(model="a", source="b", probabilities=probabilities, labels=labels, weights=weights)

    one, other = predictions(logits + generator.normal(scale=0.3, size=logits.shape)), predictions(logits)
    found = [classification_metrics(own.probabilities, labels, classes, "QCD", weights=weights) for own in (one, other)]
    for metric, measure in (("accuracy", accuracy_difference), ("auc_ovo", auc_difference)):
        gap = measure(one, other)
        assert gap.value == pytest.approx(found[0][metric] - found[1][metric])
        low, high = found[1]["intervals"][metric]
        # 95 % of a difference, and 68 % of one metric
        assert 0 < gap.high - gap.low < 2 * (high - low)
        assert gap.low < gap.value < gap.high


@pytest.mark.parametrize(
    ("gap", "sentence"),
    [
        ((0.0859, 0.0801, 0.0914), "clearly better (+0.0859 [+0.0801, +0.0914], 95 % interval)"),
        ((-0.00002, -0.00003, -0.00001), "no clear difference (−0.00002 [−0.00003, −0.00001], 95 % interval)"),
        ((0.0, 0.0, 0.0), "no clear difference (equal, 95 % interval)"),
    ],
)
def test_a_difference_from_the_baseline_does_not_read_as_zero(gap, sentence):
    metrics = read_json(run_folder("example:tagger") / "metrics.json")
    gaps = {"net": {"boosting": dict(zip(("value", "low", "high"), gap, strict=True))}}
    assert sentence in verdict({**metrics, "differences": gaps})
