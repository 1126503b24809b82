"""Intervals and calibration, each against an independent implementation."""

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp, ttest_rel

from subquad.reporting.statistics import (
    FEWEST_ITEMS,
    bootstrap_means,
    calibration_bins,
    clopper_pearson,
    fold_difference,
    mean_interval,
    paired_difference,
    percentile_interval,
    ratio_interval,
    wilson,
)


@pytest.mark.parametrize(("passed", "total"), [(0, 4), (4, 4), (3, 7), (500, 1009)])
@pytest.mark.parametrize("confidence", [0.6827, 0.95])
@pytest.mark.parametrize(("interval", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")])
def test_intervals_of_a_rate_equal_those_of_scipy(interval, method, passed, total, confidence):
    expected = binomtest(passed, total).proportion_ci(confidence, method)
    low, high = interval(passed, total, confidence)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # arrays give the same
    lows, highs = interval(np.array([passed, passed]), total, confidence)
    assert lows == pytest.approx(np.array([low, low]))
    assert highs == pytest.approx(np.array([high, high]))


def test_all_of_four_is_not_certain():
    low, high = wilson(4, 4)
    assert float(high) == pytest.approx(1)
    assert low < 0.6


def test_bootstrap_means_are_paired_over_columns():
    values = np.random.default_rng(0).normal(size=(211, 1)) + np.array([[0.0, 0.5]])
    means = bootstrap_means(values, resamples=101)
    assert means.shape == (101, 2)
    assert np.ptp(means[:, 1] - means[:, 0]) < 1e-12
    low, high = percentile_interval(means[:, 0])
    assert low < values[:, 0].mean() < high
    assert np.array_equal(means, bootstrap_means(values, resamples=101))


def test_calibrated_probabilities_have_a_small_error_and_inverted_ones_a_large_one():
    generator = np.random.default_rng(0)
    p = generator.random(20_011)
    is_true = generator.random(len(p)) < p
    assert calibration_bins(p, is_true).error < 0.02
    assert calibration_bins(1 - p, is_true).error > 0.4


def test_an_empty_bin_has_no_rate():
    found = calibration_bins(np.array([0.05, 1.0]), np.array([False, True]), bins=5)
    assert found.counts.tolist() == [1, 0, 0, 0, 1]
    assert np.isnan(found.observed[1:4]).all()
    assert found.error == pytest.approx(0.025)


def test_limits_of_rates_stay_between_0_and_1():
    counts = np.arange(1, 5000)
    assert all(wilson(0, count)[0] >= 0 for count in counts)
    assert all(wilson(count, count)[1] <= 1 for count in counts)


def test_a_paired_difference_has_the_interval_of_a_paired_t_test():
    generator = np.random.default_rng(0)
    one = generator.normal(size=13)
    other = one - 0.2 + generator.normal(scale=0.1, size=13)
    found = paired_difference(one, other)
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert paired_difference(one[:1], other[:1]) is None


def test_the_interval_of_a_mean_of_few_items_is_that_of_a_t_test_and_of_many_the_bootstraps():
    values = np.random.default_rng(0).normal(size=97)
    means = bootstrap_means(values, resamples=101)
    assert mean_interval(values, means) == percentile_interval(means)
    few = values[:5]
    expected = ttest_1samp(few, 0).confidence_interval(0.95)
    assert mean_interval(few, bootstrap_means(few, resamples=101)) == pytest.approx((expected.low, expected.high))
    for count in range(1, FEWEST_ITEMS):
        assert mean_interval(values[:count], bootstrap_means(values[:count], resamples=101)) is None


def test_the_interval_of_a_ratio_of_few_items_covers_it_as_often_as_it_says():
    generator, ratio, covered, bootstrapped = np.random.default_rng(0), 0.6, 0, 0
    for _ in range(600):
        other = generator.normal(2.0, 0.5, size=4)
        one = ratio * other + generator.normal(scale=0.3, size=4)
        low, high = ratio_interval(one, other)
        covered += low <= ratio <= high
        picks = generator.integers(4, size=(400, 4))
        low, high = percentile_interval(one[picks].mean(1) / other[picks].mean(1))
        bootstrapped += low <= ratio <= high
    assert covered / 600 == pytest.approx(0.95, abs=0.03)
    assert bootstrapped / 600 < 0.88


def test_a_ratio_whose_denominator_may_be_zero_has_no_interval():
    assert ratio_interval(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 1.0, 0.5])) is None
    assert ratio_interval(np.array([1.0]), np.array([2.0])) is None
    # of equal ratios it is the ratio
    assert ratio_interval(np.array([9.0, 10.0, 11.0]), np.array([18.0, 20.0, 22.0])) == pytest.approx((0.5, 0.5))


def test_differences_over_folds_count_that_their_training_rows_overlap():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 5))
    found = fold_difference(one, other, test_to_training=0.25)
    differences = one - other
    # with five folds the standard error is 1.5 times as large
    half = t.ppf(0.975, 4) * 1.5 * differences.std(ddof=1) / 5**0.5
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    # without the overlap it is the paired t test
    plain = ttest_rel(one, other).confidence_interval(0.95)
    assert fold_difference(one, other, test_to_training=0).low == pytest.approx(plain.low)
    assert fold_difference(one[:1], other[:1], test_to_training=0.25) is None
