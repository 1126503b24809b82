"""Lengths of texts that lie within a window as a whole. Without torch, so that settings can be checked at once."""

from typing import Literal

__all__ = ["WindowShape", "seen_whole"]

WindowShape = Literal["sliding", "terrace", "none"]


def seen_whole(window: int, window_shape: WindowShape, sinks: int) -> int:
    """Return the number of tokens up to which every token sees all earlier ones by softmax."""
    return {"sliding": window + sinks, "terrace": (sinks // window + 2) * window, "none": 0}[window_shape]
