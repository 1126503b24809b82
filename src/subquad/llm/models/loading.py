"""Open any model that `subquad llm linearize` wrote: a whole model, or an adapter on its checkpoint."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.adapter import open_adapter
from subquad.llm.models.checkpoints import open_tokenizer, open_weights
from subquad.llm.models.location import check_run, checkpoint_kind
from subquad.llm.settings import PlacementSettings
from subquad.runs.folder import check_weights
from subquad.runs.storage import read_json
from subquad.train.distributed import process_device


def load(directory: Path | str, *, base: str | Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a linearized model, ready for transformers' `generate`.

    Args:
        directory: Folder that `subquad llm linearize` or `save_pretrained` wrote: a whole model or an adapter; or the
            name of such a folder on the Hugging Face Hub, `OWNER/NAME`; or `example:NAME` for an adapter that ships
            with subquad.
        base: Checkpoint of an adapter; None for the place recorded in the adapter. Not used for a whole model.

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
    # a folder of `save_pretrained` has no entry of the run
    if "subquad" in config:
        check_weights(directory)
    model = open_weights(directory, may_have_others=False)
    return model.eval(), open_tokenizer(directory)


def chosen_device(device: str = "auto") -> torch.device:
    """Return a device by its name in the settings; `auto` is that of this process.

    Raises:
        SubquadError: torch finds no such device.
    """
    available = process_device()
    if device not in ("auto", "cpu", available.type):
        raise SubquadError(f"torch finds no device {device} here; its device is {available.type}")
    return available if device in ("auto", available.type) else torch.device("cpu")


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
