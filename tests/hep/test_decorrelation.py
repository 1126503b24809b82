"""Decorrelation from the mass: the penalty, what it does to a classifier, and the measure of mass shapes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.nn.functional import cross_entropy

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, evaluate, fit
from subquad.hep.metrics.curves import distance, mass_edges
from subquad.hep.metrics.mass_shape import mass_shapes
from subquad.hep.metrics.predictions import ModelPredictions, Predictions
from subquad.hep.metrics.summary import measure, summarize
from subquad.hep.models.decorrelation import MAX_JETS, Decorrelation
from subquad.hep.plots.tables import mass_shapes_table
from subquad.ops.distance_correlation import distance_correlation_direct


def test_the_penalty_is_the_distance_correlation_of_the_background_alone_averaged_over_signals():
    generator = torch.Generator().manual_seed(0)
    logits, mass = torch.randn(41, 3, generator=generator), torch.rand(41, generator=generator)
    labels, weights = torch.arange(41) % 3, torch.rand(41, generator=generator)
    rows = labels == 1
    p = logits.softmax(-1)[rows].double()
    expected = [
        distance_correlation_direct(p[:, i] / (p[:, i] + p[:, 1]), mass[rows].double(), weights[rows].double())
        for i in (0, 2)
    ]
    penalty = Decorrelation(background=1, weight=1.0).penalty
    assert penalty(logits, mass, labels, weights).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    # the sign of a weight, other classes, and the scale of the mass make no difference
    other = penalty(logits, 300 * mass + (~rows), labels, -weights)
    torch.testing.assert_close(other, penalty(logits, mass, labels, weights), rtol=1e-4, atol=1e-6)
    # jets of all files are compared, also if there are too many of them and the files are sorted
    many = torch.arange(4 * MAX_JETS)
    sorted_logits = torch.stack([torch.where(many < 2 * MAX_JETS, 0.0, many / MAX_JETS - 3), torch.zeros(len(many))], 1)
    ones = torch.ones(len(many))
    assert Decorrelation(background=1, weight=1.0).penalty(sorted_logits, many, ones.long(), ones) > 0.4
    # too few to estimate anything
    assert penalty(logits[:9], mass[:9], labels[:9], weights[:9]).item() == 0


@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_a_classifier_with_the_penalty_keeps_the_independent_input_and_drops_the_mass(weight):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(1200) % 2
    mass = torch.randn(1200, generator=generator) + labels
    other = torch.randn(1200, generator=generator) + labels
    torch.manual_seed(1)
    net = torch.nn.Linear(2, 2)
    optimizer, penalty = torch.optim.Adam(net.parameters(), lr=0.05), Decorrelation(background=0, weight=1.0).penalty
    for _ in range(100):
        logits = net(torch.stack([mass, other], 1))
        (cross_entropy(logits, labels) + weight * penalty(logits, mass, labels, torch.ones(1200))).backward()
        optimizer.step()
        optimizer.zero_grad()
    effects = (net.weight[1] - net.weight[0]).detach()
    assert effects[1] > 0.5
    assert (effects[0].abs() < 0.15) == bool(weight)


def predictions(is_sculpted, jets=4001, name="one"):
    generator = np.random.default_rng(3)
    labels = np.arange(jets) % 2
    mass = generator.uniform(0, 200, jets)
    score = generator.uniform(size=jets) + 0.3 * labels + is_sculpted * np.exp(-(((mass - 80) / 15) ** 2))
    p = 1 / (1 + np.exp(-score))
    return Predictions(
        model=name, source=name, probabilities=np.stack([1 - p, p], 1), labels=labels, sdmass=mass.astype(np.float32)
    )


def test_the_inverse_divergence_is_that_of_the_histograms_and_reaches_that_of_random_jets_without_sculpting():
    one = predictions(is_sculpted=1.0)
    (cut, _), edges = mass_shapes(one, ("QCD", "Wqq"), "QCD")["Wqq"], mass_edges(one, 0)
    background, score = one.labels == 0, one.probabilities[:, 1]
    passes = score[background] >= np.quantile(score[~background], 0.5)
    mass = one.sdmass[background].clip(0, edges[-1])
    before, after = (np.histogram(values, edges)[0] for values in (mass, mass[passes]))
    assert cut["jsd"] == pytest.approx(distance(before / before.sum(), after / after.sum()) ** 2, rel=0.02)
    assert cut["inverse_jsd"] == pytest.approx(1 / cut["jsd"])
    assert cut["inverse_jsd"] < 0.1 * cut["by_chance"]
    flat = mass_shapes(predictions(is_sculpted=0.0), ("QCD", "Wqq"), "QCD")["Wqq"]
    for entry in flat:
        assert 0.5 < entry["inverse_jsd"] / entry["by_chance"] < 2


def test_weights_that_cancel_leave_no_shape_and_no_nan():
    one = predictions(is_sculpted=0.0, jets=601)
    is_background = one.labels == 0
    score = one.probabilities[:, 1]
    passes = is_background & (score >= np.quantile(score[~is_background], 0.5))
    # no jet that passes has a positive weight
    weighted = replace(one, weights=np.where(passes, -0.1, 1.0))
    assert mass_shapes(weighted, ("QCD", "Wqq"), "QCD") == {"Wqq": []}
    # as good as no background at all
    assert mass_edges(replace(one, weights=np.where(is_background, -1.0, 1.0)), 0) is None
    # jets drawn at random may cancel in all bins, too
    nothing, something = np.zeros(3), np.array([0.5, 0.5, 0.0])
    assert distance(nothing, something) == distance(something, nothing) == 1
    # sums in another order differ in the last digit
    generator = np.random.default_rng(0)
    for p in generator.dirichlet(np.ones(8), 3000):
        assert distance(p, p * (1 + generator.choice([-1, 0, 1], 8) * 2.0**-52)) < 1e-7
    p, q = generator.dirichlet(np.ones(8), 2)
    assert distance(p, q) == pytest.approx(jensenshannon(p, q, base=2), rel=1e-12)


def test_the_summary_and_the_table_have_medians_over_trainings_and_ranges():
    models = [
        ModelPredictions(name="plain", trainings=[predictions(1.0), predictions(1.5)]),
        ModelPredictions(name="free", trainings=[predictions(0.0)]),
    ]
    measured = measure(models, ("QCD", "Wqq"), "QCD")
    found = summarize(measured, models)
    values = [one["mass_shapes"]["Wqq"][0]["inverse_jsd"] for one in measured[0]["trainings"]]
    assert found["test"]["plain"]["inverse_jsd_50"]["Wqq"] == pytest.approx(np.mean(values))
    assert found["intervals"]["test"]["plain"]["inverse_jsd_50"]["Wqq"] == [min(values), max(values)]
    table = mass_shapes_table({"models": measured, **found}, "QCD")
    assert [row[:2] for row in table.rows] == [["Wqq", "50 %"], ["Wqq", "30 %"]]
    models = [ModelPredictions(name="x", trainings=[without_mass()])]
    measured = measure(models, "ab", "a")
    assert mass_shapes_table({"models": measured, **summarize(measured, models)}, "a") is None


def without_mass():
    return Predictions(model="x", source="x", probabilities=np.eye(2)[[0, 1] * 7], labels=np.array([0, 1] * 7))


@pytest.mark.long
def test_a_fit_with_the_penalty_selects_by_its_loss_and_the_evaluation_shows_the_mass_shapes(
    tables, tmp_path, capsys, monkeypatch
):
    columns, write = tables
    files = [write(tmp_path / f"{name}.root", columns(name, jets=67)) for name in ("QCD", "Hbb")]
    given = ["hep", "fit", *map(str, files), "--out", str(tmp_path / "run")]
    assert main([*given, "--decorrelate", "jet_sdmas"]) == 2
    assert "no observer 'jet_sdmas'; did you mean 'jet_sdmass'" in capsys.readouterr().err
    with pytest.raises(SubquadError, match="--decorrelation-weight must be above 0"):
        FitSettings(decorrelation_weight=0)
    settings = FitSettings(preset="standard", epochs=2, no_boosting=True, decorrelate="jet_sdmass", test_fraction=0.4)
    few = fit(files, replace(settings, batch_size=4, epochs=1), out=tmp_path / "few", quiet=True)
    assert "Warning: a batch has 2.0 jets of QCD on average; below 4 of them there is no penalty" in few["notes"][0]
    metrics = fit(files, settings, out=tmp_path / "run", quiet=True)
    assert metrics["notes"] == []
    assert metrics["monitor"] == "loss"
    assert metrics["validation"]["loss"] > metrics["validation"]["penalty"] > 0
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert any("penalty" in line for line in history)
    assert "the best validation loss was at step" in (tmp_path / "run" / "report.html").read_text()
    found = evaluate(tmp_path / "run", out=tmp_path / "evaluation", quiet=True)
    shapes = found["models"][0]["trainings"][0]["mass_shapes"]
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["test"] == found["test"]
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert ("1 / Jensen–Shannon divergence" in page) == any(shapes.values())
