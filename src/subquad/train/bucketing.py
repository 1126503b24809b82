"""Batches of examples of similar length, so that little of a batch is padding."""

import torch
from torch import Tensor

__all__ = ["batches_by_length", "bucketed_batches"]

BATCHES_PER_BUCKET = 32


def bucketed_batches(
    rows: Tensor, lengths: Tensor, batch_size: int, *, seed: int, epoch: int, together: int = 1
) -> list[Tensor]:
    """Return the batches of an epoch: all rows in random order, but rows of similar length in one batch.

    Rows are shuffled, cut into buckets of 32 batches and sorted by length within each bucket; the batches are then
    shuffled. Within a batch, rows are in ascending order.

    Args:
        rows: Indices of the examples of this epoch.
        lengths: Length of every example of the data set, indexed by `rows`.
        batch_size: Examples in a batch.
        seed: Seed of the order.
        epoch: Number of the epoch, from 0; each has an order of its own.
        together: Number of processes. So many successive batches also have similar lengths, so that no process waits
            for the longest examples of another.

    Returns:
        Index tensors, one per batch.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    batches: list[Tensor] = []
    for bucket in shuffled.split(BATCHES_PER_BUCKET * batch_size):
        batches += [batch.sort().values for batch in bucket[lengths[bucket].argsort(stable=True)].split(batch_size)]
    # the remainder that no full group takes is drawn at random, and stands at the end
    left = len(batches) % together
    alone = torch.randperm(len(batches), generator=generator)[:left].tolist() if left else []
    shared = [batch for i, batch in enumerate(batches) if i not in alone]
    groups = [shared[i : i + together] for i in range(0, len(shared), together)]
    order = torch.randperm(len(groups), generator=generator).tolist()
    return [batch for i in order for batch in groups[i]] + [batches[i] for i in alone]


def batches_by_length(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Return batches of the indices of all examples, shortest examples first."""
    return [batch.sort().values for batch in lengths.argsort(stable=True).split(batch_size)]
