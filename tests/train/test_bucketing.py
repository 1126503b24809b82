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
    assert all(torch.equal(batch, batch.sort().values) for batch in batches)


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
