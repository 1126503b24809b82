"""Window shapes of hybrid attention: which tokens a query sees by softmax, and which by features.

The shapes are those of `linattn`. Positions count the real tokens of a row.

Axes: B rows, T positions, S slots of the ring, E sinks. Inside: N blocks, w positions of a block, J = 2w positions of a
block and the one before it, EJ = E + J.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subquad.ops.attention_sizes import WindowShape

__all__ = [
    "earlier_tokens",
    "is_near",
    "pair_masks",
    "positions",
    "ring_slots",
    "summed",
]


def is_near(query: Tensor, key: Tensor, *, window: int, window_shape: WindowShape) -> Tensor:
    """Return where the window of a query at one position reaches a key at another, not later, position."""
    if window_shape == "none":
        return torch.zeros_like(query - key, dtype=torch.bool)
    if window_shape == "sliding":
        return query - key < window
    return query // window - key // window <= 1


def ring_slots(window: int, window_shape: WindowShape) -> int:
    """Return the number of slots of the ring: the most keys that a window can have."""
    return {"sliding": window, "terrace": 2 * window, "none": 0}[window_shape]


def summed(count: Int[Tensor, "*B"], *, window: int, window_shape: WindowShape) -> Int[Tensor, "*B"]:
    """Return how many tokens of each row are in the sum after `count` tokens, those that are sinks included."""
    if window_shape == "none":
        return count
    last = count - window if window_shape == "sliding" else ((count - 1) // window - 1) * window
    return last.clamp(min=0)


def positions(count: Int[Tensor, " B"], slots: int) -> Int[Tensor, "B S"]:
    """Return the position of the token in each slot of the ring; negative for an empty slot."""
    last = count[:, None] - 1
    if not slots:
        return last[:, :0]
    return last - (last - torch.arange(slots, device=count.device)) % slots


def earlier_tokens(
    count: Int[Tensor, "B T"], *, window: int, window_shape: WindowShape, sinks: int
) -> Int[Tensor, "B T"]:
    """Return how many tokens each query attends to by features, if it is the last of `count` tokens of its row."""
    return (summed(count, window=window, window_shape=window_shape) - sinks).clamp(min=0)


def pair_masks(
    blocks: int, *, window: int, window_shape: WindowShape, device: torch.device, sinks: int,
    start: Int[Tensor, " B"] | None,
) -> tuple[Bool[Tensor, "#B N w EJ"] | None, Bool[Tensor, "w J"] | None]:  # fmt: skip
    """Return which sinks and keys of the block before and its own each query sees by softmax, and which by features.

    A key at a negative position does not exist. None if there are no such keys.
    """
    row = torch.arange(window, device=device)[:, None]
    column = torch.arange(2 * window, device=device) - window
    causal = column <= row
    if window_shape == "none":
        return None, causal
    # both are shifted by one window, so that blocks can start at 0
    near = is_near(row + window, column + window, window=window, window_shape=window_shape)
    begin = torch.tensor([-window], device=device) if start is None else start
    # position of the first key of each pair of blocks, [#B, N, 1, 1]
    begin = (begin[:, None] + window * torch.arange(blocks, device=device))[:, :, None, None]
    # sinks are seen in front of the pairs only
    softmax = causal & near & (begin + window + column >= sinks)
    if sinks:
        earlier = torch.arange(sinks, device=device) <= begin + window + row
        softmax = torch.cat((earlier, softmax), 3)
    return softmax, causal & ~near if window_shape == "sliding" else None
