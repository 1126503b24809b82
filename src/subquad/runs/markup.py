"""Parsing of JSON and YAML from files of users: whatever is wrong with a text has one type of error."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

__all__ = ["defined_twice", "parse_json", "parse_yaml"]

LARGEST = 100_000
"""Number of values of a YAML text, each of them counted as often as an alias repeats it."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        json.JSONDecodeError: It is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("Too many brackets inside each other", text, 0) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error).partition(";")[0], text, 0) from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text; its tags cannot make objects of Python.

    Raises:
        yaml.YAMLError: It is not YAML, has a value that cannot be, such as the date 2001-99-99, is nested too deeply,
            or becomes very large by aliases.
    """
    import yaml

    try:
        if _size(yaml.compose(text, yaml.SafeLoader), {}) > LARGEST:
            raise yaml.YAMLError(f"more than {LARGEST:,} values, or an alias that contains itself")
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("too many values inside each other") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def _size(node: "yaml.Node | None", known: dict[int, float]) -> float:
    """Return the number of values of a node; infinity if it contains itself."""
    if node is None or not isinstance(node.value, list):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def defined_twice(text: str) -> list[str]:
    """Return a message for each key that a mapping of a YAML text has twice with different values.

    Of these YAML keeps the last.
    """
    import yaml

    return list(_twice(yaml.compose(text, yaml.SafeLoader)))


def _twice(node: "yaml.Node | None", place: str = "") -> Iterator[str]:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _twice(value, place)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in seen and _text(seen[name]) != _text(value):
            lines = [one.start_mark.line + 1 for one in (seen[name], value)]
            yield (
                f"{place}{name} is defined twice, as {_text(seen[name])!r} (line {lines[0]}) and as {_text(value)!r} "
                f"(line {lines[1]}); remove one, or rename it"
            )
        seen.setdefault(name, value)
        yield from _twice(value, f"{place}{name}: ")


def _text(node: "yaml.Node") -> str:
    import yaml

    text = node.value if isinstance(node, yaml.ScalarNode) else yaml.serialize(node)
    return " ".join(str(text).split())
