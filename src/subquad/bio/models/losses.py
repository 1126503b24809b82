"""Training loss of each task type: squared error, or cross-entropy of classes.

Axes: B rows of a batch, T positions, O outputs.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset, Target
from subquad.bio.models.target_scaling import TargetScaler

__all__ = ["make_loss"]


def make_loss(dataset: Dataset, scaler: TargetScaler) -> Callable[[Tensor, np.ndarray], Tensor]:
    """Return the function from outputs `(B, …)` and their rows to the weighted mean loss over the known values.

    Args:
        dataset: Targets and weights of the rows.
        scaler: Transform of the measurements to the training scale.
    """
    losses_of = _pair_losses(dataset) if dataset.target.task_type == "pairs" else _value_losses(dataset.target, scaler)
    weight = None if dataset.weight is None else torch.from_numpy(dataset.weight).float()

    def loss(z: Tensor, rows: np.ndarray) -> Tensor:
        each, known = losses_of(z, rows)
        if weight is not None:
            known = known * weight[rows].to(z.device).view(-1, *[1] * (known.ndim - 1))
        return (each * known).sum() / known.sum().clamp(min=1e-6)

    return loss


def _value_losses(target: Target, scaler: TargetScaler) -> Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]:
    """Return the function to the loss of each value of a batch, and to a mask of the known values."""
    task_type = target.task_type
    if task_type.endswith("regression"):
        y = scaler.transform(target.y[..., None] if target.is_residue else target.y)
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

    def losses_of(z: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        own, there = values[rows], known[rows]
        if target.is_residue:
            # a batch is padded to its own longest sequence
            own, there = own[:, : z.shape[1]], there[:, : z.shape[1]]
        return each(z, own.to(z.device), reduction="none"), there.to(z.device)

    return losses_of


def _cross_entropy(z: Tensor, y: Tensor, *, reduction: str) -> Tensor:
    return nn.functional.cross_entropy(z.movedim(-1, 1), y, reduction=reduction)


def _pair_losses(dataset: Dataset) -> Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]:
    target, lengths = dataset.target, torch.from_numpy(dataset.inputs.lengths)

    def losses_of(z: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        y = torch.zeros(z.shape)
        for k, row in enumerate(rows):
            pairs = torch.from_numpy(target.y[row])
            y[k, pairs[:, 0], pairs[:, 1]] = 1.0
            y[k, pairs[:, 1], pairs[:, 0]] = 1.0
        each = nn.functional.binary_cross_entropy_with_logits(z, y.to(z.device), reduction="none")
        # count each pair of letters once, and none in the padding
        is_letter = torch.arange(z.shape[1]) < lengths[rows][:, None]
        return each, (is_letter[:, :, None] & is_letter[:, None]).to(each).triu(1)

    return losses_of
