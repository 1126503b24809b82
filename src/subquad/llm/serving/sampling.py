"""Token sampling: each sequence has its own parameters and random numbers, whatever else is in the batch.

Axes: B sequences, V vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOT_FINITE = "the model's logits are not finite: its weights are damaged, or numbers overflow in its type"
"""Error where `sample` chooses no token."""


@dataclass(kw_only=True)
class TokenSampler:
    """Parameters and random numbers of one sequence."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely tokens with at least this probability."""
    top_k: int = 0
    """Sample from so many most likely tokens; 0 for all."""
    min_p: float = 0.0
    """Sample from the tokens with at least this fraction of the probability of the most likely one."""
    seed: str | int = 0
    """Seed of the random numbers; one is drawn per token, so that a sequence depends on its own length only."""

    def __post_init__(self) -> None:
        self.random = random.Random(str(self.seed))

    @property
    def is_filtered(self) -> bool:
        """Some tokens are never drawn, whatever the random number."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def sample(logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler]) -> list[int | None]:
    """Return the next token of each sequence; None where the logits are not finite.

    Args:
        logits: Of each sequence; -inf for tokens that are never chosen.
        samplers: One per sequence, in the same order.
    """
    # NaN if any logit is, infinity if any is, -inf if all are
    is_finite = logits.amax(-1).isfinite().tolist()
    chosen = logits.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.temperature > 0]
    # separately, since only the sequences with a filter need sorted probabilities
    for is_filtered in (False, True):
        if rows := [row for row in drawn if samplers[row].is_filtered == is_filtered]:
            chosen[rows] = _draw(logits[rows], [samplers[row] for row in rows], is_filtered=is_filtered)
    return [token if known else None for token, known in zip(chosen.tolist(), is_finite, strict=True)]


def _draw(logits: Float[Tensor, "B V"], samplers: Sequence[TokenSampler], *, is_filtered: bool) -> Int[Tensor, " B"]:
    def column(values: Sequence[float]) -> Float[Tensor, "B 1"]:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    # the largest logit is subtracted first, so that a small temperature does not overflow
    shifted = (logits - logits.amax(-1, keepdim=True)).double()
    p = (shifted / column([sampler.temperature for sampler in samplers])).softmax(-1)
    order = None
    if is_filtered:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(p.shape[-1], device=p.device)
        p = p.masked_fill(rank >= column([min(s.top_k or p.shape[-1], p.shape[-1]) for s in samplers]), 0.0)
        p = p.masked_fill(p < column([sampler.min_p for sampler in samplers]) * p[:, :1], 0.0)
        top_p = column([sampler.top_p for sampler in samplers]) * p.sum(-1, keepdim=True)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    cumulative = p.cumsum(-1)
    threshold = column([sampler.random.random() for sampler in samplers]) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).clamp(max=p.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
