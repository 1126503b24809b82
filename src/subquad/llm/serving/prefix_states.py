"""States of texts that were read before: a text that begins with one of them is read only from there on.

A state of hybrid attention has the same size for any length of text, so keeping the last few costs little; layers that
kept softmax attention add their keys and values. A chat, whose prompt is the whole conversation at every turn, is then
read once instead of once per turn.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.cache import HybridLayer, hybrid_layer
from subquad.llm.models.decoding import new_cache
from subquad.ops.linattn import HybridState

__all__ = ["PrefixStates", "States", "cache_of", "states_of"]

States = Sequence[tuple[Tensor, ...]]
"""What the layers keep of one text: a `HybridState`, or keys and values."""


def states_of(cache: Cache) -> States:
    """Return a copy of the states of a cache of one text."""
    return [_copy(layer) for layer in cache.layers]


def cache_of(model: PreTrainedModel, states: States, length: int) -> Cache:
    """Return a cache with a copy of the states of a text of `length` tokens."""
    cache = new_cache(model)
    for index, state in enumerate(states):
        if isinstance(state, HybridState):
            layer = hybrid_layer(cache, index)
            layer.state, layer.length = HybridState(*(tensor.clone() for tensor in state)), length
        else:
            keys, values = state
            cache.update(keys, values, index)
            own: Any = cache.layers[index]
            if own.is_sliding:
                # tokens that have left the window count too
                own.cumulative_length = length
    return cache


def _copy(layer: Any) -> tuple[Tensor, ...]:
    if isinstance(layer, HybridLayer):
        state: Any = layer.state
        return HybridState(*(tensor.clone() for tensor in state))
    return layer.keys.clone(), layer.values.clone()


class PrefixStates:
    """The states that were added or used last, by their tokens."""

    def __init__(self, size: int):
        """Keep `size` states; 0 for none."""
        self.size = size
        self._states: OrderedDict[tuple[int, ...], States] = OrderedDict()
        self._pinned: dict[tuple[int, ...], States] = {}

    def __len__(self) -> int:
        return len(self._states)

    def pin(self, tokens: Sequence[int], states: States) -> None:
        """Keep the states after these tokens for good, beside the others."""
        self._pinned[tuple(tokens)] = states

    def add(self, tokens: Sequence[int], states: States) -> None:
        """Keep the states after these tokens, in place of those that were not used for the longest time."""
        self._states[tuple(tokens)] = states
        self._states.move_to_end(tuple(tokens))
        while len(self._states) > self.size:
            self._states.popitem(last=False)

    def clear(self) -> None:
        """Keep only those that were kept for good."""
        self._states.clear()

    def find(self, prompt: Sequence[int]) -> tuple[int, States] | None:
        """Return the longest beginning of a prompt whose states were kept, as its number of tokens, and the states.

        At least one token is left to read, since it gives the logits of the next one.
        """
        prompt = tuple(prompt)
        kept = (*self._states, *self._pinned)
        known = [tokens for tokens in kept if len(tokens) < len(prompt) and prompt[: len(tokens)] == tokens]
        if not known:
            return None
        tokens = max(known, key=len)
        if tokens in self._pinned:
            return len(tokens), self._pinned[tokens]
        self._states.move_to_end(tokens)
        return len(tokens), self._states[tokens]
