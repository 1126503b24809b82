"""Temperature scaling of taggers, by itself and from the fit to every command that opens the model."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from subquad.hep import FitSettings, TrainedTagger, fit, predict
from subquad.hep.metrics.classification import classification_metrics
from subquad.hep.models.temperature import LIMITS, divide_logits, fit_temperature
from subquad.reporting.statistics import calibration_bins
from subquad.runs.storage import read_tensors


def drawn(jets=4001, factor=1.0, seed=0):
    """Logits, larger than calibrated ones by a factor, and labels drawn with the calibrated probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(jets, 3, generator=generator).double()
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_logits_that_are_too_large_or_too_small(factor):
    logits, labels = drawn(factor=factor)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(factor, rel=0.1)
    losses = [cross_entropy(logits / (found * by), labels).item() for by in (0.97, 1.0, 1.03)]
    assert min(losses) == losses[1]


def test_event_weights_count_in_the_likelihood():
    logits, labels = drawn(jets=601, factor=2.0)
    weights = np.random.default_rng(0).integers(0, 3, 601)
    rows = np.repeat(np.arange(601), weights)
    found = fit_temperature(logits, labels, weights.astype(np.float32))
    assert found == pytest.approx(fit_temperature(logits[rows], labels[rows]), rel=1e-4)
    assert found != pytest.approx(fit_temperature(logits, labels), rel=1e-3)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, -3.0]])
def test_weights_that_cancel_leave_the_logits_as_they_are(weights):
    logits = torch.tensor([[1.0, -1.0], [3.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 1]), np.array(weights)) == 1


def test_the_temperature_has_limits():
    assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(LIMITS[0], rel=1e-2)


@pytest.mark.parametrize("head", [nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))])
def test_the_last_layer_of_a_head_divides_its_logits(head):
    x = torch.randn(11, 5)
    before = head(x).detach()
    divide_logits(head, 1.7)
    torch.testing.assert_close(head(x), before / 1.7)


def test_both_calibration_errors_are_reported():
    logits, labels = drawn(jets=1009, factor=2.5)
    labels = labels.numpy()
    before, after = logits.softmax(-1).numpy(), (logits / 2.5).softmax(-1).numpy()
    got = classification_metrics(after, labels, "abc", "a", temperature=2.5)
    expected = calibration_bins(before.max(1), before.argmax(1) == labels).error
    assert got["calibration_error_unscaled"] == pytest.approx(expected)
    assert got["calibration_error"] < 0.5 * expected
    assert "calibration_error_unscaled" not in classification_metrics(after, labels, "abc", "a")


@pytest.mark.long
def test_a_fitted_tagger_is_calibrated_on_its_validation_jets(jets, tmp_path):
    settings = FitSettings(preset="standard", epochs=2, batch_size=17, no_boosting=True)
    metrics = fit(jets, settings, out=tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["temperature"] == metrics["temperature"] != 1
    net = metrics["models"][0]["trainings"][0]
    assert net["calibration_error_unscaled"] != net["calibration_error"]
    tagger = TrainedTagger.load(tmp_path / "run")
    assert tagger.temperature == metrics["temperature"]
    # the test jets are scored with the weights that are saved
    stored = read_tensors(tmp_path / "run" / "test_scores.safetensors")["probabilities"].numpy()
    scores = predict(tmp_path / "run", jets, out=tmp_path / "scores.root", quiet=True)
    uproot = pytest.importorskip("uproot")
    with uproot.open(scores) as file:
        found = np.stack([file["Events"][f"score_{name}"].array(library="np") for name in tagger.classes], 1)
    assert all(np.abs(found - row).max(1).min() < 1e-5 for row in stored)
    assert "The temperature " in (tmp_path / "run" / "report.html").read_text()
