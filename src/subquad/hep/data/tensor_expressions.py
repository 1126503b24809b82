"""Expressions of a data card on padded tensors, for graphs that are exported.

What can be translated: numbers, columns, operators, comparisons, elementwise functions of numpy, and sums, means,
extrema and counts over the particles of a jet. Sorting, indexing and four-vectors are refused by name.

Axes: B jets, P particles of a padded batch; another collection, such as secondary vertices, has a P of its own. Values
are [B, P] (of particles), [B] (of jets) or numbers.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.expressions import MATH_FUNCTIONS, MODULES, Expression
from subquad.hep.data.tensor_functions import ELEMENTWISE, ignoring_nan, precise

__all__ = ["TensorColumns", "columns_of_entries"]


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    # by the remainder, as numpy: the quotient itself may be rounded up to an integer
    return torch.where(b == 0, a / b, ((a - torch.remainder(a, b)) / b).round())


_BINARY: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: precise(_floor_divide), ast.Mod: precise(torch.remainder), ast.Pow: ELEMENTWISE["power"]},
}
_OF_NUMBERS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda a, b: float(a) ** float(b)},
}
"""Operators on two numbers of a card, where they are not those on tensors."""
_LOGICAL: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor},
}
_COMPARE: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
}
_OPERATORS: Mapping[str, type[ast.AST]] = {
    **{"add": ast.Add, "subtract": ast.Sub, "multiply": ast.Mult, "divide": ast.Div, "true_divide": ast.Div},
    **{"floor_divide": ast.FloorDiv, "mod": ast.Mod, "remainder": ast.Mod},
    **{"less": ast.Lt, "less_equal": ast.LtE, "greater": ast.Gt, "greater_equal": ast.GtE},
    **{"equal": ast.Eq, "not_equal": ast.NotEq},
    **{"logical_and": ast.BitAnd, "logical_or": ast.BitOr, "logical_xor": ast.BitXor},
}
_OF_TWO = ("arctan2", "hypot", "power", "float_power")
"""Elementwise functions of two numbers."""
_EXTREMES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{"maximum": torch.maximum, "minimum": torch.minimum},
    **{"fmax": ignoring_nan(torch.maximum), "fmin": ignoring_nan(torch.minimum)},
}
_BARE = {"abs": "abs", "pow": "power", "round": "round", "_clip": "clip"}
_REDUCTIONS = ("all", "any", "count", "count_nonzero", "max", "mean", "min", "num", "sum")


class _Untranslatable(Exception):  # noqa: N818 (never leaves this module)
    def __init__(self, node: ast.AST, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


class TensorColumns(Mapping[str, Any]):
    """Columns of padded jets and the new variables of a card, each of which is computed on first use.

    Args:
        new_variables: Expressions of the card.
        given: [B, P] or [B] for each column that is read from files.
        mask_of: Returns for such a column [B, P] the mask that is True where a particle is real.
    """

    def __init__(
        self,
        new_variables: Mapping[str, Expression],
        given: Mapping[str, Any],
        mask_of: Callable[[str], Bool[Tensor, "B P"]],
    ) -> None:
        self._new_variables, self._given, self._mask_of = new_variables, given, mask_of
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._new_variables:
            if name not in self._known:
                self._known[name] = self.evaluate(self._new_variables[name])
            return self._known[name]
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._given, **self._new_variables})

    def __len__(self) -> int:
        return len({**self._given, **self._new_variables})

    def evaluate(self, expression: Expression) -> Any:
        """Return the value of an expression.

        Raises:
            SubquadError: It has a part that is not translated.
        """
        try:
            return _Walk(self).value(expression.tree)
        except _Untranslatable as error:
            raise SubquadError(
                f"{expression.place}: {ast.unparse(error.node)!r} {error.reason}; fit with a card that does without "
                "it, or, with one collection of inputs, export with --inputs weaver and compute it before the network"
            ) from None

    def mask(self, node: ast.AST) -> Bool[Tensor, "B P"]:
        """Return the mask of a value [B, P] of an expression."""
        asked = columns_of_entries(node, self._new_variables, lambda name: self._given[name].ndim == 2)
        return self._mask_of(next(asked))


def columns_of_entries(
    node: ast.AST, new_variables: Mapping[str, Expression], is_list: Callable[[str], bool]
) -> Iterator[str]:
    """Yield the columns of files with several numbers per jet that a value is computed from entry by entry.

    Columns that are summed over, or reduced in another way, are not among them.

    Args:
        node: The expression.
        new_variables: Expressions of the card.
        is_list: Returns whether a column of files has several numbers per jet.
    """
    if isinstance(node, ast.Name):
        if node.id in new_variables:
            yield from columns_of_entries(new_variables[node.id].tree, new_variables, is_list)
        elif node.id not in MODULES and is_list(node.id):
            yield node.id
    elif not _is_reduction(node):
        match node:
            case ast.Call(func=ast.Name(), args=args, keywords=keywords):
                # the name of a function is no column
                parts = [*args, *keywords]
            case _:
                parts = ast.iter_child_nodes(node)
        for part in parts:
            yield from columns_of_entries(part, new_variables, is_list)


def _is_reduction(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if module in MODULES:
            return name in _REDUCTIONS and MODULES[module] != "math"
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in _REDUCTIONS
    return False


class _Walk:
    def __init__(self, columns: TensorColumns) -> None:
        self.columns = columns

    def value(self, node: ast.AST) -> Any:
        match node:
            case ast.Name(id=name):
                return self.columns[name]
            case ast.Constant(value=None | bool() | int() | float() as value):
                return value
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if module in MODULES and hasattr(math, attr):
                return getattr(math, attr)
            case ast.BinOp(op=op, left=left, right=right):
                return self.operate(node, type(op), self.value(left), self.value(right))
            case ast.Compare(ops=[op], left=left, comparators=[right]):
                return self.operate(node, type(op), self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self.boolean(node, self.value(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand)
            case ast.Call(func=func, args=args, keywords=keywords):
                return self.call(node, func, args, {str(one.arg): one.value for one in keywords})
        raise _Untranslatable(node, "is not translated to ONNX")

    def boolean(self, node: ast.AST, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype != torch.bool:
            raise _Untranslatable(node, "combines a branch, which is a float32 input of ONNX, as a boolean")
        return value

    def operate(self, node: ast.AST, kind: type[ast.AST], left: Any, right: Any) -> Any:
        left, right = self.aligned(left, right)
        if kind in _LOGICAL:
            return _LOGICAL[kind](self.boolean(node, left), self.boolean(node, right))
        if kind in _COMPARE:
            return _COMPARE[kind](*_numbers(left, right))
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            return _BINARY[kind](*_numbers(left, right))
        return {**_BINARY, **_OF_NUMBERS}[kind](left, right)

    def aligned(self, *values: Any) -> tuple[Any, ...]:
        """Return values with a second axis for all if one is of particles."""
        if not any(isinstance(x, Tensor) and x.ndim == 2 for x in values):
            return values
        return tuple(x[:, None] if isinstance(x, Tensor) and x.ndim == 1 else x for x in values)

    def call(self, node: ast.AST, func: ast.expr, args: list[ast.expr], named: Mapping[str, ast.expr]) -> Any:
        match func:
            case ast.Name(id=name) if name in _BARE:
                return self.elementwise(node, _BARE[name], args, named)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in MODULES:
                if MODULES[module] == "math":
                    name = MATH_FUNCTIONS.get(name, name)
                if _is_reduction(node):
                    return self.reduce(node, name, args[0], [*args[1:], *named.values()])
                return self.elementwise(node, name, args, named)
            case ast.Attribute(value=column, attr="astype"):
                return self.cast(node, self.value(column), args[0])
            case ast.Attribute(value=column, attr=name) if _is_reduction(node):
                return self.reduce(node, name, column, [*args, *named.values()])
        raise _Untranslatable(node, "is not translated to ONNX")

    def elementwise(self, node: ast.AST, name: str, args: list[ast.expr], named: Mapping[str, ast.expr]) -> Any:
        if name == "values_astype":
            return self.cast(node, self.value(args[0]), args[1])
        values = [self.value(one) for one in args]
        options = {key: self.value(one) for key, one in named.items()}
        values = list(self.aligned(*values))
        first: Any = values[0] if values else None
        match name, len(values):
            case "where", 3:
                one, other = _numbers(*values[1:])
                return torch.where(self.boolean(node, first), one, other)
            case "clip", _:
                low = values[1] if len(values) > 1 else options.get("a_min")
                high = values[2] if len(values) > 2 else options.get("a_max")
                first = first if low is None else _extreme(torch.maximum, first, low)
                return first if high is None else _extreme(torch.minimum, first, high)
            case (("maximum" | "minimum" | "fmax" | "fmin"), 2):
                return _extreme(_EXTREMES[name], *values)
            case (("ones_like" | "zeros_like" | "full_like"), _):
                number = {"ones_like": 1.0, "zeros_like": 0.0}.get(name)
                return torch.full_like(_numbers(first, 0.0)[0], values[1] if number is None else number)
            case "nan_to_num", 1:
                return _nan_to_num(first, options)
            case "logical_not", 1:
                return ~self.boolean(node, first)
        wanted = 2 if name in _OPERATORS or name in _OF_TWO else 1
        if (name not in ELEMENTWISE and name not in _OPERATORS) or len(values) != wanted:
            raise _Untranslatable(node, "is not translated to ONNX")
        if options:
            raise _Untranslatable(node, "has options that are not translated to ONNX")
        if name in _OPERATORS:
            return self.operate(node, _OPERATORS[name], *values)
        if not any(isinstance(x, Tensor) for x in values):
            return ELEMENTWISE[name](*(torch.tensor(float(x), dtype=torch.float64) for x in values)).item()
        return ELEMENTWISE[name](*_numbers(*values))

    def cast(self, node: ast.AST, value: Any, kind: ast.expr) -> Tensor:
        name = ast.unparse(kind).strip("'\"").rpartition(".")[2]
        if name in ("bool", "bool_"):
            return value != 0
        if name not in ("float32", "float64"):
            raise _Untranslatable(node, "is a type that is not translated to ONNX")
        return value.to(torch.float32 if name == "float32" else torch.float64)

    def reduce(self, node: ast.AST, name: str, column: ast.expr, axis: list[ast.expr]) -> Tensor:
        """Return [B]: a reduction over the real particles."""
        value = self.value(column)
        axes = [ast.literal_eval(one) for one in axis if isinstance(one, ast.Constant | ast.UnaryOp)]
        if not (isinstance(value, Tensor) and value.ndim == 2 and len(axes) == len(axis) and axes in ([1], [-1], [])):
            raise _Untranslatable(node, "is not a reduction over the particles of a jet (axis=1)")
        mask = self.columns.mask(column)
        if name in ("num", "count"):
            return mask.double().sum(1)
        if not axes:
            raise _Untranslatable(node, "is not a reduction over the particles of a jet (axis=1)")
        if name in ("any", "all", "count_nonzero"):
            is_true = mask & (value != 0)
            if name == "count_nonzero":
                return is_true.double().sum(1)
            return is_true.any(1) if name == "any" else ~(mask & (value == 0)).any(1)
        dtype = value.dtype if value.dtype.is_floating_point else torch.float64
        if name in ("sum", "mean"):
            total = torch.where(mask, value.double(), 0.0).sum(1)
            return (total / mask.double().sum(1) if name == "mean" else total).to(dtype)
        least = -math.inf if name == "max" else math.inf
        extreme = torch.where(mask, value.to(dtype), least)
        return extreme.amax(1) if name == "max" else extreme.amin(1)


def _numbers(*values: Any) -> tuple[Any, ...]:
    """Return values with booleans as numbers, in the type that numpy gives them beside the other ones."""
    tensors = [x for x in values if isinstance(x, Tensor)]
    if all(x.dtype == torch.bool for x in tensors) and len(tensors) == len(values):
        return values
    is_single = tensors and all(x.dtype in (torch.float32, torch.bool) for x in tensors)
    is_single = is_single and any(x.dtype == torch.float32 for x in tensors)
    dtype = torch.float32 if is_single else torch.float64
    like = tensors[0] if tensors else torch.zeros(())
    return tuple(x.to(dtype) if isinstance(x, Tensor) else like.new_tensor(float(x), dtype=dtype) for x in values)


def _extreme(function: Callable[[Tensor, Tensor], Tensor], left: Any, right: Any) -> Tensor:
    return function(*_numbers(left, right))


def _nan_to_num(value: Tensor, options: Mapping[str, float]) -> Tensor:
    limit = torch.finfo(value.dtype).max
    for is_bad, number in (
        (torch.isnan(value), options.get("nan", 0.0)),
        (value == math.inf, options.get("posinf", limit)),
        (value == -math.inf, options.get("neginf", -limit)),
    ):
        value = torch.where(is_bad, float(number), value)
    return value
