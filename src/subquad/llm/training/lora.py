"""Stage 2, fine-tuning: LoRA updates of the hybrid model by next-token loss, distillation from the teacher, or both.

Section 3.2 of arXiv:2410.10254 uses rank 8 on q, k, v and o, and freezes the feature maps. Here all linear layers get
updates of rank 16 and the feature maps are trained on (`benchmarks/llm_quality.py` compares both). A step is one
forward and one backward pass; distillation adds a forward pass of the teacher, the same weights without updates.

Axes: N sequences, B of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from peft import LoraModel
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.attention import Mode, attention_mode
from subquad.llm.models.convert import feature_parameters
from subquad.llm.models.documents import separate_documents
from subquad.llm.models.windows import drawn_windows
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.losses import language_model_loss
from subquad.llm.training.metrics import without_dropout
from subquad.llm.training.stages import StageOptions, train_stage
from subquad.train.loop import Backward
from subquad.train.settings import TrainingResult

WINDOW_SEED = 2
"""Added to the seed of drawn windows; the order of the sequences has 0 and 1."""


def trainable_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def fine_tune_step(
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    backward: Backward,
    *,
    loss_mask: Bool[Tensor, "B T"] | None = None,
    documents: Int[Tensor, "B T"] | None = None,
    settings: LinearizeSettings = LinearizeSettings(),
    windows: Sequence[int] | None = None,
) -> Mapping[str, Tensor | float]:
    """Compute the loss of one batch and run the backward pass.

    Args:
        model: The model with LoRA updates, from `add_lora`.
        ids: Tokens of the batch.
        backward: Called with the loss.
        loss_mask: Tokens that count in the loss; None for all.
        documents: Number of each token's document, if tokens must not attend to other documents; the first token of a
            document then does not count in the loss.
        settings: Which loss.
        windows: Window of each sequence, from `draw_windows`; None for that of the model.

    Returns:
        The loss and, with distillation, its parts `divergence` and `next_token`.
    """
    return _batch_loss(
        model, ids, backward, loss_mask=loss_mask, documents=documents, settings=settings, windows=windows
    )


def _batch_loss(
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    backward: Backward | None,
    *,
    loss_mask: Bool[Tensor, "B T"] | None,
    documents: Int[Tensor, "B T"] | None,
    settings: LinearizeSettings,
    windows: Sequence[int] | None,
) -> Mapping[str, Tensor | float]:
    """Return what `fine_tune_step` does; without `backward` there is no backward pass."""
    ids = ids.to(next(model.parameters()).device).long()
    loss_mask = _within_documents(loss_mask, documents)
    student, teacher_logits, weight = _callable_model(model), None, settings.distillation_weight
    with separate_documents(model, documents), drawn_windows(model, windows):
        if weight:
            with torch.no_grad(), _as_teacher(model), without_dropout(model):
                teacher_logits = student(input_ids=ids, use_cache=False).logits
        logits = student(input_ids=ids, use_cache=False).logits
        loss, next_token, divergence = language_model_loss(
            logits, ids, loss_mask=loss_mask, teacher_logits=teacher_logits, distillation_weight=weight
        )
        # the loss has saved what it needs of both
        del logits, teacher_logits
        if backward is not None:
            backward(loss)
    if not weight:
        return {"loss": loss.detach()}
    return {"loss": loss.detach(), "divergence": divergence, "next_token": next_token}


def _within_documents(loss_mask: Tensor | None, documents: Tensor | None) -> Tensor | None:
    """Return the tokens that count in the loss without the first of each document, which nothing precedes."""
    if documents is None:
        return loss_mask
    continues = F.pad(documents[:, 1:] == documents[:, :-1], (1, 0))
    return continues if loss_mask is None else loss_mask & continues


def _counting_tokens(ids: Tensor, loss_mask: Tensor | None, documents: Tensor | None) -> int:
    """Return the number of tokens that the loss of a batch is the mean of."""
    counted = _within_documents(loss_mask, documents)
    return ids[:, 1:].numel() if counted is None else int(counted[:, 1:].sum())


def _validation_loss(
    model: nn.Module,
    ids: Int[Tensor, "M T"],
    settings: LinearizeSettings,
    *,
    loss_mask: Bool[Tensor, "M T"] | None,
    documents: Int[Tensor, "M T"] | None,
) -> float:
    """Return the mean loss of the tokens that count, one sequence at a time and without dropout: what is trained."""
    total, tokens = 0.0, 0
    with torch.no_grad(), without_dropout(model):
        for row in range(len(ids)):
            mask, own = (None if part is None else part[row, None] for part in (loss_mask, documents))
            if count := _counting_tokens(ids[row, None], mask, own):
                values = _batch_loss(
                    model, ids[row, None], None, loss_mask=mask, documents=own, settings=settings, windows=None
                )
                total, tokens = total + count * float(values["loss"]), tokens + count
    return total / tokens if tokens else 0.0


def _callable_model(model: nn.Module) -> PreTrainedModel:
    """Return the model to be called: peft's own `forward` may bypass the hooks that gather sharded weights."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


