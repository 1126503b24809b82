"""What an expression of a data card may call: element-wise and per-jet functions of numpy and awkward, each by name.

Nothing here reads or writes a file, and nothing is looked up in a module by a name that a card gives.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require

__all__ = ["DTYPES", "METHODS", "MODULES", "PARTS", "FourVector", "bare_functions", "functions_of"]

MODULES = {"np": "np", "numpy": "np", "ak": "ak", "awkward": "ak", "math": "math"}
"""The names of modules that a card may write, and which one each is."""

_NUMPY = (
    *("abs", "absolute", "add", "all", "any", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh"),
    *("argmax", "argmin", "cbrt", "ceil", "concatenate", "cos", "cosh", "count_nonzero", "deg2rad", "degrees"),
    *("digitize", "divide", "equal", "exp", "exp2", "expm1", "fabs", "float_power", "floor", "floor_divide", "fmax"),
    *("fmin", "fmod", "greater", "greater_equal", "hypot", "invert", "isfinite", "isin", "isinf", "isnan", "less"),
    *("less_equal", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or"),
    *("logical_xor", "max", "maximum", "mean", "min", "minimum", "mod", "multiply", "nan_to_num", "negative"),
    *("not_equal", "ones_like", "power", "prod", "rad2deg", "radians", "reciprocal", "remainder", "rint", "round"),
    *("sign", "signbit", "sin", "sinh", "sqrt", "square", "std", "subtract", "sum", "tan", "tanh", "true_divide"),
    *("trunc", "var", "where", "zeros_like", "full_like"),
)
_AWKWARD = (
    *("all", "any", "argmax", "argmin", "argsort", "broadcast_arrays", "concatenate", "count", "count_nonzero"),
    *("drop_none", "fill_none", "firsts", "flatten", "full_like", "isclose", "is_none", "local_index", "mask", "max"),
    *(
        "mean",
        "min",
        "moment",
        "nan_to_num",
        "nan_to_none",
        "num",
        "ones_like",
        "pad_none",
        "prod",
        "ravel",
        "run_lengths",
    ),
    *("singletons", "softmax", "sort", "std", "sum", "to_numpy", "unflatten", "values_astype", "var", "where"),
    *("zeros_like",),
)
_CONSTANTS = ("pi", "e", "inf", "nan")
_MATH = {
    **{name: name for name in ("ceil", "cos", "cosh", "degrees", "exp", "expm1", "fabs", "floor", "fmod", "hypot")},
    **{name: name for name in ("log", "log10", "log1p", "log2", "radians", "sin", "sinh", "sqrt", "tan", "tanh")},
    **{"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan"},
    **{"atan2": "arctan2", "atanh": "arctanh", "pow": "power", "isfinite": "isfinite", "isinf": "isinf"},
    "isnan": "isnan",
}

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
"""The only words in quotes that an expression may have."""

METHODS = ("all", "any", "argmax", "argmin", "astype", "max", "mean", "min", "prod", "std", "sum", "to_numpy", "var")
"""Methods of columns, as in `label.argmax(1)`."""

LONGEST_PADDING = 100_000


@dataclass(frozen=True)
class FourVector:
    """What weaver's `_p4_from_…` helpers return: momenta in GeV, of which a card may ask the `PARTS`."""

    px: Any
    py: Any
    pz: Any
    energy: Any

    def part(self, name: str) -> Any:
        """Return one of the `PARTS`."""
        return PARTS[name](self)


def _mass(vector: FourVector) -> Any:
    squared = vector.energy**2 - vector.px**2 - vector.py**2 - vector.pz**2
    return np.sign(squared) * np.sqrt(np.abs(squared))


def _pt(vector: FourVector) -> Any:
    return np.hypot(vector.px, vector.py)


