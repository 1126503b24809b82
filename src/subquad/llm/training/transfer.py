r"""Stage 1, attention transfer: the hybrid attention of each layer learns the output of its softmax attention.

The loss of a layer is $\frac{1}{H T K} \sum_{h,t} \|y_{h,t} - \hat y_{h,t}\|^2$ over heads and positions, before the
output projection, as in Section 3.2 of arXiv:2410.10254.

Validation uses the relative error of the outputs. All layers read the teacher's hidden states, so
they are independent, and each runs its backward pass at once: memory is the teacher's forward pass and the graph of one
layer.

Axes: B sequences of a batch, N training sequences, T positions.
"""

from collections.abc import Mapping
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from subquad.llm.models.convert import feature_parameters
from subquad.llm.models.documents import separate_documents
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.metrics import run_teacher, transfer_errors
from subquad.llm.training.stages import StageOptions, train_stage
from subquad.train.loop import Backward
from subquad.train.optim import parameter_groups
from subquad.train.settings import TrainingResult

MAPS_RATE, MOMENTS_RATE = 3e-2, 0.3
"""Default learning rates for feature maps, and for moments, which have two numbers per head that few steps have to
move."""


def freeze_for_transfer(model: nn.Module) -> int:
    """Freeze all parameters but those of the linear branch; return the number of trainable ones."""
    model.requires_grad_(False)
    parameters = feature_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in parameters)


def transfer_step(
    model: nn.Module, ids: Int[Tensor, "B T"], backward: Backward, *, documents: Int[Tensor, "B T"] | None = None
) -> Mapping[str, Tensor | float]:
    """Compute the loss of one batch and run the backward pass layer by layer.

    Args:
        model: The converted model.
        ids: Tokens of the batch.
        backward: Called with the loss of each layer.
        documents: Number of each token's document, if tokens must not attend to other documents.

    Returns:
        Mean over layers of the loss; and of each layer its squared error relative to the teacher's outputs, as
        `error/LAYER`.
    """
    losses: list[Tensor] = []
    errors: dict[str, Tensor] = {}

    def learn(layer: int, given: Tensor, target: Tensor) -> None:
        loss = F.mse_loss(given.float(), target.float())
        backward(loss)
        # clones, since the means share memory with all squares that they were taken of
        losses.append(loss.detach().clone())
        errors[f"error/{layer}"] = (loss / target.float().square().mean()).detach().clone()

    with separate_documents(model, documents):
        run_teacher(model, ids, learn)
    return {"loss": torch.stack(losses).mean(), **errors}


def transfer(
    model: nn.Module,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    name: str = "transfer",
    **options: Unpack[StageOptions],
) -> TrainingResult:
    """Train the feature maps of a converted model in place.

    Args:
        model: The converted model.
        sequences: Training sequences.
        settings: Loss, batch size, learning rate, schedule and validation.
        name: Name of the stage in the history and of its checkpoint.
        **options: See `StageOptions`.
    """
    freeze_for_transfer(model)
    documents, rate = options.get("documents"), settings.transfer_learning_rate
    if rate is None:
        rate = MOMENTS_RATE if settings.attention.has_moments else MAPS_RATE

    def step(net: nn.Module, rows: Tensor, backward: Backward) -> Mapping[str, Tensor | float]:
        own = None if documents is None else documents[rows]
        return transfer_step(net, sequences[rows], backward, documents=own)

    def validation_loss(net: nn.Module, validation: Tensor) -> float:
        errors = transfer_errors(net, validation, documents=options.get("validation_documents"))
        return sum(errors) / len(errors)

    return train_stage(
        model,
        len(sequences),
        settings,
        options,
        name=name,
        step=step,
        validation_loss=validation_loss,
        parameter_groups=parameter_groups(model, learning_rate=rate),
        default_warmup=0.0,
    )
