"""Records that commands resume from: JSON objects whose entries are checked when they are read."""

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from subquad.errors import SubquadError
from subquad.runs.storage import read_json

__all__ = ["check_fields", "check_inside", "check_record", "damaged", "read_record", "shown"]

NAMES = {
    dict: ("an object", "objects"),
    list: ("a list", "lists"),
    str: ("a string", "strings"),
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    NoneType: ("null", "null"),
}
"""What types of Python are called in JSON, one and many."""
MOST_LETTERS = 60
"""Length to which values are cut in messages."""


def read_record(path: Path | str, /, *, remedy: str, **types: Any) -> dict[str, Any]:
    """Return the object in a JSON file after checking that entries exist and have their type.

    Args:
        path: The file.
        remedy: What the user can do about a damaged file; the end of the message.
        **types: Type of each entry that is needed, such as `str`, `int | None`, `list[str]` or a `Literal`; the object
            may have others.

    Raises:
        SubquadError: There is no such file, it is not JSON, or an entry is missing or has another type.
    """
    try:
        value = read_json(path)
    except SubquadError as error:
        raise SubquadError(f"{error}; {remedy}") from error
    return check_record(value, path, remedy=remedy, **types)


def check_record(value: Any, place: Path | str, /, *, remedy: str, **types: Any) -> dict[str, Any]:
    """Return an object that was read from JSON after checking its entries; see `read_record`.

    Args:
        value: The object.
        place: The file, and the place in it; the start of the message.
        remedy: What the user can do about a damaged file.
        **types: Type of each entry that is needed.

    Raises:
        SubquadError: It is no object, or an entry is missing or has another type.
    """
    if not isinstance(value, dict):
        wanted = ", ".join(f"{name} ({_name(kind)})" for name, kind in types.items())
        raise damaged(place, f"must be an object with {wanted}, and is {shown(value)}", remedy=remedy)
    mistakes = [
        _mistake(name, value[name], kind) if name in value else f"{name} is missing ({_name(kind)})"
        for name, kind in types.items()
    ]
    if any(mistakes):
        raise damaged(place, ", ".join(filter(None, mistakes)), remedy=remedy)
    return value


def check_fields(kind: type, value: Any, place: Path | str, /, *, remedy: str) -> dict[str, Any]:
    """Return an object that was read from JSON after checking that its entries are the fields of a dataclass.

    Args:
        kind: The dataclass. Fields with a default may be missing; those that are dataclasses are objects.
        value: The object.
        place: The file, and the place in it; the start of the message.
        remedy: What the user can do about a damaged file.

    Raises:
        SubquadError: It is no object, or an entry is missing or has another type.
    """
    types = get_type_hints(kind)
    if isinstance(value, dict):
        has_default = {own.name for own in fields(kind) if {own.default, own.default_factory} != {MISSING}}
        types = {name: own for name, own in types.items() if name in value or name not in has_default}
    return check_record(value, place, remedy=remedy, **types)


def check_inside(folder: Path, record: dict[str, Any], name: str, place: Path | str, /, *, remedy: str) -> Path:
    """Return the path that an entry of a record gives relative to a folder, after checking that it lies in the folder.

    Args:
        folder: The folder.
        record: The record.
        name: Name of the entry, which is a string.
        place: The file, and the place in it; the start of the message.
        remedy: What the user can do about a damaged file.

    Raises:
        SubquadError: The path leads out of the folder, also by a link, or no file can have it.
    """
    try:
        is_inside = (folder / record[name]).resolve().is_relative_to(folder.resolve())
    except (ValueError, RuntimeError):
        # a zero byte, half of a pair of surrogates, or a circle of links
        is_inside = False
    if not is_inside:
        raise damaged(place, f"{name} is {shown(record[name])}, which is not a path inside {folder}", remedy=remedy)
    return folder / record[name]


def damaged(place: Path | str, mistake: str, /, *, remedy: str) -> SubquadError:
    """Return the error for a record with a mistake: the place, what is wrong with it, and what to do."""
    return SubquadError(f"{place}: {mistake}; the file is damaged or was written by another tool; {remedy}")


def _mistake(name: str, value: Any, kind: Any) -> str | None:
    if get_origin(kind) in (list, tuple) and isinstance(value, list):
        of = get_args(kind)[0]
        return next((own for k, entry in enumerate(value) if (own := _mistake(f"{name}[{k}]", entry, of))), None)
    return None if _fits(value, kind) else f"{name} must be {_name(kind)}, got {shown(value)}"


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(entry, get_args(kind)[0]) for entry in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(entry, get_args(kind)[1]) for entry in value.values())
    if is_dataclass(kind):
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        # a longer one is no float
        return abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _name(kind: Any, many: int = 0) -> str:
    """Return what a type is called in messages: one, or `many`."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return " or ".join(_name(one, many) for one in get_args(kind))
    if origin is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    if origin in (list, tuple):
        return f"{NAMES[list][many]} of {_name(get_args(kind)[0], many=1)}"
    if origin in (dict, Mapping):
        of = get_args(kind)[1]
        return NAMES[dict][many] if of is Any else f"{NAMES[dict][many]} of {_name(of, many=1)}"
    return NAMES[dict if is_dataclass(kind) else kind][many]


def shown(value: Any) -> str:
    """Return a value as JSON in ASCII, so that any terminal shows it, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 2]} …"
