"""Time to read a prompt, by its length: the default attention against softmax attention.

    python benchmarks/llm_prefill.py [--threads 1] [--lengths 1024 4096 16384] [--repeats 3] [--model smollm2]

Processor time until the next token's logits and the state after the prompt are there. `default`, and `none`, a cache of
416 tokens without a linear branch, read the prompt in chunks of `--chunk` tokens as the server does, with constant
memory beside the state; `softmax`, PyTorch's `scaled_dot_product_attention`, reads it whole, which is its fastest way,
and writes a dynamic cache. `floor` is the same model with attention replaced by its values. The model is converted but
not trained, which changes no time. Variants alternate; the smallest of the repeats counts. First it is checked that
within the window all give the logits of the softmax model. The last line of the output is JSON.
"""

import argparse
import json
import time
from collections import defaultdict

import torch
from bio_speed import machine
from llm_decode import STATES, check, return_values
from torch import Tensor, nn

from subquad.llm.models.attention import HybridSelfAttention
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import cache_argument
from subquad.llm.models.location import locate

VARIANTS = ("floor", "default", "none", "softmax")


@torch.inference_mode()
def read(model: nn.Module, ids: Tensor, chunk: int) -> float:
    """Return the processor time in seconds that a model takes to read tokens [1, T]."""
    begin, cache, start = time.process_time(), None, 0
    for part in ids.split(chunk, 1):
        positions = torch.arange(start, start + part.shape[1])[None]
        given = {} if cache is None else {cache_argument(type(model)): cache}
        made = model(input_ids=part, position_ids=positions, use_cache=True, logits_to_keep=1, **given)
        cache = made.get("cache", made.get("past_key_values"))
        start += part.shape[1]
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {"softmax": open_checkpoint(locate(options.model)).eval()}
    for name in ("default", "none"):
        models[name] = convert(open_checkpoint(locate(options.model)), STATES[name], check=False).eval()
    models["floor"] = models["none"]
    errors = {name: check(models["softmax"], models[name]) for name in ("default", "none")}
    rows, real = [], HybridSelfAttention._hybrid
    for length in options.lengths:
        ids = torch.randint(0, 1000, (1, length), generator=torch.Generator().manual_seed(length))
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.repeats):
            for name in VARIANTS:
                HybridSelfAttention._hybrid = return_values if name == "floor" else real
                chunk = length if name == "softmax" else options.chunk
                seconds[name].append(read(models[name], ids, chunk))
        HybridSelfAttention._hybrid = real
        best = {name: min(values) for name, values in seconds.items()}
        row = {"tokens": length, **best, "softmax_over_default": best["softmax"] / best["default"]}
        print({name: round(value, 3) for name, value in row.items()}, flush=True)
        rows.append(row)
    print(json.dumps({"benchmark": "llm_prefill", **machine(options.threads), "errors": errors, "rows": rows}))


if __name__ == "__main__":
    main()
