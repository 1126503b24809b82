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
from typing import Any

from subquad.errors import SubquadError
from subquad.llm.data.conversations import Message

__all__ = ["KNOWN_FORMATS", "RecordFormat", "detect_format", "text_format"]

DEFAULT_KEY = "text"
KNOWN_FORMATS = "'text', 'messages', 'instruction' and 'output', 'prompt' and 'completion', or 'question' and 'answer'"

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
    """Returns the texts or conversations of a row; raises `SubquadError` if the row is invalid."""


def detect_format(keys: Collection[str], text_key: str = DEFAULT_KEY) -> RecordFormat | None:
    """Return the format of rows with these keys; None if it is unknown."""
    if text_key in keys:
        return text_format(text_key)
    # a key that the user named is never replaced by another
    if text_key != DEFAULT_KEY:
        return None
    for key in CONVERSATIONS:
        if key in keys:
            return RecordFormat(
                description=f"conversations under {key!r}",
                keys=(key,),
                is_conversation=True,
                read=partial(_read_messages, key=key),
            )
    if "instruction" in keys and "instances" in keys:
        return RecordFormat(
            description="'instruction' with 'input' as the question, 'output' as the answer, one each in 'instances'",
            keys=("instruction", "instances"),
            is_conversation=True,
            read=_read_instances,
        )
    for question, (contexts, answers) in QUESTIONS.items():
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
    return None


def text_format(key: str) -> RecordFormat:
    """Return the format of rows with a text under `key`."""
    return RecordFormat(
        description=f"text under {key!r}", keys=(key,), is_conversation=False, read=lambda row: [_string(row, key)]
    )


def _string(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        found = ", ".join(map(repr, row)) or "no keys"
        raise SubquadError(f"no text under {key!r}; the row has {found} (see --text-key)")
    if not isinstance(row[key], str):
        raise SubquadError(f"no text under {key!r}; found {_type_name(row[key])} (see --text-key)")
    return row[key]


def _type_name(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _read_question(row: Mapping[str, Any], *, parts: tuple[str, ...], answer: str) -> list[str | list[Message]]:
    first, *others = parts
    texts = [_string(row, first), *(_string(row, key) for key in others if row.get(key) is not None)]
    question = "\n\n".join(text.strip() for text in texts if text.strip())
    if not question:
        raise SubquadError(f"the question is empty: {first!r} has no text")
    reply = _string(row, answer).strip().removesuffix(END_OF_TEXT).rstrip()
    return [[{"role": "user", "content": question}, {"role": "assistant", "content": reply}]]


def _read_instances(row: Mapping[str, Any]) -> list[str | list[Message]]:
    instruction, instances = _string(row, "instruction"), row.get("instances")
    are_objects = isinstance(instances, list) and all(isinstance(instance, Mapping) for instance in instances)
    if not isinstance(instances, list) or not instances or not are_objects:
        raise SubquadError("'instances' is not a list of objects with 'input' and 'output'")
    conversations = []
    for instance in instances:
        whole = {**instance, "instruction": instruction}
        conversations += _read_question(whole, parts=("instruction", "input"), answer="output")
    return conversations


def _read_messages(row: Mapping[str, Any], *, key: str) -> list[str | list[Message]]:
    given, messages = row.get(key), []
    if not isinstance(given, list) or not given:
        raise SubquadError(
            f"{key!r} is not a list of messages with 'role' and 'content'; found {_type_name(given or None)}"
        )
    for number, message in enumerate(given, start=1):
        if not isinstance(message, Mapping):
            raise SubquadError(f"message {number} is {_type_name(message)}, not an object with 'role' and 'content'")
        names = ("from", "value") if "from" in message and "role" not in message else ("role", "content")
        for name in names:
            if not isinstance(message.get(name), str):
                found = _type_name(message.get(name))
                raise SubquadError(f"message {number} has no text under {name!r}; found {found}")
        role, content = (message[name] for name in names)
        messages.append({"role": SHAREGPT_ROLES.get(role, role) if names[0] == "from" else role, "content": content})
    return [messages]
