"""Expressions of a weaver card, such as `np.log(part_pt / jet_pt)`: checked by a whitelist when the card is read.

The syntax tree is walked; `eval` is never called. The same walk computes columns of numpy and awkward when files are
read, and padded tensors in exported graphs (`tensor_expressions`): only the table of functions differs.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require, shortened, unknown

Functions = Mapping[str, Mapping[str, Any]]
"""Functions by module: `np`, `ak`, `math`, empty for bare names, a dot for methods, `vector` for parts of vectors."""

MODULES = {"np": "np", "numpy": "np", "ak": "ak", "awkward": "ak", "math": "math"}
"""Names of modules in a card → `np`, `ak` or `math`."""

METHODS = ("all", "any", "argmax", "argmin", "max", "mean", "min", "prod", "std", "sum", "var")
"""Methods of columns, as in `label.argmax(1)`, beside `astype` and `to_numpy`."""

VECTOR_PARTS = (
    *("px", "x", "py", "y", "pz", "z", "energy", "e", "E", "t", "pt", "rho", "p", "mag", "eta", "phi"),
    *("mass", "m", "M", "rapidity"),
)
"""Attributes of four-vectors, by the names of scikit-hep's `vector`."""

_NUMPY = (
    *("abs", "absolute", "add", "all", "any", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh"),
    *("argmax", "argmin", "cbrt", "ceil", "concatenate", "cos", "cosh", "count_nonzero", "deg2rad", "degrees"),
    *("digitize", "divide", "equal", "exp", "exp2", "expm1", "fabs", "float_power", "floor", "floor_divide", "fmax"),
    *("fmin", "fmod", "full_like", "greater", "greater_equal", "hypot", "invert", "isfinite", "isin", "isinf", "isnan"),
    *("less", "less_equal", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or"),
    *("logical_xor", "max", "maximum", "mean", "min", "minimum", "mod", "multiply", "nan_to_num", "negative"),
    *("not_equal", "ones_like", "power", "prod", "rad2deg", "radians", "reciprocal", "remainder", "rint", "round"),
    *("sign", "signbit", "sin", "sinh", "sqrt", "square", "std", "subtract", "sum", "tan", "tanh", "true_divide"),
    *("trunc", "var", "where", "zeros_like", "newaxis"),
)
_AWKWARD = (
    *("all", "any", "argmax", "argmin", "argsort", "broadcast_arrays", "concatenate", "count", "count_nonzero"),
    *("drop_none", "fill_none", "firsts", "flatten", "full_like", "isclose", "is_none", "local_index", "mask", "max"),
    *("mean", "min", "moment", "nan_to_num", "nan_to_none", "num", "ones_like", "pad_none", "prod", "ravel"),
    *("run_lengths", "singletons", "softmax", "sort", "std", "sum", "to_numpy", "unflatten", "values_astype", "var"),
    *("where", "zeros_like"),
)
_CONSTANTS = {name: getattr(np, name) for name in ("pi", "e", "inf", "nan")}
MATH_FUNCTIONS = {
    **{name: name for name in ("ceil", "cos", "cosh", "degrees", "exp", "expm1", "fabs", "floor", "fmod", "hypot")},
    **{name: name for name in ("log", "log10", "log1p", "log2", "radians", "sin", "sinh", "sqrt", "tan", "tanh")},
    **{"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan"},
    **{"atan2": "arctan2", "atanh": "arctanh", "pow": "power", "isfinite": "isfinite", "isinf": "isinf"},
    "isnan": "isnan",
}
"""Functions of `math` → numpy's."""

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
"""The only strings that an expression may contain."""

_WRITING = ("out", "copy", "shape")
"""Options by which numpy's functions overwrite columns, or make arrays of any size."""
_ARGUMENTS = {"where": 3, "clip": 3, "digitize": 3, "nan_to_num": 1}
"""Arguments without a name that functions of numpy take before such an option: 2 unless listed here or a ufunc."""

_INTEGERS = re.compile(r"\bu?int(8|16|32)\b|\buint64\b")
_LARGEST, _LONGEST = 2**63, 100_000


def _power(base: Any, exponent: Any) -> Any:
    # Python's integers are unbounded, and a large power would take all memory
    if isinstance(base, int) and isinstance(exponent, int):
        return float(np.float64(base) ** exponent)
    return base**exponent


_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power},
    **{ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor},
    **{ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
}
_NODES = (
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.Attribute, ast.Call),
    *(ast.Name, ast.Constant, ast.keyword, ast.Load, *_OPERATORS),
)


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

    def __call__(self, columns: Mapping[str, Any], functions: Functions | None = None) -> Any:
        """Return the value of the expression on the columns of some jets.

        Args:
            columns: Columns by name.
            functions: Those of another library than numpy and awkward.

        Raises:
            SubquadError: The columns do not fit the expression, such as two lists of different lengths.
        """
        try:
            # undefined values become NaN or infinity
            with np.errstate(all="ignore"):
                value = _value(self.tree, columns, functions or functions_of())
            if value is None or isinstance(value, str) or callable(value):
                raise TypeError("it is not a number or a column")
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise OverflowError("the number is too large")
        except SubquadError:
            raise
        except Exception as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise SubquadError(f"{self.place}: {self.text!r} cannot be computed ({shortened(reason)})") from error
        return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def parse(text: Any, place: str) -> Expression:
    """Return the checked expression.

    Args:
        text: As in the card.
        place: Card and key, for messages.

    Raises:
        SubquadError: The text is no expression, or has a part that is not on the whitelist.
    """
    text = (repr(text) if isinstance(text, bool | int | float) else str(text or "")).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SubquadError(f"{place}: {shortened(text)!r} is not an expression ({error})") from None
    names, inner = set[str](), set[int]()
    # parents come first
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        match node:
            case ast.Call(func=ast.Name() | ast.Attribute() as function, args=args):
                module, name = _reference(function)
                _check_function(module, name, len(args), place)
                inner.add(id(function))
                if module != ".":
                    inner.add(id(getattr(function, "value", None)))
            case ast.Attribute(value=ast.Name(id=name) as module, attr=attr) if name in MODULES:
                _check_function(MODULES[name], attr, 0, place)
                inner.add(id(module))
            case _ if not _is_allowed(node):
                part = ast.get_source_segment(text, node) or type(node).__name__
                raise SubquadError(f"{place}: {shortened(part)!r} is not allowed in an expression")
            case ast.Name(id=name):
                names.add(name)
    return Expression(text=text, place=place, names=frozenset(names), tree=tree)


