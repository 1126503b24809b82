"""Token sampling: each sequence has its own parameters and random numbers, whatever else is in the batch.

Axes: B sequences, V vocabulary.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.llm.serving.settings import GenerateSettings

__all__ = ["NOT_FINITE", "SamplingParameters", "TokenSampler", "parameters_of", "sample"]

NOT_FINITE = (
    "the model's logits are not finite (NaN or infinity), so no next token can be chosen: its weights are damaged or "
    "its training has diverged, or numbers overflow in --dtype; try --dtype float32, or linearize again"
)
"""Error where `sample` chooses no token."""


@dataclass(frozen=True, kw_only=True)
class SamplingParameters:
    """How the next token is chosen."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the smallest set of most likely tokens with at least this probability."""
    top_k: int = 0
    """Sample from so many most likely tokens; 0 for all."""
    min_p: float = 0.0
    """Sample from the tokens with at least this fraction of the probability of the most likely one."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that the answer contains."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token once per occurrence in the answer."""

    @property
    def is_filtered(self) -> bool:
        """Some tokens are never drawn, whatever the random number."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def parameters_of(settings: GenerateSettings) -> SamplingParameters:
    """Return how tokens are chosen by the settings of a command."""
    names = [field.name for field in fields(SamplingParameters) if hasattr(settings, field.name)]
    return SamplingParameters(**{name: getattr(settings, name) for name in names})


class TokenSampler:
    """Sampling parameters, random numbers and token counts of one sequence."""

    def __init__(self, parameters: SamplingParameters, seed: int, index: int = 0):
        """Seed the random numbers.

        Args:
            parameters: How tokens are chosen.
            seed: Seed of the request.
            index: Number of the sequence within the request, from 0.
        """
        self.parameters = parameters
        self.counts: Counter[int] = Counter()
        # one number per token, so that a sequence depends on nothing but its own length
        self._random = random.Random(f"{seed} {index}")

    def uniform(self) -> float:
        """Return the next random number in [0, 1)."""
        return self._random.random()


def sample(logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler]) -> list[int | None]:
    """Return the next token of each sequence and count it; None where the logits are not finite, see `NOT_FINITE`.

    Args:
        logits: Of each sequence; -inf for tokens that are never chosen.
        samplers: One per sequence, in the same order.
    """
    # NaN if any logit is, infinity if any is that, or -inf if all are
    is_finite = logits.amax(-1).isfinite().tolist()
    logits = _penalized(logits, samplers)
    chosen = logits.argmax(-1)
    # sequences with a filter are sampled separately, since only they need sorted logits
    sampled = [row for row, sampler in enumerate(samplers) if sampler.parameters.temperature > 0]
    for is_filtered in (False, True):
        rows = [row for row in sampled if samplers[row].parameters.is_filtered == is_filtered]
        if rows:
            chosen[rows] = _sample_rows(logits[rows], [samplers[row] for row in rows], is_filtered=is_filtered)
    tokens = [token if is_known else None for token, is_known in zip(chosen.tolist(), is_finite, strict=True)]
    for sampler, token in zip(samplers, tokens, strict=True):
        if token is not None:
            sampler.counts[token] += 1
    return tokens


def _penalized(logits: Tensor, samplers: Sequence[TokenSampler]) -> Tensor:
    for row, sampler in enumerate(samplers):
        presence, frequency = sampler.parameters.presence_penalty, sampler.parameters.frequency_penalty
        if (presence or frequency) and sampler.counts:
            tokens, counts = zip(*sampler.counts.items(), strict=True)
            penalties = [presence + frequency * count for count in counts]
            logits = logits.clone()
            logits[row, list(tokens)] -= torch.tensor(penalties, dtype=logits.dtype, device=logits.device)
    return logits


def _sample_rows(
    logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler], *, is_filtered: bool
) -> Int[Tensor, " B"]:
    def column(values: Sequence[float]) -> Float[Tensor, "B 1"]:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    parameters = [sampler.parameters for sampler in samplers]
    # the largest logit is subtracted first, so that a small temperature does not overflow
    shifted = (logits - logits.amax(-1, keepdim=True)).double()
    p = (shifted / column([one.temperature for one in parameters])).softmax(-1)
    order = None
    if is_filtered:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(p.shape[-1], device=p.device)
        p = p.masked_fill(rank >= column([min(one.top_k or p.shape[-1], p.shape[-1]) for one in parameters]), 0.0)
        p = p.masked_fill(p < column([one.min_p for one in parameters]) * p[:, :1], 0.0)
        top_p = column([one.top_p for one in parameters]) * p.sum(-1, keepdim=True)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    cumulative = p.cumsum(-1)
    threshold = column([sampler.uniform() for sampler in samplers]) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).clamp(max=p.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
