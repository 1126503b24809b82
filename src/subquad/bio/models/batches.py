"""Batches of sequences: their order in training, their size with padding, and predictions of a network.

`subquad.train.bucketing` limits the rows of a batch; here padded letters and pairs of letters are limited too, because
the sequences of one table can differ in length by a factor of a thousand.

Axes: B rows, T positions, L letters of a sequence, O outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import PAD, Inputs
from subquad.bio.models.linear import SparseMatrix
from subquad.bio.models.target_scaling import TargetScaler, to_predictions

__all__ = ["Priors", "as_predictions", "epoch_batches", "net_inputs", "predict_net", "raw_outputs", "shuffled_batches"]

MAX_LETTERS, MAX_PAIRS = 40_000, 600_000
"""Maximum number of letters, and of pairs of letters, of a batch with its padding."""
PREDICTION_BATCH = 512
BATCHES_PER_POOL = 32

Priors = Sequence[np.ndarray] | None
"""Starting logits of each row: `(L, L)` for pairs, or `(L, O)` for residues on the training scale."""


def net_inputs(
    inputs: Inputs,
    rows: np.ndarray,
    features: SparseMatrix | None,
    priors: Priors,
    *,
    task_type: str,
    device: torch.device,
) -> tuple[Tensor | None, ...]:
    """Return the codes, partner codes, features, priors and vectors of a batch, cut to its longest sequence.

    A partner chain follows the first one without padding between them: where one of both has codes, the other is `PAD`.

    Args:
        inputs: Inputs of all rows.
        rows: Rows of the batch.
        features: Features of the rows of the batch; None for a network without additive branches.
        priors: Starting logits of all rows.
        task_type: Type of the task.
        device: Device of the network.
    """
    codes, partner = inputs.codes[rows], None if inputs.partner is None else inputs.partner[rows]
    if inputs.partner_chain is not None:
        codes, partner = _one_after_the_other(codes, inputs.partner_chain.codes[rows])
    length = max(1, int(inputs.lengths[rows].max(initial=0)))
    codes = torch.from_numpy(np.ascontiguousarray(codes[:, :length])).to(device)
    partner = None if partner is None else torch.from_numpy(np.ascontiguousarray(partner[:, :length])).to(device)
    dense = None if features is None else torch.from_numpy(features.toarray()).to(device)
    prior = None
    if priors is not None:
        wide = length if task_type == "pairs" else priors[rows[0]].shape[1]
        padded = np.zeros((len(rows), length, wide), dtype=np.float32)
        for k, row in enumerate(rows):
            own = priors[row]
            padded[k, : own.shape[0], : own.shape[1]] = own
        prior = torch.from_numpy(padded).to(device)
    vectors = None if inputs.vectors is None else torch.from_numpy(inputs.vectors.padded(rows, length)).to(device)
    return codes, partner, dense, prior, vectors


def _one_after_the_other(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of two chains at their positions in the joint sequence, `(B, T)` each, with `PAD` elsewhere."""
    begin = (first != PAD).sum(1)
    row, place = np.nonzero(second != PAD)
    shape = len(first), first.shape[1] + second.shape[1]
    codes, partner = np.full(shape, PAD, dtype=first.dtype), np.full(shape, PAD, dtype=second.dtype)
    codes[:, : first.shape[1]] = first
    partner[row, begin[row] + place] = second[row, place]
    return codes, partner


def predict_net(
    net: nn.Module,
    inputs: Inputs,
    task_type: str,
    matrix: SparseMatrix | None,
    *,
    scaler: TargetScaler,
    priors: Priors = None,
) -> Any:
    """Return a network's predictions as measurements or probabilities; see `Target.outputs` for the shapes."""
    return as_predictions(raw_outputs(net, inputs, task_type, matrix, priors=priors), inputs, task_type, scaler)


def as_predictions(outputs: Sequence[np.ndarray], inputs: Inputs, task_type: str, scaler: TargetScaler) -> Any:
    """Return outputs as measurements or probabilities; see `Target.outputs` for the shapes."""
    found = [to_predictions(z, task_type, scaler) for z in outputs]
    if task_type == "pairs":
        return found
    if not task_type.startswith("residue"):
        return np.stack(found)
    padded = np.zeros((len(found), inputs.codes.shape[1], found[0].shape[1]))
    for row, values in enumerate(found):
        padded[row, : len(values)] = values
    return padded


