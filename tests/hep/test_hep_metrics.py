"""Metrics that can be checked by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from subquad.hep.metrics.classification import classification_metrics, confusion, interval_around, spread
from subquad.hep.metrics.rejection import CONFIDENCE, rejection, rejection_at
from subquad.hep.metrics.weighting import effective_number, passed_and_total, weight_note
from subquad.reporting.statistics import calibration_bins, clopper_pearson, wilson


def test_rejection_counts_background_above_the_signals_threshold():
    # signal scores 0.9, 0.8, 0.7, 0.6: half of them at 0.8; of ten background jets two are as high
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.8, *[0.1] * 8])
    labels = np.array([1] * 4 + [0] * 10)
    probabilities = np.stack([1 - score, score], axis=1)
    got = rejection(probabilities, labels, 1, 0, 0.5)
    assert got["value"] == pytest.approx(5.0)
    assert 1 < got["low"] < 5 < got["high"]


def test_rejections_are_measured_at_the_efficiency_that_is_asked_for():
    probabilities, labels = made_up(2003, classes=3)
    found = classification_metrics(probabilities, labels, ["QCD", "Hbb", "Tbl"], "QCD", efficiency=0.3)["rejection"]
    assert found["Tbl"] == rejection(probabilities, labels, 2, 0, 0.3)
    usual = classification_metrics(probabilities, labels, ["QCD", "Hbb", "Tbl"], "QCD")["rejection"]
    assert (usual["Hbb"]["efficiency"], usual["Tbl"]["efficiency"]) == (0.5, 0.995)


def test_rejection_without_background_above_is_a_lower_limit():
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]])
    got = rejection(probabilities, np.array([1, 1, 0, 0]), 1, 0, 0.5)
    assert got["value"] is None
    assert got["high"] is None
    # one minus the 15.9 % quantile's root of two jets
    assert got["low"] == pytest.approx(1 / (1 - 0.15865**0.5), rel=1e-3)


@pytest.mark.long
def test_the_interval_of_a_rejection_covers_the_uncertainty_of_the_threshold():
    generator, covered, at_threshold = np.random.default_rng(0), [], []
    # scores of N(1, 1) and N(0, 1): the expected threshold of 98 % of the signal is 1 - 2.0537
    expected = 1 / stats.norm.sf(1 - stats.norm.ppf(0.98))
    for _ in range(400):
        signal, background = generator.normal(1, 1, 500), generator.normal(0, 1, 20_000)
        (value,), (low,), (high,) = rejection_at(signal, background, np.array([0.98]), None, None)
        covered.append(low <= expected <= high)
        # a given threshold: the background's part alone
        limits = clopper_pearson(len(background) / value, len(background), CONFIDENCE)
        at_threshold.append(limits[0] <= 1 / expected <= limits[1])
    # 68.3 % of 400, four standard errors
    assert abs(np.mean(covered) - CONFIDENCE) < 4 * (CONFIDENCE * (1 - CONFIDENCE) / 400) ** 0.5
    assert np.mean(at_threshold) < 0.3


def test_perfect_and_even_answers_have_the_scores_they_must():
    labels = np.repeat(np.arange(3), 7)
    classes = ("QCD", "Hbb", "Tbl")
    perfect = classification_metrics(np.eye(3, dtype=np.float32)[labels], labels, classes, "QCD")
    assert perfect["accuracy"] == perfect["auc_ovo"] == perfect["auc_ovr"] == perfect["accuracy_ovr_macro"] == 1
    assert set(perfect["rejection"]) == {"Hbb", "Tbl"}
    assert perfect["rejection"]["Tbl"]["efficiency"] == 0.995
    even = classification_metrics(np.full((21, 3), 1 / 3), labels, classes, "QCD")
    assert even["auc_ovo"] == 0.5
    # a wrong answer is wrong twice among three
    assert even["accuracy_ovr_macro"] == pytest.approx(1 - 2 * (2 / 3) / 3)


def test_two_classes_have_an_area_too():
    labels = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.6, 0.4, 0.9])
    got = classification_metrics(np.stack([1 - score, score], axis=1), labels, ("QCD", "top"), "QCD")
    assert got["auc_ovr"] == pytest.approx(0.75)


def test_rows_of_the_confusion_add_up_to_one():
    table = confusion(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), np.array([0, 0, 1]))
    assert table.tolist() == [[0.5, 0.5], [0.0, 1.0]]


def made_up(jets, classes=5, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(jets) % classes)
    # with few values, so that scores are often equal
    scores = np.round(generator.normal(0, 1, (jets, classes)), 1)
    scores[np.arange(jets), labels] += 1
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True), labels


def test_areas_equal_those_of_scikit_learn():
    probabilities, labels = made_up(331)
    got = classification_metrics(probabilities, labels, "abcde", "a")
    for name in ("ovo", "ovr"):
        assert got[f"auc_{name}"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class=name), abs=1e-12)
    assert got["average_precision"] == pytest.approx(
        average_precision_score(np.eye(5)[labels], probabilities), abs=1e-12
    )


def test_intervals_are_as_wide_as_the_figures_differ_from_sample_to_sample():
    names = ("accuracy", "auc_ovo", "auc_ovr", "average_precision")
    found = [classification_metrics(*made_up(307, classes=3, seed=seed), "abc", "a") for seed in range(60)]
    for name in names:
        halves = [(one["intervals"][name][1] - one["intervals"][name][0]) / 2 for one in found]
        # 60 samples know a standard deviation to 9 %
        assert np.mean(halves) == pytest.approx(np.std([one[name] for one in found]), rel=0.3)


def test_weighted_metrics_equal_those_of_scikit_learn_and_of_repeated_jets():
    probabilities, labels = made_up(331)
    weights = np.random.default_rng(3).integers(0, 4, 331).astype(float)
    got = classification_metrics(probabilities, labels, "abcde", "a", weights=weights)
    given = {"sample_weight": weights}
    assert got["accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1), **given))
    assert got["auc_ovr"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", **given), abs=1e-12)
    assert got["average_precision"] == pytest.approx(
        average_precision_score(np.eye(5)[labels], probabilities, **given), abs=1e-12
    )
    rows = np.repeat(np.arange(331), weights.astype(int))
    repeated = classification_metrics(probabilities[rows], labels[rows], "abcde", "a")
    for name in ("auc_ovo", "calibration_error", "accuracy_ovr_macro"):
        assert got[name] == pytest.approx(repeated[name])
    for name, entry in got["rejection"].items():
        assert entry["value"] == pytest.approx(repeated["rejection"][name]["value"])
    expected = confusion(probabilities[rows], labels[rows])
    assert confusion(probabilities, labels, weights) == pytest.approx(expected)
    # equal weights change nothing, whatever their size
    plain = classification_metrics(probabilities, labels, "abcde", "a")
    same = classification_metrics(probabilities, labels, "abcde", "a", weights=np.full(331, 0.01))
    for name in ("accuracy", "auc_ovo", "auc_ovr", "average_precision"):
        assert same[name] == pytest.approx(plain[name])
        assert same["intervals"][name] == pytest.approx(plain["intervals"][name], rel=1e-6)
    for name, entry in plain["rejection"].items():
        assert same["rejection"][name] == pytest.approx(entry, rel=1e-6)


def test_negative_weights_cancel_and_widen_the_intervals():
    probabilities, labels = made_up(2003, classes=3)
    plain = classification_metrics(probabilities, labels, "abc", "a")
    # a third of the jets have the weight -1: the means stay, and a ninth of the jets are left
    weights = np.where(np.random.default_rng(0).uniform(size=2003) < 1 / 3, -1.0, 1.0)
    assert effective_number(weights) == pytest.approx(2003 / 9, rel=0.15)
    got = classification_metrics(probabilities, labels, "abc", "a", weights=weights)
    for name in ("accuracy", "auc_ovo", "auc_ovr"):
        width, before = ((one["intervals"][name][1] - one["intervals"][name][0]) / 2 for one in (got, plain))
        assert abs(got[name] - plain[name]) < 4 * width
        assert 2 < width / before < 4.5
    note = weight_note(weights, "Jets")
    assert "% of the weights are negative. Negative weights are kept and increase the variance" in note
    assert "negative" not in weight_note(np.array([1.0, 2.0]), "Jets")
    assert weight_note(np.array([1.0, 3.0]), "Jets").endswith("is 2 of 2.")
    # weights of a class that add up to less than 0 measure nothing
    weights[labels == 2] = -1.0
    assert classification_metrics(probabilities, labels, "abc", "a", weights=weights)["auc_ovo"] is None
    table = confusion(probabilities, labels, weights)
    assert table.sum(1) == pytest.approx([1, 1, 0])
    # weights that cancel exactly
    weights[labels == 2] = np.where(np.arange((labels == 2).sum()) % 2, 1.0, -1.0)
    weights[np.flatnonzero(labels == 2)[-1]] -= weights[labels == 2].sum()
    assert confusion(probabilities, labels, weights)[2].tolist() == [0, 0, 0]


def test_sums_of_float32_weights_do_not_stop_growing():
    probabilities, labels = made_up(211, classes=2)
    # one jet as heavy as 2^24 others: a float32 sum of both ignores each of the others
    weights = np.where(np.arange(211) == probabilities[:, 1].argmax(), 2.0**24, 1.0)
    expected = classification_metrics(probabilities, labels, "ab", "a", weights=weights)
    assert classification_metrics(probabilities, labels, "ab", "a", weights=weights.astype(np.float32)) == expected


def test_intervals_of_parts_by_hand():
    low, high = wilson(8, 10, CONFIDENCE)
    assert (low, high) == (pytest.approx(0.64908, abs=1e-5), pytest.approx(0.89638, abs=1e-5))
    low, high = clopper_pearson(np.array([0, 3, 7]), 7, CONFIDENCE)
    assert low[0] == 0
    assert high[2] == 1
    assert high[0] == pytest.approx(1 - 0.1586552539 ** (1 / 7))
    assert low[1] < 3 / 7 < high[1]


def test_the_calibration_error_by_hand():
    # 0.9 twice, one right: off by 0.4; 0.3 twice, none right: off by 0.3; each is half of the jets
    confidence, is_correct = np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, False, False, False])
    got = calibration_bins(confidence, is_correct).error
    assert got == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)


def test_the_spread_over_trainings_is_mean_and_deviation_and_the_median_of_rejections():
    def training(accuracy, value):
        metrics = {"auc_ovo": None, "auc_ovr": None, "average_precision": None, "accuracy_ovr_macro": 0.5}
        entry = {"efficiency": 0.5, "value": value, "low": 3.0, "high": value}
        absent = {"efficiency": 0.5, "value": None, "low": None, "high": None}
        rejections = {"Hbb": entry, "Hcc": absent}
        return {"accuracy": accuracy, "calibration_error": 0.1, **metrics, "rejection": rejections}

    got = spread([training(0.5, 10.0), training(0.7, 40.0), training(0.6, 20.0)])
    expected = {"mean": pytest.approx(0.6), "deviation": pytest.approx(0.1), "min": 0.5, "max": 0.7}
    # of two degrees of freedom, 68.3 % of Student's t lie within 1.3213 standard errors
    half = 1.3213 * 0.1 / 3**0.5
    assert got["accuracy"] == {**expected, "interval": pytest.approx([0.6 - half, 0.6 + half], abs=1e-5)}
    assert got["rejection"]["Hbb"]["median"] == 20
    assert "auc_ovo" not in got
    assert "Hcc" not in got["rejection"]
    alone = spread([training(0.5, 10.0)])["accuracy"]
    assert alone["deviation"] is None
    assert "interval" not in alone
    # where no background jet passes, the rejection has no upper end
    without = spread([training(0.5, 10.0), training(0.7, 40.0), training(0.6, None)])["rejection"]["Hbb"]
    assert without == {"median": 40.0, "deviation": None, "min": 10.0, "max": None}


def test_weights_of_both_signs_that_cancel_leave_the_rejection_open():
    def measured(of_passing):
        # 20 of 1,000 background jets pass
        score = np.concatenate([np.ones(100), np.ones(20), np.zeros(980)])
        weights = np.concatenate([np.ones(100), of_passing, np.ones(980)])
        labels = np.repeat([1, 0], [100, 1000])
        return rejection(np.stack([1 - score, score], 1), labels, 1, 0, 0.5, weights=weights)

    plain = measured(np.ones(20))
    assert (plain["value"], plain["low"], plain["high"]) == pytest.approx((50, 39, 64), abs=1)
    # their sum is 2 ± 4.5
    positive = measured(np.repeat([1.0, -1.0], [11, 9]))
    assert positive["value"] == pytest.approx(491)
    assert positive["low"] < 200
    assert positive["high"] is None or positive["high"] > 5000
    # and -2 ± 4.5, which does not say that nothing passes
    negative = measured(np.repeat([1.0, -1.0], [9, 11]))
    assert (negative["value"], negative["high"]) == (None, None)
    assert 150 < negative["low"] < 250


@pytest.mark.parametrize("is_tail_mixed", [False, True])
def test_intervals_of_passed_and_totals_cover_what_they_say(is_tail_mixed):
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        passes = generator.random(3000) < 0.05
        # weights that differ between jets that pass and that do not
        signs = np.where(passes & (generator.random(3000) < 0.25 * is_tail_mixed), -1.0, 1.0)
        weights = signs * np.where(passes, generator.exponential(3.0, 3000), 1.0)
        low, high = clopper_pearson(*(np.array(n) for n in passed_and_total(passes, weights)), 0.6827)
        mean = 0.05 * 3.0 * (1 - 0.5 * is_tail_mixed)
        covered += low <= mean / (mean + 0.95) <= high
    assert 0.62 < covered / 400 < 0.80


def test_an_interval_holds_the_value_that_negative_weights_put_beyond_1():
    assert interval_around(0.98, 0.05) == pytest.approx((0.93, 1.0))
    assert interval_around(0.02, 0.05) == pytest.approx((0.0, 0.07))
    assert interval_around(1.03, 0.05) == pytest.approx((0.98, 1.03))
    assert interval_around(-0.01, 0.05) == pytest.approx((-0.01, 0.04))
