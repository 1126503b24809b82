"""Bodies of successful replies in OpenAI's terms, for the server's description only: replies are not made of these."""

from typing import Annotated, Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EVENTS", "TEXT", "ChatCompletion", "Completion", "Health", "Model", "ModelList"]

Count = Annotated[int, Field(ge=0)]


def _other(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {"schema": schema}}}}


TEXT = _other(CONTENT_TYPE_LATEST, {"type": "string"})
"""What an endpoint declares that replies in the format of Prometheus."""
# before version 3.2, a schema of OpenAPI describes each event of a stream
EVENTS = _other(
    "text/event-stream", {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
)
"""What an endpoint declares that can stream its reply."""


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Health(_Reply):
    """State of the server."""

    status: Literal["ok", "failed"]
    active: Count
    """Sequences in the batch."""
    waiting: Count
    """Prompts that have not been started."""


class Model(_Reply):
    """A model."""

    id: str
    object: Literal["model"]
    created: Count
    """Time in seconds since 1970."""
    owned_by: str


class ModelList(_Reply):
    """The models of the server, of which there is one."""

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(_Reply):
    """What is known of the tokens of a prompt."""

    cached_tokens: Count


class CompletionUsage(_Reply):
    """Token counts of a request."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


class _Choice(_Reply):
    index: Count
    finish_reason: Literal["stop", "length"]


class _Whole(_Reply):
    created: Count
    """Time in seconds since 1970."""
    model: str
    usage: CompletionUsage


class Logprobs(_Reply):
    """Log-probabilities of the tokens of a text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for a first token, which nothing predicts."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class CompletionChoice(_Choice):
    """A text."""

    text: str
    logprobs: Logprobs | None


class Completion(_Whole):
    """Reply of /v1/completions."""

    id: Annotated[str, Field(pattern="^cmpl-")]
    object: Literal["text_completion"]
    choices: Annotated[list[CompletionChoice], Field(min_length=1)]


class TopLogprob(_Reply):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None
    """None for a part of a character."""


class ChatCompletionTokenLogprob(TopLogprob):
    """A token of an answer, and the most likely tokens in its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(_Reply):
    """Log-probabilities of the tokens of an answer."""

    content: list[ChatCompletionTokenLogprob]
    refusal: None


class ChatCompletionMessage(_Reply):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatCompletionChoice(_Choice):
    """One of the answers."""

    message: ChatCompletionMessage
    logprobs: ChoiceLogprobs | None


class ChatCompletion(_Whole):
    """Reply of /v1/chat/completions."""

    id: Annotated[str, Field(pattern="^chatcmpl-")]
    object: Literal["chat.completion"]
    choices: Annotated[list[ChatCompletionChoice], Field(min_length=1)]
