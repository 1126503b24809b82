"""Keeps autocast, which runs matrix products in half precision, out of code that must accumulate in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["autocast_disabled"]


def autocast_disabled(device: str) -> AbstractContextManager:
    """Return a context in which autocast is off for the device type; a null context if it is off already."""
    # the meta device has no autocast to ask for
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()
