r"""Choice of the layers that keep softmax attention: those that bring the student closest to the teacher's predictions.

After attention transfer, one layer at a time gets its softmax attention back, and $KL(p \| q)$ is measured, with p the
teacher's and q the student's next-token probabilities. The layers with the lowest divergence are chosen, as in
KL-guided layer selection (arXiv:2512.20569), there with a distillation for each layer. It takes a forward pass per
layer and sequence.

Axes: N sequences, T positions.
"""

import math

import torch
from jaxtyping import Int
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers, attention_mode
from subquad.progress import track

CHOICE_SEQUENCES = 2
"""Sequences of the training text on which the divergences are measured."""


@torch.no_grad()
def restored_divergences(model: nn.Module, sequences: Int[Tensor, "N T"], *, quiet: bool = True) -> dict[int, float]:
    """Return, by the number of each linearized layer, the student's divergence with softmax attention in that layer.

    Args:
        model: The converted model after attention transfer.
        sequences: Training sequences.
        quiet: Show no progress bar.

    Returns:
        Divergences in nats per token; under -1, that of the student without softmax layers.
    """
    layers, was_training = attention_layers(model), model.training
    found = {-1: 0.0, **{layer.layer_idx: 0.0 for layer in layers}}
    device = next(model.parameters()).device
    model.eval()

    def log_probabilities(row: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=row[None].to(device).long(), use_cache=False).logits
        return logits[0].float().log_softmax(-1)

    with track("layers that keep softmax attention", len(sequences) * len(found), quiet=quiet) as advance:
        for row in sequences:
            with attention_mode(model, "softmax"):
                target = log_probabilities(row)
            p = target.exp()
            for number in found:
                with attention_mode(model, "hybrid"):
                    for layer in layers:
                        if layer.layer_idx == number:
                            layer.mode = "softmax"
                    divergence = (p * (target - log_probabilities(row))).sum(-1).mean()
                found[number] += float(divergence) / len(sequences)
                advance(1)
    model.train(was_training)
    return found


def choose_layers(divergences: dict[int, float], count: int) -> tuple[int, ...]:
    """Return the `count` layers with the lowest divergence, in their order; of equal ones the first.

    Raises:
        SubquadError: A divergence is not a finite number.
    """
    layers = [number for number in divergences if number >= 0]
    if not all(math.isfinite(divergences[number]) for number in layers):
        raise SubquadError("layers cannot be chosen: the model's probabilities are not finite; it has diverged")
    return tuple(sorted(sorted(layers, key=lambda number: divergences[number])[:count]))
