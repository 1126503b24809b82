"""Batches of examples of similar length, so that little of a batch is padding."""

import torch
from torch import Tensor

BATCHES_PER_BUCKET = 32


def bucketed_batches(
    rows: Tensor, lengths: Tensor, batch_size: int, *, seed: int, epoch: int, together: int = 1
) -> list[Tensor]:
    """Return the batches of an epoch: all rows in random order, but rows of similar length in one batch.

    Rows are shuffled, cut into buckets of 32 batches and sorted by length within each bucket; the batches are then
    shuffled. Within a batch, rows are in ascending order. Each batch has at least half of `batch_size` rows, unless
    there are fewer in all, and which lengths are in a smaller one than the others is drawn: otherwise the longest
    examples alone would take the steps of small batches.

    Args:
        rows: Indices of the examples of this epoch.
        lengths: Length of every example of the data set, indexed by `rows`.
        batch_size: Examples in a batch.
        seed: Seed of the order.
        epoch: Number of the epoch, from 0; each has an order of its own.
        together: Number of processes. So many successive batches also have similar lengths, so that no process waits
            for the longest examples of another.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    batches: list[Tensor] = []
    buckets = list(shuffled.split(BATCHES_PER_BUCKET * batch_size))
    if len(buckets) > 1 and len(buckets[-1]) < batch_size:
        # few rows would be a batch of their own
        buckets[-2:] = [torch.cat(buckets[-2:])]
    for bucket in buckets:
        sizes = _sizes(len(bucket), batch_size, seed=seed * 1_000_003 + epoch)
        batches += [batch.sort().values for batch in bucket[lengths[bucket].argsort(stable=True)].split(sizes)]
    # the remainder that no full group takes is drawn at random, and stands at the end
    left = len(batches) % together
    alone = torch.randperm(len(batches), generator=generator)[:left].tolist() if left else []
    shared = [batch for i, batch in enumerate(batches) if i not in alone]
    groups = [shared[i : i + together] for i in range(0, len(shared), together)]
    order = torch.randperm(len(groups), generator=generator).tolist()
    return [batch for i in order for batch in groups[i]] + [batches[i] for i in alone]


def _sizes(rows: int, batch_size: int, *, seed: int) -> list[int]:
    """Return the sizes of batches: `batch_size`, but for one at a random place, or two if one had less than half."""
    full, left = divmod(rows, batch_size)
    if not left or not full:
        return [batch_size] * full + [left] * bool(left)
    if 2 * left >= batch_size:
        small = [left]
    else:
        full, both = full - 1, batch_size + left
        small = [both - both // 2, both // 2]
    # of its own, so that the other draws are those of equal batches
    place = int(torch.randint(full + 1, (), generator=torch.Generator().manual_seed(seed)))
    return [batch_size] * place + small + [batch_size] * (full - place)


def batches_by_length(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Return batches of the indices of all examples, shortest examples first."""
    return [batch.sort().values for batch in lengths.argsort(stable=True).split(batch_size)]
