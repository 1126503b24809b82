"""What a user can set for serving and chatting. Imports the standard library only, to start fast."""

from dataclasses import dataclass
from typing import Any, Literal

from subquad.errors import SubquadError

__all__ = ["ChatSettings", "ServeSettings"]


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a model is served."""

    host: str = "127.0.0.1"
    """Address to listen on. There is no password: with another address than this, whoever reaches it can ask."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """What clients call the model; the folder's name where nothing is said."""
    max_batch: int = 32
    """Texts that grow at once; further requests wait. The memory of their states is taken at the start."""
    max_context: int | None = None
    """Tokens of prompt and answer together, at most; the model's max_position_embeddings where nothing is said."""
    max_waiting: int = 256
    """Requests that may wait for a place; further ones are told to come again (status 429)."""
    chunk: int = 512
    """Tokens of a prompt that are read between two tokens of the others."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; feature maps stay float32."""
    grace: int = 10
    """Seconds that running requests have to end once the server is stopped."""

    def __post_init__(self) -> None:
        _at_least(self, max_batch=1, max_context=2, max_waiting=1, chunk=1, grace=0)
        if not 0 <= self.port <= 65535:
            raise SubquadError(f"--port must be from 0 to 65535, got {self.port}")
        if self.precision not in ("float32", "bfloat16"):
            raise SubquadError(f"--precision must be float32 or bfloat16, got {self.precision!r}")
        if self.name == "":
            raise SubquadError("--name must not be empty")


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a model answers in the terminal."""

    system: str | None = None
    """What the model is told before the talk; some models' templates bring a text of their own."""
    max_new_tokens: int = 512
    """Tokens of an answer, at most."""
    temperature: float = 0.7
    """0 takes the likeliest token each time; higher is more varied."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that have this share of the probability."""

    def __post_init__(self) -> None:
        _at_least(self, max_new_tokens=1, temperature=0)
        if not 0 < self.top_p <= 1:
            raise SubquadError(f"--top-p must be above 0 and at most 1, got {self.top_p}")


def _at_least(settings: Any, **least: float) -> None:
    for name, bound in least.items():
        value = getattr(settings, name)
        # the other way round, not a number would pass
        if value is not None and not value >= bound:
            raise SubquadError(f"--{name.replace('_', '-')} must be at least {bound}, got {value}")
