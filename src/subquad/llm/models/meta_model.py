"""A checkpoint whose weights stay on disk: the model on the meta device, and single modules filled from safetensors.

Memory is that of the filled modules and of one more tensor while it is read.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, reading
from subquad.llm.models.attention import IMPLEMENTATION
from subquad.llm.models.checkpoints import make_plain, on_meta
from subquad.llm.models.convert import decoder_layers, layers_to_replace
from subquad.llm.models.location import tensor_files
from subquad.llm.settings import AttentionSettings

GENERATION = "generation_config.json"

LayerArguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments with which the model calls a layer, besides the hidden states."""


class OtherNamesError(SubquadError):
    """A weight of the model is not stored under its name."""


@dataclass(frozen=True, kw_only=True)
class MetaModel:
    """A causal language model on the meta device, and the files of its weights."""

    path: Path
    """Folder of the checkpoint."""
    model: PreTrainedModel
    """The model; its parameters have shapes but no memory, its buffers are real."""
    layers: list[nn.Module]
    """The decoder layers in order."""
    replaced: set[int]
    """`id` of each layer that gets hybrid attention."""
    names: dict[int, str]
    """`id` of each module → its name in the model."""
    files: dict[str, Path]
    """Name of each tensor of the checkpoint → its file."""
    dtype: torch.dtype
    """Type of the weights in memory."""

    def fill(self, module: nn.Module, *, with_children: bool = True) -> None:
        """Read the weights of one module into memory.

        Raises:
            SubquadError: The checkpoint has no such weights, or other shapes.
        """
        prefix = self.names[id(module)]
        wanted = [name for name in module.state_dict() if with_children or "." not in name]
        tensors = {name: self._read(f"{prefix}.{name}".removeprefix(".")) for name in wanted}
        with reading(self.path, "a checkpoint"):
            module.load_state_dict(tensors, strict=with_children, assign=True)
        module.requires_grad_(False)

    def fill_outside(self) -> None:
        """Read the weights of the body outside its layers and embeddings, such as the last norm."""
        body, embedding = self.model.base_model, self.model.get_input_embeddings()
        inside = {id(part) for module in (embedding, *self.layers) for part in module.modules()}
        for module in body.modules():
            if id(module) not in inside and any(True for _ in module.parameters(recurse=False)):
                self.fill(module, with_children=False)

    def check_names(self) -> None:
        """Check that each weight is stored, before any is read.

        Raises:
            OtherNamesError: One is not.
        """
        head = self.model.get_output_embeddings()
        is_tied = self.model.config.tie_word_embeddings
        for name, parameter in self.model.named_parameters():
            if not (is_tied and head is not None and parameter is head.weight):
                self._find(name)

    def _read(self, name: str, rows: Int[Tensor, " V"] | None = None) -> Tensor:
        file, stored = self._find(name)
        # opened anew for each tensor, since what was read stays mapped until the file is closed
        with reading(file, "safetensors"), safetensors.safe_open(file, framework="pt") as tensors:
            tensor = tensors.get_tensor(stored)
            return tensor.to(self.dtype, copy=True) if rows is None else tensor[rows].to(self.dtype)

    def _find(self, name: str) -> tuple[Path, str]:
        # in a checkpoint of the body alone, names lack its prefix
        for stored in (name, name.removeprefix(f"{self.model.base_model_prefix}.")):
            if stored in self.files:
                return self.files[stored], stored
        raise OtherNamesError(f"{self.path}: no {name} in its safetensors, so that layers cannot be read one by one")

    def embed(self, ids: Int[Tensor, "1 T"]) -> tuple[Float[Tensor, "1 T D"], list[LayerArguments]]:
        """Return the hidden states before the first layer, and the arguments with which the model calls each layer.

        The model's own forward pass runs with layers that return their input; of the embeddings only the rows of these
        tokens are read.
        """
        calls: list[tuple[Tensor, LayerArguments]] = []
        config = self.model.config
        embedding: Any = self.model.get_input_embeddings()
        implementation, empty = config._attn_implementation, embedding.weight
        rows, compact = ids.unique(return_inverse=True)
        weight = self._read(f"{self.names[id(embedding)]}.weight", rows)
        try:
            embedding.weight, embedding.padding_idx = nn.Parameter(weight, requires_grad=False), None
            config._attn_implementation = IMPLEMENTATION
            for layer in self.layers:
                layer.forward = partial(_record, calls)
            with torch.no_grad():
                self.model.base_model(input_ids=compact, use_cache=False)
        finally:
            embedding.weight, config._attn_implementation = empty, implementation
            for layer in self.layers:
                layer.__dict__.pop("forward", None)
        return calls[0][0], [arguments for _, arguments in calls]

    def layer_arguments(self, ids: Int[Tensor, "1 T"]) -> list[LayerArguments]:
        """Return the arguments with which the model calls each layer for sequences of this length.

        Raises:
            SubquadError: They depend on the text, so layers cannot run separately from the rest of the model.
        """
        arguments, others = (self.embed(given)[1] for given in (ids, ids.roll(1, 1)))
        if len(arguments) != len(self.layers) or not _equal(arguments, others):
            raise SubquadError(f"{type(self.model).__name__}: its layers depend on the text, and cannot run alone")
        return arguments


def open_meta_model(path: Path, attention: AttentionSettings, dtype: torch.dtype = torch.float32) -> MetaModel:
    """Open a checkpoint on the meta device; no code from the checkpoint is run.

    Args:
        path: Folder of the checkpoint.
        attention: Which layers are to be replaced.
        dtype: Type of the weights that are read.

    Raises:
        OtherNamesError: Weights are missing, or are stored under other names than those in transformers.
        SubquadError: It is not a folder of plain safetensors, or the model cannot be linearized.
    """
    check_folder(path)
    model = on_meta(path, dtype)
    meta = MetaModel(
        path=path,
        model=model.eval(),
        layers=decoder_layers(model),
        replaced={id(layer) for layer in layers_to_replace(model, attention)},
        names={id(module): name for name, module in model.named_modules()},
        files=tensor_files(path),
        dtype=dtype,
    )
    meta.check_names()
    meta.fill_outside()
    if (path / GENERATION).is_file():
        with reading(path / GENERATION, "a config"):
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    make_plain(model)
    return meta


def check_folder(path: Path) -> None:
    """Check that the layers of a checkpoint can be read one by one.

    Raises:
        SubquadError: It is a packed file.
    """
    if path.is_file():
        raise SubquadError(f"{path}: layers are read one by one from safetensors, and this is one packed file")


def check_supported(path: Path, attention: AttentionSettings) -> PreTrainedModel | None:
    """Check that a checkpoint can be linearized, by its config.

    Returns:
        The model on the meta device; None of a `.gguf` file, which is checked when it is opened.

    Raises:
        SubquadError: It cannot.
    """
    if path.is_file():
        return None
    model = on_meta(path)
    layers_to_replace(model, attention)
    return model


def _record(calls: list[tuple[Tensor, LayerArguments]], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    calls.append((hidden_states, (args, kwargs)))
    return hidden_states


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b or a == b
