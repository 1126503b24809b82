r"""Costs of linearizing a model: memory, disk, time, and the state of generation; from its sizes alone, in seconds.

Counts of weights and bytes of the state are exact. Memory of training and time are estimates per GPU, with $n$ tokens
(batch size times sequence length) in a step, $b$ bytes per frozen weight, and trained weights in float32 (LoRA updates
are multiplied in the type of the frozen weights). Estimates of memory are within 10 % of measured steps on a CPU,
without the kernels' own memory. The copy of the best trained weights that `--validate-every` keeps, 4 bytes each, is
not counted.

**Memory.** Frozen weights are sharded over the GPUs (`linearize --shard`), except those of block-wise transfer; trained
weights, their gradients and AdamW's two moments are replicated. With more than one GPU, each also gathers two layers
and the weights outside the layers. `RUNTIME` is an allowance for CUDA and its libraries. Attention transfer keeps the
graph of one layer at a time, fine-tuning those of all layers, or with gradient checkpointing their inputs; one formula
per function below, in bytes per token. A single process holds the whole model in main memory; each of several holds a
layer, and the first one the whole model when it saves it.

**Disk.** Block-wise transfer (Eq. 8 of arXiv:2410.10254) stores the hidden states before and after the current block.

**Time.** A product with $P$ weights takes $2 P$ operations per token. Attention transfer runs the layers of the softmax
model, its attention ($2 H_q K T$ per token), and forward and backward pass of the hybrid attention ($a$ operations per
token forward): $2 P + L (2 H_q K T + 3 a)$. Fine-tuning runs both ways through the frozen weights, which need no
gradients themselves, with the output head: $2 P + 2 P + 4 L a$; gradient checkpointing adds one forward pass of the
layers. Attention transfer is limited by memory bandwidth rather than by operations, so prefer a measured rate.

Letters as in `subquad.ops.linattn`; D width of the hidden states, I of the MLP, L layers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from subquad.errors import SubquadError
from subquad.llm.planning.architecture import ModelSizes, sizes_of
from subquad.llm.planning.settings import PlanSettings
from subquad.llm.settings import AttentionSettings
from subquad.nn.attention import FEATURE_MAPS
from subquad.ops.attention_sizes import hybrid_chunked_operations
from subquad.ops.linattn import hybrid_state

Stage = Literal["transfer", "transfer_in_blocks", "lora"]
"""Attention transfer of all layers at once, of one block of layers, and fine-tuning."""
STAGES: tuple[Stage, ...] = get_args(Stage)
CONTEXTS = (1024, 4096, 16384, 32768, 131072)
"""Context lengths at which the key-value cache is compared."""
RUNTIME = 2_000_000_000
HOST_RUNTIME = 2_000_000_000
TEXT_BYTES = 6
"""Main memory of one token of text."""
GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """Costs of linearizing one model."""

    parameters: dict[str, int]
    """`model`, `trained_in_transfer` and `trained_in_lora`."""
    memory: dict[str, dict[str, Any]]
    """Bytes of one GPU by stage, of which there is one without a linear branch; see `memory`."""
    blocks: int
    """Number of blocks of block-wise transfer."""
    disk_bytes: int
    """Disk space of block-wise transfer."""
    time: dict[str, dict[str, Any]]
    """`tokens`, `tokens_per_second`, `hours`, `gpu_hours` and `is_estimate` of `transfer` and `lora`."""
    generation: dict[str, Any]
    """Bytes per sequence: `state`, and the softmax model's `cache_bytes` by context; `crossover` is the context from
    which on the cache is larger."""


def estimate_costs(config: str | Path, settings: PlanSettings = PlanSettings()) -> CostEstimate:
    """Estimate the costs of linearizing a model.

    Args:
        config: A `config.json`, its folder, or a name such as `llama-3.1-8b`.
        settings: How it is linearized, and on which GPUs.

    Raises:
        SubquadError: The config cannot be read, or its model cannot be linearized.
    """
    attention = settings.attention
    sizes = sizes_of(config, attention, lora_rank=settings.lora_rank)
    if sizes.longest and settings.sequence_length > sizes.longest:
        raise SubquadError(f"{config} supports at most {sizes.longest:,} tokens, not {settings.sequence_length:,}")
    blocks = math.ceil(sizes.layers / settings.block_layers)
    return CostEstimate(
        parameters={
            "model": sizes.parameters,
            "trained_in_transfer": sizes.trained_in_transfer,
            "trained_in_lora": sizes.trained_in_lora,
        },
        memory={stage: memory(sizes, settings, stage) for stage in STAGES if stage == "lora" or attention.has_linear},
        blocks=blocks,
        disk_bytes=2 * settings.transfer_tokens * sizes.width * min(2, blocks),
        time={
            "transfer": _time(
                settings.transfer_tokens,
                settings.tokens_per_second_transfer,
                _operations_in_transfer(sizes, settings),
                settings,
            ),
            "lora": _time(
                settings.lora_tokens, settings.tokens_per_second_lora, _operations_in_lora(sizes, settings), settings
            ),
        },
        generation=_generation(sizes, settings),
    )


def memory(sizes: ModelSizes, settings: PlanSettings, stage: Stage) -> dict[str, Any]:
    """Return the bytes that one GPU needs in a stage.

    Args:
        sizes: Sizes of the model.
        settings: GPUs, their memory, batch size, sequence length and type.
        stage: The stage.

    Returns:
        Bytes of `weights`, `trained`, `gradients`, `optimizer`, `activations`, `gathered`, `runtime` and their `total`;
        `gpus`; whether it `fits`; `fewest_gpus`, None if no number of GPUs is enough; and `host`, the bytes of main
        memory of all processes.
    """
    parts = _parts(sizes, settings, stage, gpus=settings.gpus)
    limit = settings.gpu_memory * GB
    return {
        **parts,
        "total": sum(parts.values()),
        "gpus": settings.gpus,
        "fits": sum(parts.values()) <= limit,
        "fewest_gpus": _fewest_gpus(sizes, settings, stage, limit=limit),
        "host": _host_memory(sizes, settings, stage),
    }


def _parts(sizes: ModelSizes, settings: PlanSettings, stage: Stage, *, gpus: int) -> dict[str, int]:
    b, is_block = settings.item_size, stage == "transfer_in_blocks"
    layers = min(settings.block_layers, sizes.layers) if is_block else sizes.layers
    frozen = layers * sizes.layer_parameters if is_block else sizes.parameters
    maps = sizes.trained_in_transfer * layers / sizes.layers
    trained = sizes.trained_in_lora if stage == "lora" else maps
    gathered = (2 * sizes.layer_parameters + sizes.outer_parameters) * b
    is_sharded = gpus > 1 and not is_block
    per_token = _activations_in_lora(sizes, settings) if stage == "lora" else _activations_in_transfer(sizes, settings)
    parts = {
        "weights": frozen * b / (gpus if is_sharded else 1),
        # in bfloat16, products take a copy of the LoRA updates, which are trained in float32
        "trained": 4 * trained + (2 * (trained - maps) if b < 4 else 0),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": per_token * settings.batch_size * settings.sequence_length,
        "gathered": gathered if is_sharded else 0,
        "runtime": RUNTIME,
    }
    return {name: math.ceil(value) for name, value in parts.items()}


def _host_memory(sizes: ModelSizes, settings: PlanSettings, stage: Stage) -> int:
    """Return the bytes of main memory of all processes on one machine."""
    b, is_block = settings.item_size, stage == "transfer_in_blocks"
    processes = 1 if is_block else settings.gpus
    if is_block:
        layers = min(settings.block_layers, sizes.layers) * sizes.layer_parameters
        weights = max(layers, sizes.outer_parameters) * b
    elif processes == 1:
        weights = sizes.parameters * b
    else:
        weights = processes * max(sizes.layer_parameters, sizes.outer_parameters) * b
    if stage == "lora" and settings.save == "model":
        weights = max(weights, sizes.parameters * b)
    text = TEXT_BYTES * max(settings.transfer_tokens, settings.lora_tokens)
    return weights + processes * (HOST_RUNTIME + text)


def _fewest_gpus(sizes: ModelSizes, settings: PlanSettings, stage: Stage, *, limit: float) -> int | None:
    """Return the smallest number of GPUs that is enough; None if the replicated memory exceeds that of one GPU."""
    one, two = (_parts(sizes, settings, stage, gpus=gpus) for gpus in (1, 2))
    if sum(one.values()) <= limit:
        return 1
    # one byte for rounding up the weights
    left = limit - (sum(two.values()) - two["weights"]) - 1
    is_sharded = two["weights"] < one["weights"]
    return max(2, math.ceil(one["weights"] / left)) if is_sharded and left > 0 else None


def _attention_kept(sizes: ModelSizes, settings: PlanSettings) -> float:
    Hq, Hkv, H, K, F = _letters(sizes)
    attention, cached = settings.attention, 0.0
    if attention.cache:
        C, w = attention.cache, attention.window
        cached = 8 * Hkv * (K * (1 + (C + 2 * w) / settings.sequence_length) + C / w) + C
    if sizes.feature_map == "moments":
        # the blocks are computed again in the backward pass
        return 4 * (Hq + 2 * Hkv) * K + (cached + 8 * Hkv + 1 if cached else 0)
    kept = FEATURE_MAPS[sizes.feature_map].kept_per_feature
    # the features of queries before and behind the horizon's factor
    scaled = Hq * F if attention.horizon else 0
    return 4 * (kept * (Hq + H) * F + scaled + (Hq + 2 * Hkv) * K + Hq * (K + 1)) + cached


def _attention_written(sizes: ModelSizes, attention: AttentionSettings) -> float:
    Hq, Hkv, H, K, F = _letters(sizes)
    seen = (attention.sinks or 0) + (attention.cache or 0) + 2 * attention.window
    written = (Hq + H) * F + 2 * H * F * (K + 1) / attention.window + 2 * Hq * (K + 1)
    if Hq != H:
        written += Hq * (F + K + 1)
    if attention.window_shape == "sliding":
        written += Hq * attention.window + 2 * H * F + H * (K + 1)
    pairs = 2 * Hkv * K / attention.window
    if sizes.feature_map == "moments":
        # and a part of the masked scores
        return 4 * (written + seen * (2.5 * Hq + pairs))
    return 4 * max(written, seen * (2 * Hq + pairs) + 3 * Hq * (K + 1))


def _map_inputs(sizes: ModelSizes, settings: PlanSettings) -> float:
    """Return the bytes per token of what a layer's feature maps read, if these are not its rotated queries and keys."""
    Hq, Hkv, _, K, _ = _letters(sizes)
    is_shared = settings.item_size == 4 and settings.attention.rotate_features
    is_shared = is_shared or not settings.attention.has_features
    return 0 if is_shared else 4 * (Hq + Hkv) * K


