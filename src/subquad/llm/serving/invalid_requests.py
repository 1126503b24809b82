"""Messages about requests that pydantic refuses: the field, what it must be, and what it is."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fastapi.exceptions import RequestValidationError

from subquad.llm.serving.protocol import LONE_SURROGATE

__all__ = ["explain"]

SEVERAL_TYPES = {
    "prompt": "must be a string, a list of strings, a list of tokens (whole numbers) or a list of such lists",
    "stop": "must be a string or a list of strings",
    "content": "must be a string or a list of parts of type text",
}
"""Fields of several types, each of which has errors of its own."""
WITH_PLACES = ("messages", "stream_options")
"""Fields whose parts are named in messages."""
TYPES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a string",
    "list": "must be a list",
    "model": "must be an object",
}
"""What a value must be, by the beginning of the type of an error."""

Error = Mapping[str, Any]


def explain(error: RequestValidationError) -> tuple[str, str | None]:
    """Return the message about an invalid request, and the field that it is about."""
    errors: Sequence[Error] = error.errors()
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", errors[0]["msg"])
        return f"the body is not JSON: {reason} at character {errors[0]['loc'][-1]}", None
    # own checks first, then the type that fits furthest
    own = [one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]]
    first = max(own, key=lambda one: (one["type"] in ("value_error", "string_unicode", "too_long"), len(one["loc"])))
    field = _field(first["loc"])
    if first["type"] in ("missing", "model_attributes_type") and field is None:
        return "the body is empty or no JSON object; send one, with the header Content-Type: application/json", None
    where = f"{field}: " if field else ""
    return f"{where}{_problem(first)}", field


def _field(place: Sequence[str | int]) -> str | None:
    """Return the name of a field, as in `messages[3].role`; None for the whole body."""
    if len(place) < 2:
        return None
    name, *parts = _parts(place)
    if name not in WITH_PLACES:
        return str(name)
    return str(name) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _parts(place: Sequence[str | int]) -> list[str | int]:
    """Return a place in the body without the types, which stand after the names of fields of several types."""
    return [part for before, part in pairwise(place) if not (before in SEVERAL_TYPES and isinstance(part, str))]


def _problem(error: Error) -> str:
    kind, limits, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "string_unicode":
        return LONE_SURROGATE
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return "is missing"
    if kind == "too_long":
        return f"at most {limits['max_length']:,} in one request are allowed, got {limits['actual_length']:,}"
    if kind == "extra_forbidden":
        return "there is no such field"
    name = next((part for part in reversed(_parts(error["loc"])) if isinstance(part, str)), "")
    if isinstance(given, float) and math.isnan(given):
        wanted = TYPES["float"]
    elif kind == "greater_than_equal":
        wanted = f"must be at least {limits['ge']:,.0f}"
    elif kind == "greater_than":
        wanted = f"must be greater than {limits['gt']:,.0f}"
    elif kind == "less_than_equal":
        wanted = f"must be at most {limits['le']:,.0f}"
    elif kind in ("too_short", "string_too_short"):
        wanted = "must not be empty"
    elif kind == "literal_error":
        wanted = f"must be {limits['expected']}"
    else:
        wanted = SEVERAL_TYPES.get(name) or TYPES.get(kind.partition("_")[0], error["msg"])
    return f"{wanted}, got {_shown(given)}"


def _shown(value: Any) -> str:
    """Return a value of a request as JSON; of lists and objects only what they are."""
    if isinstance(value, dict | list) and value:
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value, ensure_ascii=False, default=str)[:100]
