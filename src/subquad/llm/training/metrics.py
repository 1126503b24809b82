"""Perplexity on held-out text, and how far a layer is from its teacher; one forward pass a sequence, in float32.

Axes: N sequences, T positions.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from subquad.llm.models.attention import Mode, Transfer, Weights, attention_layers, using
from subquad.progress import track

__all__ = ["perplexity", "token_losses", "transfer_errors"]


@torch.no_grad()
def perplexity(
    model: nn.Module, sequences: Int[Tensor, "N T"], *, mode: Mode = "hybrid", title: str = "", quiet: bool = True
) -> float:
    """Return exp of the mean negative log-likelihood of every token but each sequence's first."""
    total = 0.0
    was_training = model.training
    model.eval()
    with track(f"perplexity {title or mode}", len(sequences), quiet=quiet) as advance:
        for row in sequences:
            total += float(token_losses(model, row, mode=mode).sum())
            advance(1)
    model.train(was_training)
    tokens = sequences.shape[0] * (sequences.shape[1] - 1)
    return float(torch.tensor(total / tokens).exp())


@torch.no_grad()
def token_losses(model: nn.Module, sequence: Int[Tensor, " T"], *, mode: Mode = "hybrid") -> Float[Tensor, " T-1"]:
    """Return the negative log-likelihood of every token but the first, each given all tokens before it."""
    ids = sequence[None].to(next(model.parameters()).device).long()
    with using(model, mode):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return F.cross_entropy(logits, ids[0, 1:], reduction="none")


@torch.no_grad()
def transfer_errors(model: nn.Module, sequences: Int[Tensor, "N T"]) -> list[float]:
    r"""Return $\|y - \hat y\|^2 / \|y\|^2$ of each layer, given the teacher's inputs (0 is perfect)."""
    layers = attention_layers(model)
    errors, sizes = torch.zeros(len(layers)), torch.zeros(len(layers))
    # part of a model's layers may stand here, under the numbers that they have in the model
    places = {layer.layer_idx: place for place, layer in enumerate(layers)}

    def compare(layer: int, given: Tensor, wanted: Tensor, _: Weights) -> None:
        errors[places[layer]] += (given.detach().float() - wanted.float()).square().sum().cpu()
        sizes[places[layer]] += wanted.float().square().sum().cpu()

    run_teacher(model, sequences, compare)
    return (errors / sizes).tolist()


def run_teacher(model: nn.Module, ids: Int[Tensor, "N T"], compare: Transfer) -> None:
    """Run the softmax model over `ids` without gradients; each layer hands its two outputs to `compare`."""
    device = next(model.parameters()).device
    with using(model, "transfer", compare), torch.no_grad():
        if isinstance(model, FSDPModule):
            # the whole model gathers the embeddings; words are asked for as few as can be
            model(input_ids=ids.to(device), use_cache=False, logits_to_keep=1)
        else:
            # the body alone: stage 1 needs no words
            model.base_model(input_ids=ids.to(device), use_cache=False)
