"""The processes that train together: one alone, or those that `torchrun` or `accelerate launch` started."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import nn

__all__ = ["all_reduce_gradients", "broadcast_object", "has_accelerator", "processes"]

Value = TypeVar("Value")


def has_accelerator() -> bool:
    """Return whether there is a GPU or its like; without one processes talk by gloo."""
    return torch.accelerator.is_available()


def processes() -> PartialState:
    """Return how many processes there are, which of them this is, and its device."""
    # without being told, accelerate takes processes on CPUs for strangers to each other
    return PartialState(cpu=not has_accelerator())


def broadcast_object(value: Value) -> Value:
    """Return in every process what the first one gave; all have to ask."""
    processes()
    return broadcast_object_list([value])[0]


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean of the processes' gradients in their place.

    No wrapper does it during the backward pass, so that a step may go backward as often as it likes. One message takes
    all of a type, since each one makes the processes wait for each other; so twice the gradients' memory is needed.
    """
    for kind in dict.fromkeys(parameter.dtype for parameter in parameters):
        alike = [parameter for parameter in parameters if parameter.dtype == kind]
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in alike]
        mean = reduce(torch.cat([gradient.flatten() for gradient in own]), "mean")
        for one, part in zip(alike, mean.split([one.numel() for one in alike]), strict=True):
            one.grad = part.view_as(one)
