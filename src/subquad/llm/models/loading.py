"""Open any model that `subquad llm linearize` wrote: a whole model, or an adapter on its checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.adapter import open_adapter
from subquad.llm.models.checkpoints import check_tokenizer, name_outputs, without_progress_bars
from subquad.llm.models.location import check_run, checkpoint_kind
from subquad.llm.models.stored_shapes import check_layers, check_shapes, on_meta
from subquad.llm.settings import PlacementSettings
from subquad.runs.checksums import check_all
from subquad.runs.damage import OF_TRANSFORMERS, panics_as_errors
from subquad.runs.folder import check_weights
from subquad.runs.storage import read_json
from subquad.train.distributed import process_device

__all__ = ["load", "place", "to_device"]

TOKENIZER = "tokenizer.json"


def load(directory: Path | str, *, base: str | Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a linearized model, ready for transformers' `generate`.

    Args:
        directory: Folder that `subquad llm linearize` or `save_pretrained` wrote: a whole model or an adapter; or the
            name of such a folder on the Hugging Face Hub, `OWNER/NAME`; or `example:NAME` for an adapter that ships
            with subquad.
        base: Checkpoint of an adapter; None for the place recorded in the adapter.

    Returns:
        The model in float32 and its tokenizer.

    Raises:
        SubquadError: The folder is missing or unfinished, the checkpoint was not linearized yet, or the adapter
            belongs to another checkpoint, or a file is damaged.
    """
    directory = check_run(directory)
    config = read_json(directory / "config.json")
    if checkpoint_kind(directory) == "adapter":
        # before its checkpoint is compared, which a config.json of another adapter may name
        check_weights(directory)
        return open_adapter(directory, config, base=base)
    if base is not None:
        raise SubquadError(f"{directory}: holds a whole model, not an adapter; --base is not needed")
    # a folder of `save_pretrained` has no entry of the run
    if "subquad" in config:
        check_weights(directory)
    check_all(directory)
    check_layers(directory, config)
    return _open_linearized(directory)


def _open_linearized(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with without_progress_bars(), _damage_as_error(directory, "config.json or model.safetensors"):
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        # of models whose config.json names it otherwise
        check_layers(directory, config)
        # before memory is allocated for a model of other sizes
        check_shapes(directory, on_meta(config))
        # with `output_loading_info` it returns a pair
        opened: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, found = opened
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        raise SubquadError(
            f"{directory}: missing or unexpected weights: {len(wrong)}, such as {wrong[0]}; the folder is damaged"
        )
    name_outputs(model, directory)
    with _damage_as_error(directory, TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        check_tokenizer(directory, tokenizer)
    return model.eval(), tokenizer


@contextmanager
def _damage_as_error(directory: Path, files: str) -> Iterator[None]:
    try:
        with panics_as_errors(f"{directory}: {files} is damaged"):
            yield
    except SubquadError as error:
        if str(directory) in str(error):
            raise
        raise SubquadError(f"{directory}: {error}") from error
    except OF_TRANSFORMERS as error:
        if files == TOKENIZER and not (directory / TOKENIZER).is_file():
            raise SubquadError(f"{directory}: {files} is missing; copy it from the original checkpoint") from error
        reason = str(error).split("\n")[0]
        raise SubquadError(f"{directory}: {files} is missing or damaged ({reason}); linearize again") from error


def chosen_device(device: str = "auto") -> torch.device:
    """Return a device by its name in the settings; `auto` is that of this process.

    Raises:
        SubquadError: torch finds no such device.
    """
    own = process_device()
    if device not in ("auto", "cpu", own.type):
        raise SubquadError(f"--device {device}: torch finds no such device here; its device is {own.type}")
    return own if device in ("auto", own.type) else torch.device("cpu")


def to_device(model: PreTrainedModel, device: str = "auto") -> PreTrainedModel:
    """Move a model to a device; `auto` is that of this process.

    Raises:
        SubquadError: torch finds no such device.
    """
    return model.to(chosen_device(device))  # pyright: ignore[reportArgumentType] (the stubs of its decorated `to`)


def place(model: PreTrainedModel, settings: PlacementSettings) -> PreTrainedModel:
    """Move a linearized model to the device and the type of the settings.

    Raises:
        SubquadError: torch finds no such device.
    """
    if settings.dtype != "float32":
        for name, parameter in model.named_parameters():
            if ".hybrid." not in name:
                parameter.data = parameter.data.to(getattr(torch, settings.dtype))
    return to_device(model, settings.device)
