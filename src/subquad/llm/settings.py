"""What a user can set for language models. Imports the standard library only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from subquad.errors import SubquadError, unknown, validate_choices

__all__ = ["AttentionSettings", "GenerateSettings", "LinearizeSettings", "attention_of"]

DEFAULT_MINUTES = 10.0
ALL_LINEAR = "all-linear"
PLATEAU = 2
"""Validations in a row without a new best after which a rate that follows them is halved."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise SubquadError(f"{_flag(name)} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """The attention that takes the place of softmax attention; it is kept in the saved model."""

    feature_map: Literal["hedgehog", "t2r"] = "hedgehog"
    """Learned feature map of queries and keys: [softmax(Wx), softmax(-Wx)], or relu(Wx + b)."""
    window: int = 64
    """Tokens that softmax attention keeps."""
    window_shape: Literal["terrace", "sliding", "none"] = "terrace"
    """Blocks of that many tokens, of which a token sees its own and the last; or its last so many tokens; or none."""
    feature_heads: Literal["query", "kv"] = "query"
    """One feature map of keys for each query head, or one for each key head (a smaller state)."""
    kernel: Literal["torch", "triton"] = "torch"
    """What computes many tokens at a time: PyTorch's products anywhere, or kernels in Triton on a CUDA GPU."""
    softmax_layers: tuple[int, ...] = ()
    """Layers, counted from 0, that stay as they are; their keys and values grow with the text."""

    def __post_init__(self) -> None:
        validate_choices(self, prefix="attention.")
        _at_least("attention.window", self.window, 1)
        # from a file it comes as a list
        object.__setattr__(self, "softmax_layers", tuple(sorted(set(self.softmax_layers))))
        if self.softmax_layers and self.softmax_layers[0] < 0:
            raise SubquadError(f"--attention.softmax-layers: {self.softmax_layers[0]}; layers are counted from 0")


def attention_of(content: Mapping[str, Any], place: str) -> AttentionSettings:
    """Return the settings that a saved model carries.

    Args:
        content: Of `hybrid_attention` in its config.
        place: Where it was read, for the message.

    Raises:
        SubquadError: a setting that this version does not know, or a value that it does not take.
    """
    known = [field.name for field in fields(AttentionSettings)]
    for name in content:
        if name not in known:
            raise SubquadError(f"{place}: {unknown('setting of hybrid_attention', name, known)}")
    return AttentionSettings(**content)


