"""Settings of `linearize` and of hybrid attention; each field is a flag, an argument and an entry of `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from subquad.errors import SubquadError, flag_name, unknown
from subquad.runs.options import (
    Count,
    Ge,
    Input,
    Le,
    Lt,
    MinLen,
    Model,
    MoreInput,
    MoreModel,
    MoreOutput,
    MoreTraining,
    Natural,
    NonNegative,
    Positive,
    Probability,
    Settings,
    Training,
)

MODEL_TYPE = "subquad"
"""`model_type` in the config of a linearized model."""
ADAPTER_TYPE = "subquad_adapter"
"""`model_type` in the config of an adapter."""
DEFAULT_MINUTES = 10.0
SINKS = 4
"""Default number of attention sinks."""
CACHE = 384
"""Default number of cached tokens."""
HORIZON = 1024.0
"""Default number of tokens of `horizon`."""
ALL_LINEAR = "all-linear"
AtLeastTwo = Annotated[int, Ge(2)]


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(Settings):
    """The hybrid attention that replaces softmax attention; saved with the model."""

    window: Model[Annotated[int, Ge(1), Le(8192)]] = 64
    """Tokens of the softmax window, or of one of its blocks (`terrace`)."""
    window_shape: MoreModel[Literal["terrace", "sliding"]] = "terrace"
    """`terrace`: blocks of `window` tokens; a token attends to its own and the previous block. `sliding`: the last
    `window` tokens."""
    sinks: MoreModel[Natural | None] = None
    """First tokens of a text that every window has (attention sinks); 0 for none, as in the paper. Default: 4,
    at most `window`."""
    cache: MoreModel[Annotated[int, Ge(0), Le(65536)] | None] = None
    """Other tokens before the window that each key head keeps exactly: those that got the most attention and differ the
    most from the rest (sparse cache); 0 for none, as in the paper. Needs the window shape `terrace`. Default: 384
    with it, else 0."""
    feature_map: MoreModel[Literal["hedgehog", "moments", "none"] | None] = None
    """Trained feature map of queries and keys: [softmax(Wx), softmax(-Wx)] (Hedgehog). `moments`: means and covariances
    of the earlier keys and values in place of a map, which estimate softmax attention to them. `none`: no linear
    branch, so that earlier tokens that are not cached are not seen, and there is no attention transfer. Default:
    `moments` with the window shape `terrace`, else `hedgehog`."""
    rotate_features: MoreModel[bool] = False
    """Feature maps, and the choice of cached tokens, read queries and keys after the rotary embedding, as in the paper;
    beyond the length of the training sequences feature maps then do harm."""
    horizon: MoreModel[NonNegative | None] = None
    """With feature maps, limit of the weight of all earlier tokens together, as a number of tokens: the weight of n
    tokens is divided by 1 + n / horizon. Initial value; trained for each query head. 0 for no limit, as in the paper.
    Default: 1024, and 0 with moments, which need no limit."""
    softmax_layers: MoreModel[Annotated[tuple[Natural, ...], Parameter(name="--softmax-indices")]] = ()
    """Layers, counted from 0, that keep softmax attention; their cache grows with the text. Default: none, or those
    that `--softmax-layers` chooses."""

    @property
    def has_moments(self) -> bool:
        """Whether moments stand for the tokens before the window, in place of feature maps."""
        return self.feature_map == "moments"

    @property
    def has_linear(self) -> bool:
        """Whether there is a linear branch: moments or feature maps."""
        return self.feature_map != "none"

    @property
    def has_features(self) -> bool:
        """Whether the linear branch has feature maps."""
        return self.has_linear and not self.has_moments

    @property
    def has_inputs(self) -> bool:
        """Whether feature maps, or the choice of cached tokens, read queries and keys before the rotary embedding."""
        return not self.rotate_features and (self.has_features or bool(self.cache))

    def __post_init__(self) -> None:
        super().__post_init__()
        in_blocks = self.window_shape == "terrace"
        if self.cache is None:
            object.__setattr__(self, "cache", CACHE if in_blocks else 0)
        if self.feature_map is None:
            object.__setattr__(self, "feature_map", "moments" if in_blocks else "hedgehog")
        if self.sinks is None:
            object.__setattr__(self, "sinks", min(SINKS, self.window))
        elif self.sinks > self.window:
            raise SubquadError(f"--attention.sinks {self.sinks}: at most as many as --attention.window ({self.window})")
        if self.cache and not in_blocks:
            raise SubquadError(f"--attention.cache {self.cache}: needs --attention.window-shape terrace")
        if self.has_moments and not in_blocks:
            raise SubquadError("--attention.feature-map moments: needs --attention.window-shape terrace")
        if not self.has_features and self.horizon:
            raise SubquadError(
                f"--attention.horizon {self.horizon}: {self.feature_map} has no feature maps; add "
                "--attention.feature-map hedgehog, or omit it"
            )
        if self.horizon is None:
            object.__setattr__(self, "horizon", HORIZON if self.has_features else 0.0)
        object.__setattr__(self, "softmax_layers", tuple(sorted(set(self.softmax_layers))))

    @property
    def _prefix(self) -> str:
        return "attention."


@dataclass(frozen=True, kw_only=True)
class PlacementSettings(Settings):
    """Where a linearized model is held, and in which type."""

    device: MoreModel[Literal["auto", "cpu", "cuda", "mps"]] = "auto"
    """Device of the model; `auto` takes an accelerator if there is one."""
    dtype: MoreModel[Literal["float32", "bfloat16"]] = "float32"
    """Type of weights and activations; feature maps stay in float32."""


def attention_of(content: Mapping[str, Any] | None, place: str) -> AttentionSettings:
    """Read the attention settings of a saved model.

    Args:
        content: Entry `hybrid_attention` of its config; None if there is none.
        place: Where the config was read, for error messages.

    Raises:
        SubquadError: A setting is unknown to this version, or has an invalid value.
    """
    if not isinstance(content, Mapping):
        raise SubquadError(f"{place}: hybrid_attention is {content!r:.40}, and must be an object of settings")
    if others := content.keys() - (known := [field.name for field in fields(AttentionSettings)]):
        raise SubquadError(f"{place}: {unknown('setting of hybrid_attention', min(others), known)}")
    try:
        return AttentionSettings(**content)
    except (SubquadError, TypeError) as error:
        raise SubquadError(f"{place}: hybrid_attention: {error}; config.json is damaged") from error


@dataclass(frozen=True, kw_only=True)
class LinearizeSettings(Settings):
    """How a model is linearized: attention transfer (stage 1), then fine-tuning with LoRA (stage 2)."""

    attention: AttentionSettings = AttentionSettings()
    """The hybrid attention that replaces softmax attention."""
    softmax_layers: Model[Natural] = 0
    """Number of layers that keep softmax attention, chosen after attention transfer: those that bring the student
    closest to the teacher's predictions. `--softmax-indices` names them instead."""
    from_: MoreInput[Path | None] = None
    """Adapter of an earlier run of the same model (`--save adapter`), or example:linear-smollm2, to fine-tune further,
    without attention transfer; its attention and LoRA settings are used."""
    minutes: Training[Positive | None] = None
    """Time for the whole run in minutes, converted to tokens by timing the first steps. Default: 10, unless the tokens
    are given."""
    transfer_tokens: Training[Count | None] = None
    """Training tokens of attention transfer; used with `--lora-tokens` instead of `--minutes`. Not used without a
    linear branch."""
    lora_tokens: Training[Count | None] = None
    """Training tokens of fine-tuning; used with `--transfer-tokens` instead of `--minutes`."""
    sequence_length: Input[AtLeastTwo] = 1024
    """Tokens of one training or evaluation sequence."""
    batch_size: Training[Count] = 1
    """Batch size: sequences in one forward pass of one process."""
    gradient_accumulation: MoreTraining[Count] = 1
    """Batches whose gradients are averaged in one optimizer step: a larger batch in the same memory."""
    transfer_learning_rate: MoreTraining[Positive | None] = None
    """Peak learning rate of attention transfer. Default: 0.03 for feature maps, 0.3 for moments, which have only two
    numbers per head."""
    lora_learning_rate: MoreTraining[Positive] = 2e-3
    """Peak learning rate of the LoRA updates."""
    feature_map_learning_rate: MoreTraining[NonNegative] = 3e-3
    """Peak learning rate of feature maps, or of γ and c of moments, in fine-tuning; 0 freezes them, as in the paper."""
    lora_rank: Model[Count] = 16
    """Rank of the LoRA updates."""
    lora_alpha: MoreModel[Positive] = 32.0
    """LoRA alpha; updates are scaled by alpha / rank."""
    lora_targets: MoreModel[Annotated[tuple[str, ...], MinLen(1)]] = (ALL_LINEAR,)
    """Linear layers that get a LoRA update, by the end of their names; `all-linear` for all linear layers of the
    decoder."""
    distillation_weight: MoreTraining[Probability] = 0.0
    """Weight of the KL divergence from the teacher's next-token probabilities in the fine-tuning loss, from 0 to 1;
    next-token cross-entropy has the rest."""
    random_windows: MoreTraining[tuple[Count, ...]] = ()
    """Windows from which fine-tuning draws one for each training sequence, such as `16 32 64`, so that the linear
    branch learns to carry weight. Evaluation, and the saved model, have `--attention.window`. Default: the window of
    the model."""
    train_on: MoreTraining[Literal["all", "answers"]] = "all"
    """Tokens in the fine-tuning loss: all, or only the answers of conversations."""
    controls: MoreTraining[bool] = False
    """Also fine-tune controls on the same texts, each with the tokens of both stages: the teacher, the window alone, a
    sliding window as large as the student's state, and with a cache the window and a cache of that size. Takes four to
    five times as long."""
    warmup_fraction: MoreTraining[Annotated[float, Ge(0), Lt(1)] | None] = None
    """Fraction of a stage's steps with linear warm-up, before a linear decay to 0. Default: 0 for attention transfer,
    0.1 for fine-tuning."""
    validate_every: MoreTraining[Count | None] = None
    """Steps between validations on a part of the training text that is held out; the best weights are kept. Default: no
    validation."""
    patience: MoreTraining[Count | None] = None
    """Early stopping: validations without improvement after which a stage (or a block of layers) ends. Default:
    never."""
    precision: MoreTraining[Literal["auto", "float32", "bfloat16"]] = "auto"
    """Precision of matrix products in training; `auto` uses bfloat16 if a short test shows that it is faster."""
    dtype: MoreModel[Literal["float32", "bfloat16"]] = "float32"
    """Type of the frozen weights in memory and in the saved model; trained parameters stay in float32."""
    gradient_checkpointing: MoreTraining[bool] = False
    """Recompute activations in the backward pass of fine-tuning: less memory, one more forward pass per step."""
    shard: MoreTraining[bool] = False
    """Shard the frozen weights over the processes started by `torchrun` (FSDP2)."""
    block_layers: MoreTraining[Count | None] = None
    """Attention transfer of this many layers at a time, read from disk, for models larger than memory. Requires both
    token flags; excludes --shard and --documents separate. Default: all layers at once."""
    text_key: MoreInput[str] = "text"
    """Key or column that holds the text of a row; without a `text`, conversations are detected."""
    text_weights: MoreInput[tuple[Positive, ...]] = ()
    """Sampling weight of each `--text` file, in any unit. Default: proportional to its length."""
    documents: MoreInput[Literal["joined", "separate"]] = "joined"
    """Whether a token attends to earlier documents in the same training sequence; positions continue in both cases."""
    evaluation_tokens: MoreInput[AtLeastTwo | None] = None
    """Held-out tokens on which each perplexity is measured, at least one sequence. Default: 8192, or as many as about a
    quarter of the time allows; with `--minutes` no more than that."""
    save: MoreOutput[Literal["model", "adapter"]] = "model"
    """Save the whole model, or only the trained tensors as an adapter for the same checkpoint."""
    standalone: MoreOutput[bool] = False
    """Also save the code of the model, so that transformers opens the folder without subquad, with
    `trust_remote_code=True`. Requires --save model."""

    @property
    def has_transfer(self) -> bool:
        """Whether the run begins with attention transfer."""
        return self.from_ is None and self.attention.has_linear

    def __post_init__(self) -> None:
        super().__post_init__()
        if ALL_LINEAR in self.lora_targets and len(self.lora_targets) > 1:
            raise SubquadError(f"--lora-targets: {ALL_LINEAR} cannot be combined with other names")
        if self.from_ is None:
            self.check_random_windows()
        self._check_budget()
        self._check_combinations()

    def check_random_windows(self) -> None:
        """Check that the attention can have the windows that are drawn; with `from_` it is that of the adapter.

        Raises:
            SubquadError: It cannot.
        """
        windows, attention = self.random_windows, self.attention
        shown = f"--random-windows {' '.join(map(str, windows))}"
        if not windows:
            return
        fewest = max(1, attention.sinks or 0)
        wrong = [window for window in windows if not fewest <= window <= attention.window]
        if wrong:
            raise SubquadError(
                f"{shown}: {wrong[0]} must be from {fewest} (--attention.sinks) to {attention.window} "
                "(--attention.window)"
            )

    def _check_budget(self) -> None:
        if self.minutes is not None and self.lora_tokens is not None:
            raise SubquadError("--minutes and --lora-tokens exclude each other: give the time or the tokens")
        if self.from_ is not None:
            self._check_from()
        elif not self.attention.has_linear and self.block_layers is not None:
            raise SubquadError(
                "--block-layers: there is no attention transfer with --attention.feature-map none; omit it"
            )
        elif not self.attention.has_linear and self.lora_tokens is not None:
            # a recipe may give both
            object.__setattr__(self, "transfer_tokens", None)
        elif (self.transfer_tokens is None) != (self.lora_tokens is None):
            given, missing = ("transfer_tokens", "lora_tokens")
            if self.transfer_tokens is None:
                given, missing = missing, given
            raise SubquadError(f"{flag_name(given)} requires {flag_name(missing)}; or use --minutes instead of both")
        if self.block_layers is not None and self.transfer_tokens is None:
            raise SubquadError(
                "--block-layers requires --transfer-tokens and --lora-tokens: the speed of a model that is not opened "
                "as a whole cannot be measured"
            )

    def _check_from(self) -> None:
        if self.transfer_tokens is not None or self.block_layers is not None:
            name = "transfer_tokens" if self.transfer_tokens is not None else "block_layers"
            raise SubquadError(
                f"--from continues the fine-tuning of a model whose attention was transferred; omit {flag_name(name)}"
            )
        if self.softmax_layers:
            raise SubquadError("--softmax-layers cannot be used with --from, whose adapter has its layers")
        if self.controls:
            raise SubquadError(
                "--controls cannot be used with --from: the controls would also have to read the texts of the earlier "
                "run"
            )

    def _check_combinations(self) -> None:
        if self.patience is not None and self.validate_every is None:
            raise SubquadError("--patience counts validations without improvement, and requires --validate-every")
        if self.documents == "separate" and self.block_layers is not None:
            raise SubquadError("--block-layers requires --documents joined")
        if self.softmax_layers and self.attention.softmax_layers:
            raise SubquadError(
                "--softmax-layers and --softmax-indices exclude each other: give their number or name them"
            )
        if self.standalone and self.save == "adapter":
            raise SubquadError("--standalone requires --save model: an adapter is opened by subquad only")
        if self.dtype == "bfloat16" and self.precision == "float32":
            raise SubquadError("--dtype bfloat16 implies products in bfloat16; omit --precision float32")
        if self.shard and self.block_layers is not None:
            raise SubquadError(
                "--shard and --block-layers exclude each other: use --block-layers if one process cannot hold the "
                "model, --shard if several processes together can"
            )
