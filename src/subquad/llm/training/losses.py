"""Stage 2's loss over all words of the vocabulary, with its gradient made in the same pass.

Autograd would keep four arrays of tokens by words (log-probabilities, their float32 copy, two gradients), of which a
vocabulary of 50,000 words makes the largest part of a step's memory and a fifth of its time. Here some tokens at a time
are turned into probabilities, and what stays is the gradient of the logits in their own type.

Axes: B of a batch, T positions, V words.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["word_loss"]

# logits that are worked on at a time: they stay in a processor's cache, and keep a GPU busy
ON_CPU, ON_GPU = 2**19, 2**25


class _WordLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917, as autograd calls it
        ctx: Any, logits: Tensor, targets: Tensor, counts: Tensor, wanted: Tensor | None, distill: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        words, at_a_time = logits.shape[-1], ON_CPU if logits.device.type == "cpu" else ON_GPU
        gradient = torch.empty_like(logits)
        given, made = logits.view(-1, words), gradient.view(-1, words)
        targets, counts = targets.reshape(-1, 1), counts.reshape(-1, 1)
        # a batch may hold no token that is learnt
        number = counts.sum().clamp(min=1)
        next_token = distance = torch.zeros((), device=logits.device)
        rows = max(1, at_a_time // words)
        for first in range(0, len(given), rows):
            part = slice(first, first + rows)
            log_chances = given[part].float().log_softmax(-1)
            likelihood = log_chances.gather(1, targets[part])
            next_token = next_token - torch.where(counts[part], likelihood, 0.0).sum()
            if wanted is None:
                change = log_chances.exp_()
            else:
                log_asked = wanted.view(-1, words)[part].float().log_softmax(-1)
                asked = log_asked.exp()
                far = (log_asked.sub_(log_chances).mul_(asked)).sum(-1, keepdim=True)
                distance = distance + torch.where(counts[part], far, 0.0).sum()
                change = log_chances.exp_().sub_(asked, alpha=distill)
            change.scatter_add_(1, targets[part], torch.full_like(likelihood, distill - 1.0))
            made[part] = change.mul_(counts[part] / number)
        next_token, distance = next_token / number, distance / number
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(next_token, distance)
        return distill * distance + (1 - distill) * next_token, next_token, distance

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *above: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * above[0], None, None, None, None


def word_loss(
    logits: Float[Tensor, "B T V"],
    ids: Int[Tensor, "B T"],
    *,
    is_learnt: Bool[Tensor, "B T"] | None = None,
    wanted: Float[Tensor, "B T V"] | None = None,
    distill: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Return `loss`, which has a gradient, and its parts `next_token` and `distance`: means over the tokens learnt.

    The loss is $(1 - d)\,(-\log p(x_{t+1})) + d \sum_v q_v \log (q_v / p_v)$ with $d$ = `distill`, $p$ the softmax of
    the logits and $q$ that of `wanted`.

    Args:
        logits: Of the token behind each position.
        ids: The tokens.
        is_learnt: Which tokens count; the first of a sequence, which nothing foretells, never does. None for all.
        wanted: Logits of the model to learn from.
        distill: $d$, from 0 to 1.

    Raises:
        ValueError: `distill` is above 0 and `wanted` is not given.
    """
    if distill and wanted is None:
        raise ValueError(f"distill is {distill}, and there are no logits to learn from")
    counts = torch.ones_like(ids, dtype=torch.bool) if is_learnt is None else is_learnt.to(ids.device)
    # position t is asked for token t + 1; the last for none
    targets, counts = ids.roll(-1, 1), counts.roll(-1, 1)
    counts[:, -1] = False
    return _WordLoss.apply(logits, targets, counts, wanted, distill)  # pyright: ignore[reportReturnType]
