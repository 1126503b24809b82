"""Settings of commands, each declared once, by a field: its type has the range, the choices and the group of its flag.

The flag with its help, the check, the default of an estimator, the field of the page and the reference follow from it.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from subquad.errors import SubquadError, flag_name

T = TypeVar("T")

MORE = "More "
"""Begin of the names of groups that only `--help-all` shows."""

Input = Annotated[T, Parameter(group=Group("Input", sort_key=1))]
"""A flag about the data that a command reads, as in `target: Input[str | None] = None`."""
Model = Annotated[T, Parameter(group=Group("Model", sort_key=2))]
"""A flag about the model."""
Training = Annotated[T, Parameter(group=Group("Training", sort_key=3))]
"""A flag about training."""
Output = Annotated[T, Parameter(group=Group("Output", sort_key=4))]
"""A flag about what a command writes and prints."""
MoreInput = Annotated[T, Parameter(group=Group(f"{MORE}input", sort_key=5))]
MoreModel = Annotated[T, Parameter(group=Group(f"{MORE}model", sort_key=6))]
MoreTraining = Annotated[T, Parameter(group=Group(f"{MORE}training", sort_key=7))]
MoreOutput = Annotated[T, Parameter(group=Group(f"{MORE}output", sort_key=8))]
"""The same for flags that few users need: `--help` counts them, and `--help-all` describes them."""


@dataclass(frozen=True)
class Bound:
    """End of a range, which `holds` checks; cyclopts does not know it, so that its errors are worded here."""

    holds: Callable[[Any, Any], bool]
    words: str
    value: float


Ge, Gt = partial(Bound, operator.ge, "at least"), partial(Bound, operator.gt, "above")
Le, Lt = partial(Bound, operator.le, "at most"), partial(Bound, operator.lt, "below")
"""Marks of a number: `Annotated[int, Ge(2)]` is 2 or more."""
MinLen = partial(Bound, lambda values, count: len(values) >= count, "a list of at least")
"""Mark of a tuple with at least so many values."""


@dataclass(frozen=True)
class Distinct:
    """No value of the tuple occurs twice."""


Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
"""A fraction that is neither 0 nor 1."""
Probability = Annotated[float, Ge(0), Le(1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""Generators of random numbers take these."""

KINDS: dict[Any, tuple[type, str]] = {
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: (str, "text"),
    bool: (bool, "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of a command; the types of the fields are checked when an instance is made."""

    def __post_init__(self) -> None:
        """Check each field against its type.

        Raises:
            SubquadError: A value has another type, lies outside its range or is none of the choices.
        """
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            hint = hints[field.name]
            names = [name for mark in getattr(hint, "__metadata__", ()) for name in getattr(mark, "name", None) or ()]
            name = names[0] if names else flag_name(self._prefix + field.name)
            object.__setattr__(self, field.name, _checked(name, getattr(self, field.name), hint))

    @property
    def _prefix(self) -> str:
        """Prefix of the flags, such as `attention.`."""
        return ""


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return the value of a setting; a list, which JSON and YAML have, becomes a tuple."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *marks = get_args(hint)
        value = _checked(name, value, base)
        for mark in marks if value is not None else ():
            _check_mark(name, value, mark, marks)
        return value
    if origin in (Union, UnionType):
        return _checked_any(name, value, get_args(hint))
    if origin is Literal:
        if value not in get_args(hint):
            raise SubquadError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}, got {value!r}")
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise SubquadError(f"{name} takes several values; give a list: [{value!r}]")
        members = get_args(hint)
        if members[1:] != (...,) and len(value) != len(members):
            raise SubquadError(f"{name} takes {len(members)} values, got {len(value)}")
        return tuple(_checked(name, entry, members[0]) for entry in value)
    elif hint is Path:
        return Path(value)
    elif hint in KINDS:
        allowed, what = KINDS[hint]
        is_right = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
        if not is_right or (hint is float and not math.isfinite(value)):
            raise SubquadError(f"{name} must be {what}, got {value!r}")
    return value


def _checked_any(name: str, value: Any, members: tuple[Any, ...]) -> Any:
    """Return a value that one of several types allows; the error is that of the first one."""
    if value is None and type(None) in members:
        return None
    first = None
    for member in members:
        if member is not type(None):
            try:
                return _checked(name, value, member)
            except SubquadError as error:
                first = first or error
    raise first or SubquadError(f"{name} must not be None")


def _check_mark(name: str, value: Any, mark: Any, marks: list[Any]) -> None:
    if isinstance(mark, Distinct) and len(set(value)) < len(value):
        raise SubquadError(f"{name} needs different values, got {' '.join(map(str, value))}")
    if isinstance(mark, Bound) and not mark.holds(value, mark.value):
        words = [f"{bound.words} {bound.value}" for bound in marks if isinstance(bound, Bound)]
        raise SubquadError(f"{name} must be {' and '.join(words)}, got {value}")


def takes_settings(settings: type[Settings], *names: str, **others: Any) -> Callable[[type[T]], type[T]]:
    """Give an estimator an `__init__` whose keyword parameters are fields of settings; it keeps them as attributes.

    Args:
        settings: The class that declares the fields, with their defaults.
        *names: The fields.
        **others: Further parameters, such as scikit-learn's `random_state`, with their defaults.
    """
    defaults = {field.name: field.default for field in fields(settings) if field.name in names} | others
    parameters = make_dataclass("Parameters", [(n, Any, default) for n, default in defaults.items()], kw_only=True)

    def decorate(estimator: type[T]) -> type[T]:
        setattr(estimator, "__init__", vars(parameters)["__init__"])  # noqa: B010 (pyright)
        return estimator

    return decorate


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Settings):
    """Options of a command that writes without drawing random numbers."""

    out: Output[Path]
    """Output file or folder."""
    force: Output[bool] = False
    """Overwrite an existing output; of a run or report the whole folder, with files that were put into it."""
    quiet: Output[bool] = False
    """Print no progress and no results."""


@dataclass(frozen=True, kw_only=True)
class SeededOptions(OutputOptions):
    """Options of a command that also draws random numbers."""

    seed: Training[Seed] = 0
    """Seed of all random numbers: splits, initial weights, order of the data."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SeededOptions):
    """Options of a command that trains, and that resumes where it was interrupted."""

    out: Output[Path]
    """Output folder. A folder with an unfinished run of the same settings is resumed."""
