"""Decoding speed by context length: states of constant size against transformers' dynamic and static KV caches.

    python benchmarks/llm_decode.py [--threads 1] [--periods 1] [--model smollm2] [--most-gib 6]

Milliseconds per token and bytes of the cache, for batch sizes 1, 8 and 32 at contexts from 128 to 32,768. The model
is converted but not trained. States: `default`, the default attention, a sparse cache of 384 tokens and moments;
`none`, a cache of 416 tokens, which has the same memory, and no linear branch; `cache`, a cache of 384 and feature
maps; `maps`, feature maps without a cache.
`window` is the rival that has as much memory as the default: a sliding window, as a static cache of so many tokens at
any context. Caches and states are filled with random numbers instead of a prompt, which does not change the time.
`floor` is the same model with attention replaced by its values: everything that is not attention.

Each variant decodes whole periods of the window, 64 tokens, so that the steps in which a block leaves the window count
as often as they occur; the rows of a batch are staggered over a period. Variants alternate from token to token. First
it is checked that the window alone reproduces the softmax model's logits for texts within the window. Variants that
need more than `--most-gib` are skipped. The last line of the output is JSON.
"""

import argparse
import json
import platform
import time
from statistics import fmean

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from subquad.llm.models.attention import HybridSelfAttention, attention_layers, attention_mode
from subquad.llm.models.cache import HybridLayer
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import cache_argument, cache_bytes
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings
from subquad.llm.training.controls import state_size

CONTEXTS = [128, 512, 1024, 4096, 16384, 32768]
BATCHES = [1, 8, 32]
STATES = {
    "default": AttentionSettings(),
    "none": AttentionSettings(feature_map="none", cache=416),
    "cache": AttentionSettings(feature_map="hedgehog"),
    "maps": AttentionSettings(feature_map="hedgehog", cache=0),
}
PERIOD = AttentionSettings().window


def kv_cache(kind: str, config, *, batch: int, context: int, room: int) -> DynamicCache | StaticCache:
    """Return a cache of keys and values after `context` tokens, with free places for `room` more."""
    x = torch.randn(batch, config.num_key_value_heads, context, head_width(config))
    cache = (
        DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=context + room)
    )
    for layer in range(config.num_hidden_layers):
        # a copy per layer, as in use
        cache.update(x.clone(), x.clone(), layer)
    return cache


def state_of(model: nn.Module, lengths: Tensor) -> DynamicCache:
    """Return states of texts of these lengths."""
    cache = DynamicCache()
    for attention in attention_layers(model):
        layer = HybridLayer()
        layer.state, layer.length = attention.hybrid.empty_state(len(lengths)), int(lengths[0])
        for tensor in layer.state:
            if tensor.is_floating_point():
                tensor.uniform_(0, 1)
        layer.state.length.copy_(lengths)
        if attention.hybrid.has_moments:
            # the number of tokens; without any, a step has less to do
            layer.state.total[..., -1, -1] = 1000.0
        cache.layers.append(layer)
    return cache


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def one_step(model: nn.Module, ids: Tensor, cache, positions: Tensor) -> None:
    argument = {cache_argument(type(model)): cache}
    model(input_ids=ids, position_ids=positions[:, None], use_cache=True, logits_to_keep=1, **argument)


def return_values(layer: HybridSelfAttention, q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
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
def measure(models: dict[str, nn.Module], *, batch: int, context: int, periods: int, most: float) -> dict:
    """Return a row of the table; `models` has the softmax model under `softmax`, and those of `STATES`."""
    config, ids = models["softmax"].config, torch.ones(batch, 1, dtype=torch.long)
    size = 8 * batch * context * config.num_hidden_layers * config.num_key_value_heads * head_width(config)
    # all rows of a text's cache are as long; states are staggered
    whole = torch.full((batch,), context)
    staggered = whole + torch.arange(batch) * PERIOD // batch
    caches = {name: state_of(models[name], staggered) for name in STATES}
    caches["floor"] = state_of(models["maps"], staggered)
    size_of_state = state_size(models["default"])
    caches["window"] = kv_cache("static", config, batch=batch, context=size_of_state, room=(periods + 1) * PERIOD)
    if 2 * size < most * 2**30:
        for kind in ("static", "dynamic"):
            caches[kind] = kv_cache(kind, config, batch=batch, context=context, room=(periods + 1) * PERIOD)
    row = {"batch": batch, "context": context}
    row |= {f"{name}_bytes": cache_bytes(cache) for name, cache in caches.items() if name != "floor"}
    times: dict[str, list[float]] = {name: [] for name in caches}
    real = HybridSelfAttention._hybrid
    # the first tokens allocate memory
    for step in range(-2, periods * PERIOD):
        for name, values in times.items():
            HybridSelfAttention._hybrid = return_values if name == "floor" else real
            is_state = name in STATES or name == "floor"
            model = models[name if name in STATES else "maps" if name == "floor" else "softmax"]
            start = staggered if is_state else torch.full_like(whole, size_of_state) if name == "window" else whole
            positions = start + step + 2
            begin = time.perf_counter()
            one_step(model, ids, caches[name], positions)
            if step >= 0:
                values.append(1e3 * (time.perf_counter() - begin))
    HybridSelfAttention._hybrid = real
    means = {name: fmean(values) for name, values in times.items()}
    row |= {f"{name}_ms": value for name, value in means.items()}
    for name in STATES:
        row[f"{name}_over_floor"] = means[name] / means["floor"]
        rivals = ("static", "dynamic", "window")
        row |= {f"{kind}_over_{name}": means[kind] / means[name] for kind in rivals if kind in means}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--periods", type=int, default=1, help="periods of the window that each variant decodes")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--most-gib", type=float, default=6.0)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    path = locate(options.model)
    models = {"softmax": open_checkpoint(path)}
    for name, attention in STATES.items():
        models[name] = convert(open_checkpoint(path), attention, check=False)
    with attention_mode(models["maps"], "window"):
        error = check(models["softmax"], models["maps"])
    rows = []
    for batch in options.batches:
        for context in options.contexts:
            row = measure(models, batch=batch, context=context, periods=options.periods, most=options.most_gib)
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
