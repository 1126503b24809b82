"""The choice of the next token, each text with its own taste and its own luck, whatever else is in the batch.

Axes: B texts, V words.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Dice", "Sampling", "choose"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that have this share of the probability."""
    presence_penalty: float = 0.0
    """Taken off the logit of a token that the answer holds already."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token for each time that the answer holds it."""


class Dice:
    """One text's way of choosing, and what it chose so far."""

    def __init__(self, sampling: Sampling, seed: int, index: int = 0):
        """Set up the random numbers.

        Args:
            sampling: How tokens are chosen.
            seed: Of the request.
            index: Of the text among several of one request.
        """
        self.sampling = sampling
        self.chosen: Counter[int] = Counter()
        # one number per token, so that a text's luck depends on nothing but its own length
        self._random = random.Random(f"{seed} {index}")

    def throw(self) -> float:
        """Return the next random number from 0 to 1."""
        return self._random.random()


def choose(logits: Float[Tensor, "B V"], dice: Sequence[Dice]) -> list[int]:
    """Return the next token of each text."""
    logits = _penalised(logits, dice)
    chosen = logits.argmax(-1)
    # texts with a top_p are drawn apart, since only they pay for sorting
    drawn = [row for row, one in enumerate(dice) if one.sampling.temperature > 0]
    for is_cut in (False, True):
        rows = [row for row in drawn if (dice[row].sampling.top_p < 1) == is_cut]
        if rows:
            chosen[rows] = _draw(logits[rows], [dice[row] for row in rows], is_cut=is_cut)
    tokens = chosen.tolist()
    for one, token in zip(dice, tokens, strict=True):
        one.chosen[token] += 1
    return tokens


def _penalised(logits: Tensor, dice: Sequence[Dice]) -> Tensor:
    for row, one in enumerate(dice):
        presence, frequency = one.sampling.presence_penalty, one.sampling.frequency_penalty
        if (presence or frequency) and one.chosen:
            tokens = list(one.chosen)
            off = [presence + frequency * one.chosen[token] for token in tokens]
            logits = logits.clone()
            logits[row, tokens] -= torch.tensor(off, dtype=logits.dtype, device=logits.device)
    return logits


def _draw(logits: Float[Tensor, "B V"], dice: Sequence[Dice], *, is_cut: bool) -> Int[Tensor, " B"]:
    temperature, top_p, luck = (
        torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]
        for values in (
            [one.sampling.temperature for one in dice],
            [one.sampling.top_p for one in dice],
            [one.throw() for one in dice],
        )
    )
    # the largest is taken off first, so that a small temperature overflows nowhere
    p = ((logits - logits.amax(-1, keepdim=True)).double() / temperature).softmax(-1)
    order = None
    if is_cut:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    total = p.cumsum(-1)
    place = torch.searchsorted(total, luck * total[:, -1:], right=True).clamp(max=p.shape[-1] - 1)
    return (place if order is None else order.gather(-1, place))[:, 0]
