"""How often paired tests find a difference between equals: in 5 % of the cases, by simulation."""

import numpy as np
import pytest
from scipy import stats

from subquad.reporting.statistics import fold_difference, mean_interval, paired_difference

TIMES = 2000
ACCEPTED = range(71, 130)
"""Of 2,000 at 5 %: 100, with a standard deviation of 9.7."""


def is_clear(gap):
    return not gap.low <= 0 <= gap.high


@pytest.mark.parametrize("N", [5, 30])
def test_paired_differences_of_equals_are_clear_in_5_percent(N):
    random = np.random.default_rng(1)
    # what both have in common is three times as large as the difference
    item, one, other = random.normal(size=(3, TIMES, N)) * np.array([3.0, 1.0, 1.0])[:, None, None]
    found = sum(is_clear(paired_difference(*pair)) for pair in zip(item + one, item + other, strict=True))
    assert found in ACCEPTED
    # tests that do not use the pairs, or not Student's t, are outside
    unpaired = (stats.ttest_ind(item + one, item + other, axis=1).pvalue < 0.05).sum()
    normal = (np.abs(stats.ttest_rel(one, other, axis=1).statistic) > 1.96).sum()
    assert unpaired not in ACCEPTED
    assert N == 30 or normal not in ACCEPTED


def test_intervals_of_means_miss_the_mean_in_5_percent():
    values = np.random.default_rng(2).normal(size=(TIMES, 7))
    limits = [mean_interval(own, np.empty(0)) for own in values]
    assert sum(not low <= 0 <= high for low, high in limits) in ACCEPTED


def test_differences_over_folds_of_equals_are_clear_in_5_percent():
    random, K, ratio = np.random.default_rng(3), 5, 0.25
    # two folds of n2 test rows and n1 others have a correlation of n2 / (n1 + n2)
    correlation = ratio / (1 + ratio)
    covariance = np.full((K, K), correlation) + np.eye(K) * (1 - correlation)
    differences = random.multivariate_normal(np.zeros(K), covariance, size=TIMES)
    found, naive = (
        sum(is_clear(fold_difference(own, np.zeros(K), test_to_training=part)) for own in differences)
        for part in (ratio, 0.0)
    )
    assert found in ACCEPTED
    assert naive > 2 * found
