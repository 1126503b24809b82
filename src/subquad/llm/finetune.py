"""Stage 2: low-rank updates (LoRA) of q, k, v and o in all layers, by next-token loss on the hybrid model.

As in Section 3.2 of arXiv:2410.10254: rank 8, alpha 16. One forward and one backward pass over the model a step.

Axes: N sequences, T positions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.convert import feature_parameters
from subquad.llm.data import Mixture, order
from subquad.llm.evaluate import perplexity
from subquad.llm.modeling import PROJECTIONS, using
from subquad.llm.settings import LinearizeSettings
from subquad.llm.transfer import steps_for
from subquad.train.loop import Backward, LoopSettings, Outcome, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["add_updates", "finetune", "finetune_step", "learnt_in_tuning"]


def add_updates(model: PreTrainedModel, settings: LinearizeSettings, *, seed: int) -> LoraModel:
    """Return the model with low-rank updates of nothing yet; its own weights are frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        how = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=list(PROJECTIONS))
        tuned = LoraModel(model, how, "default")
    for parameter in feature_parameters(tuned):
        parameter.requires_grad_(settings.tune_features)
    return tuned


def learnt_in_tuning(model: nn.Module) -> int:
    """Return how many numbers stage 2 trains."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def finetune_step(model: nn.Module, ids: Int[Tensor, "B T"], backward: Backward) -> Mapping[str, Tensor | float]:
    """Compute the next-token loss of one batch and go backward."""
    ids = ids.to(next(model.parameters()).device).long()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    backward(loss)
    return {"loss": loss.detach()}


def finetune(
    model: LoraModel,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    tokens: int,
    precision: str,
    validation: Int[Tensor, "M T"] | None = None,
    mixture: Mixture | None = None,
    directory: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Outcome:
    """Train the low-rank updates in place; the caller merges them.

    Args:
        model: What `add_updates` returned.
        sequences: Training sequences.
        settings: Rate and batch.
        tokens: Tokens to learn from; the text is read again where it is shorter.
        precision: `no` or `bf16`.
        validation: Sequences that choose the best weights, where validation is asked for.
        mixture: In what proportion the sequences of several files are drawn.
        directory: Where checkpoints go.
        seed: Of the order of the sequences.
        quiet: No progress bar.
    """

    def batches(epoch: int) -> Sequence[Tensor]:
        # another order than in stage 1, so that a short stage sees other sequences
        return order(len(sequences), batch=settings.batch, seed=seed + 1, epoch=epoch, mixture=mixture)

    def step(net: nn.Module, rows: Tensor, backward: Backward) -> Mapping[str, Tensor | float]:
        return finetune_step(net, sequences[rows], backward)

    def validate(net: nn.Module) -> Mapping[str, float]:
        return {"loss": perplexity(net, validation)}

    with using(model, "hybrid"):
        return train(
            model,
            batches=batches,
            step=step,
            optimizer=torch.optim.AdamW(parameter_groups(model, learning_rate=settings.lora_rate), weight_decay=0.0),
            settings=LoopSettings(
                steps=steps_for(tokens, settings), precision=precision, evaluate_every=settings.validate_every
            ),
            schedule=schedule("linear", warmup=0.1),
            validate=validate if settings.validate_every else None,
            directory=directory,
            name="tune",
            seed=seed,
            quiet=quiet,
        )
