"""What a user can set for `subquad llm plan`. Imports the standard library only."""

from dataclasses import dataclass, field
from typing import Literal

from subquad.errors import SubquadError
from subquad.llm.settings import AttentionSettings

__all__ = ["SizingSettings"]

# what one H100 gets done: 40 % of the 400e12 of large products in bfloat16, and of 67e12 in float32
FLOPS = {"bf16": 0.4 * 400e12, "fp32": 0.4 * 67e12}


@dataclass(frozen=True, kw_only=True)
class SizingSettings:
    """How a model would be linearized, and on what; the tokens are those of the paper."""

    attention: AttentionSettings = field(default_factory=AttentionSettings)
    """The attention that takes the place of softmax attention."""
    gpus: int = 1
    """GPUs that share the frozen weights (`linearize --shard`); each holds what is trained whole."""
    gpu_memory: float = 80.0
    """Memory of one GPU in GB (10⁹ bytes)."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Type of the model's weights and hidden states; what is trained is float32 always."""
    batch: int = 1
    """Sequences in one training step of one GPU."""
    length: int = 1024
    """Tokens of one training sequence."""
    checkpointing: bool = False
    """Stage 2 keeps the inputs of layers alone and computes the rest again: less memory, half as many operations
    more."""
    block_layers: int = 9
    """Layers of one block in block-wise transfer, at most all (9 in the paper for the model of 405B)."""
    lora_rank: int = 16
    """Rank of the updates of all linear layers."""
    transfer_tokens: int = 20_000_000
    """Tokens of stage 1, attention transfer."""
    lora_tokens: int = 20_000_000
    """Tokens of stage 2, low-rank tuning."""
    tokens_per_second_transfer: float | None = None
    """Measured rate of stage 1 on all GPUs together, in place of the estimate."""
    tokens_per_second_lora: float | None = None
    """Measured rate of stage 2 on all GPUs together, in place of the estimate."""
    flops: float | None = None
    """Operations per second that one GPU gets done (without it a guess for an H100: 1.6e14 in bf16, 2.7e13 in fp32)."""

    def __post_init__(self) -> None:
        counts = ("gpus", "batch", "block_layers", "lora_rank", "transfer_tokens", "lora_tokens")
        for name, least in (*((name, 1) for name in counts), ("length", 2)):
            if getattr(self, name) < least:
                raise SubquadError(f"{_flag(name)} must be at least {least}, got {getattr(self, name)}")
        for name in ("gpu_memory", "tokens_per_second_transfer", "tokens_per_second_lora", "flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SubquadError(f"{_flag(name)} must be a number above 0, got {value}")

    @property
    def itemsize(self) -> int:
        """Bytes of one weight."""
        return {"bf16": 2, "fp32": 4}[self.dtype]

    @property
    def speed(self) -> float:
        """Operations per second of one GPU."""
        return FLOPS[self.dtype] if self.flops is None else self.flops


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
