"""Settings of `subquad llm plan`. Imports the standard library and cyclopts only."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from subquad.llm.models.exact_lengths import check_length
from subquad.llm.settings import AttentionSettings
from subquad.runs.options import (
    Count,
    Ge,
    Input,
    Model,
    MoreModel,
    MoreOutput,
    MoreTraining,
    Natural,
    Positive,
    Settings,
    Training,
)

ITEM_SIZES = {"bfloat16": 2, "float32": 4}
FLOPS = {"bfloat16": 0.4 * 400e12, "float32": 0.4 * 67e12}
"""Sustained operations per second of one H100: 40 % of its peak for large matrix products."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Settings):
    """How a model would be linearized, and on which GPUs; token counts default to the paper's."""

    attention: AttentionSettings = field(default_factory=AttentionSettings)
    """The hybrid attention that replaces softmax attention."""
    gpus: Model[Count] = 1
    """Number of GPUs that share the frozen weights (`linearize --shard`); trained weights are replicated."""
    gpu_memory: Model[Positive] = 80.0
    """Memory of one GPU in GB (10⁹ bytes)."""
    dtype: Model[Literal["bfloat16", "float32"]] = "bfloat16"
    """Type of the frozen weights and hidden states; trained weights are in float32."""
    lora_rank: MoreModel[Count] = 16
    """Rank of the LoRA updates of all linear layers."""
    transfer_tokens: Training[Natural] = 20_000_000
    """Training tokens of attention transfer (stage 1)."""
    lora_tokens: Training[Count] = 20_000_000
    """Training tokens of fine-tuning (stage 2)."""
    batch_size: Training[Count] = 1
    """Batch size: sequences in one forward pass on one GPU."""
    sequence_length: Input[Annotated[int, Ge(2)]] = 1024
    """Tokens per training sequence."""
    gradient_checkpointing: Training[bool] = False
    """Recompute activations in the backward pass of fine-tuning: less memory, one more forward pass per step."""
    block_layers: MoreTraining[Count] = 9
    """Layers of one block in block-wise transfer (9 in the paper for the 405B model)."""
    tokens_per_second_transfer: MoreTraining[Positive | None] = None
    """Measured rate of attention transfer on all GPUs together. Default: estimated."""
    tokens_per_second_lora: MoreTraining[Positive | None] = None
    """Measured rate of fine-tuning on all GPUs together. Default: estimated."""
    flops: MoreTraining[Positive | None] = None
    """Sustained operations per second of one GPU. Default: 1.6e14 in bfloat16 and 2.7e13 in float32 (H100)."""
    save: MoreOutput[Literal["model", "adapter"]] = "model"
    """Whether the whole model is saved, which then lies in main memory, or the trained tensors alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self.attention, self.sequence_length)
        if not self.attention.has_linear:
            # there is no attention transfer
            object.__setattr__(self, "transfer_tokens", 0)

    @property
    def item_size(self) -> int:
        """Bytes of one frozen weight."""
        return ITEM_SIZES[self.dtype]

    @property
    def flops_per_gpu(self) -> float:
        """Sustained operations per second of one GPU."""
        return FLOPS[self.dtype] if self.flops is None else self.flops
