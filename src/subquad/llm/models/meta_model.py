"""A checkpoint whose weights stay on disk: the model on the meta device, and single modules filled from safetensors.

Memory is that of the filled modules and of one more tensor while it is read.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import IMPLEMENTATION
from subquad.llm.models.checkpoints import check_known, make_plain
from subquad.llm.models.convert import decoder_layers, layers_to_replace
from subquad.llm.models.location import open_weights
from subquad.llm.models.stored_shapes import check_layers, check_shape, check_shapes, on_meta, tensor_files
from subquad.llm.settings import AttentionSettings
from subquad.runs.damage import OF_TRANSFORMERS, damage_as_error
from subquad.runs.storage import read_json

__all__ = ["LayerArguments", "MetaModel", "OtherNamesError", "check_folder", "check_supported", "open_meta_model"]

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
        wanted = {name: tensor for name, tensor in module.state_dict().items() if with_children or "." not in name}
        tensors = {name: self._read(f"{prefix}.{name}".removeprefix("."), tensor) for name, tensor in wanted.items()}
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

    def _read(self, name: str, expected: Tensor) -> Tensor:
        file, stored = self._find(name)
        # opened anew for each tensor, since what was read stays mapped until the file is closed
        with open_weights(file) as tensors:
            tensor = tensors.get_tensor(stored).to(self.dtype, copy=True)
        check_shape(file, stored, list(tensor.shape), list(expected.shape))
        return tensor

    def _find(self, name: str) -> tuple[Path, str]:
        for stored in self._stored_names(name):
            if stored in self.files:
                return self.files[stored], stored
        raise OtherNamesError(
            f"{self.path}: no {name} in its safetensors. Either a file is missing; or weights are stored under other "
            "names than those in transformers, and cannot be read layer by layer: then omit --block-layers"
        )

    def _stored_names(self, name: str) -> tuple[str, str]:
        # in a checkpoint of the body alone, names lack its prefix
        return name, name.removeprefix(f"{self.model.base_model_prefix}.")

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
        weight = self._read_rows(f"{self.names[id(embedding)]}.weight", rows)
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

    def _read_rows(self, name: str, rows: Int[Tensor, " V"]) -> Float[Tensor, "V D"]:
        file, stored = self._find(name)
        with open_weights(file) as tensors:
            return tensors.get_tensor(stored)[rows].to(self.dtype)

    def layer_arguments(self, ids: Int[Tensor, "1 T"]) -> list[LayerArguments]:
        """Return the arguments with which the model calls each layer for sequences of this length.

        Raises:
            SubquadError: They depend on the text, so layers cannot run separately from the rest of the model.
        """
        arguments, others = (self.embed(given)[1] for given in (ids, ids.roll(1, 1)))
        if len(arguments) != len(self.layers) or not _equal(arguments, others):
            raise SubquadError(
                f"{type(self.model).__name__}: its layers depend on more than hidden states and positions, so they "
                "cannot be trained separately; omit --block-layers"
            )
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
    model = _without_weights(path, dtype)
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
        with damage_as_error(f"{path / GENERATION}: damaged"):
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    make_plain(model, path)
    return meta


def check_folder(path: Path) -> None:
    """Check that the layers of a checkpoint can be read one by one.

    Raises:
        SubquadError: It is a packed file.
    """
    if path.is_file():
        raise SubquadError(
            f"{path}: --block-layers reads layers one by one from safetensors, and this is one packed file; give a "
            "Hugging Face folder, or omit --block-layers"
        )


def check_supported(path: Path, attention: AttentionSettings) -> PreTrainedModel | None:
    """Check that a checkpoint can be linearized, by its config and the shapes of its weights, of which none is read.

    Returns:
        The model on the meta device; None of a `.gguf` file, which is checked when it is opened.

    Raises:
        SubquadError: It cannot, or the weights are those of another model.
    """
    if path.is_file():
        return None
    model = _without_weights(path)
    layers_to_replace(model, attention)
    check_shapes(path, model)
    return model


def _without_weights(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the model of a folder on the meta device."""
    content = read_json(path / "config.json")
    check_known(path, content)
    check_layers(path, content)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        check_layers(path, config)
        return on_meta(config, dtype, attn_implementation="sdpa")
    except SubquadError:
        raise
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{path}: transformers cannot open this checkpoint: {error}") from error


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
