"""The processes that train together: one alone, or those that `torchrun` or `accelerate launch` started."""

import torch
from accelerate import PartialState

__all__ = ["has_accelerator", "processes"]


def has_accelerator() -> bool:
    """Return whether there is a GPU or its like; without one processes talk by gloo."""
    return torch.accelerator.is_available()


def processes() -> PartialState:
    """Return how many processes there are, which of them this is, and its device."""
    # without being told, accelerate takes processes on CPUs for strangers to each other
    return PartialState(cpu=not has_accelerator())
