import json
import math

import numpy as np
import pytest

from subquad.bio.metrics.conformal import (
    LEVELS,
    Conformal,
    coverage,
    fit_conformal,
    reliability,
)


def noisy(rows, seed=0):
    """Rows whose error has the size of the members' spread, threefold."""
    random = np.random.default_rng(seed)
    truth, spread = random.normal(size=rows), random.uniform(0.1, 2, rows)
    return truth, truth + 3 * spread * random.normal(size=rows), spread


@pytest.mark.parametrize("has_spread", [False, True])
def test_the_truth_is_inside_as_often_as_said(has_spread):
    truth, prediction, spread = noisy(1009)
    conformal = fit_conformal(truth, prediction, spread if has_spread else None)
    truth, prediction, spread = noisy(5003, seed=1)
    for level in LEVELS:
        low, high = conformal.interval(prediction, spread, level)
        assert coverage(truth, low, high) == pytest.approx(level, abs=0.03)


def test_the_median_coverage_of_many_small_calibrations_is_the_level_or_more():
    covered = []
    for seed in range(200):
        truth, prediction, _ = noisy(24, seed)
        conformal = fit_conformal(truth, prediction)
        truth, prediction, _ = noisy(211, seed + 1000)
        covered.append(coverage(truth, *conformal.interval(prediction, level=0.9)))
    assert np.mean(covered) + 0.01 >= 0.9


def test_intervals_are_wider_where_members_disagree():
    truth, prediction, spread = noisy(1009)
    low, high = fit_conformal(truth, prediction, spread).interval(np.zeros(2), np.array([0.1, 2.0]), 0.8)
    assert (high - low)[1] > 1.5 * (high - low)[0]
    same = fit_conformal(truth, prediction, np.zeros(1009))
    assert same.offset is None
    assert same.quantiles == fit_conformal(truth, prediction).quantiles


def test_a_quantile_is_the_one_counted_by_hand():
    # of 19 scores 1 … 19 the 19th is the 95 % quantile, the 18th the 90 % one, the 10th the half
    conformal = fit_conformal(np.arange(1.0, 20), np.zeros(19))
    assert conformal.quantiles == (10, 16, 18, 19)
    few = fit_conformal([1.0, np.nan, 3.0], [0.0, 0.0, 0.0])
    assert (few.rows, few.quantiles[0], few.quantiles[-1]) == (2, 3.0, math.inf)
    low, high = few.interval(np.zeros(3), level=0.95)
    assert (low == -math.inf).all()
    assert (high == math.inf).all()


def test_it_survives_json():
    truth, prediction, spread = noisy(11)
    for conformal in (fit_conformal(truth, prediction, spread), fit_conformal(truth[:3], prediction[:3])):
        text = json.dumps(conformal.as_dict(), allow_nan=False)
        assert Conformal.from_dict(json.loads(text)) == conformal


def test_reliability_shows_how_often_it_was_so():
    table = reliability([0, 1, 1, 1, 0], [0.11, 0.15, 1.0, 0.95, 0.0])
    assert [bin_["rows"] for bin_ in table] == [1, 2, 2]
    assert table[1] == pytest.approx(
        {"rows": 2, "predicted": 0.13, "observed": 0.5, "low": 0.0945, "high": 0.9055}, abs=1e-3
    )


def test_what_cannot_be_calibrated_is_refused():
    conformal = fit_conformal(*noisy(23))
    with pytest.raises(ValueError, match=r"no level 0.99; calibrated are 0.5, 0.8, 0.9, 0.95"):
        conformal.interval(np.zeros(2), np.ones(2), 0.99)
    with pytest.raises(ValueError, match="need the standard deviation of the ensemble"):
        conformal.interval(np.zeros(2))
    with pytest.raises(ValueError, match="at least one measured row"):
        fit_conformal([np.nan], [0.0])
    with pytest.raises(ValueError, match="of the same rows"):
        fit_conformal([1.0, 2.0], [0.0])
