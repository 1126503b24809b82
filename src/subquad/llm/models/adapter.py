"""Low-rank updates on a converted model, and adapters: the trained tensors of a linearized model alone."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, reading, unknown
from subquad.llm.models.attention import FUSED, PROJECTIONS
from subquad.llm.models.checkpoints import model_fingerprint, open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert, feature_parameters, layers_to_replace
from subquad.llm.models.location import SMOLLM2, is_hub_name, locate
from subquad.llm.settings import ADAPTER_TYPE, ALL_LINEAR, AttentionSettings, LinearizeSettings, attention_of
from subquad.progress import say
from subquad.runs.examples import name_of_run
from subquad.runs.folder import CONFIG, load_config, load_tensors
from subquad.runs.storage import plain

TRAINED = (".hybrid.", ".lora_")
"""Parts of the names of trained tensors."""
LORA = ("lora_rank", "lora_alpha", "lora_targets")


def check_targets(
    model: PreTrainedModel, targets: Sequence[str], *, attention: AttentionSettings | None = None
) -> None:
    """Check that LoRA updates can be added to these layers of a model.

    Args:
        model: The model.
        targets: Ends of the names of linear layers, or `all-linear`.
        attention: How the model will be converted; None if it is.

    Raises:
        SubquadError: A target matches no layer, or it is an output head whose weight is tied to the embedding.
    """
    if tuple(targets) == (ALL_LINEAR,):
        return
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    if getattr(model.config, "tie_word_embeddings", False) and head.split(".")[-1] in targets:
        raise SubquadError(f"{head} cannot be updated: its weight is tied to the embedding, which would change too")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if attention is not None:
        # fused projections are split when the model is converted
        replaced = [layer.self_attn for layer in layers_to_replace(model, attention)]
        fused = [getattr(layer, FUSED) for layer in replaced if hasattr(layer, FUSED)]
        layers = {name: module for name, module in layers.items() if not any(module is one for one in fused)}
        if fused:
            layers |= dict.fromkeys(PROJECTIONS[:3], fused[0])
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise unknown("linear layer", target, sorted({name.split(".")[-1] for name in layers}))


def add_lora(model: PreTrainedModel, settings: LinearizeSettings, *, seed: int) -> LoraModel:
    """Return the model with LoRA updates, which are zero at first; its own weights are frozen.

    Args:
        model: The converted model.
        settings: Rank, alpha and targets of the updates; feature maps are trainable unless their learning rate is 0.
        seed: Seed of the initial updates.

    Raises:
        SubquadError: A target matches no layer, or it is an output head whose weight is tied to the embedding.
    """
    check_targets(model, settings.lora_targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        targets = ALL_LINEAR if settings.lora_targets == (ALL_LINEAR,) else list(settings.lora_targets)
        config = LoraConfig(r=settings.lora_rank, lora_alpha=cast(int, settings.lora_alpha), target_modules=targets)
        tuned = LoraModel(model, config, "default")
    for name, parameter in tuned.named_parameters():
        if ".lora_" in name:
            # small steps would be lost in bfloat16
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    for parameter in feature_parameters(tuned):
        parameter.requires_grad_(settings.feature_map_learning_rate > 0)
    if settings.gradient_checkpointing:
        # the older name warns if the newer one exists
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return tuned


def adapter_config(model: str | Path, settings: LinearizeSettings) -> dict[str, Any]:
    """Return the `config.json` of an adapter: its checkpoint, its attention and its LoRA settings.

    Args:
        model: The checkpoint: a folder, a `.gguf` file, `smollm2`, or a name on the Hugging Face Hub.
        settings: Settings of the run.
    """
    path = locate(model)
    return {
        "model_type": ADAPTER_TYPE,
        "base": {
            "model": str(model) if str(model) == SMOLLM2 or is_hub_name(model) else str(path.resolve()),
            "fingerprint": model_fingerprint(path),
        },
        "hybrid_attention": plain(settings.attention),
        "lora": {name: plain(settings)[name] for name in LORA},
        "trained_length": settings.sequence_length,
    }


def adapter_tensors(tuned: nn.Module) -> dict[str, Tensor]:
    """Return the trained tensors of a model whose updates are not merged yet."""
    return {
        name: tensor.detach().clone()
        for name, tensor in tuned.state_dict().items()
        if any(part in name for part in TRAINED)
    }


def load_adapter(tuned: nn.Module, directory: Path) -> None:
    """Load the tensors of an adapter into a model with LoRA updates.

    Raises:
        SubquadError: They do not fit.
    """
    tensors = load_tensors(directory)
    with reading(directory, "an adapter of this checkpoint"):
        if wrong := tensors.keys() ^ adapter_tensors(tuned).keys():
            raise ValueError(f"{len(wrong)} tensors do not fit, such as {min(wrong)}")
        tuned.load_state_dict(tensors, strict=False)


def adapter_settings(
    directory: Path, checkpoint: Path, settings: LinearizeSettings, *, quiet: bool
) -> LinearizeSettings:
    """Return settings with the attention and the LoRA updates of an adapter that is to be trained further.

    Args:
        directory: Folder of the adapter.
        checkpoint: The checkpoint that is trained.
        settings: Settings of the run.
        quiet: Do not print which settings the adapter has.

    Raises:
        SubquadError: It is no adapter of this checkpoint, or the settings ask for something else than it has.
    """
    config = load_config(directory, "llm")
    _check_base(directory, config, checkpoint)
    attention = attention_of(config.get("hybrid_attention"), str(directory))
    with reading(directory / CONFIG, "an adapter"):
        adopted = replace(settings, attention=attention, **config["lora"])
    default = LinearizeSettings()
    compared = [(name, settings, default, adopted) for name in LORA]
    compared += [(part.name, settings.attention, default.attention, attention) for part in fields(attention)]
    for name, asked, *known in compared:
        if getattr(asked, name) not in [getattr(side, name) for side in known]:
            raise SubquadError(f"{name} is {getattr(known[1], name)} in {directory}, whose training goes on; omit it")
    say(f"from {name_of_run(directory)}, with its attention and LoRA settings", quiet=quiet)
    return adopted


def _check_base(directory: Path, config: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that a checkpoint is the one that an adapter belongs to.

    Raises:
        SubquadError: It is another one.
    """
    with reading(directory / CONFIG, "an adapter"):
        model, fingerprint = config["base"]["model"], config["base"]["fingerprint"]
    if model_fingerprint(checkpoint) != fingerprint:
        raise SubquadError(f"{directory}: the adapter was trained on {model}, and {checkpoint} is another checkpoint")


def open_adapter(
    directory: Path, config: Mapping[str, Any], *, base: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the adapter's checkpoint with the adapter merged into it, and its tokenizer.

    Args:
        directory: Folder of the adapter.
        config: Its `config.json`.
        base: The checkpoint; None for the place recorded in the config.

    Raises:
        SubquadError: The checkpoint is missing or another one, or the tensors do not fit it.
    """
    with reading(directory / CONFIG, "an adapter"):
        recorded, lora = config["base"]["model"], LinearizeSettings(**config["lora"])
    try:
        path = locate(recorded if base is None else base)
    except SubquadError as error:
        raise SubquadError(f"{directory}: the checkpoint of this adapter is not found: {error}") from error
    _check_base(directory, config, path)
    tokenizer, model = open_tokenizer(path), open_checkpoint(path)
    convert(model, attention_of(config.get("hybrid_attention"), str(directory)), check=False)
    with reading(directory, "an adapter"):
        tuned = add_lora(model, lora, seed=0)
        load_adapter(tuned, directory)
    merged = cast(PreTrainedModel, tuned.merge_and_unload())
    merged.config.trained_length = config.get("trained_length")
    return merged.requires_grad_(False).eval(), tokenizer
