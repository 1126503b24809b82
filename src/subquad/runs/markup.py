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
LONGEST_TEXT = 2**20
"""Number of characters of a YAML text: that of cards and settings is below 100,000, and a million take seconds."""
LONGEST = 100
"""Number of characters of a number or a date in a YAML text; those with colons take time by the square of it."""


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
        yaml.YAMLError: It is not YAML, is a million characters long, has a value that cannot be, such as the date
            2001-99-99 or a number of hundreds of characters, is nested too deeply, or becomes very large by aliases.
    """
    import yaml

    if len(text) > LONGEST_TEXT:
        raise yaml.YAMLError(f"{len(text):,} characters, and at most {LONGEST_TEXT:,} are read")
    try:
        if _size(_composed(text), {}) > LARGEST:
            raise yaml.YAMLError(f"more than {LARGEST:,} values, or an alias that contains itself")
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("too many values inside each other") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def _composed(text: str) -> "yaml.Node | None":
    """Return the nodes of a YAML text, of which no more are made than a text may have."""
    import yaml

    class Loader(yaml.SafeLoader):
        count = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.count += 1
            if self.count > LARGEST:
                raise yaml.YAMLError(f"more than {LARGEST:,} values")
            return super().compose_node(parent, index)

    return yaml.compose(text, Loader)


def _size(node: "yaml.Node | None", known: dict[int, float]) -> float:
    """Return the number of values of a node; infinity if it contains itself.

    Raises:
        yaml.YAMLError: A number or a date in it is too long.
    """
    if node is None:
        return 1
    if not isinstance(node.value, list):
        _check_length(node)
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _check_length(node: "yaml.Node") -> None:
    import yaml

    kind = {"int": "a number", "float": "a number", "timestamp": "a date"}.get(node.tag.rpartition(":")[2])
    if kind is not None and len(node.value) > LONGEST:
        raise yaml.MarkedYAMLError(
            problem=f"{kind} of {len(node.value):,} characters: {node.value[:20]}…; quote it if it is text",
            problem_mark=node.start_mark,
        )


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
