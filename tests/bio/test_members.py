"""Predictions of several members, their mean and their standard deviation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bio_tables import settings, table

from subquad.bio import fit, predict
from subquad.bio.data.dataset import Inputs
from subquad.bio.models.members import Members, deviation, finite_members
from subquad.errors import SubquadError


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


def test_predictions_that_are_not_finite_name_their_rows():
    rows = Inputs(codes=np.zeros((3, 2), dtype=np.int8), letters=4, covariates=np.zeros((3, 0)), is_aligned=True)
    for mean in (np.array([[1.0], [np.inf], [0.0]]), [np.eye(2), np.full((2, 2), np.nan), np.eye(2)]):
        members = Members.of_equals([mean])
        with pytest.raises(
            SubquadError, match=r"predictions of 1 of 3 rows are not finite: .* weights are damaged.*\n  row 2$"
        ):
            finite_members(lambda own=members: own, rows, {})
    members = Members.of_equals([np.zeros((0, 1))])
    assert finite_members(lambda: members, rows.take(np.arange(0)), {}) is members


@pytest.mark.long
def test_a_covariate_that_is_too_large_for_float32_is_an_error_with_its_row(tmp_path):
    frame = table(tmp_path / "t.csv", rows=61)
    frame["heat"] = np.random.default_rng(0).normal(37, 5, len(frame))
    frame.to_csv(tmp_path / "t.csv", index=False)
    models = ("ridge", "gp")
    fit(tmp_path / "t.csv", settings(models=models, covariates=("heat",)), out=tmp_path / "run", quiet=True)
    frame = frame.head(7)[["sequence", "heat"]]
    frame.loc[[2, 4], "heat"] = 1e60, -1e60
    frame.to_csv(tmp_path / "new.csv", index=False)
    for name in (*models, None):
        with pytest.raises(
            SubquadError, match=r"new\.csv: predictions of 2 of 7 .*\n  row 3: heat is 1e\+60\n  row 5: heat is -1e\+60"
        ):
            predict(tmp_path / "run", tmp_path / "new.csv", out=tmp_path / "out.csv", model=name, quiet=True)
        assert not (tmp_path / "out.csv").exists()
