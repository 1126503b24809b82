"""What a row of a JSON or Parquet file holds: a text, a question with its answer, or a conversation.

Costs nothing: keys are looked up. The kinds of rows, in the order in which they are looked for:

- a text under `text`, or under the key that the user names;
- `messages`, a list of `role` and `content`, or `conversations`, the same or a list of `from` and `value` (ShareGPT);
- `instruction` and `instances`, a list of `input` and `output` (self-instruct); each is a document;
- `instruction`, `input` or `context`, and `output` or `response` (Alpaca, GPTeacher, Dolly);
- `prompt` and `completion` or `response`; `question` and `answer`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from subquad.errors import SubquadError
from subquad.llm.data.conversations import Message

__all__ = ["KNOWN", "Form", "form_of", "text_form"]

DEFAULT_KEY = "text"
KNOWN = "'text', 'messages', 'instruction' and 'output', 'prompt' and 'completion', or 'question' and 'answer'"

CONVERSATIONS = ("messages", "conversations")
# the question's key: keys of what goes with it, and of the answer
QUESTIONS = {
    "instruction": (("input", "context"), ("output", "response")),
    "prompt": ((), ("completion", "response")),
    "question": ((), ("answer",)),
}
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
# completions for GPT-3 and its kin close with it, whatever the model's own mark is
END_MARK = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a row is read."""

    words: str
    """In words."""
    keys: tuple[str, ...]
    """The keys that are looked at."""
    is_conversation: bool
    """The row holds questions and answers."""
    read: Callable[[Mapping[str, Any]], list[str | list[Message]]]
    """Returns a row's texts or conversations; raises `SubquadError` with what is wrong with it."""


def form_of(keys: Collection[str], text_key: str = DEFAULT_KEY) -> Form | None:
    """Return how rows with these keys are read; nothing where they hold none of what is looked for."""
    if text_key in keys:
        return text_form(text_key)
    # who names a key means it
    if text_key != DEFAULT_KEY:
        return None
    for key in CONVERSATIONS:
        if key in keys:
            return Form(
                words=f"conversations under {key!r}", keys=(key,), is_conversation=True,
                read=partial(_messages, key=key),
            )  # fmt: skip
    if "instruction" in keys and "instances" in keys:
        return Form(
            words="'instruction' with 'input' as the question, 'output' as the answer, one of each in 'instances'",
            keys=("instruction", "instances"), is_conversation=True, read=_instances,
        )  # fmt: skip
    for question, (extras, answers) in QUESTIONS.items():
        answer = next((key for key in answers if key in keys), None)
        if question in keys and answer:
            extra = next((key for key in extras if key in keys), None)
            # a row may lack it even where the first has it, or have it where the first lacks it
            asked = (question, extra or extras[0]) if extras else (question,)
            shown = " with ".join(map(repr, (question, extra) if extra else (question,)))
            return Form(
                words=f"{shown} as the question, {answer!r} as the answer",
                keys=tuple(key for key in (*asked, answer) if key in keys), is_conversation=True,
                read=partial(_pair, asked=asked, answer=answer),
            )  # fmt: skip
    return None


def text_form(key: str) -> Form:
    """Return how rows with a text under `key` are read."""
    return Form(words=f"text under {key!r}", keys=(key,), is_conversation=False, read=partial(_text, key=key))


def _string(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        held = ", ".join(map(repr, row)) or "nothing"
        raise SubquadError(f"no text under {key!r}; it holds {held} (see --text-key)")
    if not isinstance(row[key], str):
        raise SubquadError(f"no text under {key!r}, but {_kind(row[key])} (see --text-key)")
    return row[key]


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _text(row: Mapping[str, Any], *, key: str) -> list[str | list[Message]]:
    return [_string(row, key)]


def _pair(row: Mapping[str, Any], *, asked: tuple[str, ...], answer: str) -> list[str | list[Message]]:
    first, *others = asked
    parts = [_string(row, first), *(_string(row, key) for key in others if row.get(key) is not None)]
    question = "\n\n".join(part.strip() for part in parts if part.strip())
    if not question:
        raise SubquadError(f"nothing is asked: {first!r} is empty")
    reply = _string(row, answer).strip().removesuffix(END_MARK).rstrip()
    return [[{"role": "user", "content": question}, {"role": "assistant", "content": reply}]]


def _instances(row: Mapping[str, Any]) -> list[str | list[Message]]:
    instruction, instances = _string(row, "instruction"), row.get("instances")
    are_objects = isinstance(instances, list) and all(isinstance(instance, Mapping) for instance in instances)
    if not isinstance(instances, list) or not instances or not are_objects:
        raise SubquadError("'instances' is no list of objects with 'input' and 'output'")
    made = []
    for instance in instances:
        whole = {**instance, "instruction": instruction}
        made += _pair(whole, asked=("instruction", "input"), answer="output")
    return made


def _messages(row: Mapping[str, Any], *, key: str) -> list[str | list[Message]]:
    given, made = row.get(key), []
    if not isinstance(given, list) or not given:
        raise SubquadError(f"{key!r} is no list of messages with 'role' and 'content', but {_kind(given or None)}")
    for number, message in enumerate(given, start=1):
        if not isinstance(message, Mapping):
            raise SubquadError(f"message {number} is {_kind(message)}, not an object with 'role' and 'content'")
        names = ("from", "value") if "from" in message and "role" not in message else ("role", "content")
        for name in names:
            if not isinstance(message.get(name), str):
                raise SubquadError(f"message {number} has no text under {name!r}, but {_kind(message.get(name))}")
        role, content = (message[name] for name in names)
        made.append({"role": SHAREGPT_ROLES.get(role, role) if names[0] == "from" else role, "content": content})
    return [made]
