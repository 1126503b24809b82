"""A checkpoint whose weights stay on disk: the model without them, and single modules filled from safetensors.

Memory is that of the modules that are filled; reading keeps at most one more tensor mapped.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import IMPLEMENTATION
from subquad.llm.models.checkpoints import check_known
from subquad.llm.models.convert import decoder_layers, layers_to_replace
from subquad.llm.settings import AttentionSettings
from subquad.runs.storage import read_json

__all__ = ["Call", "Skeleton", "open_skeleton"]

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What the model gives a layer besides the hidden states."""


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A causal language model in float32 without its weights, and where they are."""

    path: Path
    """The checkpoint's folder."""
    model: PreTrainedModel
    """Its parameters have shapes and no memory; its buffers are real."""
    layers: list[nn.Module]
    """The decoder layers, first to last."""
    replaced: set[int]
    """Those that get hybrid attention, by `id`."""
    names: dict[int, str]
    """The name in the model of each module, by `id`."""
    files: dict[str, Path]
    """The file in which each tensor of the checkpoint is."""

    def fill(self, module: nn.Module, *, with_children: bool = True) -> None:
        """Read the weights of one module into memory.

        Raises:
            SubquadError: the checkpoint holds no such weights, or of other shapes.
        """
        prefix = self.names[id(module)]
        wanted = {name: tensor for name, tensor in module.state_dict().items() if with_children or "." not in name}
        read = {name: self._read(f"{prefix}.{name}".removeprefix("."), tensor) for name, tensor in wanted.items()}
        module.load_state_dict(read, strict=with_children, assign=True)
        module.requires_grad_(False)

    def _read(self, name: str, expected: Tensor) -> Tensor:
        file, stored = self._place(name)
        # opened for each tensor anew, since what was read stays mapped until the file is closed
        with _opened(file) as tensors:
            tensor = tensors.get_tensor(stored).to(torch.float32, copy=True)
        if tensor.shape != expected.shape:
            raise SubquadError(
                f"{file}: {stored} has shape {list(tensor.shape)}, and the model of config.json needs "
                f"{list(expected.shape)}"
            )
        return tensor

    def _place(self, name: str) -> tuple[Path, str]:
        # a checkpoint of the body alone leaves the body's name out
        for stored in (name, name.removeprefix(f"{self.model.base_model_prefix}.")):
            if stored in self.files:
                return self.files[stored], stored
        raise SubquadError(
            f"{self.path}: no {name} in its safetensors; layers can be read one by one only where each weight is "
            "stored under its name in transformers; leave --block away"
        )

    def first_states(self, ids: Int[Tensor, "1 T"]) -> tuple[Float[Tensor, "1 T D"], list[Call]]:
        """Return the hidden states before the first layer, and how the model calls each layer.

        The model's own forward runs with layers that hand on what they get; of the embeddings only the rows of
        these tokens are read.
        """
        given: list[tuple[Tensor, Call]] = []
        config, embedding = self.model.config, self.model.get_input_embeddings()
        implementation, empty = config._attn_implementation, embedding.weight
        rows, compact = ids.unique(return_inverse=True)
        weight = self._rows(f"{self.names[id(embedding)]}.weight", rows)
        try:
            embedding.weight, embedding.padding_idx = nn.Parameter(weight, requires_grad=False), None
            config._attn_implementation = IMPLEMENTATION
            for layer in self.layers:
                layer.forward = partial(_hand_on, given)
            with torch.no_grad():
                self.model.base_model(input_ids=compact, use_cache=False)
        finally:
            embedding.weight, config._attn_implementation = empty, implementation
            for layer in self.layers:
                layer.__dict__.pop("forward", None)
        return given[0][0], [call for _, call in given]

    def _rows(self, name: str, rows: Int[Tensor, " V"]) -> Float[Tensor, "V D"]:
        file, stored = self._place(name)
        with _opened(file) as tensors:
            return tensors.get_tensor(stored)[rows].float()

    def fill_outside(self) -> None:
        """Read what the body has outside its layers and its embeddings, such as the last norm."""
        body, embedding = self.model.base_model, self.model.get_input_embeddings()
        inside = {id(part) for module in (embedding, *self.layers) for part in module.modules()}
        for module in body.modules():
            if id(module) not in inside and any(True for _ in module.parameters(recurse=False)):
                self.fill(module, with_children=False)

    def calls(self, ids: Int[Tensor, "1 T"]) -> list[Call]:
        """Return how the model calls each layer for sequences of this length.

        Raises:
            SubquadError: that depends on the text, so a layer cannot run apart from the rest of the model.
        """
        calls, others = (self.first_states(given)[1] for given in (ids, ids.roll(1, 1)))
        if len(calls) != len(self.layers) or not _equal(calls, others):
            raise SubquadError(
                f"{type(self.model).__name__}: its layers are given more than hidden states and positions, so they "
                "cannot be trained apart; leave --block away"
            )
        return calls


def open_skeleton(path: Path, attention: AttentionSettings) -> Skeleton:
    """Return the model of a checkpoint's folder without its weights; no code from the checkpoint is run.

    Args:
        path: The folder.
        attention: Which layers are to be replaced.

    Raises:
        SubquadError: it is no folder of plain safetensors, or no model that can be linearized.
    """
    if path.is_file():
        raise SubquadError(
            f"{path}: layers are read one by one from safetensors, and this is one packed file; give a Hugging Face "
            "folder, or leave --block away"
        )
    content = read_json(path / "config.json")
    check_known(path, content)
    if content.get("quantization_config"):
        raise SubquadError(
            f"{path}: its weights are quantized (quantization_config in config.json), and layers are read one by one "
            "from plain weights; give the checkpoint that it was made from, or leave --block away"
        )
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        # buffers are small, and are computed rather than stored
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise SubquadError(f"{path}: transformers cannot open this checkpoint: {error}") from error
    skeleton = Skeleton(
        path=path,
        model=model.eval(),
        layers=decoder_layers(model),
        replaced={id(layer) for layer in layers_to_replace(model, attention)},
        names={id(module): name for name, module in model.named_modules()},
        files=_files(path),
    )
    skeleton.fill_outside()
    return skeleton


def _files(path: Path) -> dict[str, Path]:
    index = path / INDEX
    if index.is_file():
        places = {name: path / file for name, file in read_json(index)["weight_map"].items()}
        missing = sorted({file.name for file in places.values() if not file.is_file()})
        if missing:
            raise SubquadError(f"{path}: {len(missing)} of its files are missing, such as {missing[0]} (see {INDEX})")
        return places
    with _opened(path / WEIGHTS) as tensors:
        return dict.fromkeys(tensors.keys(), path / WEIGHTS)


def _opened(file: Path) -> Any:
    try:
        return safetensors.safe_open(file, framework="pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise SubquadError(f"{file}: not a safetensors file, or cut short ({error})") from error


def _hand_on(given: list[tuple[Tensor, Call]], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    given.append((hidden_states, (args, kwargs)))
    return hidden_states


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b or a == b