def _reference(function: ast.Name | ast.Attribute) -> tuple[str, str]:
    """Return module and name of the function of a call; the module of methods is a dot, that of bare names is empty."""
    if isinstance(function, ast.Name):
        return "", function.id
    return _module(function.value) or ".", function.attr


def _module(node: ast.expr) -> str | None:
    return MODULES.get(node.id) if isinstance(node, ast.Name) else None


def _check_function(module: str, name: str, args: int, place: str) -> None:
    known = functions_of()[module]
    if name not in known:
        raise SubquadError(f"{place}: {unknown(f'function of {module}' if module else 'function', name, known)}")
    is_of_numpy = getattr(known[name], "__module__", None) == "numpy" and not isinstance(known[name], type)
    if is_of_numpy and args > _ARGUMENTS.get(name, getattr(known[name], "nin", 2)):
        raise SubquadError(f"{place}: {name} has so many arguments that it would overwrite a column")


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            # modules and functions are no columns
            return name not in MODULES and name not in functions_of()[""] and not name.startswith("__")
        case ast.Constant(value=value):
            is_large = isinstance(value, int) and abs(value) > _LARGEST
            return value in DTYPES or (isinstance(value, bool | int | float | None) and not is_large)
        case ast.Attribute(attr=attr):
            return attr in VECTOR_PARTS
        case ast.keyword(arg=name):
            return name is not None and name not in _WRITING
        case ast.Compare(ops=ops):
            # a < b < c compares two columns by `and`
            return len(ops) == 1
    return isinstance(node, _NODES) and not isinstance(node, ast.Call)


