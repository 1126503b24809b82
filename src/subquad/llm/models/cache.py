"""Cache of hybrid attention for transformers' `generate`: a state of constant size per layer."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from subquad.ops.linattn import HybridState


class HybridLayer(CacheLayerMixin):
    """Cache of one layer: a state of constant size instead of keys and values."""

    is_compileable = False
    is_sliding = False
    supports_early_init = False
    max_batch_size = None
    """Read by transformers 5.5, which keeps a static cache for the next call if it has the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.state: HybridState | None = None
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first forward pass creates the state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Fail, since there are no keys to return.

        Raises:
            TypeError: Always.
        """
        raise TypeError("this cache has the state of hybrid attention; softmax attention needs a new cache")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of a mask and its offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens, including padding."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: there is no maximum length."""
        return -1

    # its name in the first releases of transformers 5
    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Clear the cache."""
        self.state, self.length = None, 0

    def crop(self, max_length: int) -> None:
        """Fail, since a state cannot forget its last tokens.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the state of hybrid attention cannot be cut to fewer tokens; read the text again")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the state of the beam that it continues."""
        self._each(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows."""
        self._each(lambda tensor: tensor[indices])

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = HybridState(*(change(tensor) for tensor in self.state))


def hybrid_layer(cache: Cache, index: int) -> HybridLayer:
    """Return the layer of a cache for hybrid attention.

    Raises:
        ValueError: The cache was filled by softmax attention.
    """
    # transformers creates a cache of its own if none is given; its empty layers are replaced at first use
    while len(cache.layers) <= index:
        cache.layers.append(HybridLayer())
    layer = cache.layers[index]
    if not isinstance(layer, HybridLayer):
        if cast(CacheLayerMixin, layer).get_seq_length():
            raise ValueError("this cache was filled by softmax attention; hybrid attention needs a new one")
        layer = cache.layers[index] = HybridLayer()
    return layer
