"""A batch of sequences of any lengths, one row of every layer per sequence, without padding.

Axes: B sequences, V vocabulary.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import forward, has_softmax_layers, new_cache
from subquad.llm.serving.batch_rows import layer_rows

__all__ = ["StateBatch"]

LENGTH_DEPENDENT_ROTARY = ("dynamic", "longrope")
"""Rotary position types whose angles depend on the longest sequence of a batch."""


class StateBatch:
    """What the layers keep of the sequences that are decoded together."""

    def __init__(self, model: PreTrainedModel, size: int):
        """Allocate all rows.

        Args:
            model: A linearized model.
            size: Number of rows.

        Raises:
            SubquadError: The rotary positions depend on the batch.
        """
        rotary = getattr(getattr(model.base_model, "rotary_emb", None), "rope_type", "default")
        # one per kind of layer in some models
        kinds = set(rotary.values()) if isinstance(rotary, dict) else {rotary}
        if size > 1 and (wrong := kinds & set(LENGTH_DEPENDENT_ROTARY)):
            raise SubquadError(
                f"the model's rotary positions ({', '.join(sorted(wrong))}) depend on the longest sequence of a batch; "
                "use --max-batch-size 1"
            )
        self._model, self._cache = model, new_cache(model)
        self._lengths: list[int] = []
        # one token shows the shapes and types of what the layers keep
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        forward(model, token, token, self._cache)
        self._rows = [layer_rows(layer, size) for layer in self._cache.layers]
        self._cache.layers[:] = [rows.layer for rows in self._rows]
        self._needs_mask = has_softmax_layers(model)
        self.bytes_per_sequence = sum(rows.bytes_per_sequence for rows in self._rows)
        """Size of one sequence that does not grow with its length."""
        self.bytes_per_token = sum(rows.bytes_per_token for rows in self._rows)
        """Size that each token adds, in layers that kept softmax attention to all tokens."""

    def append(self, cache: Cache) -> None:
        """Copy the cache of one sequence into the first free row."""
        for rows, layer in zip(self._rows, cache.layers, strict=True):
            rows.append(layer)
        self._lengths.append(cache.get_seq_length())

    def states(self, row: int) -> list[tuple[Tensor, ...]]:
        """Return a copy of what is kept in a row, layer by layer."""
        return [rows.copy(row) for rows in self._rows]

    def remove(self, row: int) -> None:
        """Free a row; the last row moves into its place."""
        last = self._lengths.pop()
        if row < len(self._lengths):
            self._lengths[row] = last
        for rows in self._rows:
            rows.remove(row)

    def clear(self) -> None:
        """Free all rows, also after a step that failed halfway."""
        self._lengths = []
        for rows in self._rows:
            rows.clear()

    def step(self, tokens: list[int]) -> Float[Tensor, "B V"]:
        """Return the logits after one more token of each sequence in use."""
        longest = max(self._lengths)
        for rows in self._rows:
            rows.prepare(longest)
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        positions = torch.tensor(self._lengths, device=self._model.device)[:, None]
        mask = None
        if self._needs_mask and min(self._lengths) < longest:
            mask = torch.arange(longest + 1, device=self._model.device) >= longest - positions
        self._lengths = [length + 1 for length in self._lengths]
        return forward(self._model, ids, positions, self._cache, mask)
