"""What a linearized model keeps of a text for transformers' `generate`: a state of constant size in each layer."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from subquad.ops.linattn import HybridState

__all__ = ["HybridLayer", "hybrid_layer"]


class HybridLayer(CacheLayerMixin):
    """The cache of one layer for transformers' `generate`: a state of constant size in place of keys and values."""

    is_compileable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.state: HybridState | None = None
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first forward makes the state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuse, since there are no keys to give back.

        Raises:
            TypeError: always.
        """
        raise TypeError("this cache holds the state of hybrid attention; softmax attention needs a new cache")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens a mask covers, and where it starts."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens seen, padding among them."""
        return self.seen

    def get_max_length(self) -> int:
        """Return -1: there is no largest length."""
        return -1

    # the name it had in the first releases of transformers 5
    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Forget all tokens."""
        self.state, self.seen = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the state of the beam it goes on from."""
        self._each(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._each(lambda tensor: tensor[indices])

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = HybridState(*(change(tensor) for tensor in self.state))


def hybrid_layer(cache: Cache, index: int) -> HybridLayer:
    """Return the layer of a cache that holds a state; ValueError where it was filled by softmax attention."""
    # transformers makes a cache of its own where none is given; its empty layers are exchanged at first use
    while len(cache.layers) <= index:
        cache.layers.append(HybridLayer())
    layer = cache.layers[index]
    if not isinstance(layer, HybridLayer):
        if layer.get_seq_length():
            raise ValueError("this cache was filled by softmax attention; hybrid attention needs a new one")
        layer = cache.layers[index] = HybridLayer()
    return layer
