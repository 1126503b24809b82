"""Intervals and calibration, each against an independent implementation."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from subquad.reporting.statistics import (
    bootstrap_means,
    calibration_bins,
    clopper_pearson,
    paired_difference,
    percentile_interval,
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
    assert found.is_clear
    # equal weights are no weights
    assert paired_difference(one, other, weights=np.full(13, 7.0)).low == pytest.approx(found.low)
    assert not paired_difference(one, one + generator.normal(size=13)).is_clear
    assert paired_difference(one[:1], other[:1]) is None