def kept_in_transfer(sizes: ModelSizes, settings: PlanSettings) -> float:
    """Return the bytes per token that one layer keeps between forward and backward pass of attention transfer."""
    # the student's outputs, which feature maps keep already, and the teacher's
    is_single = settings.item_size == 4 and settings.attention.has_features
    outputs = (1 if is_single else 2) * 4 * sizes.heads * sizes.head_width
    return _attention_kept(sizes, settings) + _map_inputs(sizes, settings) + outputs


def kept_in_lora(sizes: ModelSizes, settings: PlanSettings) -> float:
    """Return the bytes per token that one layer keeps between forward and backward pass of fine-tuning."""
    # autocast makes a copy for each of q, k and v, gate and up
    copies = 2 if settings.item_size == 4 else 5
    inputs = copies * sizes.width + sizes.heads * sizes.head_width + 4 * sizes.inner
    attention = _attention_kept(sizes, settings) + _map_inputs(sizes, settings)
    return attention + 8 * sizes.width + settings.item_size * inputs


def _activations_in_transfer(sizes: ModelSizes, settings: PlanSettings) -> float:
    Hq, Hkv, _, K, _ = _letters(sizes)
    b, D = settings.item_size, sizes.width
    attention = kept_in_transfer(sizes, settings) + _attention_written(sizes, settings.attention)
    return max(attention + b * (2 * D + 2 * (Hq + Hkv) * K), b * (2 * D + 3 * sizes.inner) + 8 * D)


