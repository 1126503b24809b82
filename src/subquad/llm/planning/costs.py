r"""What linearizing a model costs: memory, disk, time, and the state of generation; from sizes alone, in seconds.

Counts of weights and of the state's bytes are exact. Memory of training and time are estimates: per GPU, with $n$
tokens (batch times length) in a step, $b$ bytes a weight, and what is trained in float32 (low-rank updates are
multiplied in the type of the weights). Within 10 % of what steps on a CPU take, kernels' own memory aside.

**Memory.** Frozen weights are shared out among the GPUs (`linearize --shard`), but for those of a block; what is
trained, its gradients and AdamW's two moments each GPU holds whole. With more than one, each also gathers two layers,
the one at work and the next, and what lies around the layers. `RUNTIME` is for CUDA and its
libraries, and for holes in what they hold. Fused softmax kernels are taken for granted. Activations, in bytes a token:

- Maps and attention of one layer, between forward and backward, in float32: both feature maps (twice for Hedgehog,
  whose softmax is kept too), queries, keys, values, output and normaliser:
  $A = 4 [c (H_q + H) F + (H_q + 2 H_{kv}) K + H_q (K + 1)]$, with $c = 2$ for Hedgehog and 1 for T2R.
- Its backward writes both maps' gradients, two sums over blocks of $w$ tokens, and twice the output:
  $W = 4 [(H_q + H) F + 2 H F (K + 1) / w + 2 H_q (K + 1)]$; more where heads share a map, or the window slides.
- Stage 1 keeps one layer at a time: $A + W$, the softmax output $4 H_q K$, where $b < 4$ one more float32 copy of the
  output and of the maps' inputs, and of the forward pass $b (2 D + 2 (H_q + H_{kv}) K)$; or the MLP's
  $b (2 D + 3 I) + 8 D$, if that is more. How many layers there are does not matter.
- Stage 2 keeps for each layer $A$, two norms in float32, the inputs of the low-rank updates and of the MLP's
  products: $A + 8 D + b (2 D + H_q K + 4 I)$, where $b < 4$ with $5 D$ in place of $2 D$, since each product casts a
  copy of its own, and the float32 copy of the maps' inputs; at the end the larger of $3 b$ bytes a word of the
  vocabulary and $W$. With checkpointing it keeps $b D$ a layer, and all else of one layer alone.

**Disk.** Block-wise transfer (Eq. (8) of arXiv:2410.10254) keeps the hidden states before and behind the block at work:
$4 T D$ bytes in bfloat16 for $T$ tokens that differ, and $2 T D$ where there is one block. All edges at once, as the
paper counts them, would be $2 T D \lceil L/k \rceil$.

**Time.** A product with $P$ weights is $2 P$ operations a token. Stage 1 runs the layers of the softmax model, its
attention ($2 H_q K T$ a token, half of all pairs), and forward and backward of the hybrid attention ($a$ operations a
token forward, `subquad.ops.cost`, and its maps): $2 P + L (2 H_q K T + 3 a)$, since the backward of stage 1 needs no
gradient of queries, keys and values. Stage 2 goes forward and backward through frozen weights, which need no gradient
of their own, $2 P + 2 P$, with head; hybrid attention is $4 a$, since its weights are made again. Checkpointing adds
one forward pass of the layers. Divided by the operations per second that a GPU gets done. Stage 1 moves more memory
than it computes, so a measured rate is worth more.

Letters as in `subquad.ops.linattn`; D width of the hidden states, I of the MLP, L layers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from subquad.errors import SubquadError
from subquad.llm.planning.architecture import Sizes, sizes_of
from subquad.llm.planning.settings import SizingSettings
from subquad.llm.settings import AttentionSettings
from subquad.ops.cost import hybrid_chunked
from subquad.ops.linattn import hybrid_state

__all__ = ["CONTEXTS", "STAGES", "kept_in_lora", "kept_in_transfer", "memory", "plan", "plans"]

STAGES = ("transfer", "transfer_in_blocks", "lora")
CONTEXTS = (1024, 4096, 16384, 32768, 131072)
RUNTIME = 2_000_000_000
GB = 1_000_000_000


def plans(configs: Sequence[str | Path], settings: SizingSettings = SizingSettings()) -> dict[str, dict[str, Any]]:
    """Return `plan` of each config, under its name."""
    return {str(config): plan(config, settings) for config in configs}


def plan(config: str | Path, settings: SizingSettings = SizingSettings()) -> dict[str, Any]:
    """Return what linearizing a model costs: `parameters`, `memory`, `disk_bytes`, `time` and `generation`.

    Args:
        config: A `config.json`, its folder, or a word such as `llama-3.1-8b`.
        settings: How, and on what.

    Raises:
        SubquadError: the config cannot be read, or its model cannot be linearized; says why.
    """
    sizes = sizes_of(config, settings.attention, lora_rank=settings.lora_rank)
    if sizes.longest and settings.length > sizes.longest:
        raise SubquadError(f"--length {settings.length}: {config} was made for at most {sizes.longest} tokens")
    blocks = math.ceil(sizes.layers / settings.block_layers)
    return {
        "parameters": {
            "model": sizes.parameters,
            "trained_in_transfer": sizes.trained_in_transfer,
            "trained_in_lora": sizes.trained_in_lora,
        },
        "memory": {stage: memory(sizes, settings, stage) for stage in STAGES},
        "blocks": blocks,
        "disk_bytes": 2 * settings.transfer_tokens * sizes.width * min(2, blocks),
        "time": {
            "transfer": _time(
                settings.transfer_tokens,
                settings.tokens_per_second_transfer,
                operations=operations_in_transfer(sizes, settings),
                settings=settings,
            ),
            "lora": _time(
                settings.lora_tokens,
                settings.tokens_per_second_lora,
                operations=operations_in_lora(sizes, settings),
                settings=settings,
            ),
        },
        "generation": generation(sizes, settings),
    }


def memory(sizes: Sizes, settings: SizingSettings, stage: str) -> dict[str, Any]:
    """Return the bytes of one GPU in a stage by what they hold, whether it has them, and how many GPUs would do.

    Args:
        sizes: Of the model.
        settings: GPUs, their memory, batch, length, type.
        stage: `transfer`, all layers at once; `transfer_in_blocks`, one block; or `lora`.
    """
    parts = _parts(sizes, settings, stage, gpus=settings.gpus)
    limit = settings.gpu_memory * GB
    return {
        **parts,
        "total": sum(parts.values()),
        "gpus": settings.gpus,
        "fits": sum(parts.values()) <= limit,
        "fewest_gpus": _fewest_gpus(sizes, settings, stage, limit=limit),
    }


def _parts(sizes: Sizes, settings: SizingSettings, stage: str, *, gpus: int) -> dict[str, int]:
    b, is_block = settings.itemsize, stage == "transfer_in_blocks"
    layers = min(settings.block_layers, sizes.layers) if is_block else sizes.layers
    frozen = layers * sizes.layer_parameters if is_block else sizes.parameters
    maps = sizes.trained_in_transfer * layers / sizes.layers
    trained = sizes.trained_in_lora if stage == "lora" else maps
    gathered = (2 * sizes.layer_parameters + sizes.outer_parameters) * b
    is_shared = gpus > 1 and not is_block
    per_token = _activations_in_lora(sizes, settings) if stage == "lora" else _activations_in_transfer(sizes, settings)
    parts = {
        "weights": frozen * b / (gpus if is_shared else 1),
        # with halves, products take a copy of the low-rank updates, which are learnt in float32
        "trained": 4 * trained + (2 * (trained - maps) if b < 4 else 0),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": per_token * settings.batch * settings.length,
        "gathered": gathered if is_shared else 0,
        "runtime": RUNTIME,
    }
    return {name: math.ceil(value) for name, value in parts.items()}


def _fewest_gpus(sizes: Sizes, settings: SizingSettings, stage: str, *, limit: float) -> int | None:
    """Return the smallest number of GPUs that fits; None where what is not shared out is too much for any number."""
    alone, halved = (_parts(sizes, settings, stage, gpus=gpus) for gpus in (1, 2))
    if sum(alone.values()) <= limit:
        return 1
    # a byte for what is rounded up in each share
    left = limit - (sum(halved.values()) - halved["weights"]) - 1
    is_shared = halved["weights"] < alone["weights"]
    return max(2, math.ceil(alone["weights"] / left)) if is_shared and left > 0 else None


def _attention_kept(sizes: Sizes) -> float:
    Hq, Hkv, H, K, F = _letters(sizes)
    copies = 2 if sizes.feature_map == "hedgehog" else 1
    return 4 * (copies * (Hq + H) * F + (Hq + 2 * Hkv) * K + Hq * (K + 1))


def _attention_written(sizes: Sizes, attention: AttentionSettings) -> float:
    Hq, _, H, K, F = _letters(sizes)
    written = (Hq + H) * F + 2 * H * F * (K + 1) / attention.window + 2 * Hq * (K + 1)
    if Hq != H:
        written += Hq * (F + K + 1)
    by_features = {"terrace": 0, "sliding": 1, "none": 2}[attention.window_shape]
    written += by_features * (Hq * attention.window + 2 * H * F + H * (K + 1))
    return 4 * written


def _copies_for_maps(sizes: Sizes, settings: SizingSettings) -> float:
    """Return the bytes a token of a layer's queries and keys in float32, in which the maps work."""
    Hq, Hkv, _, K, _ = _letters(sizes)
    return 0 if settings.itemsize == 4 else 4 * (Hq + Hkv) * K


