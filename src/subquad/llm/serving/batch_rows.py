"""What one layer keeps of each sequence of a batch: a state of constant size, or keys and values that grow.

A row can be added, removed and copied whatever the lengths of the others. Keys and values of different lengths are
aligned at their last token, so that all rows grow in the same place; a mask hides what lies before the first token of
a shorter sequence.

Axes: B sequences, H heads, T tokens, D channels of a head.
"""

from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from subquad.llm.models.cache import HybridLayer
from subquad.ops.linattn import HybridState

__all__ = ["KeyRows", "LayerRows", "StateRows", "layer_rows"]


class LayerRows(Protocol):
    """Rows of one layer; the first ones are in use."""

    layer: Any
    """The layer's cache in a decoding step."""
    bytes_per_sequence: int
    """Size of a row that does not depend on the length of its text, or its upper bound."""
    bytes_per_token: int
    """Size that each token of the text adds."""

    def append(self, filled: Any) -> None:
        """Copy the cache of a single sequence into the next row."""

    def copy(self, row: int) -> tuple[Tensor, ...]:
        """Return a copy of a row."""
        ...

    def remove(self, row: int) -> None:
        """Remove a row; the last one moves into its place."""

    def clear(self) -> None:
        """Remove all rows, also after a step that failed halfway."""

    def prepare(self, longest: int) -> None:
        """Make `layer` ready for a step of the rows in use; the longest has so many tokens."""


def layer_rows(filled: Any, size: int) -> LayerRows:
    """Return empty rows for caches like `filled`, which has at least one token."""
    return StateRows(filled, size) if isinstance(filled, HybridLayer) else KeyRows(filled, size)


class StateRows:
    """States of hybrid attention."""

    bytes_per_token = 0

    def __init__(self, filled: HybridLayer, size: int):
        self.layer: Any = HybridLayer()
        state: Any = filled.state
        self._rows = HybridState(*(tensor.new_zeros(size, *tensor.shape[1:]) for tensor in state))
        self._count = 0
        self.bytes_per_sequence = sum(tensor.nbytes for tensor in self._rows) // size

    def append(self, filled: Any) -> None:
        """See LayerRows."""
        for rows, new in zip(self._rows, filled.state, strict=True):
            rows[self._count] = new[0]
        self._count += 1

    def copy(self, row: int) -> HybridState:
        """See LayerRows."""
        return HybridState(*(rows[row : row + 1].clone() for rows in self._rows))

    def remove(self, row: int) -> None:
        """See LayerRows."""
        self._count -= 1
        if row != self._count:
            for rows in self._rows:
                rows[row] = rows[self._count]

    def clear(self) -> None:
        """See LayerRows."""
        self._count = 0

    def prepare(self, longest: int) -> None:
        """See LayerRows."""
        # without gradients a step updates these views, and so the rows, in place
        self.layer.state, self.layer.length = HybridState(*(rows[: self._count] for rows in self._rows)), longest


class KeyRows(CacheLayerMixin):
    """Keys and values of softmax attention, of all tokens or of a sliding window."""

    def __init__(self, filled: Any, size: int):
        super().__init__()
        self.layer: Any = self
        self.is_initialized = True
        self.is_sliding = filled.is_sliding
        self._window: int | None = filled.sliding_window if filled.is_sliding else None
        tensors = (filled.keys, filled.values)
        self._rows = tuple(x.new_zeros(size, x.shape[1], 0, x.shape[3]) for x in tensors)
        self._end = 0
        """Column behind the last token of all rows."""
        self._lengths: list[int] = []
        """Tokens of each row, also those that have left the window."""
        token = sum(x.nbytes // x.shape[2] for x in tensors)
        self.bytes_per_token = 0 if self._window else token
        self.bytes_per_sequence = token * (self._window - 1) if self._window else 0

    def append(self, filled: Any) -> None:
        """See LayerRows."""
        stored, row = filled.keys.shape[2], len(self._lengths)
        self._reserve(stored, 0)
        for rows, own in zip(self._rows, (filled.keys, filled.values), strict=True):
            rows[row, :, : self._end - stored] = 0
            rows[row, :, self._end - stored : self._end] = own[0]
        self._lengths.append(filled.get_seq_length())

    def copy(self, row: int) -> tuple[Tensor, ...]:
        """See LayerRows."""
        start = self._end - self._stored(self._lengths[row])
        return tuple(rows[row : row + 1, :, start : self._end].clone() for rows in self._rows)

    def remove(self, row: int) -> None:
        """See LayerRows."""
        last = self._lengths.pop()
        if row < len(self._lengths):
            self._lengths[row] = last
            for rows in self._rows:
                rows[row] = rows[len(self._lengths)]

    def clear(self) -> None:
        """See LayerRows."""
        self._rows = tuple(rows[:, :, :0].clone() for rows in self._rows)
        self._end, self._lengths = 0, []

    def prepare(self, longest: int) -> None:
        """See LayerRows."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add one token to each row in use; return keys and values from the first token of the longest row on."""
        self._reserve(self._longest_stored(), 1)
        start, count = self._end - self._longest_stored(), len(self._lengths)
        for rows, new in zip(self._rows, (key_states, value_states), strict=True):
            rows[:count, :, self._end] = new[:, :, 0]
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]
        keys, values = (rows[:count, :, start : self._end] for rows in self._rows)
        return keys, values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: all rows exist from the start."""

    def get_seq_length(self) -> int:
        """Return the tokens of the longest row."""
        return max(self._lengths, default=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of a mask and its offset."""
        stored = self._longest_stored()
        return stored + query_length, self.get_seq_length() - stored

    def get_max_length(self) -> int:
        """Return the width of the window, or -1 if there is none."""
        return self._window or -1

    # its name in the first releases of transformers 5
    get_max_cache_shape = get_max_length

    def _stored(self, length: int) -> int:
        return length if self._window is None else min(length, self._window - 1)

    def _longest_stored(self) -> int:
        return self._stored(self.get_seq_length())

    def _reserve(self, before: int, after: int) -> None:
        """Have at least `before` columns up to the common end, and `after` behind it."""
        if self._end >= before and self._end + after <= self._rows[0].shape[2]:
            return
        kept = self._longest_stored()
        end = max(before, kept)
        larger = tuple(rows.new_zeros(*rows.shape[:2], 2 * end + 32, rows.shape[3]) for rows in self._rows)
        for new, old in zip(larger, self._rows, strict=True):
            new[:, :, end - kept : end] = old[:, :, self._end - kept : self._end]
        self._rows, self._end = larger, end
