"""Where autocast, which takes matrix products in half precision, must not reach. Costs nothing."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["exactly"]


def exactly(device: str) -> AbstractContextManager:
    """Return a context without autocast; where there is none anyway, entering it costs nothing."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
