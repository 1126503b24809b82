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

from subquad.errors import SubquadError, flag_name, shortened, unknown
from subquad.llm.models.attention import FUSED, PROJECTIONS
from subquad.llm.models.checkpoints import model_fingerprint, open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert, feature_parameters, layers_to_replace
from subquad.llm.models.location import SMOLLM2, WEIGHTS, checkpoint_kind, is_hub_name, locate, open_weights
from subquad.llm.settings import ADAPTER_TYPE, ALL_LINEAR, AttentionSettings, LinearizeSettings, attention_of
from subquad.progress import say
from subquad.runs.damage import damage
from subquad.runs.examples import name_of_run
from subquad.runs.folder import CONFIG, load_config, load_tensors
from subquad.runs.records import check_record
from subquad.runs.storage import plain

__all__ = [
    "adapter_config",
    "adapter_settings",
    "adapter_tensors",
    "add_lora",
    "check_targets",
    "load_adapter",
    "open_adapter",
]

TRAINED = (".hybrid.", ".lora_")
"""Parts of the names of trained tensors."""
LORA = ("lora_rank", "lora_alpha", "lora_targets")
REMEDY = "copy the whole folder again"


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
        raise SubquadError(
            f"--lora-targets {head}: its weight is tied to the embedding, which an update would change as well; omit it"
        )
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
            raise SubquadError(
                f"--lora-targets: {unknown('layer', target, sorted({n.split('.')[-1] for n in layers}))}"
            )


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
    tensors, wanted = load_tensors(directory), adapter_tensors(tuned)
    wrong = sorted({*tensors} ^ {*wanted}) or [name for name in wanted if tensors[name].shape != wanted[name].shape]
    if wrong:
        raise SubquadError(f"{directory}: {len(wrong)} tensors do not fit, such as {wrong[0]}; the folder is damaged")
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
    kind = checkpoint_kind(directory)
    if kind in ("linearized", "softmax"):
        what = "a whole model, whose updates are merged into its weights" if kind == "linearized" else "not linearized"
        raise SubquadError(f"--from {directory}: {what}; only an adapter (--save adapter) can be trained further")
    config = load_config(directory, "llm")
    base, lora = _base_of(directory, config), _lora_of(directory, config)
    if model_fingerprint(checkpoint) != base["fingerprint"]:
        raise SubquadError(
            f"--from {directory}: the adapter was trained on another checkpoint than {checkpoint}; MODEL has to be "
            f"the original one ({base['model']})"
        )
    _check_rank(directory, lora.lora_rank)
    attention = attention_of(config.get("hybrid_attention"), str(directory))
    adopted, default = replace(settings, attention=attention, **config["lora"]), LinearizeSettings()
    pairs = [("", field.name, settings, adopted, default) for field in fields(default) if field.name in LORA]
    pairs += [
        ("attention.", field.name, settings.attention, attention, default.attention) for field in fields(attention)
    ]
    shown = []
    for prefix, name, given, own, usual in pairs:
        flag, value = flag_name(f"{prefix}{name}"), getattr(own, name)
        # a value that follows from others was not given
        if getattr(given, name) not in (getattr(usual, name), _derived(given, name), value):
            raise SubquadError(
                f"{flag} {getattr(given, name)}: the adapter {directory}, which --from continues, has {value}; omit it"
            )
        if value != getattr(usual, name):
            shown.append(f"{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    say(
        f"from {name_of_run(directory)}: its attention and LoRA settings ({', '.join(shown) or 'the defaults'})",
        quiet=quiet,
    )
    return adopted


def _base_of(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of the checkpoint that an adapter belongs to."""
    place = f"{directory / CONFIG}: base"
    return check_record(config.get("base"), place, remedy=REMEDY, model=str, fingerprint=str)


def _lora_of(directory: Path, config: Mapping[str, Any]) -> LinearizeSettings:
    """Return the default settings with the LoRA updates of an adapter."""
    kinds = {"lora_rank": int, "lora_alpha": float, "lora_targets": list[str]}
    lora = check_record(config.get("lora"), f"{directory / CONFIG}: lora", remedy=REMEDY, **kinds)
    try:
        return LinearizeSettings(**lora)
    except (SubquadError, *damage()) as error:
        raise SubquadError(f"{directory / 'config.json'}: lora is damaged ({error})") from error


def _check_rank(directory: Path, rank: int) -> None:
    """Check that the rank in an adapter's config is that of its tensors, before updates of this rank are made.

    Raises:
        SubquadError: It is another one.
    """
    tensors = open_weights(directory / WEIGHTS)
    for name in tensors.keys():  # noqa: SIM118 (no mapping)
        if ".lora_A." in name and (stored := tensors.get_slice(name).get_shape()[0]) != rank:
            raise SubquadError(
                f"{directory / 'config.json'}: lora_rank = {shortened(str(rank))}, but {name} in {WEIGHTS} has rank "
                f"{stored}; the folder is damaged"
            )


def _derived(settings: LinearizeSettings | AttentionSettings, name: str) -> Any:
    """Return the value that a setting has by the others, if it is not given; None if there is none."""
    if getattr(type(settings), name) is not None:
        return None
    try:
        return getattr(replace(settings, **{name: None}), name)
    except SubquadError:
        return None


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
    recorded = _base_of(directory, config)
    remedy = f"subquad llm merge {directory} --base FOLDER --out linear"
    try:
        path = locate(recorded["model"] if base is None else base)
    except SubquadError as error:
        if base is not None:
            raise
        raise SubquadError(
            f"{directory}: an adapter of a checkpoint that is not found: {error}\nIf it has moved, merge the adapter: "
            f"{remedy}"
        ) from error
    if model_fingerprint(path) != recorded["fingerprint"]:
        raise SubquadError(
            f"{directory}: the adapter was trained on another checkpoint than {path}, whose config.json or weights "
            f"differ; merge it with the original one ({recorded['model']}): {remedy}"
        )
    lora = _lora_of(directory, config)
    _check_rank(directory, lora.lora_rank)
    tokenizer, model = open_tokenizer(path), open_checkpoint(path)
    convert(model, attention_of(config.get("hybrid_attention"), str(directory)), check=False)
    try:
        tuned = add_lora(model, lora, seed=0)
    except SubquadError as error:
        raise SubquadError(f"{directory / CONFIG}: lora: {error}") from error
    load_adapter(tuned, directory)
    merged = cast(PreTrainedModel, tuned.merge_and_unload())
    merged.config.trained_length = config.get("trained_length")
    return merged.requires_grad_(False).eval(), tokenizer
