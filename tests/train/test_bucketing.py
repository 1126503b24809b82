"""Batches of examples of similar length."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from subquad.train.bucketing import batches_by_length, bucketed_batches


@given(
    count=st.integers(1, 211),
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    together=st.integers(1, 3),
)
def test_each_row_is_in_one_batch(count, batch_size, seed, epoch, together):
    rows = torch.arange(count) * 2
    lengths = torch.randint(1, 50, (2 * count,), generator=torch.Generator().manual_seed(seed))
    batches = bucketed_batches(rows, lengths, batch_size, seed=seed, epoch=epoch, together=together)
    assert torch.equal(torch.cat(batches).sort().values, rows)
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-count // batch_size)
    assert count < batch_size or 2 * min(map(len, batches)) >= batch_size
    assert all(torch.equal(batch, batch.sort().values) for batch in batches)


def test_small_batches_have_examples_of_any_length():
    count, batch_size, epochs = 1025, 64, 400
    # example i is longer than all before it
    rows, lengths = torch.arange(count), torch.arange(count)
    weights = torch.zeros(count)
    for epoch in range(epochs):
        plan = bucketed_batches(rows, lengths, batch_size, seed=3, epoch=epoch)
        assert sorted(map(len, plan)) == [32, 33] + [64] * 15
        for batch in plan:
            # a step has the mean over its batch
            weights[batch] += batch_size / len(batch) / epochs
    # each example is in one of the two with a probability of 2 / 17, or 1 / 16 at both ends, and then counts twice
    assert weights.max() < 1.2
    assert weights[-64:].mean() < weights.mean() * 1.05
    # a second bucket that has less than a batch is joined to the first
    assert min(map(len, bucketed_batches(torch.arange(32 * 7 + 1), lengths, 7, seed=0, epoch=0))) == 4


def test_epochs_differ_and_the_same_epoch_is_repeated():
    rows, lengths = torch.arange(101), torch.arange(101) % 13 + 1
    first, again, second = (bucketed_batches(rows, lengths, 7, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_bucketed_batch_has_far_less_padding_than_a_random_one():
    lengths = torch.randint(1, 100, (1009,), generator=torch.Generator().manual_seed(0))

    def padding(batches):
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    random = torch.randperm(1009, generator=torch.Generator().manual_seed(1)).split(8)
    assert padding(bucketed_batches(torch.arange(1009), lengths, 8, seed=0, epoch=0)) < padding(random) / 5


def test_scoring_takes_the_shortest_first():
    lengths = torch.tensor([5, 1, 3, 2])
    assert [batch.tolist() for batch in batches_by_length(lengths, 2)] == [[1, 3], [0, 2]]
