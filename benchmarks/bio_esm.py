"""Throughput of Lyra and of the architecture of ESM-2 650M, both with random weights, at 256 residues.

Run: python benchmarks/bio_esm.py [--length 256] [--threads 1] [--quick]

ESM-2 (33 layers, width 1,280, 20 heads) comes from transformers, in float32 and in bfloat16. Lyra goes from letters to
outputs, one-hot encoding included: as published (`lyra-paper`), and with both directions (`lyra`), as `subquad bio fit`
trains it on sequences of varying length, without its additive path. Each runs with its best batch size. First Lyra's
outputs and gradients are compared with the usual implementation. Memory is the peak of a separate process minus that of
its imports; ESM-2 has float32 weights. The last line is JSON: ratios are Lyra's sequences per second over those of the
faster ESM-2.
"""

import argparse
import json
import math
import subprocess
import sys
import time

import torch
from bio_speed import check, machine, peak
from torch import nn

from subquad.nn.sequence import Lyra

LETTERS = 20
BATCHES = (8, 16, 32, 64, 128)
ESM_BATCHES = (1, 4)


def lyra(name):
    torch.manual_seed(0)
    net = Lyra.paper(LETTERS, 1) if name == "lyra-paper" else Lyra(LETTERS, 1, is_bidirectional=True)
    return net.eval()


def esm(is_quick):
    from transformers import EsmConfig, EsmModel, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    size = {"num_hidden_layers": 2, "hidden_size": 160, "intermediate_size": 640, "num_attention_heads": 5}
    if not is_quick:
        size = {"num_hidden_layers": 33, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20}
    config = EsmConfig(
        vocab_size=33,
        pad_token_id=1,
        mask_token_id=32,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        max_position_embeddings=1026,
        **size,
    )
    return EsmModel(config, add_pooling_layer=False).eval()


def codes(batch, length):
    return torch.randint(0, LETTERS, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def run_lyra(net, index, form):
    x = nn.functional.one_hot(index, LETTERS).float()
    return net(x) if form == "outputs" else net.embed(x)


@torch.inference_mode()
def run_esm(net, index):
    # its residues follow four special tokens
    return net(input_ids=index + 4).last_hidden_state


def seconds(function, repeats):
    """Return the median seconds of a call, after a warm-up if it is repeated."""
    if repeats > 1:
        function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return sorted(times)[repeats // 2]


def per_second(models, length, rounds):
    """Return the sequences per second of each model: medians over rounds that interleave the models."""
    rates = {}
    for name, net in models.items():
        # warm-up
        run_esm(net, codes(1, 16)) if name.startswith("ESM") else run_lyra(net, codes(1, 16), "outputs")
    for _ in range(rounds):
        for name, net in models.items():
            for batch in ESM_BATCHES if name.startswith("ESM") else ():
                took = seconds(lambda net=net, b=batch: run_esm(net, codes(b, length)), 1)
                rates.setdefault(name, {}).setdefault(batch, []).append(batch / took)
            if name.startswith("ESM"):
                continue
            for form in ("outputs", "embed"):
                for batch in BATCHES:
                    took = seconds(lambda net=net, b=batch, f=form: run_lyra(net, codes(b, length), f), 5)
                    rates.setdefault(f"{name} {form}", {}).setdefault(batch, []).append(batch / took)
    medians = {name: {b: sorted(r)[len(r) // 2] for b, r in of.items()} for name, of in rates.items()}
    return {name: max((rate, batch) for batch, rate in of.items()) for name, of in medians.items()}


def memory(name, length):
    command = [sys.executable, __file__, "--memory-of", name, "--length", str(length)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory_of(name, length):
    """Print the MiB of a model and one forward pass of 16 sequences (ESM-2: one), without the imports."""
    if name == "ESM-2":
        import transformers.models.esm.modeling_esm  # noqa: F401
    before = peak()
    if name == "ESM-2":
        run_esm(esm(False), codes(1, length))
    else:
        run_lyra(lyra(name), codes(16, length), "outputs")
    print(peak() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="an ESM of two narrow layers, one round, no memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_memory_of(options.memory_of, options.length)
        return
    check(options.length, 2)
    reference = esm(options.quick)
    models = {"lyra-paper": lyra("lyra-paper"), "lyra": lyra("lyra"), "ESM-2 float32": reference}
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in models.items()}
    models["ESM-2 bfloat16"] = esm(options.quick).to(torch.bfloat16)
    rates = per_second(models, options.length, 1 if options.quick else options.rounds)
    faster = max(rates["ESM-2 float32"][0], rates["ESM-2 bfloat16"][0])
    measured = () if options.quick else ("lyra-paper", "lyra", "ESM-2")
    mib = {name: memory(name, options.length) for name in measured}
    print(f"{'':20}{'sequences/s':>12}{'batch':>7}{'× float32':>11}{'× faster ESM-2':>16}")
    for name, (rate, batch) in rates.items():
        print(f"{name:20}{rate:12.2f}{batch:7d}{rate / rates['ESM-2 float32'][0]:11.0f}{rate / faster:16.0f}")
    for name, parameters in list(count.items())[:3]:
        print(f"{name:20}{parameters:12,} parameters, {mib.get(name.removesuffix(' float32'), math.nan):.0f} MiB")
    result = {
        "benchmark": "bio_esm",
        "length": options.length,
        **machine(options.threads),
    }
    result["sequences_per_second"] = {name: round(rate, 3) for name, (rate, _) in rates.items()}
    for key, base in (("ratio_to_float32", rates["ESM-2 float32"][0]), ("ratio_to_faster", faster)):
        result[key] = {name: round(rate / base) for name, (rate, _) in rates.items() if not name.startswith("ESM")}
    print(json.dumps(result | {"parameters": count, "memory_mib": {name: round(m) for name, m in mib.items()}}))


if __name__ == "__main__":
    main()