@torch.no_grad()
def raw_outputs(
    net: nn.Module,
    inputs: Inputs,
    task_type: str,
    matrix: SparseMatrix | None,
    *,
    priors: Priors = None,
    of_heads: bool = False,
) -> list[np.ndarray]:
    """Return a network's outputs of each row, on the training scale and without padding.

    Args:
        net: The network.
        inputs: Inputs with the positions that it reads.
        task_type: Type of the task.
        matrix: Features of the rows; None for a network without additive branches.
        priors: Starting logits of the rows.
        of_heads: Return the outputs of each head along a first axis, and not their mean.
    """
    was_training, device = net.training, next(net.parameters()).device
    net.eval()
    lengths = np.maximum(inputs.lengths, 1)
    # rows of similar length share a batch, so that there is little padding
    order = np.argsort(-lengths, kind="stable")
    found: list[Any] = [None] * len(order)
    for rows in _cut(order, lengths, task_type=task_type, batch_size=PREDICTION_BATCH):
        f = None if matrix is None else matrix[rows]
        batch = net_inputs(inputs, rows, f, priors, task_type=task_type, device=device)
        z = net(*batch, of_heads=True) if of_heads else net(*batch)[None]
        z = z.float().cpu().double().numpy()
        for k, row in enumerate(rows):
            own = z[:, k]
            if task_type == "pairs":
                own = own[:, : lengths[row], : lengths[row]]
            elif task_type.startswith("residue"):
                own = own[:, : lengths[row]]
            found[row] = own if of_heads else own[0]
    net.train(was_training)
    return found


def epoch_batches(
    inputs: Inputs, rows: np.ndarray, *, task_type: str, batch_size: int, seed: int
) -> Callable[[int], Sequence[np.ndarray]]:
    """Return the function from the number of an epoch to its batches, `(B,)` row numbers each, in random order.

    Args:
        inputs: Inputs of all n rows.
        rows: Numbers of the training rows.
        task_type: The task type; batches of pairs are limited by the squares of the lengths.
        batch_size: Maximum number of rows of a batch, B.
        seed: Seed of the order.
    """
    lengths = np.maximum(inputs.lengths, 1)
    batch_size = min(batch_size, len(rows))

    def divided(order: np.ndarray) -> list[np.ndarray]:
        return _cut(_in_pools(order, lengths, batch_size), lengths, task_type=task_type, batch_size=batch_size)

    def batches(epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((seed, epoch))
        order = rows[random.permutation(len(rows))]
        cut = divided(order)
        # the gradient of a few remaining rows would be noisy
        if _has_rest(cut) and _fits(batch_size, int(lengths[cut[-1]].max()), task_type):
            # so many random rows come in another epoch, because those that remain are the longest ones
            cut = divided(order[: -len(cut[-1])])
        if _has_rest(cut):
            cut = _with_last_two_shared(cut, lengths, task_type)
        return [cut[i] for i in random.permutation(len(cut))]

    return batches


def shuffled_batches(rows: np.ndarray, *, batch_size: int, seed: int) -> Callable[[int], Sequence[np.ndarray]]:
    """Return the function from the number of an epoch to its batches of equal size, in random order."""
    size = min(batch_size, len(rows))

    def batches(epoch: int) -> list[np.ndarray]:
        order = rows[np.random.default_rng((seed, epoch)).permutation(len(rows))]
        return [order[begin : begin + size] for begin in range(0, len(order) - size + 1, size)]

    return batches


def _in_pools(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """Return rows with those of similar length together, in pools of `BATCHES_PER_POOL` batches or more."""
    pools = np.array_split(order, max(1, len(order) // (BATCHES_PER_POOL * batch_size)))
    return np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])


def _cut(order: np.ndarray, lengths: np.ndarray, *, task_type: str, batch_size: int) -> list[np.ndarray]:
    """Return rows, sorted by length, in batches that fit into memory with their padding."""
    parts, begin, longest = [], 0, 0
    for end, row in enumerate(order):
        longer = max(longest, int(lengths[row]))
        count = end - begin + 1
        if count > 1 and (count > batch_size or not _fits(count, longer, task_type)):
            parts.append(order[begin:end])
            begin, longer = end, int(lengths[row])
        longest = longer
    return [*parts, order[begin:]]


def _fits(count: int, longest: int, task_type: str) -> bool:
    """Return whether so many rows, padded to the longest of them, fit into memory."""
    return count * longest <= MAX_LETTERS and (task_type != "pairs" or count * longest**2 <= MAX_PAIRS)


def _has_rest(cut: Sequence[np.ndarray]) -> bool:
    """Return whether the last batch has no more than half of the rows of any other."""
    return len(cut) > 1 and 2 * len(cut[-1]) <= min(map(len, cut[:-1]))


def _with_last_two_shared(cut: list[np.ndarray], lengths: np.ndarray, task_type: str) -> list[np.ndarray]:
    """Return batches of which the last has half of the rows of the last two, or as many as fit into memory."""
    both, count = np.concatenate(cut[-2:]), len(cut[-1])
    for more in range(count + 1, len(both) // 2 + 1):
        if _fits(more, int(lengths[both[-more:]].max()), task_type):
            count = more
    return [*cut[:-2], both[:-count], both[-count:]]
