r"""$y = W x + b$ in float32 through oneDNN: O(H F) a position, on some processors in half the time of PyTorch's own.

PyTorch takes MKL for float32, which leaves the wide vectors of processors that are not Intel's unused; oneDNN takes
what the processor has. Where there is no oneDNN, or the type is another, this is `nn.functional.linear`.

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
    """Equal `nn.functional.linear` in value and gradient; it cannot be differentiated again."""
    if not _takes(x) or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def product(
    x: Float[Tensor, "*batch H"], weight: Float[Tensor, "F H"], bias: Float[Tensor, " F"] | None = None
) -> Float[Tensor, "*batch F"]:
    """Return the same without a graph for gradients, for use inside a backward written by hand."""
    if not _takes(x):
        return nn.functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _takes(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and _has_onednn()


@cache
def _has_onednn() -> bool:
    # the product is there for PyTorch's compiler, and not in every build
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
