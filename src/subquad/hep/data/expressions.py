"""Expressions of a weaver card, such as `np.log(part_pt / jet_pt)`, evaluated on columns of jets.

Safety: an expression is parsed to a syntax tree with a few kinds of nodes and listed functions of numpy and awkward
only; the tree is checked when the card is read, and walked when jets are read. Python's `eval` is never called.
"""

import ast
import ctypes
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require, unknown
from subquad.hep.data.expression_functions import (
    DTYPES,
    MATH_FUNCTIONS,
    WRITING,
    arguments_before_writing,
    bare_functions,
    functions_of,
)

__all__ = ["MATH_FUNCTIONS", "METHODS", "MODULES", "VECTOR_PARTS", "Expression", "parse"]

MAX_LENGTH = 20_000
"""Largest number of characters of an expression."""

MODULES = {"np": "np", "numpy": "np", "ak": "ak", "awkward": "ak", "math": "math"}
"""Names of modules in a card → `np`, `ak` or `math`."""

METHODS = ("all", "any", "argmax", "argmin", "astype", "max", "mean", "min", "prod", "std", "sum", "to_numpy", "var")
"""Methods of columns, as in `label.argmax(1)`."""

VECTOR_PARTS = (
    *("px", "x", "py", "y", "pz", "z", "energy", "e", "E", "t", "pt", "rho", "p", "mag", "eta", "phi"),
    *("mass", "m", "M", "rapidity"),
)
"""Attributes of four-vectors, by the names of scikit-hep's `vector`."""


def _power(base: Any, exponent: Any) -> Any:
    # Python's integers are unbounded, and a large power would take all memory
    if isinstance(base, int) and isinstance(exponent, int):
        return float(np.float64(base) ** exponent)
    return base**exponent


def _operate(op: ast.operator, left: Any, right: Any) -> Any:
    for side in (left, right):
        # numbers repeat these, up to all memory
        if isinstance(side, str | list | tuple):
            what = "a string" if isinstance(side, str) else "several columns; take one of them, such as [0]"
            raise TypeError(f"an operand is {what}")
    return _BINARY[type(op)](left, right)


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

_INTEGERS = re.compile(r"\bu?int(8|16|32)\b|\buint64\b")

