r"""Stage 1, attention transfer: each layer's hybrid attention learns the output of its softmax attention.

The loss of a layer is $\frac{1}{H T K} \sum_{h,t} \|y_{h,t} - \hat y_{h,t}\|^2$ over heads and positions, before the
output projection, as in Section 3.2 of arXiv:2410.10254; or, since layers differ a hundredfold in scale, that over the
mean square of $y$; or, in parts of $1 - \beta$ and $\beta$, the first and the cross-entropy of the attention weights,
by which Hedgehog (arXiv:2402.04347) learns: $-\frac{1}{H T} \sum_{h,t} \sum_s a_{h,t,s} \ln \hat a_{h,t,s}$, with $a$
the softmax weights over all positions up to $t$, and $\hat a$ those of the hybrid attention. It is least, the entropy
of $a$, where both are equal. It needs the weights written out, O(T²) in time and memory: at its peak seven
float32 numbers for each head and pair of positions, of one layer at a time. Validation compares outputs in all three.

All layers see the softmax model's hidden states, so none waits for another. Each goes backward at once: memory is the
softmax model's forward pass and the graph of one layer.

Axes: B sequences of a batch, N training sequences, Hq query heads, T positions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.llm.data.packing import Mixture, order
from subquad.llm.training.metrics import run_teacher, transfer_errors
from subquad.llm.models.attention import Weights, apart
from subquad.llm.models.convert import feature_parameters
from subquad.llm.settings import PLATEAU, LinearizeSettings
from subquad.train.distributed import processes
from subquad.train.loop import Backward, LoopSettings, TrainingResult, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["learnt_in_transfer", "pace", "steps_for", "tokens_per_step", "transfer", "transfer_step", "weights_loss"]


def learnt_in_transfer(model: nn.Module) -> int:
    """Freeze all but feature maps and mixing terms, and return how many numbers those are."""
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
    """Compute one batch's loss, going backward layer by layer; returns the mean over layers, and that of its parts.

    Args:
        model: The converted model.
        ids: The batch.
        backward: Takes the loss of one layer.
        settings: Which loss.
        documents: The number of each token's document, where none is to see another.

    Raises:
        ValueError: documents are given with the loss of weights, which knows none.
    """
    if documents is not None and settings.transfer_loss == "weights":
        raise ValueError("the loss of attention weights takes documents joined alone")
    found: dict[str, list[Tensor]] = {}

    def learn(layer: int, given: Tensor, wanted: Tensor, weights: Weights) -> None:
        outputs = F.mse_loss(given.float(), wanted.float())
        parts = {"loss": outputs}
        match settings.transfer_loss:
            case "relative":
                parts["loss"] = outputs / wanted.float().square().mean()
            case "weights":
                cross_entropy, share = weights_loss(*weights()), settings.transfer_weights_share
                loss = (1 - share) * outputs + share * cross_entropy
                parts = {"loss": loss, "outputs": outputs, "weights": cross_entropy}
        backward(parts["loss"])
        for name, part in parts.items():
            # a copy: the mean still owns the memory of all squares that it was taken of
            found.setdefault(name, []).append(part.detach().clone())

    with apart(model, documents):
        run_teacher(model, ids, learn)
    return {name: torch.stack(values).mean() for name, values in found.items()}


def weights_loss(given: Float[Tensor, "B Hq T T"], wanted: Float[Tensor, "B Hq T T"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of attention weights, mean over heads and positions; rows of padding are all 0."""
    # what is lost in a row's sum of 1 counts as that much, so that neither the logarithm nor its slope overflows
    least = torch.finfo(given.dtype).eps
    return -(wanted * given.clamp(min=least).log()).sum() / wanted.sum()


def transfer(
    model: nn.Module,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    tokens: int,
    precision: str,
    validation: Int[Tensor, "M T"] | None = None,
    mixture: Mixture | None = None,
    documents: Int[Tensor, "N T"] | None = None,
    directory: Path | None = None,
    name: str = "transfer",
    seed: int = 0,
    quiet: bool = False,
) -> TrainingResult:
    """Train the feature maps of a converted model in place.

    Args:
        model: The converted model.
        sequences: Training sequences.
        settings: Loss, batch, rate and when to stop.
        tokens: Tokens to learn from; the text is read again where it is shorter.
        precision: `float32` or `bfloat16`.
        validation: Sequences that choose the best weights, where validation is asked for.
        mixture: In what proportion the sequences of several files are drawn.
        documents: The number of each token's document, where none is to see another.
        directory: Where checkpoints go.
        name: Of this part of the run.
        seed: Of the order of the sequences.
        quiet: No progress bar.
    """
    learnt_in_transfer(model)

    def batches(epoch: int) -> Sequence[Tensor]:
        return order(len(sequences), batch=settings.batch, seed=seed, epoch=epoch, mixture=mixture)

    def step(net: nn.Module, rows: Tensor, backward: Backward) -> Mapping[str, Tensor | float]:
        numbers = None if documents is None else documents[rows]
        return transfer_step(net, sequences[rows], backward, settings=settings, documents=numbers)

    def validate(net: nn.Module) -> Mapping[str, float]:
        errors = transfer_errors(net, validation)
        return {"loss": sum(errors) / len(errors)}

    return train(
        model,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(parameter_groups(model, learning_rate=settings.transfer_rate), weight_decay=0.0),
        **pace(settings, tokens=tokens, precision=precision, warmup=0.0),
        validate=validate if settings.validate_every else None,
        directory=directory,
        name=name,
        seed=seed,
        quiet=quiet,
    )


def pace(settings: LinearizeSettings, *, tokens: int, precision: str, warmup: float) -> dict[str, Any]:
    """Return how long a stage trains and how its rates change: two arguments of `subquad.train.loop.train`.

    Args:
        settings: Warm-up, schedule and patience.
        tokens: Tokens to learn from, at most.
        precision: `float32` or `bfloat16`.
        warmup: The stage's own share of warm-up, where the settings have none.
    """
    is_plateau = settings.schedule == "plateau"
    return {
        "settings": LoopSettings(
            steps=steps_for(tokens, settings),
            precision=precision,
            evaluate_every=settings.validate_every,
            patience=settings.patience,
            plateau=PLATEAU if is_plateau else None,
        ),
        "schedule": schedule(
            "constant" if is_plateau else "linear", warmup=warmup if settings.warmup is None else settings.warmup
        ),
    }


def steps_for(tokens: int, settings: LinearizeSettings) -> int:
    """Return the steps that read at least `tokens`, in all processes together."""
    return max(1, -(-tokens // tokens_per_step(settings)))


def tokens_per_step(settings: LinearizeSettings) -> int:
    """Return the tokens of one step, in all processes together."""
    return settings.batch * settings.length * processes().num_processes