def kept_in_transfer(sizes: Sizes, settings: SizingSettings) -> float:
    """Return the bytes a token that one layer keeps between forward and backward of stage 1."""
    outputs = (1 if settings.itemsize == 4 else 2) * 4 * sizes.heads * sizes.head_width
    return _attention_kept(sizes) + _copies_for_maps(sizes, settings) + outputs


def kept_in_lora(sizes: Sizes, settings: SizingSettings) -> float:
    """Return the bytes a token that one layer keeps between forward and backward of stage 2."""
    # autocast makes a copy of its own for each of q, k and v, gate and up
    shared = 2 if settings.itemsize == 4 else 5
    inputs = shared * sizes.width + sizes.heads * sizes.head_width + 4 * sizes.inner
    return _attention_kept(sizes) + _copies_for_maps(sizes, settings) + 8 * sizes.width + settings.itemsize * inputs


def _activations_in_transfer(sizes: Sizes, settings: SizingSettings) -> float:
    Hq, Hkv, _, K, _ = _letters(sizes)
    b, D = settings.itemsize, sizes.width
    attention = kept_in_transfer(sizes, settings) + _attention_written(sizes, settings.attention)
    return max(
        attention + b * (2 * D + 2 * (Hq + Hkv) * K),
        b * (2 * D + 3 * sizes.inner) + 8 * D,
    )