def _value(node: ast.AST | None, columns: Mapping[str, Any], functions: Functions) -> Any:
    def value(part: ast.AST | None) -> Any:
        return _value(part, columns, functions)

    match node:
        case None:
            return None
        case ast.Name(id=name):
            return _widened(columns[name])
        case ast.Constant(value=constant):
            return constant
        case ast.BinOp(op=op, left=left, right=right) | ast.Compare(ops=[op], left=left, comparators=[right]):
            sides = value(left), value(right)
            if any(isinstance(side, str | list | tuple) for side in sides):
                # numbers repeat these, up to all memory
                raise TypeError("an operand is a string or a list")
            return _OPERATORS[type(op)](*sides)
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](value(operand))
        case ast.Subscript(value=column, slice=index):
            return _of_jets(value(column)[value(index)], node)
        case ast.Slice(lower=lower, upper=upper, step=step):
            return slice(value(lower), value(upper), value(step))
        case ast.List(elts=parts):
            return [value(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(value(part) for part in parts)
        case ast.Attribute(value=of, attr=attr):
            return functions[module][attr] if (module := _module(of)) else functions["vector"][attr](value(of))
        case ast.Call(func=ast.Name() | ast.Attribute() as function, args=args, keywords=keywords):
            module, name = _reference(function)
            own = [value(function.value)] if module == "." and isinstance(function, ast.Attribute) else []
            named = {str(keyword.arg): value(keyword.value) for keyword in keywords}
            return _of_jets(functions[module][name](*own, *map(value, args), **named), node)
    raise AssertionError(f"{type(node).__name__} was not checked")


def _widened(column: Any) -> Any:
    """Return a column of integers as int64, since differences and products of shorter types would wrap around."""
    if isinstance(column, np.ndarray):
        return column.astype(np.int64) if column.dtype.kind in "iu" else column
    is_short = _INTEGERS.search(getattr(column, "typestr", ""))
    return require("awkward", extra="hep").values_astype(column, np.int64) if is_short else column


def _of_jets(value: Any, node: ast.expr) -> Any:
    """Return a value after checking that it is not one number of many jets, which depends on how files are read."""
    if value is None or isinstance(value, bool | int | float | np.generic):
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        if names - MODULES.keys() - functions_of()[""].keys():
            raise ValueError(f"{ast.unparse(node)} is one number for all jets; with axis=1 it is one per jet")
    return value


@cache
def functions_of() -> Functions:
    """Return the functions, constants and types that a card may use, those of numpy and awkward and weaver's own."""
    ak = require("awkward", extra="hep")
    return {
        "np": {
            **{name: getattr(np, name) for name in _NUMPY},
            **{name: getattr(np, name) for name in DTYPES if name != "bool"},
            **_CONSTANTS,
            **{"bool_": np.bool_, "clip": _clip, "stack": _stack},
        },
        "ak": {**{name: getattr(ak, name) for name in _AWKWARD}, "pad_none": _pad_none},
        "math": {**_CONSTANTS, **{name: getattr(np, of_numpy) for name, of_numpy in MATH_FUNCTIONS.items()}},
        ".": {
            **{"astype": ak.values_astype, "to_numpy": lambda column: column},
            **{name: _method(getattr(ak, name)) for name in METHODS},
        },
        "vector": {name: partial(_part, name) for name in VECTOR_PARTS},
        "": {
            **{"abs": np.abs, "min": min, "max": max, "round": np.round, "pow": np.power},
            **{"float": float, "int": int, "bool": bool, "_clip": _clip, "_concat": ak.concatenate},
            **{"_stack": lambda arrays, axis=1: _stack(arrays, axis), "_pad": _pad, "_repeat_pad": _repeat_pad},
            **{"_batch_argsort": ak.argsort, "_batch_gather": operator.getitem},
            "_p4_from_pxpypze": _four_vector("px", "py", "pz", "energy"),
            "_p4_from_ptetaphie": _four_vector("pt", "eta", "phi", "energy"),
            "_p4_from_ptetaphim": _four_vector("pt", "eta", "phi", "mass"),
        },
    }


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    # of some functions of awkward another argument stands before the axis
    return lambda column, axis=None, **options: function(column, axis=axis, **options)


def _part(name: str, vector: Any) -> Any:
    if not isinstance(vector, require("vector", extra="hep").Momentum):
        raise TypeError(f".{name} is an attribute of what _p4_from_… returns, and this is a column")
    return getattr(vector, name)


def _four_vector(*names: str) -> Callable[..., Any]:
    # a negative squared mass gives a negative mass
    return lambda *columns: require("vector", extra="hep").zip(dict(zip(names, columns, strict=True)))


def _clip(a: Any, a_min: Any = None, a_max: Any = None) -> Any:
    a = a if a_min is None else np.maximum(a, a_min)
    return a if a_max is None else np.minimum(a, a_max)


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    ak = require("awkward", extra="hep")
    columns = [ak.Array(array) for array in arrays]
    axes = max(column.ndim for column in columns) + 1
    axis = range(axes)[axis]
    if axes == 2:
        return ak.from_regular(np.stack([ak.to_numpy(column) for column in columns], axis=axis), axis=None)
    place = (*(slice(None),) * axis, np.newaxis)
    return ak.concatenate([column[place] for column in columns], axis=axis)


def _places(length: int) -> int:
    """Return the length of padded lists; a larger one would take all memory."""
    if not 0 < length <= _LONGEST:
        raise ValueError(f"padded length {length}; give 1 to {_LONGEST}")
    return length


def _pad_none(array: Any, target: int, axis: int = 1, *, clip: bool = False) -> Any:
    return require("awkward", extra="hep").pad_none(array, _places(target), axis=axis, clip=clip)


def _pad(a: Any, maxlen: int, value: float = 0, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    return ak.values_astype(ak.fill_none(_pad_none(a, maxlen, clip=True), value), dtype)


def _repeat_pad(a: Any, maxlen: int, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    places = np.arange(_places(maxlen))[None] % np.maximum(ak.to_numpy(ak.num(a)), 1)[:, None]
    return ak.values_astype(ak.fill_none(ak.pad_none(a, 1), 0)[ak.from_regular(places)], dtype)
