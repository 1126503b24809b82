"""Settings of text generation, chat and the server. Imports the standard library and cyclopts only."""

import os
from dataclasses import dataclass
from typing import Annotated

from subquad.errors import SubquadError
from subquad.llm.settings import PlacementSettings
from subquad.runs.options import (
    Count,
    Ge,
    Gt,
    Le,
    Model,
    MoreModel,
    MoreOutput,
    Natural,
    NonNegative,
    Output,
    Probability,
)

LOOPBACK = ("127.0.0.1", "localhost")
"""Addresses that only this computer can reach."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PlacementSettings):
    """How a text is continued."""

    max_new_tokens: Output[Count] = 100
    """Maximum number of new tokens; the model may end earlier."""
    temperature: Output[NonNegative] = 0.7
    """Sampling temperature; 0 is greedy decoding."""
    top_p: Output[Annotated[float, Gt(0), Le(1)]] = 1.0
    """Nucleus sampling: sample from the smallest set of most likely tokens with at least this probability."""
    top_k: Output[Natural] = 0
    """Sample from so many most likely tokens; 0 for all."""
    min_p: Output[Probability] = 0.0
    """Sample from the tokens with at least this fraction of the probability of the most likely one."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings(GenerateSettings):
    """How a model answers in the terminal."""

    system: Output[str | None] = None
    """System message. Default: none, or the one in the model's chat template."""
    max_new_tokens: Output[Count] = 512
    """Maximum number of tokens of an answer."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings(PlacementSettings):
    """How a model is served over HTTP."""

    host: Output[str] = "127.0.0.1"
    """Address to listen on; any other than 127.0.0.1 and localhost needs an API key."""
    port: Output[Natural] = 8000
    """Port to listen on; 0 picks a free one."""
    api_key: Output[str | None] = None
    """Key that clients have to send. Default: the environment variable SUBQUAD_API_KEY (safer, since other users can
    see command lines), or none."""
    name: Output[str | None] = None
    """Model name for clients. Default: the folder's name."""
    max_batch_size: Model[Count] = 32
    """Maximum number of sequences decoded together; their states are allocated at the start, other requests wait."""
    max_context: Model[Annotated[int, Ge(2)] | None] = None
    """Maximum number of tokens of prompt and answer together. Default: the model's `max_position_embeddings`."""
    max_waiting: MoreOutput[Count] = 256
    """Maximum number of sequences that wait; requests for further ones get status 429."""
    prefix_states: MoreModel[Natural] = 8
    """States of earlier prompts and answers that are kept: a prompt that begins like one of them, as every turn of a
    chat does, is read only from there on. Each has the size of one sequence's state; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host not in LOOPBACK and not self.key:
            raise SubquadError(f"other computers can reach {self.host}: give an API key (SUBQUAD_API_KEY)")

    @property
    def key(self) -> str | None:
        """The key that clients have to send, if there is one."""
        return self.api_key or os.environ.get("SUBQUAD_API_KEY") or None
