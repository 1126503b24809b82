"""The processes that train together: one alone, or those that `torchrun` or `accelerate launch` started."""

from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

__all__ = ["from_first", "has_accelerator", "processes"]

Value = TypeVar("Value")


def has_accelerator() -> bool:
    """Return whether there is a GPU or its like; without one processes talk by gloo."""
    return torch.accelerator.is_available()


def processes() -> PartialState:
    """Return how many processes there are, which of them this is, and its device."""
    # without being told, accelerate takes processes on CPUs for strangers to each other
    return PartialState(cpu=not has_accelerator())


def from_first(value: Value) -> Value:
    """Return in every process what the first one gave; all have to ask."""
    processes()
    return broadcast_object_list([value])[0]
