r"""$y = W x + b$ in float32 through oneDNN: O(H F) per position, on some processors in half the time of PyTorch.

For float32 PyTorch calls MKL, which does not use the wide vector units of processors of other makers than Intel;
oneDNN does. Without oneDNN, or for another dtype, this is `nn.functional.linear`.

Axes: H channels in, F channels out.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["linear", "product"]


def linear(
    x: Float[Tensor, "*batch H"], weight: Float[Tensor, "F H"], bias: Float[Tensor, " F"]
) -> Float[Tensor, "*batch F"]:
    """Compute `nn.functional.linear`, with an equal gradient; the backward pass is not differentiable."""
    if not _takes(x) or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def product(
    x: Float[Tensor, "*batch H"], weight: Float[Tensor, "F H"], bias: Float[Tensor, " F"] | None = None
) -> Float[Tensor, "*batch F"]:
    """Return the product without recording gradients, for use in backward passes that are written by hand."""
    if not _takes(x):
        return nn.functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _takes(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and _has_onednn()


@cache
def _has_onednn() -> bool:
    # PyTorch has this product for its compiler; not every build includes it
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*batch H"], weight: Float[Tensor, "F H"], bias: Float[Tensor, " F"]
    ) -> Float[Tensor, "*batch F"]:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "*batch F"]
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        g = gradients[0].flatten(0, -2)
        for_x = product(gradients[0], weight.T) if ctx.needs_input_grad[0] else None
        return for_x, product(g.T, x.flatten(0, -2).T), g.sum(0)
