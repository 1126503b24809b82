"""Token sampling: each sequence has its own parameters and random numbers, whatever else is in the batch.

Axes: B sequences, V vocabulary.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["SamplingParameters", "TokenSampler", "sample"]


@dataclass(frozen=True, kw_only=True)
class SamplingParameters:
    """How the next token is chosen."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the smallest set of most likely tokens with at least this probability."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that the answer contains."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token once per occurrence in the answer."""


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


def sample(logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler]) -> list[int]:
    """Return the next token of each sequence and count it.

    Args:
        logits: Of each sequence.
        samplers: One per sequence, in the same order.
    """
    logits = _penalized(logits, samplers)
    chosen = logits.argmax(-1)
    # sequences with top_p are sampled separately, since only they need sorted logits
    sampled = [row for row, sampler in enumerate(samplers) if sampler.parameters.temperature > 0]
    for is_nucleus in (False, True):
        rows = [row for row in sampled if (samplers[row].parameters.top_p < 1) == is_nucleus]
        if rows:
            chosen[rows] = _sample_rows(logits[rows], [samplers[row] for row in rows], is_nucleus=is_nucleus)
    tokens = chosen.tolist()
    for sampler, token in zip(samplers, tokens, strict=True):
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
    logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler], *, is_nucleus: bool
) -> Int[Tensor, " B"]:
    temperature, top_p, uniform = (
        torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]
        for values in (
            [sampler.parameters.temperature for sampler in samplers],
            [sampler.parameters.top_p for sampler in samplers],
            [sampler.uniform() for sampler in samplers],
        )
    )
    # the largest logit is subtracted first, so that a small temperature does not overflow
    p = ((logits - logits.amax(-1, keepdim=True)).double() / temperature).softmax(-1)
    order = None
    if is_nucleus:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    cumulative = p.cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp(max=p.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