PARTS: Mapping[str, Callable[[FourVector], Any]] = {
    **dict.fromkeys(("px", "x"), lambda vector: vector.px),
    **dict.fromkeys(("py", "y"), lambda vector: vector.py),
    **dict.fromkeys(("pz", "z"), lambda vector: vector.pz),
    **dict.fromkeys(("energy", "e", "E", "t"), lambda vector: vector.energy),
    **dict.fromkeys(("pt", "rho"), _pt),
    **dict.fromkeys(("p", "mag"), lambda vector: np.hypot(_pt(vector), vector.pz)),
    "eta": lambda vector: np.arcsinh(vector.pz / _pt(vector)),
    "phi": lambda vector: np.arctan2(vector.py, vector.px),
    **dict.fromkeys(("mass", "m", "M"), _mass),
    "rapidity": lambda vector: np.arctanh(vector.pz / vector.energy),
}
"""Parts of a four-vector; a negative squared mass gives a negative mass."""


def _from_angles(pt: Any, eta: Any, phi: Any, energy: Any) -> FourVector:
    return FourVector(pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy)


def _from_mass(pt: Any, eta: Any, phi: Any, mass: Any) -> FourVector:
    return _from_angles(pt, eta, phi, np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2))


def _clip(a: Any, a_min: Any = None, a_max: Any = None) -> Any:
    a = a if a_min is None else np.maximum(a, a_min)
    return a if a_max is None else np.minimum(a, a_max)


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    ak = require("awkward", extra="hep")
    if all(ak.Array(array).ndim == 1 for array in arrays):
        return ak.from_regular(np.stack([ak.to_numpy(array) for array in arrays], axis=axis), axis=None)
    place = (*(slice(None),) * axis, np.newaxis)
    return ak.concatenate([ak.Array(array)[place] for array in arrays], axis=axis)


def _concat(arrays: Sequence[Any], axis: int = 0) -> Any:
    return require("awkward", extra="hep").concatenate(arrays, axis=axis)


def _pad(a: Any, maxlen: int, value: float = 0, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    if not 0 < maxlen <= LONGEST_PADDING:
        raise SubquadError(f"a padded length of {maxlen}; give 1 to {LONGEST_PADDING}")
    padded = ak.fill_none(ak.pad_none(a, maxlen, clip=True), value)
    return ak.values_astype(padded, dtype)


def _repeat_pad(a: Any, maxlen: int, dtype: str = "float32") -> Any:
    ak = require("awkward", extra="hep")
    if not 0 < maxlen <= LONGEST_PADDING:
        raise SubquadError(f"a padded length of {maxlen}; give 1 to {LONGEST_PADDING}")
    places = np.arange(maxlen)[None] % np.maximum(ak.to_numpy(ak.num(a)), 1)[:, None]
    return ak.values_astype(ak.fill_none(ak.pad_none(a, 1), 0)[ak.from_regular(places)], dtype)


def _gather(array: Any, indices: Any) -> Any:
    return array[indices]


@cache
def bare_functions() -> Mapping[str, Any]:
    """Return the functions without a module: Python's own, and the helpers that weaver's cards call."""
    ak = require("awkward", extra="hep")
    return {
        **{"abs": np.abs, "len": len, "min": min, "max": max, "round": np.round, "pow": np.power},
        **{"float": float, "int": int, "bool": bool},
        **{"_clip": _clip, "_stack": lambda arrays, axis=1: _stack(arrays, axis), "_concat": _concat},
        **{"_pad": _pad, "_repeat_pad": _repeat_pad, "_batch_argsort": ak.argsort, "_batch_gather": _gather},
        **{"_p4_from_pxpypze": FourVector, "_p4_from_ptetaphie": _from_angles, "_p4_from_ptetaphim": _from_mass},
    }


@cache
def functions_of(module: str) -> Mapping[str, Any]:
    """Return what a card may take of `np`, `ak` or `math`: functions, constants and types."""
    if module == "math":
        return {name: getattr(math, name) for name in _CONSTANTS} | {
            name: getattr(np, of_numpy) for name, of_numpy in _MATH.items()
        }
    if module == "np":
        return {
            **{name: getattr(np, name) for name in (*_NUMPY, *_CONSTANTS, "newaxis")},
            **{name: getattr(np, name) for name in DTYPES if name != "bool"},
            **{"bool_": np.bool_, "clip": _clip, "stack": _stack},
        }
    ak = require("awkward", extra="hep")
    return {name: getattr(ak, name) for name in _AWKWARD}
