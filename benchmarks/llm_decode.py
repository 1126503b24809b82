"""Decoding speed by context length: the constant state against transformers' dynamic and static KV caches.

    python benchmarks/llm_decode.py [--threads 1] [--repeats 3] [--model smollm2] [--most-gib 6]

Milliseconds per token and bytes of the cache, for batch sizes 1, 8 and 32 at contexts from 128 to 32,768. The model is
converted but not trained, with a feature map per key-value head. Caches and states are filled with random numbers
instead of a prompt, which does not change the time. `floor` is the same model with attention replaced by its values:
everything that is not attention. Variants alternate, a repetition is the mean of several steps, and ratios are medians
over repetitions. First it is checked that the window alone reproduces the softmax model's logits for texts within the
window. Variants that need more than `--most-gib` are skipped. The last line of the output is JSON.
"""

import argparse
import json
import platform
import time
from statistics import median

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from subquad.llm.models.attention import HybridSelfAttention, attention_layers, attention_mode
from subquad.llm.models.cache import HybridLayer
from subquad.llm.models.checkpoints import locate, open_checkpoint
from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import cache_bytes
from subquad.llm.settings import AttentionSettings

CONTEXTS = [128, 512, 1024, 4096, 16384, 32768]
BATCHES = [1, 8, 32]
STEPS, ROOM = 8, 256
"""Steps of a repetition, and free tokens of a static cache."""


def filled_cache(
    variant: str, soft: nn.Module, hybrid: nn.Module, *, batch: int, context: int
) -> DynamicCache | StaticCache:
    """Return the cache of a variant after `context` tokens."""
    if variant in ("state", "floor"):
        return state_of(hybrid, batch, context)
    config = soft.config
    x = torch.randn(batch, config.num_key_value_heads, context, head_width(config))
    cache = (
        DynamicCache(config=config)
        if variant == "dynamic"
        else StaticCache(config=config, max_cache_len=context + ROOM)
    )
    for layer in range(config.num_hidden_layers):
        # a copy per layer, as in use
        cache.update(x.clone(), x.clone(), layer)
    return cache


def state_of(hybrid: nn.Module, batch: int, context: int) -> DynamicCache:
    cache = DynamicCache()
    for attention in attention_layers(hybrid):
        layer = HybridLayer()
        layer.state, layer.length = attention.hybrid.empty_state(batch), context
        for tensor in layer.state[:3]:
            tensor.uniform_(0, 1)
        layer.state.length.fill_(context)
        cache.layers.append(layer)
    return cache


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def one_step(model: nn.Module, ids: Tensor, cache, position: int) -> None:
    model(input_ids=ids, position_ids=torch.full_like(ids, position), cache=cache, use_cache=True, logits_to_keep=1)


def return_values(layer: HybridSelfAttention, q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return v.repeat_interleave(q.shape[1] // v.shape[1], 1)


@torch.no_grad()
def check(soft: nn.Module, hybrid: nn.Module) -> float:
    """Return the largest difference of logits relative to the largest logit, over 60 tokens and 40 steps."""
    ids = torch.randint(0, 1000, (2, 100), generator=torch.Generator().manual_seed(0))
    expected = soft(input_ids=ids).logits
    given, cache = [], None
    for tokens in (ids[:, :60], *ids[:, 60:].split(1, 1)):
        made = hybrid(input_ids=tokens, use_cache=True, **({} if cache is None else {"cache": cache}))
        given.append(made.logits)
        cache = made.cache
    error = float((torch.cat(given, 1) - expected).abs().max() / expected.abs().max())
    if error > 1e-3:
        raise SystemExit(f"within the window the logits differ by {error}")
    return error


@torch.no_grad()
def measure(soft: nn.Module, hybrid: nn.Module, *, batch: int, context: int, repeats: int, most: float) -> dict:
    config, ids = soft.config, torch.ones(batch, 1, dtype=torch.long)
    size = 8 * batch * context * config.num_hidden_layers * config.num_key_value_heads * head_width(config)
    names = ["floor", "state", *(["static", "dynamic"] if 2 * size < most * 2**30 else [])]
    caches = {name: filled_cache(name, soft, hybrid, batch=batch, context=context) for name in names}
    row = {"batch": batch, "context": context}
    row |= {f"{name}_bytes": cache_bytes(cache) for name, cache in caches.items() if name != "floor"}
    times: dict[str, list[float]] = {name: [] for name in names}
    real = HybridSelfAttention._hybrid
    for round_ in range(repeats + 1):
        for name, values in times.items():
            HybridSelfAttention._hybrid = return_values if name == "floor" else real
            model = hybrid if name in ("floor", "state") else soft
            begin = time.perf_counter()
            for _ in range(STEPS):
                one_step(model, ids, caches[name], context)
            # the first round allocates memory
            if round_:
                values.append(1e3 * (time.perf_counter() - begin) / STEPS)
    HybridSelfAttention._hybrid = real
    row |= {f"{name}_ms": median(values) for name, values in times.items()}
    for name in names:
        if name != "state":
            pairs = zip(times[name], times["state"], strict=True)
            row[f"{name}_over_state"] = median(other / own for other, own in pairs)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--window-shape", default="terrace")
    parser.add_argument("--most-gib", type=float, default=6.0)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    soft, hybrid = (open_checkpoint(locate(options.model))[0] for _ in range(2))
    convert(hybrid, AttentionSettings(feature_heads="kv", window_shape=options.window_shape), check=False)
    with attention_mode(hybrid, "window"):
        error = check(soft, hybrid)
    rows = []
    for batch in options.batches:
        for context in options.contexts:
            row = measure(soft, hybrid, batch=batch, context=context, repeats=options.repeats, most=options.most_gib)
            print(
                "  ".join(f"{key} {x:.4g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()),
                flush=True,
            )
            rows.append(row)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
    result = {
        "benchmark": "llm_decode",
        **machine,
        "torch": torch.__version__,
        "largest_difference": error,
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