@dataclass(frozen=True, kw_only=True)
class LinearizeSettings:
    """How a model is linearized."""

    attention: AttentionSettings = AttentionSettings()
    """The attention that takes the place of softmax attention."""
    length: int = 1024
    """Tokens of one training or evaluation sequence."""
    minutes: float | None = None
    """Time for the whole run, turned into tokens by the speed of the first steps (10 where nothing is said)."""
    transfer_tokens: int | None = None
    """Tokens of stage 1, attention transfer; with `lora_tokens`, in place of `minutes`."""
    lora_tokens: int | None = None
    """Tokens of stage 2, low-rank tuning; with `transfer_tokens`, in place of `minutes`."""
    batch: int = 1
    """Sequences in one training step."""
    block: int | None = None
    """Layers that stage 1 trains at a time, read from the disk, for models larger than memory; else all at once."""
    checkpointing: bool = False
    """Stage 2 keeps the inputs of layers alone and computes the rest again: less memory, half as many operations
    more."""
    shard: bool = False
    """Share the frozen weights out among the processes that `torchrun` started: each keeps its part of every layer."""
    transfer_rate: float = 3e-2
    """Learning rate of stage 1."""
    lora_rate: float = 2e-3
    """Learning rate of stage 2."""
    warmup: float | None = None
    """Share of a stage's steps over which its rates rise from nothing; else 0 in stage 1 and 0.1 in stage 2."""
    schedule: Literal["linear", "plateau"] = "linear"
    """Then the rates of both stages fall linearly to nothing; or are halved after 2 validations without a new best."""
    patience: int | None = None
    """Validations in a row without a new best after which a stage, or a block of its layers, ends; else never."""
    lora_rank: int = 16
    """Rank of the updates."""
    lora_alpha: float = 32.0
    """The updates are scaled by alpha / rank."""
    lora_targets: tuple[str, ...] = (ALL_LINEAR,)
    """Linear layers that get an update, by the end of their names; `all-linear` stands for all in the decoder."""
    feature_rate: float = 3e-3
    """Learning rate of the feature maps in stage 2; with 0 they stay as stage 1 left them."""
    distill: float = 0.0
    """Part of stage 2's loss that is the distance to the softmax model's next-token probabilities (KL); the rest is
    the loss of the text's own next tokens."""
    tune_mode: Literal["hybrid", "window"] = "hybrid"
    """What stage 2 tunes: the linearized model; or, as a control for `evaluate`, the window alone."""
    transfer_loss: Literal["mse", "relative", "weights"] = "mse"
    """Of stage 1: squared distance of a layer's outputs; that over the outputs' mean square; or the first and the
    cross-entropy of the attention weights, whose memory and time grow with the square of `length`."""
    transfer_weights_share: float = 0.5
    """Part of the cross-entropy in the loss `weights`; the rest is the squared distance of the outputs."""
    evaluation_tokens: int = 8192
    """Held-out tokens that every perplexity is measured on, at most; fewer where `minutes` is short."""
    validate_every: int | None = None
    """Steps between two validations on text put aside from the training text; the best weights are kept."""
    save: Literal["model", "adapter"] = "model"
    """Write the whole model, or what was learnt alone: an adapter, to be put on the same checkpoint."""
    text_key: str = "text"
    """The key or column of a row's text; where there is no `text`, questions and answers are looked for."""
    text_weights: tuple[float, ...] = ()
    """The share of each file of `text` in the tokens learnt from, in any unit; without any, its length."""
    learn: Literal["all", "answers"] = "all"
    """The tokens of stage 2's loss: all, or the answers alone where rows hold questions and answers."""
    documents: Literal["joined", "apart"] = "joined"
    """Whether a token sees the documents that stand before its own in a training sequence; positions go on in either
    case, and in evaluation it does."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Type that the frozen weights are held and saved in; what is learnt stays float32. Halves need half the memory."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Type of the matrix products in training; auto takes bfloat16 where a trial shows it to be faster."""

    def __post_init__(self) -> None:
        validate_choices(self)
        for name, least in (("length", 2), ("batch", 1), ("lora_rank", 1), ("evaluation_tokens", 2)):
            _at_least(name, getattr(self, name), least)
        for name in ("transfer_tokens", "lora_tokens", "validate_every", "block", "patience"):
            _at_least(name, getattr(self, name), 1)
        # from a file it comes as a list, and one name alone as itself
        targets = (self.lora_targets,) if isinstance(self.lora_targets, str) else tuple(self.lora_targets)
        object.__setattr__(self, "lora_targets", targets)
        if not targets:
            raise SubquadError("--lora-targets: at least one is needed")
        if ALL_LINEAR in targets and len(targets) > 1:
            raise SubquadError(f"--lora-targets {' '.join(targets)}: {ALL_LINEAR} stands alone; leave the others away")
        for name in ("distill", "transfer_weights_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SubquadError(f"{_flag(name)} must be from 0 to 1, got {getattr(self, name)}")
        self._check_pace()
        if not self.feature_rate >= 0:
            raise SubquadError(f"--feature-rate must be at least 0, got {self.feature_rate}")
        for name in ("minutes", "transfer_rate", "lora_rate", "lora_alpha"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SubquadError(f"{_flag(name)} must be above 0, got {value}")
        if not all(0 < weight < math.inf for weight in self.text_weights):
            shown = " ".join(f"{weight:g}" for weight in self.text_weights)
            raise SubquadError(f"--text-weights must all be above 0 and finite, got {shown}")
        if (self.transfer_tokens is None) != (self.lora_tokens is None):
            given, missing = ("transfer_tokens", "lora_tokens")
            if self.transfer_tokens is None:
                given, missing = missing, given
            raise SubquadError(f"{_flag(given)} needs {_flag(missing)} beside it; or give --minutes alone")
        if self.minutes is not None and self.transfer_tokens is not None:
            raise SubquadError("--minutes and --transfer-tokens exclude each other: give the time or the tokens")
        if self.documents == "apart" and self.transfer_loss == "weights":
            raise SubquadError("--documents apart: goes with --transfer-loss mse or relative alone")
        if self.block is not None and self.documents == "apart":
            raise SubquadError("--block: takes documents joined alone; leave --documents apart away")
        if self.block is not None and self.transfer_tokens is None:
            raise SubquadError(
                "--block needs --transfer-tokens and --lora-tokens: the speed of a model that is not opened as a whole "
                "cannot be measured"
            )
        if self.weights == "bfloat16" and self.precision == "no":
            raise SubquadError("--weights bfloat16: its products are in bfloat16; leave --precision no away")
        if self.shard and self.block is not None:
            raise SubquadError(
                "--shard and --block exclude each other: give --block where one process cannot hold the model, --shard "
                "where several together can"
            )

    def _check_pace(self) -> None:
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise SubquadError(f"--warmup must be at least 0 and below 1, a share of the steps, got {self.warmup}")
        needs = "needs --validate-every N, the steps between two validations"
        if self.patience is not None and self.validate_every is None:
            raise SubquadError(f"--patience {self.patience} {needs}: it counts validations without a new best")
        if self.schedule == "plateau":
            if self.validate_every is None:
                raise SubquadError(f"--schedule plateau {needs}: the rates fall where those find no new best")
            if self.patience is not None and self.patience <= PLATEAU:
                raise SubquadError(
                    f"--schedule plateau halves the rates after {PLATEAU} validations without a new best, and "
                    f"--patience {self.patience} ends the stage by then; give --patience {PLATEAU + 1} or more"
                )


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """How text is continued."""

    max_new_tokens: int = 100
    """Tokens to add, at most; the model may end earlier."""
    temperature: float = 0.7
    """0 takes the likeliest token each time; higher is more varied."""

    def __post_init__(self) -> None:
        _at_least("max_new_tokens", self.max_new_tokens, 1)
        if self.temperature < 0:
            raise SubquadError(f"--temperature must be at least 0, got {self.temperature}")
