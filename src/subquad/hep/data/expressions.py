"""Expressions of a weaver card, as `np.log(part_pt / jet_pt)`: syntax trees with nodes of some kinds only.

Python's own evaluation is never asked: the tree is checked when the card is read, and walked when jets are.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require, unknown
from subquad.hep.data.expression_functions import (
    DTYPES,
    METHODS,
    MODULES,
    PARTS,
    FourVector,
    bare_functions,
    functions_of,
)

__all__ = ["Expression", "parse"]

LONGEST = 20_000
"""Letters of one expression."""


def _power(base: Any, exponent: Any) -> Any:
    # whole numbers of Python have no end, and would take all memory
    if isinstance(base, int) and isinstance(exponent, int):
        return float(np.float64(base) ** exponent)
    return base**exponent


_BINARY: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power},
    **{ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor},
}
_UNARY: Mapping[type[ast.AST], Callable[[Any], Any]] = {
    **{ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert},
}
_COMPARE: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
}
_CHILDREN = (ast.operator, ast.unaryop, ast.cmpop, ast.expr_context)


@dataclass(frozen=True)
class Expression:
    """A checked expression."""

    text: str
    """As the card has it."""
    place: str
    """Where: the card and the key."""
    names: frozenset[str]
    """Columns that it needs."""
    tree: ast.expr = field(repr=False, compare=False)

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Return the value over the columns of some jets.

        Raises:
            SubquadError: the columns do not fit the expression, as two lists of different lengths.
        """
        try:
            # what has no value becomes NaN or infinity, which is looked at behind the card's own limits
            with np.errstate(all="ignore"):
                return _value(self.tree, columns)
        except (ValueError, TypeError, IndexError, NotImplementedError, ArithmeticError, AttributeError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise SubquadError(f"{self.place}: {self.text!r} cannot be computed ({reason[:200]})") from error


def parse(text: Any, place: str) -> Expression:
    """Return the checked expression.

    Args:
        text: as a card has it.
        place: the card and the key, for what is told.

    Raises:
        SubquadError: no expression, one with a piece that is not allowed, or an unknown function.
    """
    if isinstance(text, bool | int | float):
        text = repr(text)
    if not isinstance(text, str) or not text.strip():
        raise SubquadError(f"{place}: {text!r} is no expression; write one such as np.log(part_pt)")
    if len(text) > LONGEST:
        raise SubquadError(f"{place}: an expression of {len(text):,} letters; at most {LONGEST:,} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SubquadError(f"{place}: {text!r} is no expression ({error})") from None
    names: set[str] = set()
    try:
        _check(tree, text.strip(), place, names)
    except RecursionError:
        raise SubquadError(f"{place}: an expression with too many brackets in each other") from None
    return Expression(text=text.strip(), place=place, names=frozenset(names), tree=tree)


def _refused(node: ast.AST, text: str, place: str, advice: str) -> SubquadError:
    piece = ast.get_source_segment(text, node) or type(node).__name__
    return SubquadError(f"{place}: {piece[:120]!r} is not allowed in an expression; {advice}")


ADVICE = "it takes numbers, names of columns, + - * / // % **, comparisons, & | ~, [ ] and functions of np and ak"


def _check(node: ast.AST, text: str, place: str, names: set[str]) -> None:
    match node:
        case ast.Name(id=name):
            if name in MODULES or name in bare_functions():
                raise _refused(node, text, place, "it is no column; call one of its functions")
            if name.startswith("__"):
                raise _refused(node, text, place, ADVICE)
            names.add(name)
        case ast.Constant(value=value):
            if not isinstance(value, bool | int | float | None) and value not in DTYPES:
                raise _refused(node, text, place, "words in quotes can only be types, such as 'float32'")
            if isinstance(value, int) and abs(value) > 2**63:
                raise _refused(node, text, place, "the number is too large")
        case ast.BoolOp():
            raise _refused(node, text, place, "write & and | with brackets around both sides, for `and` and `or`")
        case ast.UnaryOp(op=ast.Not()):
            raise _refused(node, text, place, "write ~ for `not`")
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            for side in (left, right):
                if isinstance(side, ast.List | ast.Tuple):
                    raise _refused(node, text, place, "lists can only be handed to functions")
                _check(side, text, place, names)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            _check(operand, text, place, names)
        case ast.Compare(ops=ops, left=left, comparators=[right]) if type(ops[0]) in _COMPARE:
            _check(left, text, place, names)
            _check(right, text, place, names)
        case ast.Compare():
            raise _refused(node, text, place, "compare two things at a time: (a < x) & (x < b)")
        case ast.Subscript(value=value, slice=index):
            _check(value, text, place, names)
            _check(index, text, place, names)
        case ast.Slice(lower=lower, upper=upper, step=step):
            for part in (lower, upper, step):
                if part is not None:
                    _check(part, text, place, names)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                _check(part, text, place, names)
        case ast.Attribute():
            _check_attribute(node, text, place, names)
        case ast.Call():
            _check_call(node, text, place, names)
        case _:
            raise _refused(node, text, place, ADVICE)


def _module(node: ast.AST) -> str | None:
    return MODULES.get(node.id) if isinstance(node, ast.Name) else None


def _check_attribute(node: ast.Attribute, text: str, place: str, names: set[str]) -> None:
    module = _module(node.value)
    if module is None:
        if node.attr not in PARTS:
            raise _refused(node, text, place, ADVICE)
        _check(node.value, text, place, names)
    elif node.attr not in functions_of(module):
        error = unknown(f"function of {module}", node.attr, functions_of(module))
        raise SubquadError(f"{place}: {error}")


def _check_call(node: ast.Call, text: str, place: str, names: set[str]) -> None:
    match node.func:
        case ast.Name(id=name):
            if name not in bare_functions():
                raise SubquadError(f"{place}: {unknown('function', name, bare_functions())}")
        case ast.Attribute(value=value, attr=attr) if _module(value) is None:
            if attr not in METHODS:
                raise _refused(node, text, place, ADVICE)
            _check(value, text, place, names)
        case ast.Attribute() as function:
            _check_attribute(function, text, place, names)
        case _:
            raise _refused(node, text, place, ADVICE)
    for part in node.args:
        _check(part, text, place, names)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _refused(node, text, place, ADVICE)
        _check(keyword.value, text, place, names)


def _value(node: ast.AST | None, columns: Mapping[str, Any]) -> Any:
    match node:
        case None:
            return None
        case ast.Name(id=name):
            return columns[name]
        case ast.Constant(value=value):
            return value
        case ast.BinOp(op=op, left=left, right=right):
            return _BINARY[type(op)](_value(left, columns), _value(right, columns))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, columns))
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            return _COMPARE[type(op)](_value(left, columns), _value(right, columns))
        case ast.Subscript(value=value, slice=index):
            return _value(value, columns)[_value(index, columns)]
        case ast.Slice(lower=lower, upper=upper, step=step):
            return slice(_value(lower, columns), _value(upper, columns), _value(step, columns))
        case ast.List(elts=parts):
            return [_value(part, columns) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, columns) for part in parts)
        case ast.Attribute(value=value, attr=attr):
            module = _module(value)
            return functions_of(module)[attr] if module else _part(_value(value, columns), attr)
        case ast.Call(func=func, args=args, keywords=keywords):
            given = [_value(part, columns) for part in args]
            named = {str(keyword.arg): _value(keyword.value, columns) for keyword in keywords}
            return _called(func, columns)(*given, **named)
    raise AssertionError(f"{type(node).__name__} was not checked")


def _part(vector: Any, name: str) -> Any:
    if not isinstance(vector, FourVector):
        raise TypeError(f".{name} is a part of what _p4_from_… returns, and this is a column")
    return vector.part(name)


def _called(func: ast.expr, columns: Mapping[str, Any]) -> Callable[..., Any]:
    if isinstance(func, ast.Name):
        return bare_functions()[func.id]
    assert isinstance(func, ast.Attribute)
    module = _module(func.value)
    if module:
        return functions_of(module)[func.attr]
    column, ak = _value(func.value, columns), require("awkward", extra="hep")
    if func.attr == "astype":
        return lambda dtype: ak.values_astype(column, dtype)
    if func.attr == "to_numpy":
        return lambda: column
    function = getattr(ak, func.attr)
    return lambda axis=None, **options: function(column, axis=axis, **options)
