r"""Stage 1, attention transfer: each layer's hybrid attention learns the output of its softmax attention.

The loss of a layer is $\frac{1}{H T K} \sum_{h,t} \|y_{h,t} - \hat y_{h,t}\|^2$ over heads and positions, before the
output projection, as in Section 3.2 of arXiv:2410.10254; or, since layers differ a hundredfold in scale, that over the
mean square of $y$. All layers see the softmax model's hidden states, so none
waits for another. Each goes backward at once: memory is the softmax model's forward pass and the graph of one layer.

Axes: N sequences, T positions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from subquad.llm.convert import feature_parameters
from subquad.llm.data import Mixture, order
from subquad.llm.evaluate import run_teacher, transfer_errors
from subquad.llm.modeling import apart
from subquad.llm.settings import LinearizeSettings
from subquad.train.loop import Backward, LoopSettings, Outcome, train
from subquad.train.optim import parameter_groups, schedule
from subquad.train.processes import processes

__all__ = ["learnt_in_transfer", "steps_for", "tokens_per_step", "transfer", "transfer_step"]


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
    is_relative: bool = False,
    documents: Int[Tensor, "B T"] | None = None,
) -> Mapping[str, Tensor | float]:
    """Compute one batch's loss, going backward layer by layer; returns the mean over layers.

    Args:
        model: The converted model.
        ids: The batch.
        backward: Takes the loss of a layer.
        is_relative: Whether each layer's loss is over the mean square of its outputs.
        documents: The number of each token's document, where none is to see another.
    """
    losses: list[Tensor] = []

    def learn(layer: int, given: Tensor, wanted: Tensor) -> None:
        loss = F.mse_loss(given.float(), wanted.float())
        if is_relative:
            loss = loss / wanted.float().square().mean()
        backward(loss)
        # a copy: the mean still owns the memory of all squares that it was taken of
        losses.append(loss.detach().clone())

    with apart(model, documents):
        run_teacher(model, ids, learn)
    return {"loss": torch.stack(losses).mean()}


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
) -> Outcome:
    """Train the feature maps of a converted model in place.

    Args:
        model: The converted model.
        sequences: Training sequences.
        settings: Rate and batch.
        tokens: Tokens to learn from; the text is read again where it is shorter.
        precision: `no` or `bf16`.
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
        is_relative = settings.transfer_loss == "relative"
        numbers = None if documents is None else documents[rows]
        return transfer_step(net, sequences[rows], backward, is_relative=is_relative, documents=numbers)

    def validate(net: nn.Module) -> Mapping[str, float]:
        errors = transfer_errors(net, validation)
        return {"loss": sum(errors) / len(errors)}

    return train(
        model,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(parameter_groups(model, learning_rate=settings.transfer_rate), weight_decay=0.0),
        settings=LoopSettings(
            steps=steps_for(tokens, settings), precision=precision, evaluate_every=settings.validate_every
        ),
        schedule=schedule("linear"),
        validate=validate if settings.validate_every else None,
        directory=directory,
        name=name,
        seed=seed,
        quiet=quiet,
    )


def steps_for(tokens: int, settings: LinearizeSettings) -> int:
    """Return the steps that read at least `tokens`, in all processes together."""
    return max(1, -(-tokens // tokens_per_step(settings)))


def tokens_per_step(settings: LinearizeSettings) -> int:
    """Return the tokens of one step, in all processes together."""
    return settings.batch * settings.length * processes().num_processes
