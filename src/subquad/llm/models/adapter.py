"""Low-rank updates on a converted model, and adapters: the trained tensors of a linearized model alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.checkpoints import ADAPTER_TYPE, SMOLLM2, locate, model_fingerprint, open_checkpoint
from subquad.llm.models.convert import convert, feature_parameters
from subquad.llm.settings import ALL_LINEAR, LinearizeSettings, attention_of
from subquad.runs.folder import load_tensors
from subquad.runs.storage import plain

__all__ = ["adapter_config", "adapter_tensors", "add_lora", "open_adapter"]

TRAINED = (".hybrid.", ".lora_")
"""Parts of the names of trained tensors."""
LORA = ("lora_rank", "lora_alpha", "lora_targets")


def add_lora(model: PreTrainedModel, settings: LinearizeSettings, *, seed: int) -> LoraModel:
    """Return the model with low-rank updates of nothing yet; its own weights are frozen.

    Raises:
        SubquadError: no layer's name ends in one of the targets, or one is the head whose weight is also the embedding.
    """
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    if getattr(model.config, "tie_word_embeddings", False) and head.split(".")[-1] in settings.lora_targets:
        raise SubquadError(
            f"--lora-targets {head}: its weight is that of the embedding too, which an update would change along; "
            "leave it away"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        targets = ALL_LINEAR if settings.lora_targets == (ALL_LINEAR,) else list(settings.lora_targets)
        how = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=targets)
        try:
            tuned = LoraModel(model, how, "default")
        except ValueError as error:
            raise SubquadError(f"--lora-targets {' '.join(settings.lora_targets)}: {error}") from error
    for name, parameter in tuned.named_parameters():
        if ".lora_" in name:
            # small steps would be lost in halves
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    for parameter in feature_parameters(tuned):
        parameter.requires_grad_(settings.feature_rate > 0)
    if settings.checkpointing:
        # the older name warns where there is the newer one
        begin = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        begin({"use_reentrant": False})
    return tuned


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
        if any(part in name for part in TRAINED)
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
    tuned = add_lora(model, LinearizeSettings(**config["lora"]), seed=0)
    tensors = load_tensors(directory)
    wanted = adapter_tensors(tuned)
    wrong = sorted({*tensors} ^ {*wanted}) or [name for name in wanted if tensors[name].shape != wanted[name].shape]
    if wrong:
        raise SubquadError(f"{directory}: {len(wrong)} tensors do not fit, such as {wrong[0]}; the folder is damaged")
    tuned.load_state_dict(tensors, strict=False)
    merged: PreTrainedModel = tuned.merge_and_unload()
    return merged.requires_grad_(False).eval(), tokenizer
