"""The words of OpenAI's HTTP interface: what is understood, what is refused, and the shapes of replies."""

import random
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from subquad.errors import SubquadError, unknown
from subquad.llm.serving.batching import Piece
from subquad.llm.serving.sampling import Sampling

__all__ = ["ChatRequest", "CompletionRequest", "Refusal", "choice", "error", "part", "usage"]

MOST_TEXTS = 4
IGNORED = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
}  # fmt: skip
"""Fields that change nothing in what a model says."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that are not supported, with the values that ask for nothing."""


class Refusal(SubquadError):  # noqa: N818 (it is an answer)
    """A request that is not answered; carries what the reply says beside the message."""

    def __init__(self, message: str, *, field: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.field, self.status, self.code = field, status, code


Positive = Annotated[int, Field(ge=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """What comes beside the text of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_TEXTS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def refuse_unsupported(self) -> None:
        """Check the fields that are not known here.

        Raises:
            Refusal: one that asks for something.
        """
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or value is None:
                continue
            if name not in NEUTRAL:
                known = [*type(self).model_fields, *IGNORED, *NEUTRAL]
                raise Refusal(str(unknown("field", name, known)), field=name)
            # compared with their types, since 0 equals False
            if not any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
                raise Refusal(f"{name} is not supported; leave it out", field=name)
        if self.stream_options is not None and not self.stream:
            raise Refusal("stream_options needs stream: true beside it", field="stream_options")

    def sampling(self) -> Sampling:
        """Return how tokens are chosen."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    def stops(self) -> tuple[str, ...]:
        """Return the texts at which to end."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def given_seed(self) -> int:
        """Return the seed, one by chance where none is given."""
        return random.getrandbits(62) if self.seed is None else self.seed

    def has_usage(self) -> bool:
        """Return whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """Of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return list(self.prompt)  # pyright: ignore[reportReturnType]


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, str]:
        """Return the message as chat templates want it."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}


class ChatRequest(_Request):
    """Of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Positive | None = None

    def refuse_unsupported(self) -> None:
        """Check the fields that are not known here, in the messages too.

        Raises:
            Refusal: one that asks for something.
        """
        super().refuse_unsupported()
        for place, message in enumerate(self.messages):
            for name in ("tool_calls", "function_call"):
                if (message.model_extra or {}).get(name):
                    raise Refusal(f"messages[{place}].{name} is not supported", field=f"messages[{place}].{name}")

    def most_tokens(self) -> int | None:
        """Return the longest answer that is asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def choice(index: int, text: str, finish: str | None, *, is_chat: bool) -> dict[str, Any]:
    """Return one text of a whole reply."""
    body = {"message": {"role": "assistant", "content": text, "refusal": None}} if is_chat else {"text": text}
    return {"index": index, **body, "logprobs": None, "finish_reason": finish}


def part(piece: Piece, *, is_chat: bool, is_first: bool = False) -> dict[str, Any]:
    """Return what a piece adds to one text of a stream."""
    if not is_chat:
        return choice(piece.place, piece.text, piece.finish, is_chat=False)
    delta = {**({"role": "assistant"} if is_first else {}), **({"content": piece.text} if piece.text else {})}
    return {"index": piece.place, "delta": delta, "logprobs": None, "finish_reason": piece.finish}


def usage(prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, int]:
    """Return the counts of tokens; a prompt of several texts counts once."""
    read = sum(len(prompt) for prompt in prompts)
    return {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": read + tokens}


def error(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of a reply that says what was wrong."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}
