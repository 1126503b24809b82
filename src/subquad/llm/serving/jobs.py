"""Jobs for the engine, their sequences, and what each token adds to one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.llm.serving.logprobs import TokenLogprob, token_logprobs
from subquad.llm.serving.sampling import SamplingParameters, TokenSampler
from subquad.llm.serving.tokenization import Detokenizer

__all__ = ["DecodedSequence", "Delta", "Job"]


@dataclass(frozen=True)
class Delta:
    """What one token adds to a sequence."""

    index: int
    """Number of the sequence within its job, from 0."""
    token: int | None
    """The token; None if the sequence ends without one: `closed`, `failed`, `error`, or a job with `max_tokens` 0."""
    text: str
    """Text that is final; empty while a character or a stop string may be incomplete."""
    finish_reason: Literal["stop", "length", "closed", "failed", "error"] | None
    """Why the sequence ended, `failed` if the model's logits were not finite, `error` if the computation raised an
    error; None while it continues."""
    logprob: TokenLogprob | None = None
    """Log-probability of the token, if the job asks for it."""
    prompt: tuple[TokenLogprob, ...] | None = None
    """Log-probabilities of the prompt's tokens but the first, in the first delta of a job that asks for them."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt and how it is continued."""

    prompt: Sequence[int]
    """Tokens, at least one."""
    on_delta: Callable[[Delta], None]
    """Called for each token, in the engine's thread."""
    max_tokens: int
    """Maximum number of new tokens of a sequence; 0 to read the prompt only."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    """How tokens are chosen."""
    seed: int = 0
    """Seed of the sampled tokens."""
    n: int = 1
    """Number of sequences; the prompt is prefilled once."""
    stops: tuple[str, ...] = ()
    """Stop strings."""
    logprobs: int | None = None
    """Number of most likely tokens whose log-probabilities come with each token; None for no log-probabilities."""
    has_prompt_logprobs: bool = False
    """The tokens of the prompt get them too."""
    cached_tokens: int = 0
    """First tokens of the prompt that were not read, since their state was kept; set by the engine."""


class DecodedSequence:
    """A sequence that is being decoded."""

    def __init__(self, job: Job, index: int, tokenizer: PreTrainedTokenizerBase):
        self.job, self.index = job, index
        self.sampler = TokenSampler(job.sampling, job.seed, index)
        self.detokenizer = Detokenizer(tokenizer, job.prompt, job.stops)
        self.tokens: list[int] = []
        """Tokens that were generated."""
        self.has_failed = False
        """The last logits were not finite."""

    def add(
        self, token: int | None, logits: Tensor, eos: frozenset[int], prompt: tuple[TokenLogprob, ...] | None = None
    ) -> bool:
        """Add a token, pass its delta on, and return whether it was the last; `prompt` comes with the first one."""
        if token is None:
            self.has_failed = True
            self.job.on_delta(Delta(self.index, None, "", "failed"))
            return True
        logprob = None
        if self.job.logprobs is not None:
            (logprob,) = token_logprobs(logits[None], [token], self.job.logprobs)
        self.tokens.append(token)
        reason = None
        if token in eos:
            text, reason = self.detokenizer.finish(), "stop"
        else:
            text = self.detokenizer.add(token)
            if len(self.tokens) == self.job.max_tokens and not self.detokenizer.is_stopped:
                text, reason = text + self.detokenizer.finish(), "length"
            if self.detokenizer.is_stopped:
                reason = "stop"
        self.job.on_delta(Delta(self.index, token, text, reason, logprob, prompt))
        return reason is not None
