"""Measurements to the scale of learning and back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.bio.models.target_scaling import TargetScaler

SKEWED = np.exp(2.0 * np.random.default_rng(5).normal(size=(211, 1)))


def test_measurements_are_standardised():
    z = TargetScaler.fit(np.array([[1.0], [2.0], [3.0]])).transform(np.array([[2.0], [3.0]]))
    assert z[:, 0] == pytest.approx([0.0, 1.5**0.5])


def test_a_few_huge_values_are_ranked_and_do_not_rule_what_is_learned():
    z = TargetScaler.fit(SKEWED).transform(SKEWED)
    assert abs(z).max() < 3.5
    assert z.std() == pytest.approx(1.0, abs=0.05)
    assert abs(TargetScaler.fit(SKEWED, "none").transform(SKEWED)).max() > 7


@pytest.mark.parametrize("transform", ["none", "rank"])
@given(seed=st.integers(0, 2**31), columns=st.integers(1, 3))
def test_the_way_back_is_the_inverse_also_after_json(transform, seed, columns):
    y = np.random.default_rng(seed).normal(size=(37, columns)) ** 3
    scale = TargetScaler.from_dict(json.loads(json.dumps(TargetScaler.fit(y, transform).as_dict())))
    assert scale.inverse_transform(scale.transform(y)) == pytest.approx(y, abs=1e-9)


def test_order_is_kept_beyond_what_training_had():
    scale = TargetScaler.fit(SKEWED)
    beyond = np.array([[SKEWED.max() * 2], [SKEWED.max() * 3], [SKEWED.min() - 1]])
    z = scale.transform(beyond)[:, 0]
    assert z[2] < scale.transform(SKEWED).min() < scale.transform(SKEWED).max() < z[0] < z[1]


def test_columns_with_missing_values_are_scaled_by_what_is_there():
    y = np.array([[1.0, np.nan], [3.0, 10.0], [5.0, 30.0]])
    z = TargetScaler.fit(y).transform(y)
    assert z[1:, 1] == pytest.approx([-1.0, 1.0])
    assert np.isnan(z[0, 1])


def test_a_constant_column_does_not_divide_by_zero():
    assert np.isfinite(TargetScaler.fit(np.full((7, 1), 3.0)).transform(np.array([[3.0]]))).all()
