"""Curves as arrays that can be checked by hand, and as figures."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from subquad.hep.metrics.curves import against_pt, mass_edges, pt_edges, reliability, roc, sculpting
from subquad.hep.metrics.paired import accuracy_difference
from subquad.hep.metrics.predictions import ModelPredictions, Predictions, group_by_model
from subquad.hep.metrics.rejection import rejection
from subquad.hep.metrics.summary import measure, summarize, weight_notes
from subquad.hep.plots import evaluation_page
from subquad.hep.plots.evaluation_page import draw
from subquad.hep.plots.figures import (
    calibration_figure,
    mass_figure,
    pt_figure,
    ratio_figure,
    scores_figure,
    time_figure,
)


def scored(score, labels, name="net", **given):
    score = np.asarray(score, float)
    return Predictions(
        model=name, source="made up", probabilities=np.stack([1 - score, score], 1), labels=np.array(labels), **given
    )


def random(jets=407, name="net", seed=0, strength=0.2):
    generator = np.random.default_rng(seed)
    labels = np.arange(jets) % 2
    score = (0.2 + strength * labels + generator.uniform(0, 0.5, jets)).clip(0, 1)
    return scored(
        score,
        labels,
        name,
        pt=generator.uniform(500, 1000, jets),
        sdmass=generator.uniform(0, 200, jets),
        multiplicity=generator.integers(5, 90, jets).astype(float),
        batches=np.array([[10.0, 7, 0.007], [50.0, 7, 0.021]]),
    )


def test_a_roc_curve_goes_through_the_rejection_of_the_table():
    one = random()
    curve = roc([one], 1, 0)
    assert len(curve.x) == 200
    expected = rejection(one.probabilities, one.labels, 1, 0, 0.5)
    at = np.flatnonzero(curve.x == 0.5)[0]
    got = {"value": curve.value[at], "low": curve.low[at], "high": curve.high[at]}
    assert got == pytest.approx({name: expected[name] for name in got})
    assert curve.value[-1] >= 1
    assert not np.isnan([curve.value, curve.low, curve.high]).any()


def test_several_trainings_give_the_median_with_the_range():
    trainings = [random(seed=seed) for seed in range(3)]
    each = np.stack([roc([one], 1, 0).value for one in trainings])
    together = roc(trainings, 1, 0)
    assert together.value.tolist() == np.median(each, 0).tolist()
    assert (together.low <= together.value).all()
    assert together.high.tolist() == each.max(0).tolist()
    # a class without jets has no curve
    assert roc([scored([0.1, 0.2], [0, 0])], 1, 0) is None


def test_fractions_against_pt_by_hand():
    # at the threshold 0.8 half of the signal passes: both of the low bin, none of the high one
    score = [0.9, 0.8, 0.3, 0.2, 0.85, 0.1, 0.1, 0.1]
    pt = np.array([500.0, 510, 700, 710, 505, 500, 705, 700])
    one = scored(score, [1, 1, 1, 1, 0, 0, 0, 0], pt=pt)
    efficiency, rejected = against_pt(one, 1, 0, efficiency=0.5, edges=np.array([500.0, 600, 710]))
    assert efficiency.x.tolist() == [550, 655]
    assert efficiency.value.tolist() == [1, 0]
    assert rejected.value.tolist() == [2, np.inf]
    assert 1 < rejected.low[0] < 2 < rejected.high[0]
    # no one of two passes: above 1 / (1 - 15.9 %^(1/2)), without an end
    assert rejected.low[1] == pytest.approx(1 / (1 - 0.15865**0.5), rel=1e-3)
    assert rejected.high[1] == np.inf
    # bins without jets are left out
    far, _ = against_pt(one, 1, 0, efficiency=0.5, edges=np.array([400.0, 450, 600, 710]))
    assert far.x.tolist() == [525, 655]
    assert against_pt(scored([0.1, 0.9], [0, 1]), 1, 0, efficiency=0.5, edges=np.array([0.0, 1])) is None


def test_weighted_curves_equal_those_of_repeated_jets():
    one = random()
    weights = np.random.default_rng(1).integers(1, 4, len(one.labels)).astype(float)
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    columns = ("probabilities", "labels", "pt", "sdmass")
    repeated = replace(one, **{name: getattr(one, name)[rows] for name in columns})
    weighted = replace(one, weights=weights)
    assert weighted.accuracy == pytest.approx(repeated.accuracy)
    found, expected = roc([weighted], 1, 0), roc([repeated], 1, 0)
    assert found.value == pytest.approx(expected.value)
    is_wide = np.isfinite(expected.high)
    assert (found.high - found.low)[is_wide].mean() > 1.05 * (expected.high - expected.low)[is_wide].mean()
    edges = np.array([500.0, 700, 1000])
    for own, other in zip(
        against_pt(weighted, 1, 0, efficiency=0.5, edges=edges),
        against_pt(repeated, 1, 0, efficiency=0.5, edges=edges),
        strict=True,
    ):
        assert own.value == pytest.approx(other.value)
    edges = mass_edges(one, 0)
    (before, after), (expected, others) = (sculpting(each, 1, 0, edges=edges) for each in (weighted, repeated))
    assert before == pytest.approx(expected)
    assert after[0].distance == pytest.approx(others[0].distance)
    curve, error = reliability(weighted, 1)
    assert error == pytest.approx(reliability(repeated, 1)[1])
    assert (curve.low <= curve.value).all()


def test_bins_of_pt_contain_all_jets_and_few_jets_share_one_bin():
    one = random(jets=1201)
    edges = pt_edges([one])
    assert len(edges) == 9
    assert edges[0] == one.pt.min()
    assert edges[-1] == one.pt.max()
    assert len(pt_edges([random(jets=53)])) == 2
    assert len(pt_edges([scored([0.1, 0.2], [0, 1], pt=np.array([500.0, 500.0]))])) == 2


def test_a_score_that_is_the_mass_sculpts_it_and_a_random_one_does_not():
    generator = np.random.default_rng(0)
    mass = generator.uniform(0, 200, 3001)
    labels = np.r_[np.ones(1), np.zeros(3000)].astype(int)
    one = scored(mass / 201, labels, sdmass=mass)
    edges = mass_edges(one, 0)
    before, after = sculpting(one, 1, 0, edges=edges)
    assert before.sum() == pytest.approx(1)
    assert [cut.efficiency for cut in after] == [0.5, 0.1, 0.01]
    assert [cut.jets for cut in after] == [1500, 300, 30]
    # half of the bins are empty: KL is log2 of 3/4 and so on, half a bit's well-known 0.311 in the mean
    assert after[0].distance == pytest.approx(0.3113**0.5, abs=0.02)
    assert after[0].distance < after[1].distance < after[2].distance < 1
    blind = scored(generator.uniform(0, 1, 3001), labels, sdmass=mass)
    for cut in sculpting(blind, 1, 0, edges=edges)[1]:
        assert cut.distance < 2 * cut.by_chance
    assert mass_edges(scored([0.1] * 3, [0, 0, 1], sdmass=np.ones(3)), 0) is None


def test_reliability_by_hand():
    score = [0.05] * 10 + [0.85] * 20 + [0.55]
    labels = [0] * 10 + [1] * 15 + [0] * 5 + [1]
    curve, error = reliability(scored(score, labels), 1)
    # the one jet at 0.55 counts in the error and is not drawn
    assert curve.x.tolist() == pytest.approx([0.05, 0.85])
    assert curve.value.tolist() == [0, 0.75]
    assert error == pytest.approx((10 * 0.05 + 20 * 0.1 + 0.45) / 31)


@pytest.mark.slow
def test_the_figures_show_these_arrays():
    models = [
        ModelPredictions(name=name, trainings=[random(name=name, strength=s)]) for name, s in (("a", 0.2), ("b", 0.1))
    ]
    curves = {model.name: roc(model.trainings, 1, 0) for model in models}
    options = {"signal": "Hbb", "background": "QCD", "efficiency": 0.5}
    top, bottom = ratio_figure(curves, reference="a", background_jets=204, **options).axes
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["a", "b"]
    is_drawn = np.isfinite(curves["b"].value)
    assert top.lines[1].get_ydata().tolist() == curves["b"].value[is_drawn].tolist()
    assert set(bottom.lines[0].get_ydata().tolist()) == {1.0}
    edges = pt_edges([model.median_training for model in models])
    pairs = {model.name: against_pt(model.median_training, 1, 0, efficiency=0.5, edges=edges) for model in models}
    top, bottom = pt_figure(pairs, **options).axes
    assert top.lines[0].get_ydata().tolist() == pairs["a"][0].value.tolist()
    kept = np.isfinite(pairs["b"][1].value)
    assert bottom.containers[1][0].get_ydata().tolist() == pairs["b"][1].value[kept].tolist()
    panels = calibration_figure(models, ("QCD", "Hbb")).axes
    expected, error = reliability(models[0].median_training, 1)
    assert panels[1].lines[1].get_ydata().tolist() == expected.value.tolist()
    assert panels[1].get_legend().get_texts()[0].get_text() == f"a: {error:.3f}"
    edges = mass_edges(models[0].median_training, 0)
    before, after = sculpting(models[0].median_training, 1, 0, edges=edges)
    texts = mass_figure({"Hbb": (before, after)}, edges=edges, background="QCD").axes[0].get_legend().get_texts()
    assert [text.get_text()[:4] for text in texts] == ["all", "50 %", "10 %"]
    assert f"{after[0].distance:.2f}" in texts[1].get_text()
    axes = time_figure(models).axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([1.0, 3.0])
    assert "2 ms" in axes.get_legend().get_texts()[0].get_text()


def test_scores_of_a_signal_are_drawn_without_jets_of_either_class():
    probabilities = np.full((3, 3), 1 / 3)
    one = Predictions(model="few", source="made up", probabilities=probabilities, labels=np.ones(3, int))
    axes = scores_figure(one, ["QCD", "Hbb", "Hcc"], "QCD").axes[1]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == (1e-3, 3)


@pytest.mark.slow
def test_figures_without_jets_or_observers_are_omitted():
    score = np.array([0.1, 0.2, 0.3])
    probabilities = np.stack([1 - score, score / 2, score / 2], 1)
    one = Predictions(model="few", source="made up", probabilities=probabilities, labels=np.array([0, 1, 1]))
    evaluation = {"classes": ["QCD", "Hbb", "Hcc"], "background": "QCD", "reference": "few", "device": "1 CPU thread"}
    evaluation["models"] = measure(group_by_model([one]), evaluation["classes"], "QCD")
    pictures, measured = draw(evaluation, group_by_model([one]))
    assert [*pictures] == ["ROC curves", "Confusion matrices", "Scores", "Calibration"]
    assert measured == {"few": {"against_pt": {}, "mass": {}}}
    # nothing but the background
    alone = Predictions(model="few", source="made up", probabilities=probabilities, labels=np.zeros(3, int), pt=score)
    assert [*draw(evaluation, group_by_model([alone]))[0]] == ["Confusion matrices", "Scores", "Calibration"]


def test_figures_of_a_single_training_show_the_one_of_median_accuracy():
    trainings = [scored([0.1, 0.9, 0.9], labels) for labels in ([0, 1, 1], [1, 0, 0], [0, 1, 0])]
    assert ModelPredictions(name="net", trainings=trainings).median_training is trainings[2]


def answers(correct, name, seed=None):
    """Predictions for jets of class 0 that are right where `correct`."""
    probabilities = np.where(np.array(correct)[:, None], [0.9, 0.1], [0.2, 0.8])
    return Predictions(
        model=name, source=f"{name} {seed}", seed=seed, probabilities=probabilities, labels=np.zeros(len(correct), int)
    )


def winner_of(*predictions):
    models = group_by_model(predictions)
    return summarize(measure(models, ("QCD", "Hbb"), "QCD"), models)


def test_a_model_wins_if_the_interval_of_the_paired_difference_is_above_zero():
    good, bad = np.arange(400) % 10 > 0, np.arange(400) % 10 > 1
    found = winner_of(answers(good, "a"), answers(bad, "b"))
    assert found["test"]["a"]["accuracy"] == pytest.approx(0.9)
    low, high = found["intervals"]["test"]["b"]["accuracy"]
    assert low < 0.8 < high
    assert found["wins"] == "a"
    # two more errors in 400 jets are 1.4 standard errors
    slightly_worse = good & ~np.isin(np.arange(400), [1, 2])
    assert winner_of(answers(good, "a"), answers(slightly_worse, "b"))["wins"] is None
    assert found["not_compared"] is None
    gap = found["differences"]["a"]["b"]
    assert 0 < gap["low"] < gap["value"] == pytest.approx(0.1)
    # other jets cannot be paired
    other = winner_of(answers(good, "a"), answers(bad[:399], "b"))
    assert (other["wins"], other["differences"], other["not_compared"]) == (None, {}, "different jets")
    alone = winner_of(answers(good, "a"))
    assert (alone["wins"], alone["differences"], alone["not_compared"]) == (None, {}, None)


def test_one_jet_makes_no_winner():
    found = winner_of(answers([True], "a"), answers([False], "b"))
    assert (found["wins"], found["differences"]) == (None, {})
    assert found["not_compared"] == "one jet gives no interval"


@pytest.mark.parametrize("lost", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("won", [0, 1])
def test_few_jets_that_tell_two_models_apart_are_judged_by_the_exact_test(won, lost):
    jets = np.arange(300)
    one, other = answers(jets >= won, "a"), answers(jets < 300 - lost, "b")
    is_clear = binomtest(won, won + lost).pvalue < 0.05
    assert (winner_of(one, other)["wins"] == "a") == is_clear
    assert (accuracy_difference(one, other).low > 0) == is_clear
    # equal weights are no weights
    weighted = [replace(own, weights=np.full(300, 7.0, dtype=np.float32)) for own in (one, other)]
    assert accuracy_difference(*weighted).low == pytest.approx(accuracy_difference(one, other).low)


def test_event_weights_count_in_the_comparison():
    jets = np.arange(400)
    good, bad = jets % 10 > 0, jets % 10 > 1
    # of the jets where only b errs two count, which are 1.4 standard errors
    weights = np.where((jets % 10 == 1) & (jets > 20), 0.0, 1.0)
    found = winner_of(*(replace(answers(*one), weights=weights) for one in ((good, "a"), (bad, "b"))))
    assert found["wins"] is None
    assert found["test"]["b"]["accuracy"] == pytest.approx(320 / 362)
    a, b = (replace(answers(good, name), weights=own) for name, own in (("a", weights), ("b", None)))
    assert weight_notes([a])[0].startswith("Jets count with their event weights. The effective number of jets")
    assert "b None have no event weights, so that their jets count the same" in weight_notes([a, b])[1]
    assert weight_notes([b]) == []


def test_the_spread_over_trainings_counts_in_the_comparison():
    good, bad = np.arange(400) % 10 > 0, np.arange(400) % 10 > 1
    trainings = [answers(good, "a", 1), answers(np.arange(400) % 10 > 3, "a", 2), answers(np.ones(400, bool), "a", 3)]
    # 0.9, 0.6 and 1.0: the mean is 0.03 above 0.8, and its error 0.12
    assert winner_of(*trainings, answers(bad, "b", 1))["wins"] is None
    # 0.9 and 0.85, which are 0.075 above 0.8 with an error of 0.029: 2.6 standard errors, but one degree of freedom
    almost = answers((np.arange(400) % 10 > 0) & (np.arange(400) % 20 > 1), "a", 2)
    found = winner_of(answers(good, "a", 1), almost, answers(bad, "b", 1))
    assert found["wins"] is None
    assert found["differences"]["a"]["b"]["value"] == pytest.approx(0.075)


def test_the_page_begins_with_the_best_model_only_if_it_is_told_apart():
    def lead(*predictions):
        models = group_by_model(predictions)
        measured = measure(models, ("QCD", "Hbb"), "QCD")
        evaluation = {**summarize(measured, models), "models": measured, "classes": ["QCD", "Hbb"]}
        page = evaluation_page.evaluation_page({**evaluation, "background": "QCD", "notes": []}, {})
        return re.search(r"<header>.*?<p>(.*?)</p>", page, flags=re.DOTALL)[1]

    jets = np.arange(400)
    good = answers(jets % 10 > 0, "a")
    assert "a against b: clearly better (+0.1000 [" in lead(good, answers(jets % 10 > 1, "b"))
    # two more errors
    assert "a against b: no clear difference (+0.0050 [" in lead(good, answers((jets % 10 > 0) & (jets > 2), "b"))
    assert "a against b: no clear difference (equal" in lead(good, answers(jets % 10 > 0, "b"))
    assert "not compared: different jets" in lead(good, answers(jets[:399] % 10 > 1, "b"))
    assert "against" not in lead(good)
