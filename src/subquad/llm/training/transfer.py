r"""Stage 1, attention transfer: the hybrid attention of each layer learns the output of its softmax attention.

The loss of a layer (`transfer_loss`) is one of

- `mse`: $\frac{1}{H T K} \sum_{h,t} \|y_{h,t} - \hat y_{h,t}\|^2$ over heads and positions, before the output
  projection, as in Section 3.2 of arXiv:2410.10254;
- `relative`: the same divided by the mean square of $y$, since the scales of layers differ a hundredfold;
- `attention_weights`: $(1 - \beta)$ times the first plus $\beta$ (`cross_entropy_fraction`) times the cross-entropy of
  the attention weights, as in Hedgehog (arXiv:2402.04347): $-\frac{1}{H T} \sum_{h,t} \sum_s a_{h,t,s} \ln \hat
  a_{h,t,s}$, with $a$ the softmax weights over all positions up to $t$ and $\hat a$ those of the hybrid attention. Its
  minimum, the entropy of $a$, is at $\hat a = a$; not so with moments, some of whose weights can be negative, so that
  others sum to more than 1. The weights are materialised: O(T²) in time and memory, at most seven
  float32 numbers per head and pair of positions of one layer.

Validation uses the relative error of the outputs in all three cases. All layers read the teacher's hidden states, so
they are independent, and each runs its backward pass at once: memory is the teacher's forward pass and the graph of one
layer.

Axes: B sequences of a batch, N training sequences, Hq query heads, T positions.
"""

from collections.abc import Mapping
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.llm.models.attention import AttentionWeights
from subquad.llm.models.convert import feature_parameters
from subquad.llm.models.documents import separate_documents
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.metrics import run_teacher, transfer_errors
from subquad.llm.training.stages import StageOptions, train_stage
from subquad.train.loop import Backward
from subquad.train.optim import parameter_groups
from subquad.train.settings import TrainingResult

__all__ = ["attention_weights_loss", "freeze_for_transfer", "transfer", "transfer_step"]


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
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    backward: Backward,
    *,
    settings: LinearizeSettings = LinearizeSettings(),
    documents: Int[Tensor, "B T"] | None = None,
) -> Mapping[str, Tensor | float]:
    """Compute the loss of one batch and run the backward pass layer by layer.

    Args:
        model: The converted model.
        ids: Tokens of the batch.
        backward: Called with the loss of each layer.
        settings: Which loss.
        documents: Number of each token's document, if tokens must not attend to other documents.

    Returns:
        Mean over layers of the loss and, for `attention_weights`, of its parts `outputs` and `weights`; and of each
        layer its squared error relative to the teacher's outputs, as `error/LAYER`.

    Raises:
        ValueError: Documents are given with the loss `attention_weights`, which does not support them.
    """
    if documents is not None and settings.transfer_loss == "attention_weights":
        raise ValueError("the loss of attention weights does not support separate documents")
    layers: dict[str, list[Tensor]] = {}

    def learn(layer: int, given: Tensor, target: Tensor, weights: AttentionWeights) -> None:
        outputs = F.mse_loss(given.float(), target.float())
        parts = {"loss": outputs}
        match settings.transfer_loss:
            case "relative":
                parts["loss"] = outputs / target.float().square().mean()
            case "attention_weights":
                cross_entropy, beta = attention_weights_loss(*weights()), settings.cross_entropy_fraction
                loss = (1 - beta) * outputs + beta * cross_entropy
                parts = {"loss": loss, "outputs": outputs, "weights": cross_entropy}
        backward(parts["loss"])
        parts[f"error/{layer}"] = outputs / target.float().square().mean()
        for name, part in parts.items():
            # a clone, since the mean shares memory with all squares that it was taken of
            layers.setdefault(name, []).append(part.detach().clone())

    with separate_documents(model, documents):
        run_teacher(model, ids, learn)
    return {name: torch.stack(values).mean() for name, values in layers.items()}


def attention_weights_loss(given: Float[Tensor, "B Hq T T"], target: Float[Tensor, "B Hq T T"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of attention weights, averaged over heads and positions; rows of padding are 0."""
    # weights below the precision of a row's sum of 1 are clamped, so that the logarithm and its gradient stay finite
    epsilon = torch.finfo(given.dtype).eps
    return -(target * given.clamp(min=epsilon).log()).sum() / target.sum()


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
        return transfer_step(net, sequences[rows], backward, settings=settings, documents=own)

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
