"""A linearized model as what it learnt alone: feature maps and low-rank updates, megabytes beside the checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.convert import SMOLLM2, convert, locate, model_fingerprint, open_checkpoint
from subquad.llm.settings import LinearizeSettings, attention_of
from subquad.llm.training.lora import add_updates
from subquad.runs.folder import load_tensors
from subquad.runs.storage import plain

__all__ = ["ADAPTER_TYPE", "adapter_config", "adapter_tensors", "open_adapter"]

ADAPTER_TYPE = "subquad_adapter"
LEARNT = (".hybrid.", ".lora_")
"""Parts of the names of what was learnt."""
LORA = ("lora_rank", "lora_alpha", "lora_targets")


def adapter_config(model: str | Path, settings: LinearizeSettings) -> dict[str, Any]:
    """Return the `config.json` of an adapter: the checkpoint that it belongs to, and how it is put on.

    Args:
        model: The checkpoint, as `locate` takes it.
        settings: Of the run.
    """
    path = locate(model)
    return {
        "model_type": ADAPTER_TYPE,
        "base": {
            "model": str(model) if str(model) == SMOLLM2 else str(path.resolve()),
            "fingerprint": model_fingerprint(path),
        },
        "hybrid_attention": plain(settings.attention),
        "lora": {name: plain(settings)[name] for name in LORA},
    }


def adapter_tensors(tuned: nn.Module) -> dict[str, Tensor]:
    """Return what was learnt; from a model whose updates are not merged yet."""
    return {
        name: tensor.detach().clone()
        for name, tensor in tuned.state_dict().items()
        if any(part in name for part in LEARNT)
    }


def open_adapter(
    directory: Path, config: Mapping[str, Any], *, base: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the checkpoint with the adapter merged into it, and its tokenizer.

    Args:
        directory: The adapter's folder.
        config: Its `config.json`.
        base: The checkpoint; None for the place where it was.

    Raises:
        SubquadError: the checkpoint is not there or is another one, or the tensors do not fit it.
    """
    said = config["base"]
    path = locate(said["model"] if base is None else base)
    if model_fingerprint(path) != said["fingerprint"]:
        raise SubquadError(
            f"{directory}: the adapter belongs to another checkpoint than {path}; give the one that it was made from "
            f"({said['model']}) with --base"
        )
    model, tokenizer = open_checkpoint(path)
    convert(model, attention_of(config["hybrid_attention"], str(directory)), check=False)
    tuned = add_updates(model, LinearizeSettings(**config["lora"]), seed=0)
    tensors = load_tensors(directory)
    wanted = adapter_tensors(tuned)
    wrong = sorted({*tensors} ^ {*wanted}) or [name for name in wanted if tensors[name].shape != wanted[name].shape]
    if wrong:
        raise SubquadError(f"{directory}: {len(wrong)} tensors do not fit, such as {wrong[0]}; the folder is damaged")
    tuned.load_state_dict(tensors, strict=False)
    merged: PreTrainedModel = tuned.merge_and_unload()
    return merged.requires_grad_(False).eval(), tokenizer