def _activations_in_lora(sizes: ModelSizes, settings: PlanSettings) -> float:
    layer, head = kept_in_lora(sizes, settings), 3 * settings.item_size * sizes.vocabulary
    written = _attention_written(sizes, settings.attention)
    if settings.gradient_checkpointing:
        return sizes.layers * settings.item_size * sizes.width + max(head, layer + written)
    return sizes.layers * layer + max(head, written)


def _operations_in_transfer(sizes: ModelSizes, settings: PlanSettings) -> float:
    softmax = 2 * sizes.heads * sizes.head_width * settings.sequence_length
    products = 2 * (sizes.parameters - sizes.outer_parameters)
    return products + sizes.layers * (softmax + 3 * _hybrid_operations(sizes, settings))


def _operations_in_lora(sizes: ModelSizes, settings: PlanSettings) -> float:
    layers = sizes.parameters - sizes.outer_parameters
    hybrid = sizes.layers * _hybrid_operations(sizes, settings)
    recomputed = 2 * layers + hybrid if settings.gradient_checkpointing else 0
    return 4 * (layers + sizes.vocabulary * sizes.width) + 6 * sizes.trained_in_lora + 4 * hybrid + recomputed


def _hybrid_operations(sizes: ModelSizes, settings: PlanSettings) -> float:
    Hq, Hkv, H, K, F = _letters(sizes)
    attention, T = settings.attention, settings.sequence_length
    operations = hybrid_chunked_operations(
        B=1, Hq=Hq, Hkv=Hkv, Hf=H, T=T, K=K, V=K, F=F, w=attention.window, window_shape=attention.window_shape,
        sinks=attention.sinks or 0, cache=attention.cache or 0,
    )  # fmt: skip
    if sizes.feature_map in ("moments", "none"):
        return operations / T
    columns = F // FEATURE_MAPS[sizes.feature_map].features_per_column
    return operations / T + 2 * K * columns * (Hq + H)


