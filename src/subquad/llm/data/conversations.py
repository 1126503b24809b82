"""Conversations as text, with the spans of their answers.

The tokenizer's chat template is used if there is one. Otherwise the messages are joined by blank lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subquad.errors import SubquadError
from subquad.llm.data.chat_templates import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
"""One turn: its `role` and its `content`."""

ROLES = ("system", "user", "assistant")
ASSISTANT = "assistant"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text."""

    text: str
    """The whole conversation."""
    answers: tuple[tuple[int, int], ...]
    """Character spans of the answers, each with its end-of-turn token; empty if they were not requested."""
    has_special_tokens: bool
    """The text contains its own beginning and end tokens, since a chat template wrote it."""


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, with_answers: bool) -> Rendered:
    """Write a conversation in the format of the tokenizer's model.

    Costs one pass of the chat template, and two more per answer if their spans are requested.

    Args:
        tokenizer: Tokenizer with or without a chat template.
        messages: The turns.
        with_answers: Find the spans of the answers.

    Raises:
        SubquadError: The template rejects the conversation or its answers cannot be found in the text; without a
            template, a role is unknown.
    """
    if not tokenizer.chat_template:
        return render_plain(messages)
    text = _apply_template(tokenizer, messages)
    answers = tuple(_find_answers(tokenizer, messages, text)) if with_answers else ()
    return Rendered(text=text, answers=answers, has_special_tokens=True)


def render_plain(messages: Sequence[Message]) -> Rendered:
    """Join the messages of a conversation by blank lines.

    Raises:
        SubquadError: A role is not system, user or assistant.
    """
    text, answers = "", []
    for message in messages:
        if message["role"] not in ROLES:
            raise SubquadError(f"without a chat template roles are {', '.join(ROLES)}, got {message['role']!r:.40}")
        content = message["content"].strip()
        if content:
            text += "\n\n" * bool(text)
            if message["role"] == ASSISTANT:
                answers.append((len(text), len(text) + len(content)))
            text += content
    return Rendered(text=text, answers=tuple(answers), has_special_tokens=False)


def _apply_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, is_prompt: bool = False
) -> str:
    what = f"the roles {', '.join(message['role'] for message in messages)}"
    return render_chat(tokenizer, messages, is_prompt=is_prompt, what=what)


def _find_answers(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    spans = []
    for number, message in enumerate(messages):
        # an assistant message that comes first answers nothing
        if message["role"] != ASSISTANT or not number:
            continue
        prompt = _apply_template(tokenizer, messages[:number], is_prompt=True)
        answer = message["content"].strip()
        # the end-of-turn token belongs to the answer, or the model would never learn to stop
        end = _apply_template(tokenizer, messages[: number + 1]).rstrip().rpartition(answer)[2] if answer else ""
        # some templates insert a thought before the last answer, which then begins the span
        start = text.find(answer + end, len(prompt))
        if not text.startswith(prompt) or start < 0:
            raise SubquadError(f"answer {number + 1} is not found in what the tokenizer's chat template writes")
        spans.append((len(prompt), start + len(answer + end)))
    return spans
