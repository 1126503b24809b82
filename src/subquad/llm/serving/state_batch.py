"""A batch of states of constant size: one row per sequence, so sequences of any lengths share a batch without padding.

Axes: B sequences, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.decoding import forward, has_softmax_layers, new_cache
from subquad.ops.linattn import HybridState

__all__ = ["StateBatch"]

LENGTH_DEPENDENT_ROTARY = ("dynamic", "longrope")
"""Rotary position types whose angles depend on the longest sequence of a batch."""


class StateBatch:
    """States of the sequences that are decoded together; the first `count` rows are in use."""

    def __init__(self, model: PreTrainedModel, size: int):
        """Allocate all rows.

        Args:
            model: A linearized model.
            size: Number of rows.

        Raises:
            SubquadError: Some layers kept softmax attention, or the rotary positions depend on the batch.
        """
        if has_softmax_layers(model):
            linear, layers = len(attention_layers(model)), model.config.num_hidden_layers
            raise SubquadError(
                f"only {linear} of the model's {layers} layers are linear, and sequences with growing key-value "
                "caches cannot share a batch; use `subquad llm chat`, or linearize all layers"
            )
        rotary = getattr(getattr(model.base_model, "rotary_emb", None), "rope_type", "default")
        if size > 1 and rotary in LENGTH_DEPENDENT_ROTARY:
            raise SubquadError(
                f"the model's rotary positions ({rotary}) depend on the longest sequence of a batch; "
                "use --max-batch-size 1"
            )
        self._model, self._cache, self.count = model, new_cache(model), 0
        # one token shows the shapes and types of all states
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        forward(model, token, token, self._cache)
        self._layers: list[Any] = list(self._cache.layers)
        self._states = [
            HybridState(*(tensor.new_zeros(size, *tensor.shape[1:]) for tensor in layer.state))
            for layer in self._layers
        ]
        self.bytes_per_sequence = sum(tensor.nbytes for state in self._states for tensor in state) // size

    def append(self, cache: Cache) -> None:
        """Copy the state of one sequence into the first free row."""
        layers: list[Any] = list(cache.layers)
        for state, layer in zip(self._states, layers, strict=True):
            for rows, new in zip(state, layer.state, strict=True):
                rows[self.count] = new[0]
        self.count += 1

    def states(self, row: int) -> list[HybridState]:
        """Return a copy of the state of a row, layer by layer."""
        return [HybridState(*(rows[row : row + 1].clone() for rows in state)) for state in self._states]

    def remove(self, row: int) -> None:
        """Free a row; the last row moves into its place."""
        self.count -= 1
        if row != self.count:
            for state in self._states:
                for rows in state:
                    rows[row] = rows[self.count]

    def step(self, tokens: list[int]) -> Float[Tensor, "B V"]:
        """Return the logits after one more token of each sequence in use."""
        for layer, state in zip(self._layers, self._states, strict=True):
            # without gradients a step updates these views, and so the rows, in place
            layer.state = HybridState(*(rows[: self.count] for rows in state))
        positions = self._states[0].length[: self.count, None].clone()
        ids = torch.tensor(tokens, device=positions.device)[:, None]
        return forward(self._model, ids, positions, self._cache)
