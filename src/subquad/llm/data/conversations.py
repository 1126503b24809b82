"""Conversations as text, and where their answers stand; costs a pass of the template, for answers two more each.

The tokenizer's chat template writes them where it has one. Else their contents stand one under the other with blank
lines between, for a row of instruction, input and output: `instruction`, blank line, `input`, blank line, `output`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError

__all__ = ["Message", "Rendered", "render", "render_plain"]

Message = Mapping[str, str]
"""One turn: its `role` and its `content`."""

ROLES = ("system", "user", "assistant")
ANSWERING = "assistant"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text."""

    text: str
    """All of it."""
    answers: tuple[tuple[int, int], ...]
    """From which character to which the answers stand, each with the mark that ends its turn; empty if not asked."""
    has_marks: bool
    """The text carries its own marks of beginning and end, since a template wrote it."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, has_answers: bool) -> Rendered:
    """Return a conversation as the tokenizer's model expects it.

    Args:
        tokenizer: With a chat template or without.
        messages: The turns.
        has_answers: Say where the answers stand.

    Raises:
        SubquadError: the template refuses the conversation, hides its answers, or there is none and a role is unknown.
    """
    if not tokenizer.chat_template:
        return render_plain(messages)
    text = _by_template(tokenizer, messages)
    answers = tuple(_answers(tokenizer, messages, text)) if has_answers else ()
    return Rendered(text=text, answers=answers, has_marks=True)


def render_plain(messages: Sequence[Message]) -> Rendered:
    """Return the contents of a conversation with blank lines between.

    Raises:
        SubquadError: a role is none of system, user and assistant.
    """
    text, answers = "", []
    for message in messages:
        if message["role"] not in ROLES:
            raise SubquadError(
                f"the role {message['role']!r} is none of {', '.join(ROLES)}; "
                "others need a tokenizer with a chat template that knows them"
            )
        content = message["content"].strip()
        if content:
            text += "\n\n" * bool(text)
            if message["role"] == ANSWERING:
                answers.append((len(text), len(text) + len(content)))
            text += content
    return Rendered(text=text, answers=tuple(answers), has_marks=False)


def _by_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, is_asking: bool = False) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=is_asking
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise SubquadError(f"the tokenizer's chat template refuses the turns {roles}: {error}") from error
    return str(text)


def _answers(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
    found = []
    for number, message in enumerate(messages):
        # what stands first answers nothing
        if message["role"] != ANSWERING or not number:
            continue
        asked = _by_template(tokenizer, messages[:number], is_asking=True)
        answer = message["content"].strip()
        # the mark that ends the turn is learnt too, or the model would never stop
        mark = _by_template(tokenizer, messages[: number + 1]).rstrip().rpartition(answer)[2] if answer else ""
        # some templates put a thought before the last answer, which it may begin with
        at = text.find(answer + mark, len(asked))
        if not text.startswith(asked) or at < 0:
            raise SubquadError(
                f"answer {number + 1} cannot be told from the rest as the tokenizer's chat template writes it; "
                "use --learn all"
            )
        found.append((len(asked), at + len(answer + mark)))
    return found
