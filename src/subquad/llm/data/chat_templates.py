"""A tokenizer's chat template, which comes with a checkpoint: transformers runs it in a sandbox of jinja2."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from subquad.errors import SubquadError, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What the program of a template raises."""


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    *,
    is_prompt: bool = False,
    what: str = "the messages",
) -> str:
    """Return messages in the format of the tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        messages: The turns, each with its role and content.
        is_prompt: End with what the template puts before an answer.
        what: The messages in words, for the error.

    Raises:
        SubquadError: The template rejects the messages or is damaged.
    """
    turns = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=is_prompt, tokenize=False))
    except (
        TemplateError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        # clients of a server see no more of the path than the name of the folder
        name = Path(tokenizer.name_or_path).name or "the tokenizer"
        raise SubquadError(f"{name}: its chat template rejects {what}: {shortened(str(error))}") from error
