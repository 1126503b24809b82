"""Chat templates: programs in Jinja that come with a checkpoint, run in Jinja's sandbox within limits.

Costs two passes of the template: the first is counted, the second is transformers' own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from subquad.errors import SubquadError, shortened

__all__ = ["render_chat"]

TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
"""Files in which a chat template may be, the first that exists."""
MOST_CHARACTERS = 2**20
"""Characters of a template."""
MOST_NUMBERS = 10**6
"""Numbers in all ranges of one rendering."""
MOST_ITEMS = 2**20
"""Characters or items of what `+` and `*` make."""
MOST_BITS = 2**13
"""Bits of a product or a power."""
TEXT_FACTOR, TEXT_MARGIN = 16, 2**20
"""A rendered text has at most so many characters per character of the messages, and so many more."""
MOST_OF_REASON = 500
"""Letters that are quoted of a template's own error."""
WIDE = re.compile(r"[0-9]{7}|\*")
"""A width in a format that is too large, or is a value."""
_ERRORS = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(RecursionError, MemoryError, SyntaxError),
)


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    is_prompt: bool = False,
    what: str = "the messages",
) -> str:
    """Return a chat in the format of the tokenizer's chat template.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: Turns with `role` and `content`.
        is_prompt: Write up to where the model's answer starts.
        what: What the template is said to reject, for its errors.

    Raises:
        SubquadError: The template rejects the messages, is damaged, or makes too much.
    """
    turns = [dict(message) for message in messages]
    try:
        source = tokenizer.get_chat_template()
        if len(source) > MOST_CHARACTERS:
            raise SecurityError(f"it has {len(source):,} characters, more than {MOST_CHARACTERS:,}")
        _run_within_limits(source, turns, {**tokenizer.special_tokens_map, "add_generation_prompt": is_prompt})
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=is_prompt, tokenize=False)
    except _ERRORS as error:
        reason = shortened(str(error), MOST_OF_REASON) or type(error).__name__
        raise SubquadError(f"{_place(tokenizer)}: the chat template rejects {what}: {reason}") from error
    assert isinstance(text, str)
    return text


def _place(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return folder and name of the template's file; clients of a server see no more of its path."""
    folder = Path(tokenizer.name_or_path)
    found = [f"{folder.name}/{name}" for name in TEMPLATE_FILES if (folder / name).is_file()]
    return found[0] if found else folder.name or "the tokenizer"


def _run_within_limits(source: str, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> None:
    """Render a template, and raise where it makes more than the limits.

    Loops over lists and the operator `~` are not counted; there is no hook for them.
    """
    template = _limited_template(source)
    if template is None:
        return
    most = TEXT_MARGIN + TEXT_FACTOR * sum(len(message["content"]) for message in messages)
    values = {"messages": messages, "tools": None, "documents": None, "range": _counted_range(), **variables}
    size = 0
    for text in template.generate(values):
        size += len(text)
        if size > most:
            raise SecurityError(f"it writes more than {most:,} characters")


@lru_cache(maxsize=8)
def _limited_template(source: str) -> jinja2.Template | None:
    """Return the template in transformers' sandbox with operators that are checked; None if there is no such sandbox.

    Its environment has filters and tags of transformers.
    """
    compiled = getattr(chat_template_utils, "_compile_jinja_template", None)
    if compiled is None:
        return None
    environment = compiled("").environment.overlay()
    environment.intercepted_binops = frozenset(("*", "**", "+", "%"))
    environment.call_binop = _checked_operator(environment.binop_table)
    return environment.from_string(source)


def _counted_range() -> Callable[..., range]:
    left = MOST_NUMBERS

    def counted(*limits: int) -> range:
        nonlocal left
        found = range(*limits)
        left -= len(found)
        if left < 0:
            raise SecurityError(f"its ranges have more than {MOST_NUMBERS:,} numbers")
        return found

    return counted


def _checked_operator(operators: Mapping[str, Callable[[Any, Any], Any]]) -> Callable[[Any, str, Any, Any], Any]:
    def operate(context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(value) if hasattr(value, "__len__") else None for value in (left, right)]
        bits = [value.bit_length() if isinstance(value, int) else None for value in (left, right)]
        is_large = False
        if operator == "*":
            items = next((size for size in sizes if size is not None), None)
            factor = next((value for value in (left, right) if isinstance(value, int)), 0)
            is_large = items * factor > MOST_ITEMS if items is not None else _sum(bits) > MOST_BITS
        elif operator == "**" and None not in bits:
            is_large = bits[0] * right > MOST_BITS
        elif operator == "+":
            is_large = _sum(sizes) > MOST_ITEMS and max(len(left), len(right)) > MOST_ITEMS // 2
        elif operator == "%" and isinstance(left, str):
            is_large = WIDE.search(left) is not None
        if is_large:
            raise SecurityError(f"a result of its operator {operator} is too large")
        return operators[operator](left, right)

    return operate


def _sum(values: list[int | None]) -> int:
    return sum(value or 0 for value in values)
