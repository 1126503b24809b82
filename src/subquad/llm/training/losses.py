"""Loss of fine-tuning over the vocabulary, whose gradient is computed in the forward pass.

Autograd would keep four arrays of tokens by vocabulary (log-probabilities, their float32 copy, two gradients), which
for a vocabulary of 50,000 is the largest part of a step's memory and a fifth of its time. Here the logits are processed
in blocks, and only their gradient is kept, in their own type.

Axes: B of a batch, T positions, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_BLOCK, GPU_BLOCK = 2**19, 2**25
"""Logits processed at a time: they fit a processor's cache, or occupy a GPU."""


class _LanguageModelLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917, as autograd calls it
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        loss_mask: Tensor,
        teacher_logits: Tensor | None,
        distillation_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        V, block = logits.shape[-1], CPU_BLOCK if logits.device.type == "cpu" else GPU_BLOCK
        gradient = torch.empty_like(logits)
        flat_logits, flat_gradient = logits.view(-1, V), gradient.view(-1, V)
        targets, loss_mask = targets.reshape(-1, 1), loss_mask.reshape(-1, 1)
        # a batch may have no token that counts
        number = loss_mask.sum().clamp(min=1)
        next_token = divergence = torch.zeros((), device=logits.device)
        rows = max(1, block // V)
        for first in range(0, len(flat_logits), rows):
            part = slice(first, first + rows)
            log_p = flat_logits[part].float().log_softmax(-1)
            log_likelihood = log_p.gather(1, targets[part])
            next_token = next_token - torch.where(loss_mask[part], log_likelihood, 0.0).sum()
            if teacher_logits is None:
                change = log_p.exp_()
            else:
                log_q = teacher_logits.view(-1, V)[part].float().log_softmax(-1)
                q = log_q.exp()
                kl = (log_q.sub_(log_p).mul_(q)).sum(-1, keepdim=True)
                divergence = divergence + torch.where(loss_mask[part], kl, 0.0).sum()
                change = log_p.exp_().sub_(q, alpha=distillation_weight)
            change.scatter_add_(1, targets[part], torch.full_like(log_likelihood, distillation_weight - 1.0))
            flat_gradient[part] = change.mul_(loss_mask[part] / number)
        next_token, divergence = next_token / number, divergence / number
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(next_token, divergence)
        loss = distillation_weight * divergence + (1 - distillation_weight) * next_token
        return loss, next_token, divergence

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *above: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * above[0], None, None, None, None


def language_model_loss(
    logits: Float[Tensor, "B T V"],
    ids: Int[Tensor, "B T"],
    *,
    loss_mask: Bool[Tensor, "B T"] | None = None,
    teacher_logits: Float[Tensor, "B T V"] | None = None,
    distillation_weight: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Return the loss, which has a gradient, and its parts: next-token cross-entropy and divergence from the teacher.

    The loss is $(1 - d)\,(-\log p(x_{t+1})) + d \sum_v q_v \log (q_v / p_v)$ with $d$ = `distillation_weight`, $p$ the
    softmax of the logits and $q$ that of the teacher's; all three are means over the tokens that count.

    Args:
        logits: Prediction of the token after each position.
        ids: The tokens.
        loss_mask: Tokens that count; the first of a sequence, which nothing predicts, never does. None for all.
        teacher_logits: Logits of the teacher.
        distillation_weight: $d$, from 0 to 1.

    Raises:
        ValueError: `distillation_weight` is above 0 and `teacher_logits` is not given.
    """
    if distillation_weight and teacher_logits is None:
        raise ValueError(f"distillation_weight is {distillation_weight}, and there are no teacher logits")
    mask = torch.ones_like(ids, dtype=torch.bool) if loss_mask is None else loss_mask.to(ids.device)
    # position t predicts token t + 1; the last one predicts none
    targets, mask = ids.roll(-1, 1), mask.roll(-1, 1)
    mask[:, -1] = False
    return _LanguageModelLoss.apply(  # pyright: ignore[reportReturnType]
        logits, targets, mask, teacher_logits, distillation_weight
    )
