"""Settings of text generation, chat and the server. Imports the standard library and cyclopts only."""

import re
from dataclasses import dataclass
from pathlib import Path

from subquad.errors import SubquadError, flag_name, validate_minima, validate_values
from subquad.llm.settings import PlacementSettings
from subquad.runs.options import Model, Output

__all__ = ["ChatSettings", "GenerateSettings", "ServeSettings"]


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PlacementSettings):
    """How a text is continued."""

    max_new_tokens: Output[int] = 100
    """Maximum number of new tokens; the model may end earlier."""
    temperature: Output[float] = 0.7
    """Sampling temperature; 0 is greedy decoding."""
    top_p: Output[float] = 1.0
    """Nucleus sampling: sample from the smallest set of most likely tokens with at least this probability."""
    top_k: Output[int] = 0
    """Sample from so many most likely tokens; 0 for all."""
    min_p: Output[float] = 0.0
    """Sample from the tokens with at least this fraction of the probability of the most likely one."""

    def __post_init__(self) -> None:
        validate_values(self)
        validate_minima(self, max_new_tokens=1, temperature=0, top_k=0)
        if not 0 <= self.min_p <= 1:
            raise SubquadError(f"--min-p must be from 0 to 1, got {self.min_p}")
        if not 0 < self.top_p <= 1:
            raise SubquadError(f"--top-p must be above 0 and at most 1, got {self.top_p}")


@dataclass(frozen=True, kw_only=True)
class ChatSettings(GenerateSettings):
    """How a model answers in the terminal."""

    system: Output[str | None] = None
    """System message. Default: none, or the one in the model's chat template."""
    max_new_tokens: Output[int] = 512
    """Maximum number of tokens of an answer."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings(PlacementSettings):
    """How a model is served over HTTP."""

    host: Output[str] = "127.0.0.1"
    """Address to listen on. At any other address, everyone who can reach it can use the model, unless `--api-key` is
    set."""
    port: Output[int] = 8000
    """Port to listen on; 0 picks a free one."""
    api_key: Output[str | None] = None
    """Key that clients have to send. Default: the environment variable SUBQUAD_API_KEY (safer, since other users can
    see command lines). If neither is set, no key is needed."""
    allow_host: Output[tuple[str, ...]] = ()
    """Further names by which clients may call a server without a key on a loopback address, such as
    host.docker.internal; else it answers to the names of this computer only. In other cases any name is allowed."""
    name: Output[str | None] = None
    """Model name for clients. Default: the folder's name."""
    max_batch_size: Model[int] = 32
    """Maximum number of sequences decoded together; their states are allocated at the start, other requests wait."""
    max_context: Model[int | None] = None
    """Maximum number of tokens of prompt and answer together. Default: the model's `max_position_embeddings`."""
    max_waiting: Output[int] = 256
    """Maximum number of prompts that wait; requests with further ones get status 429."""
    prefill_chunk_size: Model[int] = 512
    """Tokens of a new prompt that are processed between two decoding steps of the other sequences."""
    prefix_states: Model[int] = 8
    """States of earlier prompts and answers that are kept: a prompt that begins like one of them, as every turn of a
    chat does, is read only from there on. Each has the size of one sequence's state; 0 for none."""
    state: Model[tuple[Path, ...]] = ()
    """States of texts from `subquad llm generate --save-state`, which are kept for good beside these."""
    shutdown_timeout: Output[int] = 10
    """Seconds that running requests have to finish after Ctrl-C."""

    def __post_init__(self) -> None:
        validate_values(self)
        validate_minima(self, max_batch_size=1, max_context=2, max_waiting=1, prefill_chunk_size=1)
        validate_minima(self, prefix_states=0, shutdown_timeout=0)
        if not 0 <= self.port <= 65535:
            raise SubquadError(f"--port must be from 0 to 65535, got {self.port}")
        for name in self.allow_host:
            # a colon stands before a port, several are in an IPv6 address
            if name.count(":") == 1 or not re.fullmatch(r"[\w.:\[\]-]+", name):
                raise SubquadError(
                    f"--allow-host {name!r}: give the name of a host as in models.example.org, without http:// and port"
                )
        for name in ("name", "api_key"):
            if getattr(self, name) == "":
                raise SubquadError(f"{flag_name(name)} must not be empty")