def _activations_in_lora(sizes: Sizes, settings: SizingSettings) -> float:
    layer, words = kept_in_lora(sizes, settings), 3 * settings.itemsize * sizes.vocabulary
    written = _attention_written(sizes, settings.attention)
    if settings.checkpointing:
        return sizes.layers * settings.itemsize * sizes.width + max(words, layer + written)
    return sizes.layers * layer + max(words, written)


def operations_in_transfer(sizes: Sizes, settings: SizingSettings) -> float:
    """Return the operations a token of stage 1."""
    softmax = 2 * sizes.heads * sizes.head_width * settings.length
    products = 2 * (sizes.parameters - sizes.outer_parameters)
    return products + sizes.layers * (softmax + 3 * _hybrid_operations(sizes, settings))


def operations_in_lora(sizes: Sizes, settings: SizingSettings) -> float:
    """Return the operations a token of stage 2."""
    layers = sizes.parameters - sizes.outer_parameters
    hybrid = sizes.layers * _hybrid_operations(sizes, settings)
    again = 2 * layers + hybrid if settings.checkpointing else 0
    return 4 * (layers + sizes.vocabulary * sizes.width) + 6 * sizes.trained_in_lora + 4 * hybrid + again


def _hybrid_operations(sizes: Sizes, settings: SizingSettings) -> float:
    Hq, Hkv, H, K, F = _letters(sizes)
    attention, T = settings.attention, settings.length
    cost = hybrid_chunked(
        B=1, Hq=Hq, Hkv=Hkv, Hf=H, T=T, K=K, V=K, F=F, w=attention.window, window_shape=attention.window_shape
    )
    columns = F // 2 if sizes.feature_map == "hedgehog" else F
    return cost.operations / T + 2 * K * columns * (Hq + H)


def _time(tokens: int, rate: float | None, *, operations: float, settings: SizingSettings) -> dict[str, Any]:
    speed = settings.gpus * settings.speed / operations if rate is None else rate
    hours = tokens / speed / 3600
    return {
        "tokens": tokens,
        "tokens_per_second": speed,
        "hours": hours,
        "gpu_hours": hours * settings.gpus,
        "is_estimate": rate is None,
    }


def generation(sizes: Sizes, settings: SizingSettings) -> dict[str, Any]:
    """Return the bytes of one sequence: the state, for both kinds of `feature_heads`, and the softmax model's cache.

    `crossover` is the context from which on the cache is larger than the state.
    """
    Hq, Hkv, _, K, F = _letters(sizes)
    a_token = 2 * sizes.layers * Hkv * K * settings.itemsize
    dtype = {2: torch.bfloat16, 4: torch.float32}[settings.itemsize]
    states = {}
    for name, heads in (("query", Hq), ("kv", Hkv)):
        state = hybrid_state(
            1, kv_heads=Hkv, key_width=K, value_width=K, feature_heads=heads, features=F,
            window=settings.attention.window, window_shape=settings.attention.window_shape, dtype=dtype, device="meta",
        )  # fmt: skip
        size = sizes.layers * sum(tensor.nbytes for tensor in state)
        states[name] = {"bytes": size, "crossover": size // a_token + 1}
    return {"state": states, "cache_bytes": {str(context): context * a_token for context in CONTEXTS}}


def _letters(sizes: Sizes) -> tuple[int, int, int, int, int]:
    return sizes.heads, sizes.kv_heads, sizes.feature_heads, sizes.head_width, sizes.features
