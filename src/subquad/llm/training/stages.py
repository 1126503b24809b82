"""The call of the training loop that attention transfer and fine-tuning share.

Axes: B sequences of a batch, N training sequences, M validation sequences, T positions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Required, TypedDict

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from subquad.llm.data.packing import Mixture, epoch_batches
from subquad.llm.settings import LinearizeSettings
from subquad.train.distributed import processes
from subquad.train.loop import Backward, train
from subquad.train.optim import schedule
from subquad.train.settings import LoopSettings, TrainingResult

Precision = Literal["float32", "bfloat16"]
"""Data type of matrix products in training."""


class StageOptions(TypedDict, total=False):
    """Keyword arguments that both stages take."""

    tokens: Required[int]
    """Training tokens; the text is repeated if it is shorter."""
    precision: Required[Precision]
    """Data type of matrix products."""
    validation: Int[Tensor, "M T"] | None
    """Sequences for model selection, used if `validate_every` is set."""
    validation_mask: Bool[Tensor, "M T"] | None
    """Their tokens that count in the loss of fine-tuning; None for all."""
    validation_documents: Int[Tensor, "M T"] | None
    """Number of each of their tokens' document, if tokens must not attend to other documents."""
    mixture: Mixture | None
    """Proportions in which the sequences of several files are sampled."""
    documents: Int[Tensor, "N T"] | None
    """Number of each token's document, if tokens must not attend to other documents."""
    directory: Path | None
    """Folder of checkpoints and history."""
    seed: int
    """Seed of the order of the sequences."""
    quiet: bool
    """Show no progress bar."""


def train_stage(
    model: nn.Module,
    count: int,
    settings: LinearizeSettings,
    options: StageOptions,
    *,
    name: str,
    step: Callable[[nn.Module, Any, Backward], Mapping[str, Tensor | float]],
    validation_loss: Callable[[nn.Module, Tensor], float],
    parameter_groups: list[dict[str, Any]],
    default_warmup: float,
    order_seed: int = 0,
    items: Callable[[int, Sequence[Tensor]], Sequence[Any]] = lambda epoch, batches: batches,
    counts: Callable[[Any], int] | None = None,
) -> TrainingResult:
    """Train one stage in place with AdamW, and keep the best weights by validation.

    Args:
        model: The model; its parameters that require a gradient are trained.
        count: N, number of training sequences.
        settings: Batch size, schedule, validation and early stopping.
        options: Tokens, precision, validation sequences and so on; `documents` is for `step` to use.
        name: Name of the stage in the history and of its checkpoint.
        step: Function of the model, an item and `backward`; returns metrics.
        validation_loss: Function of the model and the validation sequences.
        parameter_groups: Groups of the optimizer with their peak learning rates.
        default_warmup: Fraction of the steps with warm-up, unless the settings have one.
        order_seed: Added to the seed for the order of the sequences, so that stages see different ones.
        items: Function from an epoch and the indices of its batches' sequences to one item per batch; by default an
            item is these indices.
        counts: Function from an item to the number of tokens that its loss is the mean of; None if all have as many.
    """
    seed, validation = options.get("seed", 0), options.get("validation")

    def batches(epoch: int) -> Sequence[Any]:
        found = epoch_batches(
            count, batch_size=settings.batch_size, seed=seed + order_seed, epoch=epoch, mixture=options.get("mixture")
        )
        return items(epoch, found)

    def validate(net: nn.Module) -> Mapping[str, float]:
        assert validation is not None
        return {"loss": validation_loss(net, validation)}

    warmup = default_warmup if settings.warmup_fraction is None else settings.warmup_fraction
    return train(
        model,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(parameter_groups, weight_decay=0.0),
        settings=_loop_settings(settings, options),
        schedule=schedule("linear", warmup=warmup, steps=steps_for(options["tokens"], settings)),
        validate=validate if settings.validate_every else None,
        directory=options.get("directory"),
        name=name,
        counts=counts,
        seed=seed,
        quiet=options.get("quiet", False),
    )


def _loop_settings(settings: LinearizeSettings, options: StageOptions) -> LoopSettings:
    return LoopSettings(
        steps=steps_for(options["tokens"], settings),
        accumulation=settings.gradient_accumulation,
        precision=options["precision"],
        evaluate_every=settings.validate_every,
        patience=settings.patience,
    )


def steps_for(tokens: int, settings: LinearizeSettings) -> int:
    """Return the steps that read at least `tokens`, over all processes."""
    return max(1, -(-tokens // tokens_per_step(settings)))


def tokens_per_step(settings: LinearizeSettings) -> int:
    """Return the tokens of one step, over all processes."""
    sequences = settings.batch_size * settings.gradient_accumulation * processes().num_processes
    return sequences * settings.sequence_length
