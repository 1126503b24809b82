"""Functions that an expression of a weaver card may call: listed ones of numpy and awkward, and weaver's helpers."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from subquad.errors import require

__all__ = ["DTYPES", "MATH_FUNCTIONS", "WRITING", "arguments_before_writing", "bare_functions", "functions_of"]

_NUMPY = (
    *("abs", "absolute", "add", "all", "any", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh"),
    *("argmax", "argmin", "cbrt", "ceil", "concatenate", "cos", "cosh", "count_nonzero", "deg2rad", "degrees"),
    *("digitize", "divide", "equal", "exp", "exp2", "expm1", "fabs", "float_power", "floor", "floor_divide", "fmax"),
    *("fmin", "fmod", "greater", "greater_equal", "hypot", "invert", "isfinite", "isin", "isinf", "isnan", "less"),
    *("less_equal", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or"),
    *("logical_xor", "max", "maximum", "mean", "min", "minimum", "mod", "multiply", "nan_to_num", "negative"),
    *("not_equal", "power", "prod", "rad2deg", "radians", "reciprocal", "remainder", "rint", "round"),
    *("sign", "signbit", "sin", "sinh", "sqrt", "square", "std", "subtract", "sum", "tan", "tanh", "true_divide"),
    *("trunc", "var", "where"),
)
_AWKWARD = (
    *("all", "any", "argmax", "argmin", "argsort", "broadcast_arrays", "concatenate", "count", "count_nonzero"),
    *("drop_none", "fill_none", "firsts", "flatten", "full_like", "isclose", "is_none", "local_index", "mask", "max"),
    *("mean", "min", "moment", "nan_to_num", "nan_to_none", "num", "ones_like", "pad_none", "prod", "ravel"),
    "run_lengths",
    *("singletons", "softmax", "sort", "std", "sum", "to_numpy", "unflatten", "values_astype", "var", "where"),
    *("zeros_like",),
)
_CONSTANTS = ("pi", "e", "inf", "nan")
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

WRITING = ("out", "copy")
"""Options of numpy's functions by which they overwrite columns."""

_MAX_PADDING = 100_000
"""Largest length of the lists of a padded column; a larger one is a mistake, and could take all memory."""


def _four_vector(*names: str) -> Callable[..., Any]:
    """Return the function that makes four-vectors of these coordinates, as weaver's `_p4_from_…` do."""
    # a negative squared mass gives a negative mass
    return lambda *columns: require("vector", extra="hep").zip(dict(zip(names, columns, strict=True)))


def _clip(a: Any, a_min: Any = None, a_max: Any = None) -> Any:
    a = a if a_min is None else np.maximum(a, a_min)
    return a if a_max is None else np.minimum(a, a_max)


# without numpy's option of another shape, which could take all memory
def _full_like(a: Any, fill_value: Any, dtype: Any = None) -> Any:
    return np.full_like(a, fill_value, dtype)


def _ones_like(a: Any, dtype: Any = None) -> Any:
    return np.ones_like(a, dtype)


def _zeros_like(a: Any, dtype: Any = None) -> Any:
    return np.zeros_like(a, dtype)


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    ak = require("awkward", extra="hep")
    columns = [ak.Array(array) for array in arrays]
    axes = max((column.ndim for column in columns), default=0) + 1
    if not -axes <= axis < axes:
        raise ValueError(f"axis {axis} of stacked columns; give {-axes} to {axes - 1}")
    axis %= axes
    if axes == 2:
        return ak.from_regular(np.stack([ak.to_numpy(column) for column in columns], axis=axis), axis=None)
    place = (*(slice(None),) * axis, np.newaxis)
    return ak.concatenate([column[place] for column in columns], axis=axis)


def _concat(arrays: Sequence[Any], axis: int = 0) -> Any:
    return require("awkward", extra="hep").concatenate(arrays, axis=axis)


def _check_padding(length: int) -> None:
    if not 0 < length <= _MAX_PADDING:
        raise ValueError(f"padded length {length}; give 1 to {_MAX_PADDING}")


def _pad_none(array: Any, target: int, axis: int = 1, *, clip: bool = False) -> Any:
    _check_padding(target)
    return require("awkward", extra="hep").pad_none(array, target, axis=axis, clip=clip)


def _pad(a: Any, maxlen: int, value: float = 0, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    _check_padding(maxlen)
    return ak.values_astype(ak.fill_none(ak.pad_none(a, maxlen, clip=True), value), dtype)


def _repeat_pad(a: Any, maxlen: int, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    _check_padding(maxlen)
    places = np.arange(maxlen)[None] % np.maximum(ak.to_numpy(ak.num(a)), 1)[:, None]
    return ak.values_astype(ak.fill_none(ak.pad_none(a, 1), 0)[ak.from_regular(places)], dtype)


def _gather(array: Any, indices: Any) -> Any:
    return array[indices]


@cache
def bare_functions() -> Mapping[str, Any]:
    """Return the functions without a module: built-in ones, and the helpers of weaver's cards."""
    ak = require("awkward", extra="hep")
    return {
        **{"abs": np.abs, "len": len, "min": min, "max": max, "round": np.round, "pow": np.power},
        **{"float": float, "int": int, "bool": bool},
        **{"_clip": _clip, "_stack": lambda arrays, axis=1: _stack(arrays, axis), "_concat": _concat},
        **{"_pad": _pad, "_repeat_pad": _repeat_pad, "_batch_argsort": ak.argsort, "_batch_gather": _gather},
        "_p4_from_pxpypze": _four_vector("px", "py", "pz", "energy"),
        "_p4_from_ptetaphie": _four_vector("pt", "eta", "phi", "energy"),
        "_p4_from_ptetaphim": _four_vector("pt", "eta", "phi", "mass"),
    }


@cache
def functions_of(module: str) -> Mapping[str, Any]:
    """Return the functions, constants and types of `np`, `ak` or `math` that a card may use."""
    if module == "math":
        return {name: getattr(math, name) for name in _CONSTANTS} | {
            name: getattr(np, of_numpy) for name, of_numpy in MATH_FUNCTIONS.items()
        }
    if module == "np":
        return {
            **{name: getattr(np, name) for name in (*_NUMPY, *_CONSTANTS, "newaxis")},
            **{name: getattr(np, name) for name in DTYPES if name != "bool"},
            **{"bool_": np.bool_, "clip": _clip, "stack": _stack},
            **{"full_like": _full_like, "ones_like": _ones_like, "zeros_like": _zeros_like},
        }
    ak = require("awkward", extra="hep")
    return {name: getattr(ak, name) for name in _AWKWARD} | {"pad_none": _pad_none}


def arguments_before_writing(function: Any) -> float:
    """Return how many arguments without a name a function can have before one that it writes to."""
    if isinstance(function, np.ufunc):
        return function.nin
    if getattr(function, "__module__", None) != "numpy" or isinstance(function, type):
        return math.inf
    try:
        parameters = list(inspect.signature(function).parameters)
    except ValueError:
        # functions in C have none in earlier versions of NumPy
        return {"concatenate": 2, "where": math.inf}[function.__name__]
    return next((place for place, name in enumerate(parameters) if name in WRITING), math.inf)
