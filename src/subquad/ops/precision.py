"""Keeps half precision, also that of autocast, out of code that must compute in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["autocast_disabled", "exact", "wide"]


def autocast_disabled(device: str) -> AbstractContextManager:
    """Return a context in which autocast is off for the device type; a null context if it is off already."""
    # the meta device has no autocast to ask for
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def exact(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return numbers as float64, or as float32 on Apple's GPUs, which have no float64."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def wide(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return half-precision numbers as float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
