"""OpenAI's HTTP interface: supported and rejected fields of requests, and the bodies of replies."""

import random
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from subquad.errors import SubquadError, unknown
from subquad.llm.serving.sampling import SamplingParameters

__all__ = [
    "LONE_SURROGATE",
    "TOO_MANY",
    "ChatRequest",
    "CompletionRequest",
    "RequestError",
    "choice_body",
    "delta_body",
    "error_body",
    "usage_body",
]

TOO_MANY = 429
"""Status of a request that may be sent again."""
LONE_SURROGATE = "it contains a lone surrogate, which is not a Unicode character"
MOST_CHOICES = 4
MOST_STOPS = 4
MOST_LOGPROBS = 20
FEWEST_TOKENS = "must be at least 1, or with echo at least 0"
MOST_PROMPTS = 2**14
"""Maximum number of prompts in a request; checking many more of them would hold up all requests."""
LARGEST = 2**31 - 1
"""Largest whole number that a field takes."""
IGNORED = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
}  # fmt: skip
"""Fields that do not change the text."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that are not supported, with the values that have no effect."""


class RequestError(SubquadError):
    """A request that cannot be answered, with the fields of OpenAI's error body."""

    def __init__(self, message: str, *, field: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.field, self.status, self.code = field, status, code


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(LONE_SURROGATE) from None
    return text


def _not_negative(tokens: int) -> int:
    if tokens < 0:
        raise ValueError(f"{FEWEST_TOKENS}, got {tokens}")
    return tokens


def _few(stops: list[str]) -> list[str]:
    if len(stops) > MOST_STOPS:
        raise ValueError(f"at most {MOST_STOPS} stop strings are allowed, got {len(stops)}")
    return stops


Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NotNegative = Annotated[int, Field(le=LARGEST, json_schema_extra={"minimum": 0}), AfterValidator(_not_negative)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
# a list ends at its first error, since a million errors would take seconds
Tokens = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[Text], Field(max_length=MOST_PROMPTS, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(max_length=MOST_PROMPTS, fail_fast=True)]


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: Text
    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True), AfterValidator(_few)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_supported(self) -> None:
        """Check the fields that this server does not know.

        Raises:
            RequestError: One of them has a value that would change the reply.
        """
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or value is None:
                continue
            if name not in NEUTRAL:
                known = [*type(self).model_fields, *IGNORED, *NEUTRAL]
                raise RequestError(str(unknown("field", name, known)), field=name)
            # compared with their types, since 0 equals False
            if not any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
                raise RequestError(f"{name} is not supported; leave it out", field=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options requires stream: true", field="stream_options")

    def sampling(self) -> SamplingParameters:
        """Return how tokens are chosen."""
        return SamplingParameters(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            # vLLM's -1 means all as well
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def seed_or_random(self) -> int:
        """Return the seed; a random one if none is given."""
        return random.getrandbits(62) if self.seed is None else self.seed

    def has_usage(self) -> bool:
        """Return whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """Body of /v1/completions."""

    prompt: Text | Texts | Tokens | TokenLists
    max_tokens: NotNegative | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    def check_supported(self) -> None:
        """Check the fields that this server does not know, and that something is asked for.

        Raises:
            RequestError: One of them has a value that would change the reply, or the reply would be empty.
        """
        super().check_supported()
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(f"max_tokens: {FEWEST_TOKENS}, got 0", field="max_tokens")

    def most_likely(self) -> int | None:
        """Return of how many most likely tokens log-probabilities are asked for in each place; None for none at all."""
        return self.logprobs

    def most_tokens(self) -> int | None:
        """Return the requested maximum length of an answer; None if the request has none."""
        return self.max_tokens

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return list(self.prompt)  # pyright: ignore[reportReturnType]


class TextPart(BaseModel):
    """A text part of a message."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def plain(self) -> dict[str, str]:
        """Return the message as chat templates expect it."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}


class ChatRequest(_Request):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    def check_supported(self) -> None:
        """Check the fields that this server does not know, in the messages too.

        Raises:
            RequestError: One of them has a value that would change the reply, or a message has no content.
        """
        super().check_supported()
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs requires logprobs: true", field="top_logprobs")
        for index, message in enumerate(self.messages):
            for name in ("tool_calls", "function_call"):
                if (message.model_extra or {}).get(name):
                    field = f"messages[{index}].{name}"
                    raise RequestError(f"{field} is not supported", field=field)
            if message.content is None:
                field = f"messages[{index}].content"
                raise RequestError(f"{field} is missing; give the text of the message", field=field)

    def most_likely(self) -> int | None:
        """Return of how many most likely tokens log-probabilities are asked for in each place; None for none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def most_tokens(self) -> int | None:
        """Return the requested maximum length of the answer; None if the request has none."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def choice_body(
    index: int, text: str, finish_reason: str | None, *, is_chat: bool, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return one sequence of a whole reply."""
    body = {"message": {"role": "assistant", "content": text, "refusal": None}} if is_chat else {"text": text}
    return {"index": index, **body, "logprobs": logprobs, "finish_reason": finish_reason}


def delta_body(
    index: int,
    text: str,
    finish_reason: str | None,
    *,
    is_chat: bool,
    is_first: bool = False,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a delta adds to one sequence of a streamed reply."""
    if not is_chat:
        return choice_body(index, text, finish_reason, is_chat=False, logprobs=logprobs)
    body = {**({"role": "assistant"} if is_first else {}), **({"content": text} if text else {})}
    return {"index": index, "delta": body, "logprobs": logprobs, "finish_reason": finish_reason}


def usage_body(prompts: Sequence[Sequence[int]], tokens: int, *, cached: int) -> dict[str, Any]:
    """Return the token counts; a prompt of several sequences counts once, and `cached` tokens were not read again."""
    prompt_tokens = sum(len(prompt) for prompt in prompts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_body(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of an error reply."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == TOO_MANY else "invalid_request_error"
    # a message may quote text that UTF-8 cannot express
    shown = message.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"error": {"message": shown, "type": kind, "param": field, "code": code}}
