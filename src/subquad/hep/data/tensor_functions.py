"""Numpy's elementwise functions on tensors, with those operations only that onnxruntime has in both precisions.

Float32 values are computed in float64 and rounded, as numpy's differ from exact ones by less than a unit in the last
place: neighbours that are found in computed coordinates depend on it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["ELEMENTWISE", "arcsinh", "arctan2", "hypot", "ignoring_nan", "log1p", "precise"]


def precise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function computed in float64 and rounded to the precision of its arguments.

    Args:
        function: Function of float64 tensors.
    """

    def rounded(*given: Tensor | float) -> Tensor:
        tensors = [x for x in given if isinstance(x, Tensor)]
        is_single = all(x.dtype == torch.float32 for x in tensors)
        like = tensors[0]
        values = [x.double() if isinstance(x, Tensor) else like.new_tensor(x, dtype=torch.float64) for x in given]
        return function(*values).to(torch.float32 if is_single else torch.float64)

    return rounded


def ignoring_nan(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function of two numbers with the other number as its value where one of them is NaN.

    Args:
        function: Function of two tensors of one type.
    """

    def selected(left: Tensor, right: Tensor) -> Tensor:
        if not left.dtype.is_floating_point:
            return function(left, right)
        value = torch.where(torch.isnan(right), left, function(left, right))
        return torch.where(torch.isnan(left), right, value)

    return selected


def _arcsinh(x: Tensor) -> Tensor:
    size = x.abs()
    return x.sign() * (size + (size.square() + 1).sqrt()).log()


def _arctan(x: Tensor) -> Tensor:
    # onnxruntime has no arctan in float64: the angle is halved four times, and that of a tenth is a short series
    x = x.clamp(-1e100, 1e100)
    for _ in range(4):
        x = x / (1 + (1 + x.square()).sqrt())
    square, total = x.square(), torch.zeros_like(x)
    for n in range(9, -1, -1):
        total = (-1) ** n / (2 * n + 1) + square * total
    return 16 * x * total


def _arctan2(y: Tensor, x: Tensor) -> Tensor:
    is_zero = x == 0
    inside = _arctan(y / torch.where(is_zero, 1.0, x))
    turned = inside + torch.where(x < 0, torch.where(y < 0, -math.pi, math.pi), 0.0)
    return torch.where(is_zero, y.sign() * (math.pi / 2), turned)


def _sinh(x: Tensor) -> Tensor:
    return (x.exp() - (-x).exp()) / 2


def _cosh(x: Tensor) -> Tensor:
    return (x.exp() + (-x).exp()) / 2


def _power(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent)


hypot = precise(lambda x, y: (x.square() + y.square()).sqrt())
log1p = precise(lambda x: (1 + x).log())
arcsinh = precise(_arcsinh)
arctan2 = precise(_arctan2)

ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("abs", "absolute", "fabs"), torch.abs),
    **{"sign": torch.sign, "negative": torch.neg, "square": torch.square},
    **{"floor": torch.floor, "ceil": torch.ceil, "rint": torch.round, "round": torch.round},
    **{"isnan": torch.isnan, "isinf": torch.isinf, "isfinite": lambda x: ~(torch.isnan(x) | torch.isinf(x))},
    **{"sqrt": precise(torch.sqrt), "exp": precise(torch.exp), "log": precise(torch.log), "tanh": precise(torch.tanh)},
    **{"sin": precise(torch.sin), "cos": precise(torch.cos), "tan": precise(lambda x: x.sin() / x.cos())},
    **{"arctan": precise(_arctan), "arctan2": arctan2, "hypot": hypot, "arcsinh": arcsinh, "log1p": log1p},
    **{"sinh": precise(_sinh), "cosh": precise(_cosh), "expm1": precise(lambda x: x.exp() - 1)},
    "log2": precise(lambda x: x.log() / math.log(2)),
    "log10": precise(lambda x: x.log() / math.log(10)),
    **{"power": precise(_power), "float_power": precise(_power), "reciprocal": precise(torch.reciprocal)},
    **{name: precise(lambda x: x * (math.pi / 180)) for name in ("deg2rad", "radians")},
    **{name: precise(lambda x: x * (180 / math.pi)) for name in ("rad2deg", "degrees")},
}
"""Functions by their names in numpy."""