def _time(tokens: int, rate: float | None, operations: float, settings: PlanSettings) -> dict[str, Any]:
    speed = settings.gpus * settings.flops_per_gpu / operations if rate is None else rate
    hours = tokens / speed / 3600
    return {
        "tokens": tokens,
        "tokens_per_second": speed,
        "hours": hours,
        "gpu_hours": hours * settings.gpus,
        "is_estimate": rate is None,
    }


def _generation(sizes: ModelSizes, settings: PlanSettings) -> dict[str, Any]:
    _, Hkv, H, K, F = _letters(sizes)
    attention = settings.attention
    cache_per_token = 2 * sizes.layers * Hkv * K * settings.item_size
    tensors = hybrid_state(
        1, kv_heads=Hkv, key_width=K, value_width=K, feature_heads=H,
        features=None if attention.has_moments else F,
        window=attention.window, window_shape=attention.window_shape,
        sinks=attention.sinks or 0, cache=attention.cache or 0,
        input_width=K if attention.has_inputs else 0,
        dtype=getattr(torch, settings.dtype), device="meta",
    )  # fmt: skip
    size = sizes.layers * sum(tensor.nbytes for tensor in tensors)
    return {
        "state": size,
        "crossover": size // cache_per_token + 1,
        "cache_bytes": {str(context): context * cache_per_token for context in CONTEXTS},
    }


def _letters(sizes: ModelSizes) -> tuple[int, int, int, int, int]:
    return sizes.heads, sizes.kv_heads, sizes.feature_heads, sizes.head_width, sizes.features
