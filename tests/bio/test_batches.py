"""Batches of an epoch: which rows they hold, in which order, and how many."""

import numpy as np
import pytest

from subquad.bio.data.dataset import PAD, Inputs
from subquad.bio.models.batches import epoch_batches

RANDOM = np.random.default_rng(7)
DISTINCT = RANDOM.permutation(np.arange(1, 308))
"""Lengths of 307 rows."""
SAME = np.full(307, 11)


def plan(lengths, *, batch_size=15, task_type="regression", seed=3):
    """Return the function from epochs to batches for rows with these lengths."""
    codes = np.full((len(lengths), lengths.max()), PAD, dtype=np.int8)
    codes[np.arange(lengths.max()) < lengths[:, None]] = 0
    inputs = Inputs(codes=codes, letters=4, partner=None, covariates=np.zeros((len(codes), 0)), is_aligned=False)
    return epoch_batches(inputs, np.arange(len(lengths)), task_type=task_type, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize("lengths", [DISTINCT, SAME], ids=["distinct", "same"])
def test_rows_that_fill_no_batch_are_other_ones_in_each_epoch(lengths):
    # 307 = 20 * 15 + 7
    batches = plan(lengths)
    epochs = [np.concatenate(batches(epoch)) for epoch in range(20)]
    assert {len(own) for own in epochs} == {300}
    assert all(len(np.unique(own)) == 300 for own in epochs)
    assert set(np.concatenate(epochs).tolist()) == set(range(307))
    counts = np.bincount(np.concatenate(epochs), minlength=307)
    longest = np.argsort(lengths)[-7:]
    assert counts.min() >= 17
    assert counts[longest].mean() > 18


def test_the_batches_of_an_epoch_depend_on_its_number_and_the_seed_only():
    first, again, other = plan(DISTINCT), plan(DISTINCT), plan(DISTINCT, seed=4)
    # a resumed training asks for a later epoch first
    late = [own.tolist() for own in again(5)]
    assert late == [own.tolist() for own in [first(epoch) for epoch in range(6)][5]]
    assert late != [own.tolist() for own in other(5)]
    assert late != [own.tolist() for own in first(4)]


def test_a_rest_of_more_than_half_a_batch_is_a_batch():
    batches = plan(DISTINCT, batch_size=11)  # 307 = 27 * 11 + 10
    assert sorted(map(len, batches(0))) == [10] + [11] * 27


def test_batches_that_memory_limits_leave_no_row_out_in_all_epochs():
    lengths = np.concatenate([np.full(10, 30), [250, 260, 270, 280, 290, 300, 310, 320, 330]])
    batches = plan(lengths, batch_size=10, task_type="pairs")
    epochs = [batches(epoch) for epoch in range(20)]
    assert set(np.concatenate([row for own in epochs for row in own]).tolist()) == set(range(len(lengths)))
    for own in epochs:
        assert all(len(rows) == 1 or len(rows) * lengths[rows].max() ** 2 <= 600_000 for rows in own)


def test_a_long_row_that_memory_leaves_alone_shares_the_rows_before_it():
    lengths = np.array([100] * 40 + [700])
    for own in (plan(lengths, batch_size=20, task_type="pairs")(epoch) for epoch in range(5)):
        # 600,000 letters of pairs hold one row of 700
        assert sorted(map(len, own)) == [1, 20, 20]
    lengths[-1] = 400
    for own in (plan(lengths, batch_size=20, task_type="pairs")(epoch) for epoch in range(5)):
        assert sorted(map(len, own)) == [3, 18, 20]
        assert sorted(np.concatenate(own)) == list(range(41))


def test_batches_hold_rows_of_similar_length():
    spreads = [np.ptp(DISTINCT[rows]) for rows in plan(DISTINCT)(0)]
    assert max(spreads) < 30
