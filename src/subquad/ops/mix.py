r"""Output layer of Lyra's state space block, $\mathrm{GLU}(W (d \odot \mathrm{GELU}(y)) + b)$: O(H²) at each position.

`kept` is dropout's mask and `scale` its factor: $d$ is `scale` where `kept` is true, else 0.

Axes: B sequences, T positions, H channels.

| form         | numbers kept for backward, per position | use            |
|--------------|-----------------------------------------|----------------|
| `mix_direct` | 7 H                                     | the definition; GPU, autocast |
| `mix`        | H                                       | CPU: a few positions at a time, all in the cache |
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from subquad.ops.linear import linear, product

__all__ = ["mix", "mix_direct"]

NUMBERS_AT_ONCE = 2**17
"""Number of elements of the product with W that are computed at once: less than fits into the cache of one core."""


def mix_direct(
    y: Float[Tensor, "B T H"],
    weight: Float[Tensor, "2*H H"],
    bias: Float[Tensor, " 2*H"],
    *,
    kept: Bool[Tensor, "B T H"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "B T H"]:
    """Return the definition, term by term."""
    x = nn.functional.gelu(y)
    if kept is not None:
        x = x * kept.to(x.dtype).mul_(scale)
    return nn.functional.glu(linear(x, weight, bias), dim=-1)


def mix(
    y: Float[Tensor, "B T H"],
    weight: Float[Tensor, "2*H H"],
    bias: Float[Tensor, " 2*H"],
    *,
    kept: Bool[Tensor, "B T H"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "B T H"]:
    """Compute `mix_direct` a few positions at a time.

    The backward pass is written by hand and is not differentiable.
    """
    if y.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return mix_direct(y, weight, bias, kept=kept, scale=scale)
    return _Mix.apply(y, weight, bias, (kept, scale))


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Float[Tensor, "B T H"],
        weight: Float[Tensor, "2*H H"],
        bias: Float[Tensor, " 2*H"],
        dropped: tuple[Bool[Tensor, "B T H"] | None, float],
    ) -> Float[Tensor, "B T H"]:
        kept, ctx.scale = dropped
        ctx.save_for_backward(y, weight, bias, kept)
        result = torch.empty_like(y, memory_format=torch.contiguous_format)
        for window in _windows(y):
            here = None if kept is None else kept[window]
            result[window] = mix_direct(y[window].contiguous(), weight, bias, kept=here, scale=ctx.scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "B T H"]
    ) -> tuple[Tensor | None, ...]:
        y, weight, bias, kept = ctx.saved_tensors
        for_y = torch.empty_like(y, memory_format=torch.contiguous_format)
        sums = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for window in _windows(y):
            here = y[window].flatten(0, 1)
            factor = None if kept is None else kept[window].flatten(0, 1).to(y.dtype).mul_(ctx.scale)
            x = nn.functional.gelu(here)
            if factor is not None:
                x *= factor
            g = torch.ops.aten.glu_backward(gradients[0][window].flatten(0, 1), product(x, weight, bias), -1)
            sums[0] += product(g.T, x.T)
            sums[1] += g.sum(0)
            g = product(g, weight.T)
            if factor is not None:
                g *= factor
            for_y[window] = torch.ops.aten.gelu_backward(g, here).view_as(for_y[window])
        return for_y, *sums, None


def _windows(y: Float[Tensor, "B T H"]) -> Iterator[tuple[slice, slice]]:
    """Yield rows and positions: several sequences or a part of one."""
    B, T, H = y.shape
    positions = max(1, NUMBERS_AT_ONCE // (2 * H))
    rows, length = max(1, positions // max(T, 1)), min(T, positions)
    for row in range(0, B, rows):
        for begin in range(0, T, max(length, 1)):
            yield slice(row, row + rows), slice(begin, begin + length)
