"""Predictions of several members, their mean and their standard deviation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.bio.models.members import Members, deviation


@given(count=st.integers(2, 7), seed=st.integers(0, 99))
def test_the_deviation_of_equal_members_is_the_sample_standard_deviation(count, seed):
    each = np.random.default_rng(seed).normal(5, 3, (count, 11, 3))
    members = Members.of_equals(list(each))
    np.testing.assert_allclose(members.mean, each.mean(0), atol=1e-12)
    np.testing.assert_allclose(members.weights, np.full(count, 1 / count))
    np.testing.assert_allclose(members.std(), np.std(each, axis=0, ddof=1), atol=1e-12)


def test_members_of_weight_zero_do_not_count_in_the_deviation():
    each = np.random.default_rng(0).normal(size=(5, 7))
    weights = np.array([0.0, 1 / 3, 1 / 3, 0.0, 1 / 3])
    np.testing.assert_allclose(deviation(each, weights), np.std(each[[1, 2, 4]], axis=0, ddof=1))


def test_the_deviation_of_unequal_members_is_unbiased():
    each, weights = np.array([[1.0], [2.0], [5.0]]), np.array([0.5, 0.3, 0.2])
    # the unbiased estimate: the sum of squares, divided by one minus the sum of squared weights
    mean = 0.5 * 1 + 0.3 * 2 + 0.2 * 5
    square = 0.5 * (1 - mean) ** 2 + 0.3 * (2 - mean) ** 2 + 0.2 * (5 - mean) ** 2
    expected = np.sqrt(square / (1 - 0.25 - 0.09 - 0.04))
    assert Members(mean=np.array([mean]), each=each, weights=weights).std() == pytest.approx(expected)


def test_a_single_member_and_base_pairs_have_no_deviation():
    assert Members.of_equals([np.ones((3, 1))]).std() is None
    assert np.isnan(deviation([np.ones(3)], np.ones(1))).tolist() == [True] * 3
    pairs = [[np.eye(2), np.zeros((3, 3))], [np.zeros((2, 2)), np.ones((3, 3))]]
    members = Members.of_equals(pairs)
    assert members.std() is None
    assert [own.tolist() for own in members.mean] == [(np.eye(2) / 2).tolist(), np.full((3, 3), 0.5).tolist()]
