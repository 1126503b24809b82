"""Intervals of losses that were measured on few sequences."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from subquad.llm.evaluation.comparisons import TOO_FEW, compare


@pytest.mark.parametrize("count", [1, 2])
def test_losses_of_fewer_than_three_sequences_have_no_intervals(count):
    teacher = np.random.default_rng(0).normal(size=count)
    losses = {"teacher": teacher, "window": teacher + 2, "fine_tuned": teacher + 1}
    found = compare(losses, is_rate=False, resamples=100)
    for estimate in (*found["models"].values(), *found["differences"].values()):
        assert estimate["low"] is estimate["high"] is None
    assert found["gap_closed"]["reason"] == TOO_FEW


def test_losses_of_few_sequences_have_the_intervals_of_a_t_test():
    generator = np.random.default_rng(0)
    losses = {role: generator.normal(size=5) for role in ("teacher", "window", "fine_tuned")}
    found = compare(losses, is_rate=False, resamples=100)
    expected = ttest_rel(losses["fine_tuned"], losses["teacher"]).confidence_interval(0.95)
    difference = found["differences"]["teacher"]
    assert (difference["low"], difference["high"]) == pytest.approx((expected.low, expected.high))
    own = ttest_1samp(losses["teacher"], 0).confidence_interval(0.95)
    assert found["models"]["teacher"]["low"] == pytest.approx(own.low)
