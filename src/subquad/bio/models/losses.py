"""What training makes small, for each kind of target: squared error, or the cross-entropy of classes.

Axes: B rows of a batch, T positions, O outputs.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset, Target
from subquad.bio.models.target_scaling import TargetScaler

__all__ = ["make_loss"]


def make_loss(dataset: Dataset, scale: TargetScaler) -> Callable[[Tensor, np.ndarray], Tensor]:
    """Return what gives the mean loss of outputs `(B, …)` for some rows, over the values that are known.

    Args:
        dataset: its rows count as its weights say.
        scale: of the measurements that are learned.
    """
    each_of = _of_pairs(dataset) if dataset.target.task_type == "pairs" else _of_values(dataset.target, scale)
    weight = None if dataset.weight is None else torch.from_numpy(dataset.weight).float()

    def loss(z: Tensor, rows: np.ndarray) -> Tensor:
        each, known = each_of(z, rows)
        if weight is not None:
            known = known * weight[rows].to(z.device).view(-1, *[1] * (known.ndim - 1))
        return (each * known).sum() / known.sum().clamp(min=1e-6)

    return loss


def _of_values(target: Target, scale: TargetScaler) -> Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]:
    """Return what gives the loss of each value of a batch, and which values are known."""
    task_type = target.task_type
    if task_type.endswith("regression"):
        y = scale.transform(target.y[..., None] if target.is_residue else target.y)
        values, known = torch.from_numpy(np.nan_to_num(y)).float(), torch.from_numpy(np.isfinite(y)).float()
        each = nn.functional.mse_loss
    elif task_type == "multilabel":
        values = torch.from_numpy(np.nan_to_num(target.y)).float()
        known = torch.from_numpy(np.isfinite(target.y)).float()
        each = nn.functional.binary_cross_entropy_with_logits
    elif task_type.endswith("binary"):
        values = torch.from_numpy(np.maximum(target.y, 0)).float()[..., None]
        known = torch.from_numpy(target.y >= 0).float()[..., None]
        each = nn.functional.binary_cross_entropy_with_logits
    else:
        values, known = torch.from_numpy(np.maximum(target.y, 0)).long(), torch.from_numpy(target.y >= 0).float()
        each = _cross_entropy

    def each_of(z: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        own, there = values[rows], known[rows]
        if target.is_residue:
            # a batch is padded to its own longest sequence
            own, there = own[:, : z.shape[1]], there[:, : z.shape[1]]
        return each(z, own.to(z.device), reduction="none"), there.to(z.device)

    return each_of


def _cross_entropy(z: Tensor, y: Tensor, *, reduction: str) -> Tensor:
    return nn.functional.cross_entropy(z.movedim(-1, 1), y, reduction=reduction)


def _of_pairs(dataset: Dataset) -> Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]:
    target, lengths = dataset.target, torch.from_numpy(dataset.inputs.lengths)

    def each_of(z: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        y = torch.zeros(z.shape)
        for k, row in enumerate(rows):
            pairs = torch.from_numpy(target.y[row])
            y[k, pairs[:, 0], pairs[:, 1]] = 1.0
            y[k, pairs[:, 1], pairs[:, 0]] = 1.0
        each = nn.functional.binary_cross_entropy_with_logits(z, y.to(z.device), reduction="none")
        # what stands in the padding is no pair that could be there
        is_letter = torch.arange(z.shape[1]) < lengths[rows][:, None]
        return each, (is_letter[:, :, None] & is_letter[:, None]).to(each).triu(1)

    return each_of
