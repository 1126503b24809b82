"""Perplexity on held-out text, and each layer's distance from its teacher; one forward pass per sequence, in float32.

Axes: N sequences, T positions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from subquad.errors import SubquadError
from subquad.llm.metrics import perplexity_of
from subquad.llm.models.attention import Mode, TransferCallback, attention_layers, attention_mode
from subquad.llm.models.documents import separate_documents
from subquad.progress import say, track

SLICE = 512
"""Tokens whose log-probabilities are computed at a time."""


def perplexity(
    model: nn.Module, sequences: Int[Tensor, "N T"], *, mode: Mode = "hybrid", title: str = "", quiet: bool = True
) -> float:
    """Return exp of the mean negative log-likelihood of every token but each sequence's first."""
    losses = sequence_losses(model, sequences, mode=mode, title=title, quiet=quiet)
    return perplexity_of(sum(losses) / len(losses))


@torch.no_grad()
def sequence_losses(
    model: nn.Module,
    sequences: Int[Tensor, "N T"],
    *,
    mode: Mode = "hybrid",
    title: str = "",
    quiet: bool = True,
    may_diverge: bool = False,
) -> list[float]:
    """Return each sequence's mean negative log-likelihood per token, without its first token.

    Args:
        model: The converted model.
        sequences: Held-out sequences.
        mode: What the attention layers compute.
        title: Name of the model for the progress bar.
        quiet: Show no progress bar and no remark.
        may_diverge: Return NaN for all sequences, with a remark, if the logits of one are not finite.

    Raises:
        SubquadError: The logits are not finite, and `may_diverge` is off.
    """
    losses, was_training = [], model.training
    model.eval()
    with track(f"perplexity {title or mode}", len(sequences), quiet=quiet) as advance:
        for number, row in enumerate(sequences, start=1):
            loss = float(token_losses(model, row, mode=mode).cpu().double().mean())
            if may_diverge and not math.isfinite(loss):
                say(
                    f"{title or mode}: the logits of held-out sequence {number} are not finite, so that it has no "
                    "perplexity and is compared with no other model",
                    quiet=quiet,
                )
                losses = [math.nan] * len(sequences)
                break
            check_finite(loss, model, mode, f"held-out sequence {number}", title=title)
            losses.append(loss)
            advance(1)
    model.train(was_training)
    return losses


def check_finite(value: float, model: nn.Module, mode: Mode, text: str, *, title: str = "") -> None:
    """Check that a loss or a log-likelihood is finite, which is NaN if a logit is.

    Args:
        value: The loss or log-likelihood.
        model: The model, which the error names.
        mode: What its attention layers compute.
        text: The text in words.
        title: Name of the model; empty for the folder or name that it was opened by.

    Raises:
        SubquadError: It is not finite.
    """
    if not math.isfinite(value):
        name = title or getattr(model, "name_or_path", "") or type(model).__name__
        raise SubquadError(f"{name} ({mode}): the logits of {text} are not finite: it has diverged, or overflows")


@torch.no_grad()
def token_losses(model: nn.Module, sequence: Int[Tensor, " T"], *, mode: Mode = "hybrid") -> Float[Tensor, " T-1"]:
    """Return the negative log-likelihood of every token but the first, each given all tokens before it."""
    ids = sequence[None].to(next(model.parameters()).device).long()
    with attention_mode(model, mode):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    # some tokens at a time, since log-probabilities take as much memory as the logits
    pairs = zip(logits.split(SLICE), ids[0, 1:].split(SLICE), strict=True)
    return torch.cat([F.cross_entropy(given.float(), target, reduction="none") for given, target in pairs])


@torch.no_grad()
def transfer_errors(
    model: nn.Module, sequences: Int[Tensor, "N T"], *, documents: Int[Tensor, "N T"] | None = None
) -> list[float]:
    r"""Return $\|y - \hat y\|^2 / \|y\|^2$ of each layer's attention output, given the teacher's inputs.

    `documents` are the numbers of the tokens' documents, if tokens must not attend to others.
    """
    layers = attention_layers(model)
    errors, norms = torch.zeros(len(layers)), torch.zeros(len(layers))
    # the model may be a block of layers, which keep their numbers in the whole model
    places = {layer.layer_idx: place for place, layer in enumerate(layers)}

    def compare(layer: int, given: Tensor, target: Tensor) -> None:
        errors[places[layer]] += (given.detach().float() - target.float()).square().sum().cpu()
        norms[places[layer]] += target.float().square().sum().cpu()

    # one by one, since all validation sequences together may not fit
    for row in range(len(sequences)):
        with separate_documents(model, None if documents is None else documents[row, None]):
            run_teacher(model, sequences[row, None], compare)
    return (errors / norms).tolist()


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Let a model compute as in evaluation, within a `with` block: a teacher has no dropout."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def run_teacher(model: nn.Module, ids: Int[Tensor, "N T"], compare: TransferCallback) -> None:
    """Run the teacher over `ids` without gradients; each layer calls `compare` with its hybrid and softmax outputs."""
    device = next(model.parameters()).device
    with attention_mode(model, "transfer", compare), without_dropout(model), torch.no_grad():
        if isinstance(model, FSDPModule):
            # only a call of the whole model gathers the embeddings; one position of logits is the least
            model(input_ids=ids.to(device), use_cache=False, logits_to_keep=1)
        else:
            # the body alone, since stage 1 needs no logits
            body: Any = model.base_model
            body(input_ids=ids.to(device), use_cache=False)
