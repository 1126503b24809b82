"""Forward passes over states of constant size: one prompt in pieces, or the next token of many texts at once.

Each text is one row of the states' tensors, so texts of any lengths share a batch without padding and without pages.

Axes: B texts, T new tokens, V words.
"""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.commands.generate import load
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.auto import MODEL_TYPE
from subquad.llm.models.cache import HybridLayer
from subquad.ops.linattn import HybridState
from subquad.runs.storage import read_json
from subquad.train.distributed import processes

__all__ = ["Rows", "ending_tokens", "forward", "new_cache", "open_linear"]

CHANGING_ROTARY = ("dynamic", "longrope")
"""Kinds of rotary positions whose angles depend on the longest text of a batch."""


def open_linear(directory: Path | str, precision: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a linearized folder, on the accelerator where there is one.

    Raises:
        SubquadError: the folder is missing, unfinished, or a checkpoint that was not linearized.
    """
    path = Path(directory)
    if path.suffix.lower() == ".gguf" or (str(directory) == "smollm2" and not path.exists()) or _is_softmax(path):
        raise SubquadError(
            f"{directory}: a checkpoint with softmax attention; make it linear first: "
            f"subquad llm linearize {directory} --text TEXT --out linear, then give the folder linear"
        )
    model, tokenizer = load(path)
    if precision != "float32":
        for name, parameter in model.named_parameters():
            if ".hybrid." not in name:
                parameter.data = parameter.data.to(getattr(torch, precision))
    return model.to(processes().device), tokenizer  # pyright: ignore[reportArgumentType] (its decorated `to`)


def _is_softmax(path: Path) -> bool:
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    return "subquad" not in config and config.get("model_type") not in (None, MODEL_TYPE)


def ending_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens after which a text has ended."""
    given: Any = model.generation_config.eos_token_id if model.generation_config else None
    several = given if isinstance(given, list) else [given]
    own: Any = tokenizer.eos_token_id
    return frozenset(token for token in (*several, own) if token is not None)


def new_cache(model: PreTrainedModel) -> Cache:
    """Return the state before the first token."""
    if has_softmax_layers(model):
        # layers that are linear take their place in it at the first token
        return DynamicCache(config=model.config)
    return Cache(layers=[HybridLayer() for _ in attention_layers(model)])


def has_softmax_layers(model: PreTrainedModel) -> bool:
    """Return whether some layers stayed softmax, so that what is kept of a text grows with it."""
    return len(attention_layers(model)) < model.config.num_hidden_layers


@torch.no_grad()
def forward(
    model: PreTrainedModel, ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], state: Cache
) -> Float[Tensor, "B V"]:
    """Return the logits after the last of the new tokens; the state goes on by all of them."""
    given_cache = {_cache_name(type(model)): state}
    given = model(input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=1, **given_cache)
    return given.logits[:, -1].float()


@cache
def _cache_name(model_class: type[PreTrainedModel]) -> str:
    # it changed within transformers 5
    return "cache" if "cache" in inspect.signature(model_class.forward).parameters else "past_key_values"


class Rows:
    """The states of texts side by side. The first `count` rows are in use; a step costs nothing for the others."""

    def __init__(self, model: PreTrainedModel, size: int):
        """Take the memory of all rows.

        Args:
            model: A linearized model.
            size: Texts that there is room for.

        Raises:
            SubquadError: the model keeps softmax layers, or its rotary positions would let texts disturb each other.
        """
        if has_softmax_layers(model):
            linear, layers = len(attention_layers(model)), model.config.num_hidden_layers
            raise SubquadError(
                f"only {linear} of the model's {layers} layers are linear, "
                "and texts with growing caches cannot share a batch; use `subquad llm chat`, or linearize all layers"
            )
        kind = getattr(getattr(model.base_model, "rotary_emb", None), "rope_type", "default")
        if size > 1 and kind in CHANGING_ROTARY:
            raise SubquadError(
                f"the model's rotary positions ({kind}) change with the longest text of a batch; use --max-batch 1"
            )
        self._model, self._cache, self.count = model, new_cache(model), 0
        self._layers: list[Any] = list(self._cache.layers)
        # one token tells the shapes and types of all states
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        forward(model, token, token, self._cache)
        self._states = [
            HybridState(*(tensor.new_zeros(size, *tensor.shape[1:]) for tensor in layer.state))
            for layer in self._layers
        ]
        self.bytes_each = sum(tensor.nbytes for rows in self._states for tensor in rows) // size

    def append(self, state: Cache) -> None:
        """Copy the state of one text into the first free row."""
        layers: list[Any] = list(state.layers)
        for rows, layer in zip(self._states, layers, strict=True):
            for row, new in zip(rows, layer.state, strict=True):
                row[self.count] = new[0]
        self.count += 1

    def remove(self, row: int) -> None:
        """Free a row; the last one moves into its place."""
        self.count -= 1
        if row != self.count:
            for rows in self._states:
                for tensor in rows:
                    tensor[row] = tensor[self.count]

    def step(self, tokens: list[int]) -> Float[Tensor, "B V"]:
        """Return the logits after one more token of each text in use."""
        for layer, rows in zip(self._layers, self._states, strict=True):
            # without gradients a step writes in place, so through these views into the rows
            layer.state = HybridState(*(tensor[: self.count] for tensor in rows))
        positions = self._states[0].seen[: self.count, None].clone()
        ids = torch.tensor(tokens, device=positions.device)[:, None]
        return forward(self._model, ids, positions, self._cache)
