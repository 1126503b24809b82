"""Stage 2: low-rank updates (LoRA) of the hybrid model, by next-token loss, by the softmax model's words, or by both.

Section 3.2 of arXiv:2410.10254 has rank 8 on q, k, v and o alone, and leaves the feature maps as stage 1 left them.
Here all linear layers get updates of rank 16 and the maps learn on (`benchmarks/llm_quality.py` compares). One forward
and one backward pass over the model a step; where the softmax model is asked, it is the same weights without updates,
and one forward pass more.

Axes: N sequences, B of a batch, T positions, L tokens that are learnt, V words.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from peft import LoraModel
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.data.packing import Mixture, order
from subquad.llm.training.metrics import perplexity
from subquad.llm.models.attention import apart, using
from subquad.llm.models.convert import feature_parameters
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.losses import word_loss
from subquad.llm.training.transfer import pace
from subquad.train.loop import Backward, TrainingResult, train

__all__ = ["finetune", "finetune_step", "learnt_in_tuning"]


def learnt_in_tuning(model: nn.Module) -> int:
    """Return how many numbers stage 2 trains."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def finetune_step(
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    backward: Backward,
    *,
    is_learnt: Bool[Tensor, "B T"] | None = None,
    documents: Int[Tensor, "B T"] | None = None,
    distill: float = 0.0,
) -> Mapping[str, Tensor | float]:
    """Compute the loss of one batch and go backward; returns its parts.

    Args:
        model: What `add_lora` returned.
        ids: The batch.
        backward: Takes the loss.
        is_learnt: Which tokens the loss is of; None for all.
        documents: The number of each token's document, where none is to see another; what a document begins with is
            not learnt then.
        distill: Part of the distance to the softmax model in the loss.
    """
    ids = ids.to(next(model.parameters()).device).long()
    if documents is not None:
        goes_on = F.pad(documents[:, 1:] == documents[:, :-1], (1, 0))
        is_learnt = goes_on if is_learnt is None else is_learnt & goes_on
    tuned, wanted = _called(model), None
    with apart(model, documents):
        if distill:
            with torch.no_grad(), _as_it_was(model):
                wanted = tuned(input_ids=ids, use_cache=False).logits
        given = tuned(input_ids=ids, use_cache=False).logits
        loss, next_token, distance = word_loss(given, ids, is_learnt=is_learnt, wanted=wanted, distill=distill)
        # the loss has what it needs of both
        del given, wanted
        backward(loss)
    if not distill:
        return {"loss": loss.detach()}
    return {"loss": loss.detach(), "distance": distance, "next_token": next_token}


def _called(model: nn.Module) -> PreTrainedModel:
    """Return what is to be called: peft's own `forward` may pass by the hooks that gather sharded weights."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Let the model be the softmax model without updates for a while."""
    tuned = next(module for module in model.modules() if isinstance(module, LoraModel))
    tuned.disable_adapter_layers()
    try:
        with using(tuned, "softmax"):
            yield
    finally:
        tuned.enable_adapter_layers()


def _groups(model: nn.Module, settings: LinearizeSettings) -> list[dict[str, Any]]:
    """Return the optimizer's groups: updates at their rate, feature maps at theirs."""
    maps = {id(parameter) for parameter in feature_parameters(model)}
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    updates = [parameter for parameter in learnt if id(parameter) not in maps]
    groups = [{"params": updates, "lr": settings.lora_rate}]
    if settings.feature_rate:
        own = [parameter for parameter in learnt if id(parameter) in maps]
        groups.append({"params": own, "lr": settings.feature_rate})
    return groups


def finetune(
    model: LoraModel,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    tokens: int,
    precision: str,
    validation: Int[Tensor, "M T"] | None = None,
    mixture: Mixture | None = None,
    is_learnt: Bool[Tensor, "N T"] | None = None,
    documents: Int[Tensor, "N T"] | None = None,
    directory: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> TrainingResult:
    """Train the low-rank updates in place; the caller merges them.

    Args:
        model: What `add_lora` returned.
        sequences: Training sequences.
        settings: Loss, batch, rates and when to stop.
        tokens: Tokens to learn from; the text is read again where it is shorter.
        precision: `float32` or `bfloat16`.
        validation: Sequences that choose the best weights, where validation is asked for.
        mixture: In what proportion the sequences of several files are drawn.
        is_learnt: Which tokens the loss is of; None for all.
        documents: The number of each token's document, where none is to see another.
        directory: Where checkpoints go.
        seed: Of the order of the sequences.
        quiet: No progress bar.
    """

    def batches(epoch: int) -> Sequence[Tensor]:
        # another order than in stage 1, so that a short stage sees other sequences
        return order(len(sequences), batch=settings.batch, seed=seed + 1, epoch=epoch, mixture=mixture)

    def step(net: nn.Module, rows: Tensor, backward: Backward) -> Mapping[str, Tensor | float]:
        learnt = None if is_learnt is None else is_learnt[rows]
        numbers = None if documents is None else documents[rows]
        return finetune_step(
            net, sequences[rows], backward, is_learnt=learnt, documents=numbers, distill=settings.distill
        )

    def validate(net: nn.Module) -> Mapping[str, float]:
        return {"loss": perplexity(_called(net), validation, mode=settings.tune_mode)}

    with using(model, settings.tune_mode):
        return train(
            model,
            batches=batches,
            step=step,
            optimizer=torch.optim.AdamW(_groups(model, settings), weight_decay=0.0),
            **pace(settings, tokens=tokens, precision=precision, warmup=0.1),
            validate=validate if settings.validate_every else None,
            directory=directory,
            name="tune",
            seed=seed,
            quiet=quiet,
        )