_FAILURES = (
    *(ValueError, TypeError, IndexError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
    # of awkward, for strings and for slices of columns
    *(AssertionError, ctypes.ArgumentError),
)
"""What functions raise for columns that do not fit them."""


@dataclass(frozen=True)
class Expression:
    """A checked expression; call it with a mapping of columns."""

    text: str
    """As in the card."""
    place: str
    """Card and key, for messages."""
    names: frozenset[str]
    """Columns that it needs."""
    tree: ast.expr = field(repr=False, compare=False)

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Return the value of the expression on the columns of some jets.

        Raises:
            SubquadError: The columns do not fit the expression, such as two lists of different lengths, or its value
                does not fit in memory.
        """
        try:
            # undefined values become NaN or infinity, which is checked after the card's own limits are applied
            with np.errstate(all="ignore"):
                return _result(_value(self.tree, columns))
        except _FAILURES as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise SubquadError(f"{self.place}: {self.text!r} cannot be computed ({reason[:200]})") from error

    def repaired(self) -> tuple[set[str], set[str]]:
        """Return the columns that stand in `nan_to_num` by themselves, and those that stand elsewhere."""
        inside, elsewhere, waiting = set[str](), set[str](), list[ast.AST]([self.tree])
        while waiting:
            match waiting.pop():
                case ast.Call(
                    func=ast.Attribute(attr="nan_to_num"), args=[ast.Name(id=name), *args], keywords=keywords
                ):
                    inside.add(name)
                    waiting += [*args, *keywords]
                case ast.Name(id=name):
                    elsewhere.add(name)
                case node:
                    waiting.extend(ast.iter_child_nodes(node))
        return inside, elsewhere

    def angles(self) -> set[str]:
        """Return the columns that are taken as azimuths: of `cos`, `sin` and `tan`, and of four-vectors with φ."""
        found, waiting = set[str](), list[ast.expr]()
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="cos" | "sin" | "tan"), args=[angle, *_]):
                    waiting.append(angle)
                case ast.Call(func=ast.Name(id="_p4_from_ptetaphie" | "_p4_from_ptetaphim"), args=[_, _, angle, *_]):
                    waiting.append(angle)
        while waiting:
            # columns with a factor may have any unit
            match waiting.pop():
                case ast.Name(id=name):
                    found.add(name)
                case ast.UnaryOp(operand=part):
                    waiting.append(part)
                case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                    waiting += [left, right]
        return found

    def differences(self) -> set[str]:
        """Return the columns that are a term of a difference, also with a factor, as in `part_phi - jet_phi`."""
        found, waiting = set[str](), list[ast.expr]()
        for node in ast.walk(self.tree):
            match node:
                case ast.BinOp(left=left, op=ast.Sub(), right=right):
                    waiting += [left, right]
        while waiting:
            match waiting.pop():
                case ast.Name(id=name):
                    found.add(name)
                case ast.UnaryOp(operand=part):
                    waiting.append(part)
                case ast.Call(func=ast.Attribute(attr="deg2rad" | "radians"), args=[part]):
                    waiting.append(part)
                case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                    waiting += [left, right]
                case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
                    # of a product with another column nothing is known
                    if not _has_columns(right):
                        waiting.append(left)
                    elif not _has_columns(left):
                        waiting.append(right)
        return found


def _has_columns(tree: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id not in MODULES for node in ast.walk(tree))


def parse(text: Any, place: str) -> Expression:
    """Return the checked expression.

    Args:
        text: As in the card.
        place: Card and key, for messages.

    Raises:
        SubquadError: The text is not an expression, contains syntax that is not allowed, or calls an unknown function.
    """
    if isinstance(text, bool | int | float):
        text = repr(text)
    if not isinstance(text, str) or not text.strip():
        raise SubquadError(f"{place}: {text!r} is not an expression; write one such as np.log(part_pt)")
    if len(text) > MAX_LENGTH:
        raise SubquadError(f"{place}: the expression has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SubquadError(f"{place}: {text!r} is not an expression ({error})") from None
    names: set[str] = set()
    try:
        _check(tree, text.strip(), place, names)
    except RecursionError:
        raise SubquadError(f"{place}: the expression is nested too deeply") from None
    return Expression(text=text.strip(), place=place, names=frozenset(names), tree=tree)


def _refused(node: ast.AST, text: str, place: str, advice: str) -> SubquadError:
    segment = ast.get_source_segment(text, node) or type(node).__name__
    return SubquadError(f"{place}: {segment[:120]!r} is not allowed in an expression; {advice}")


ADVICE = "use numbers, names of columns, + - * / // % **, comparisons, & | ~, [ ] and functions of np and ak"


def _check(node: ast.AST, text: str, place: str, names: set[str]) -> None:
    match node:
        case ast.Name(id=name):
            if name in MODULES or name in bare_functions():
                raise _refused(node, text, place, "it is not a column; call one of its functions")
            if name.startswith("__"):
                raise _refused(node, text, place, ADVICE)
            names.add(name)
        case ast.Constant(value=value):
            if not isinstance(value, bool | int | float | None) and value not in DTYPES:
                raise _refused(node, text, place, "strings can only be types, such as 'float32'")
            if isinstance(value, int) and abs(value) > 2**63:
                raise _refused(node, text, place, "the number is too large")
        case ast.BoolOp():
            raise _refused(node, text, place, "write & and | with both sides in parentheses for `and` and `or`")
        case ast.UnaryOp(op=ast.Not()):
            raise _refused(node, text, place, "write ~ instead of `not`")
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            for side in (left, right):
                if isinstance(side, ast.List | ast.Tuple):
                    raise _refused(node, text, place, "lists can only be arguments of functions")
                _check(side, text, place, names)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            _check(operand, text, place, names)
        case ast.Compare(ops=ops, left=left, comparators=[right]) if type(ops[0]) in _COMPARE:
            _check(left, text, place, names)
            _check(right, text, place, names)
        case ast.Compare():
            raise _refused(node, text, place, "compare two values at a time: (a < x) & (x < b)")
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
        if node.attr not in VECTOR_PARTS:
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
            _check_options(node, bare_functions()[name], text, place)
        case ast.Attribute(value=value, attr=attr) if _module(value) is None:
            if attr not in METHODS:
                raise _refused(node, text, place, ADVICE)
            _check(value, text, place, names)
        case ast.Attribute(value=value, attr=attr) as function:
            _check_attribute(function, text, place, names)
            _check_options(node, functions_of(str(_module(value)))[attr], text, place)
        case _:
            raise _refused(node, text, place, ADVICE)
    for part in node.args:
        _check(part, text, place, names)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _refused(node, text, place, ADVICE)
        _check(keyword.value, text, place, names)


def _check_options(node: ast.Call, function: Any, text: str, place: str) -> None:
    """Check that a function of numpy gets no column to write its result to."""
    writing = next((keyword.arg for keyword in node.keywords if keyword.arg in WRITING), None)
    if writing or len(node.args) > arguments_before_writing(function):
        advice = f"without {writing}" if writing else "with fewer arguments, and its options by name"
        raise _refused(node, text, place, f"no column is overwritten; call it {advice}")


def _value(node: ast.AST | None, columns: Mapping[str, Any]) -> Any:
    match node:
        case None:
            return None
        case ast.Name(id=name):
            return _widened(columns[name])
        case ast.Constant(value=value):
            return value
        case ast.BinOp(op=op, left=left, right=right):
            return _operate(op, _value(left, columns), _value(right, columns))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, columns))
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            return _COMPARE[type(op)](_value(left, columns), _value(right, columns))
        case ast.Subscript(value=value, slice=index):
            return _of_jets(_value(value, columns)[_value(index, columns)], node)
        case ast.Slice(lower=lower, upper=upper, step=step):
            return slice(_value(lower, columns), _value(upper, columns), _value(step, columns))
        case ast.List(elts=parts):
            return [_value(part, columns) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, columns) for part in parts)
        case ast.Attribute(value=value, attr=attr):
            module = _module(value)
            return functions_of(module)[attr] if module else _attribute(_value(value, columns), attr)
        case ast.Call(func=func, args=args, keywords=keywords):
            given = [_value(part, columns) for part in args]
            named = {str(keyword.arg): _value(keyword.value, columns) for keyword in keywords}
            return _of_jets(_called(func, columns)(*given, **named), node)
    raise AssertionError(f"{type(node).__name__} was not checked")


def _widened(column: Any) -> Any:
    """Return a column of integers as int64, since differences and products of shorter types would wrap around."""
    if isinstance(column, np.ndarray):
        return column.astype(np.int64) if column.dtype.kind in "iu" else column
    kind = _INTEGERS.search(getattr(column, "typestr", ""))
    return require("awkward", extra="hep").values_astype(column, np.int64) if kind else column


def _result(value: Any) -> Any:
    """Return the value of an expression after checking that it is a number or a column."""
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if value is None or isinstance(value, str) or callable(value):
        raise TypeError("it is not a number or a column")
    if isinstance(value, int) and abs(value) > 2**63:
        raise OverflowError("the number is too large")
    return value


def _of_jets(value: Any, node: ast.expr) -> Any:
    """Return a value after checking that it is not one number of many jets, which depend on how files are read."""
    if value is None or isinstance(value, bool | int | float | np.generic):
        names = (one.id for one in ast.walk(node) if isinstance(one, ast.Name))
        if any(name not in MODULES and name not in bare_functions() for name in names):
            raise ValueError(
                f"{ast.unparse(node)} is one number for all jets that are read at once; with axis=1 it is one per jet"
            )
    return value


def _attribute(vector: Any, name: str) -> Any:
    if not isinstance(vector, require("vector", extra="hep").Momentum):
        raise TypeError(f".{name} is an attribute of what _p4_from_… returns, and this is a column")
    return getattr(vector, name)


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
