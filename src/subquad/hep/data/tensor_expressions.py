"""Expressions of a data card, and numpy's elementwise functions, on padded tensors, for graphs that are exported.

What can be translated: numbers, columns, operators, comparisons, elementwise functions of numpy, and sums, means,
extrema and counts over the particles of a jet. Sorting, indexing and four-vectors are refused by name. Only operations
are used that onnxruntime has in both precisions. Float32 values are computed in float64 and rounded, as numpy's differ
from exact ones by less than a unit in the last place: neighbours in computed coordinates depend on it.

Axes: B jets, P particles of a padded batch; another collection, such as secondary vertices, has a P of its own.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from subquad.hep.data.expressions import MATH_FUNCTIONS, Expression, Functions, functions_of


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
    **{"sinh": precise(lambda x: (x.exp() - (-x).exp()) / 2), "cosh": precise(lambda x: (x.exp() + (-x).exp()) / 2)},
    "expm1": precise(lambda x: x.exp() - 1),
    "log2": precise(lambda x: x.log() / math.log(2)),
    "log10": precise(lambda x: x.log() / math.log(10)),
    **{"power": precise(torch.pow), "float_power": precise(torch.pow), "reciprocal": precise(torch.reciprocal)},
    **{name: precise(lambda x: x * (math.pi / 180)) for name in ("deg2rad", "radians")},
    **{name: precise(lambda x: x * (180 / math.pi)) for name in ("rad2deg", "degrees")},
}
"""Functions by their names in numpy."""


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    # by the remainder, as numpy: the quotient itself may be rounded up to an integer
    return torch.where(b == 0, a / b, ((a - torch.remainder(a, b)) / b).round())


class Padded:
    """Numbers of jets [B], or of padded particles [B, P]; operators act on them as numpy's on lists of particles.

    Args:
        values: The numbers.
        mask: [B, P], True where a particle is real; None for numbers of jets.
        origins: Columns of particles that the numbers are computed from, particle by particle.
    """

    # numpy's scalars leave operators to this class
    __array_ufunc__ = None

    def __init__(self, values: Tensor, mask: Tensor | None = None, origins: frozenset[str] = frozenset()) -> None:
        self.values, self.mask, self.origins = values, mask, origins

    def __neg__(self) -> "Padded":
        return _applied(torch.neg, self)

    def __pos__(self) -> "Padded":
        return self

    def __invert__(self) -> "Padded":
        return _applied(torch.logical_not, self, is_logical=True)


def _applied(function: Callable[..., Tensor], *given: Any, is_logical: bool = False, keeps: int = 0) -> Padded:
    """Return a function of numbers of particles, of jets, and of the card.

    Args:
        function: Function of tensors.
        *given: Padded numbers, and others.
        is_logical: All are booleans.
        keeps: Number of first arguments that are booleans.
    """
    values = [x.values if isinstance(x, Padded) else x for x in given]
    if any(isinstance(x, Tensor) and x.ndim == 2 for x in values):
        values = [x[:, None] if isinstance(x, Tensor) and x.ndim == 1 else x for x in values]
    logical, numbers = (values, []) if is_logical else (values[:keeps], values[keeps:])
    if any(isinstance(x, Tensor) and x.dtype != torch.bool for x in logical):
        raise TypeError("a branch, which is a float32 input of ONNX, is combined as a boolean")
    masks = [x.mask for x in given if isinstance(x, Padded) and x.mask is not None]
    origins = frozenset[str]().union(*(x.origins for x in given if isinstance(x, Padded)))
    return Padded(function(*logical, *_numbers(*numbers)), masks[0] if masks else None, origins)


def _numbers(*values: Any) -> tuple[Any, ...]:
    """Return values with booleans as numbers, in the type that numpy gives them beside the other ones."""
    tensors = [x for x in values if isinstance(x, Tensor)]
    if all(x.dtype == torch.bool for x in tensors) and len(tensors) == len(values):
        return values
    is_single = all(x.dtype in (torch.float32, torch.bool) for x in tensors)
    dtype = torch.float32 if is_single and any(x.dtype == torch.float32 for x in tensors) else torch.float64
    like = tensors[0] if tensors else torch.zeros(())
    return tuple(x.to(dtype) if isinstance(x, Tensor) else like.new_tensor(float(x), dtype=dtype) for x in values)


_BINARY: Mapping[str, Callable[..., Tensor]] = {
    **{"add": torch.add, "sub": torch.sub, "mul": torch.mul, "truediv": torch.div, "pow": ELEMENTWISE["power"]},
    **{"floordiv": precise(_floor_divide), "mod": precise(torch.remainder)},
    **{"and": operator.and_, "or": operator.or_, "xor": operator.xor},
    **{"lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne},
}


def _add_operators() -> None:
    for name, function in _BINARY.items():
        options = {"is_logical": name in ("and", "or", "xor")}
        setattr(Padded, f"__{name}__", lambda x, y, f=function, o=options: _applied(f, x, y, **o))
        setattr(Padded, f"__r{name}__", lambda x, y, f=function, o=options: _applied(f, y, x, **o))


_add_operators()


def _elementwise(name: str) -> Callable[..., Any]:
    def applied(*given: Any) -> Any:
        if any(isinstance(x, Padded) for x in given):
            return _applied(_EXTREMES.get(name) or ELEMENTWISE[name], *given)
        return functions_of()["np"][name](*given)

    return applied


_EXTREMES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{"maximum": torch.maximum, "minimum": torch.minimum},
    **{"fmax": ignoring_nan(torch.maximum), "fmin": ignoring_nan(torch.minimum)},
}


def _clip(x: Padded, a_min: Any = None, a_max: Any = None) -> Padded:
    x = x if a_min is None else _applied(torch.maximum, x, a_min)
    return x if a_max is None else _applied(torch.minimum, x, a_max)


def _filled(x: Padded, fill_value: float) -> Padded:
    return _applied(lambda values, _: torch.full_like(values, fill_value), x, 0.0)


def _nan_to_num(x: Padded, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Padded:
    limit = torch.finfo(x.values.dtype).max

    def replaced(values: Tensor) -> Tensor:
        values = torch.where(torch.isnan(values), float(nan), values)
        values = torch.where(values == math.inf, limit if posinf is None else float(posinf), values)
        return torch.where(values == -math.inf, -limit if neginf is None else float(neginf), values)

    return _applied(replaced, x)


def _cast(x: Padded, to: Any) -> Padded:
    name = getattr(to, "__name__", to)
    if name in ("bool", "bool_"):
        return _applied(lambda values: values != 0, x)
    if name not in ("float32", "float64"):
        raise TypeError(f"the type {name} is not translated to ONNX")
    return Padded(x.values.to(getattr(torch, name)), x.mask, x.origins)


def _reduction(name: str) -> Callable[..., Padded]:
    """Return the reduction over the real particles of a jet."""

    def reduced(x: Padded, axis: int | None = 1 if name in ("num", "count") else None) -> Padded:
        if x.mask is None or axis not in (1, -1):
            raise TypeError(f"{name} is not a reduction over the particles of a jet (axis=1)")
        value, mask = x.values, x.mask
        dtype = value.dtype if value.dtype.is_floating_point else torch.float64
        match name:
            case "num" | "count":
                return Padded(mask.double().sum(1))
            case "count_nonzero":
                return Padded((mask & (value != 0)).double().sum(1))
            case "any":
                return Padded((mask & (value != 0)).any(1))
            case "all":
                return Padded(~(mask & (value == 0)).any(1))
            case "sum" | "mean":
                total = torch.where(mask, value.double(), 0.0).sum(1)
                return Padded((total / mask.double().sum(1) if name == "mean" else total).to(dtype))
        is_max = name == "max"
        extreme = torch.where(mask, value.to(dtype), -math.inf if is_max else math.inf)
        return Padded(extreme.amax(1) if is_max else extreme.amin(1))

    return reduced


class _Table(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        raise TypeError(f"{name} is not translated to ONNX")


_REDUCTIONS = {
    name: _reduction(name) for name in ("all", "any", "count", "count_nonzero", "max", "mean", "min", "num", "sum")
}
_TABLE = {
    **{name: _elementwise(name) for name in (*ELEMENTWISE, *_EXTREMES)},
    **{"add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv},
    **{"true_divide": operator.truediv, "floor_divide": operator.floordiv, "mod": operator.mod},
    **{"remainder": operator.mod, "less": operator.lt, "less_equal": operator.le, "greater": operator.gt},
    **{"greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne},
    **{"logical_and": operator.and_, "logical_or": operator.or_, "logical_xor": operator.xor},
    **{"logical_not": operator.invert, "values_astype": _cast, "clip": _clip, "nan_to_num": _nan_to_num},
    **{"where": lambda condition, x, y: _applied(torch.where, condition, x, y, keeps=1)},
    **{"full_like": _filled, "ones_like": lambda x: _filled(x, 1.0), "zeros_like": lambda x: _filled(x, 0.0)},
    **{name: getattr(math, name) for name in ("pi", "e", "inf", "nan")},
    **{name: name for name in ("float32", "float64", "bool_")},
}
FUNCTIONS: Functions = {
    **{module: _Table({**_TABLE, **_REDUCTIONS}) for module in ("np", "ak")},
    "math": _Table(_TABLE | {name: _TABLE[own] for name, own in MATH_FUNCTIONS.items() if own in _TABLE}),
    ".": _Table(_REDUCTIONS | {"astype": _cast}),
    "": _Table({"abs": _TABLE["abs"], "pow": _TABLE["power"], "round": _TABLE["round"], "_clip": _clip}),
    "vector": _Table(),
}
"""Functions of `expressions` on padded numbers."""


class TensorColumns(Mapping[str, Padded]):
    """Columns of padded jets and the new variables of a card, each of which is computed on first use.

    Args:
        new_variables: Expressions of the card.
        given: Returns a column that is read from files.
    """

    def __init__(self, new_variables: Mapping[str, Expression], given: Callable[[str], Padded]) -> None:
        self._new_variables, self._given, self._known = new_variables, given, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            expression = self._new_variables.get(name)
            self._known[name] = self._given(name) if expression is None else expression(self, FUNCTIONS)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