@contextmanager
def _as_teacher(model: nn.Module) -> Iterator[None]:
    """Turn the model into its teacher: softmax attention and no updates."""
    tuned = next(module for module in model.modules() if isinstance(module, LoraModel))
    tuned.disable_adapter_layers()
    try:
        with attention_mode(tuned, "softmax"):
            yield
    finally:
        tuned.enable_adapter_layers()


def _parameter_groups(model: nn.Module, settings: LinearizeSettings) -> list[dict[str, Any]]:
    feature_maps = {id(parameter) for parameter in feature_parameters(model)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    updates = [parameter for parameter in trainable if id(parameter) not in feature_maps]
    groups: list[dict[str, Any]] = [{"params": updates, "lr": settings.lora_learning_rate}]
    if settings.feature_map_learning_rate:
        own = [parameter for parameter in trainable if id(parameter) in feature_maps]
        groups.append({"params": own, "lr": settings.feature_map_learning_rate})
    return groups


def fine_tune(
    model: LoraModel,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    mode: Mode = "hybrid",
    name: str = "lora",
    loss_mask: Bool[Tensor, "N T"] | None = None,
    **options: Unpack[StageOptions],
) -> TrainingResult:
    """Train the LoRA updates, and the feature maps unless their learning rate is 0, in place.

    Args:
        model: The model with LoRA updates, from `add_lora`; the caller merges them.
        sequences: Training sequences.
        settings: Loss, batch size, learning rates, schedule and validation.
        mode: What the attention layers compute.
        name: Name of the stage in the history and of its checkpoint.
        loss_mask: Tokens that count in the loss; None for all.
        **options: See `StageOptions`.
    """
    documents, seed = options.get("documents"), options.get("seed", 0)

    def items(epoch: int, batches: Sequence[Tensor]) -> list[tuple[Tensor, list[int] | None]]:
        sizes = [len(batch) for batch in batches]
        return list(zip(batches, draw_windows(sizes, settings.random_windows, seed=seed, epoch=epoch), strict=True))

    def masks(rows: Tensor) -> dict[str, Tensor | None]:
        both = {"loss_mask": loss_mask, "documents": documents}
        return {name: None if own is None else own[rows] for name, own in both.items()}

    def step(net: nn.Module, item: tuple[Tensor, list[int] | None], backward: Backward) -> Mapping[str, Tensor | float]:
        rows, windows = item
        return fine_tune_step(net, sequences[rows], backward, **masks(rows), settings=settings, windows=windows)

    def validation_loss(net: nn.Module, validation: Tensor) -> float:
        mask, own = options.get("validation_mask"), options.get("validation_documents")
        return _validation_loss(net, validation, settings, loss_mask=mask, documents=own)

    with attention_mode(model, mode):
        return train_stage(
            model,
            len(sequences),
            settings,
            options,
            name=name,
            step=step,
            validation_loss=validation_loss,
            parameter_groups=_parameter_groups(model, settings),
            default_warmup=0.1,
            # a short stage then sees other sequences than stage 1 did
            order_seed=1,
            items=items,
            counts=lambda item: _counting_tokens(sequences[item[0]], **masks(item[0])),
        )


def draw_windows(
    sizes: Sequence[int], choices: Sequence[int], *, seed: int, epoch: int
) -> list[list[int]] | list[None]:
    """Return the windows of an epoch, one per sequence, by seed and epoch alone; without choices there are none.

    Args:
        sizes: Number of sequences of each batch.
        choices: Windows, all equally likely.
        seed: Seed of the run.
        epoch: Number of the epoch.
    """
    if not choices:
        return [None] * len(sizes)
    generator = torch.Generator().manual_seed((seed + WINDOW_SEED) * 1_000_003 + epoch)
    drawn = torch.randint(len(choices), (sum(sizes),), generator=generator)
    return [[choices[place] for place in batch.tolist()] for batch in drawn.split(list(sizes))]
