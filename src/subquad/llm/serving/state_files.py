"""States of texts on disk: a long text is read once, and later prompts follow it without reading it again.

A file is safetensors: the tokens of the text, and the state of each layer after them. Its size does not depend on the
length of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import model_fingerprint
from subquad.llm.models.decoding import has_softmax_layers
from subquad.llm.models.location import folder_of_run
from subquad.llm.serving.prefix_states import States, states_of
from subquad.ops.linattn import HybridState
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

__all__ = ["TextState", "check_has_state", "check_state_file", "read_state", "write_state"]

FORMAT = "1"
TOKENS = "tokens"


@dataclass(frozen=True)
class TextState:
    """A text that was read, and the states after it."""

    tokens: list[int]
    """Tokens of the text."""
    states: States
    """States, layer by layer."""


def check_has_state(model: PreTrainedModel) -> None:
    """Check that all of a model's attention has states.

    Raises:
        SubquadError: Some layers kept softmax attention.
    """
    if has_softmax_layers(model):
        raise SubquadError(
            "some layers of this model kept their own attention and its key-value cache; only a model whose layers are "
            "all linearized has a state that can be saved"
        )


def check_state_file(path: Path) -> None:
    """Check that a file exists, before a model is loaded.

    Raises:
        SubquadError: There is no such file.
    """
    if not path.is_file():
        raise SubquadError(f"{path}: no such file (--state)")


def write_state(path: Path, run: Path | str, model: PreTrainedModel, tokens: Sequence[int], cache: Cache) -> None:
    """Write the state after a text.

    Args:
        path: File to write.
        run: Folder of the model, or its name on the Hugging Face Hub.
        model: The model.
        tokens: Tokens of the text.
        cache: The model's cache after them.
    """
    tensors = {
        f"layers.{index}.{name}": tensor
        for index, state in enumerate(states_of(cache))
        for name, tensor in zip(HybridState._fields, state, strict=True)
    }
    metadata = {"format": FORMAT, "model": _fingerprint(run), "dtype": str(model.dtype)}
    write_tensors(path, {TOKENS: torch.tensor(tokens), **tensors}, metadata)


def read_state(path: Path, run: Path | str, model: PreTrainedModel) -> TextState:
    """Read the state after a text.

    Args:
        path: File that `write_state` wrote.
        run: Folder of the model, or its name on the Hugging Face Hub.
        model: The model.

    Raises:
        SubquadError: There is no such file, it is damaged or no state, or it belongs to another model or type.
    """
    tensors, metadata = read_tensors_and_metadata(path)
    if metadata.get("format") != FORMAT or TOKENS not in tensors:
        raise SubquadError(f"{path}: not a state that `subquad llm generate --save-state` of this version wrote")
    if metadata.get("model") != _fingerprint(run):
        raise SubquadError(f"{path}: the state of another model than {run}, or of an earlier version of it")
    if metadata.get("dtype") != str(model.dtype):
        saved = str(metadata.get("dtype")).removeprefix("torch.")
        raise SubquadError(f"{path}: the state was saved with --dtype {saved}; use that here too")
    layers = range(model.config.num_hidden_layers)
    names = {f"layers.{index}.{name}" for index in layers for name in HybridState._fields}
    if missing := sorted(names - tensors.keys()):
        raise SubquadError(f"{path}: {len(missing)} tensors are missing, such as {missing[0]}; the file is damaged")
    states = [
        HybridState(*(tensors[f"layers.{index}.{name}"].to(model.device) for name in HybridState._fields))
        for index in layers
    ]
    for index, layer in enumerate(attention_layers(model)):
        for name, own, expected in zip(
            HybridState._fields, states[index], layer.hybrid.empty_state(1, dtype=model.dtype), strict=True
        ):
            if (own.shape, own.dtype) != (expected.shape, expected.dtype):
                raise SubquadError(f"{path}: layers.{index}.{name} does not fit the model; the file is damaged")
    return TextState(tensors[TOKENS].tolist(), states)


def _fingerprint(run: Path | str) -> str:
    return model_fingerprint(folder_of_run(run))
