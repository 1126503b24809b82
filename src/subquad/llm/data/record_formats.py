"""Formats of rows in JSON and Parquet files: a text, a question with its answer, or a conversation.

The format is detected from the keys of the first row, in this order:

- a text under `text`, or under the key that the user names;
- `messages`, a list of `role` and `content`, or `conversations`, the same or a list of `from` and `value` (ShareGPT);
- `instruction` and `instances`, a list of `input` and `output` (self-instruct), one document each;
- `instruction`, `input` or `context`, and `output` or `response` (Alpaca, GPTeacher, Dolly);
- `prompt` and `completion` or `response`; `question` and `answer`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, shortened
from subquad.llm.data.conversations import Message

DEFAULT_KEY = "text"
KNOWN_FORMATS = "'text', 'messages', 'instruction', 'prompt' or 'question'"

CONVERSATIONS = ("messages", "conversations")
QUESTIONS = {
    "instruction": (("input", "context"), ("output", "response")),
    "prompt": ((), ("completion", "response")),
    "question": ((), ("answer",)),
}
"""Key of the question → possible keys of its context, and of the answer."""
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
END_OF_TEXT = "<|endoftext|>"
"""End of completions in data sets made for GPT-3; other models have another token."""


@dataclass(frozen=True, kw_only=True)
class RecordFormat:
    """How a row is read."""

    description: str
    """The format in words, for messages."""
    keys: tuple[str, ...]
    """Keys that are read."""
    is_conversation: bool
    """Whether rows hold questions and answers."""
    read: Callable[[Mapping[str, Any]], list[str | list[Message]]]
    """Returns the texts or conversations of a row."""


def detect_format(path: Path, keys: Collection[str], text_key: str = DEFAULT_KEY) -> RecordFormat:
    """Return the format of rows with these keys.

    Raises:
        SubquadError: It is unknown; the message names `path`.
    """
    if text_key in keys:
        return RecordFormat(
            description=f"text under {text_key!r}",
            keys=(text_key,),
            is_conversation=False,
            read=lambda row: [_string(row, text_key)],
        )
    # a key that the user named is never replaced by another
    formats = CONVERSATIONS if text_key == DEFAULT_KEY else ()
    for key in formats:
        if key in keys:
            return RecordFormat(
                description=f"conversations under {key!r}",
                keys=(key,),
                is_conversation=True,
                read=partial(_read_messages, key=key),
            )
    if formats and "instruction" in keys and "instances" in keys:
        return RecordFormat(
            description="'instruction' with 'input' as the question, 'output' as the answer, one each in 'instances'",
            keys=("instruction", "instances"),
            is_conversation=True,
            read=_read_instances,
        )
    for question, (contexts, answers) in QUESTIONS.items() if formats else ():
        answer = next((key for key in answers if key in keys), None)
        if question in keys and answer:
            context = next((key for key in contexts if key in keys), None)
            # other rows may have a context even if the first has none
            parts = (question, context or contexts[0]) if contexts else (question,)
            shown = " with ".join(map(repr, (question, context) if context else (question,)))
            return RecordFormat(
                description=f"{shown} as the question, {answer!r} as the answer",
                keys=tuple(key for key in (*parts, answer) if key in keys),
                is_conversation=True,
                read=partial(_read_question, parts=parts, answer=answer),
            )
    wanted = KNOWN_FORMATS if formats else repr(text_key)
    raise SubquadError(f"{path}: its rows need {wanted}, and have {shortened(', '.join(map(repr, keys)) or 'no keys')}")


def _string(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise TypeError(f"{key!r} is {row[key]!r:.40}")
    return row[key]


def _read_question(row: Mapping[str, Any], *, parts: tuple[str, ...], answer: str) -> list[str | list[Message]]:
    texts = [_string(row, key) for key in parts if key == parts[0] or row.get(key) is not None]
    question = "\n\n".join(text.strip() for text in texts if text.strip())
    if not question:
        raise ValueError(f"{parts[0]!r} is empty")
    reply = _string(row, answer).strip().removesuffix(END_OF_TEXT).rstrip()
    return [[{"role": "user", "content": question}, {"role": "assistant", "content": reply}]]


def _read_instances(row: Mapping[str, Any]) -> list[str | list[Message]]:
    how = {"parts": ("instruction", "input"), "answer": "output"}
    rows = [{**instance, "instruction": row["instruction"]} for instance in row["instances"]]
    return [conversation for whole in rows for conversation in _read_question(whole, **how)]


def _read_messages(row: Mapping[str, Any], *, key: str) -> list[str | list[Message]]:
    messages = []
    for message in row[key]:
        is_sharegpt = "from" in message and "role" not in message
        role, content = (_string(message, name) for name in (("from", "value") if is_sharegpt else ("role", "content")))
        messages.append({"role": SHAREGPT_ROLES.get(role, role) if is_sharegpt else role, "content": content})
    if not messages:
        raise ValueError(f"{key!r} is empty")
    return [messages]
