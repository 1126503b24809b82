"""Time and memory of Lyra from 256 to 65,536 positions, one sequence at a time, beside attention to 8,192 positions.

Run: python benchmarks/bio_growth.py [--threads 1] [--quick]

First the fast form is compared with the usual implementation. Times are medians over rounds that interleave the
lengths; memory is the peak of a separate process, including its imports. The exponent is the slope of log time over log
length from 4,096 positions: 1 is linear, 2 is quadratic. Attention is the same network with softmax attention over all
positions in place of the state-space block, by PyTorch's fused kernel. The last line is JSON.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys

import torch
from attention_block import SelfAttention
from bio_speed import check, data, forward, interleaved, machine, nets, peak, step

FITTED_FROM = 4096
LONGEST_ATTENTION = 8_192


def memory(what, T):
    command = [sys.executable, __file__, "--memory-of", what, "--lengths", str(T)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory_of(what, T):
    net = nets()["ours"]
    x, y = data(1, T)
    if what == "step":
        step(net, torch.optim.AdamW(net.parameters()), x, y)
    elif what == "forward":
        forward(net.eval(), x)
    print(peak())


def attention_net():
    """Return the network with attention in place of the state-space block."""
    net = nets()["ours"]
    net.state_space = SelfAttention(net.norm.weight.shape[0], net.state_space.dropout.p)
    return net


def times(networks, inputs, repeats):
    """Return the median seconds of training steps and of forward passes, each by network and length."""
    pairs = [(name, T) for name, net in networks.items() for T in inputs if name == "lyra" or T <= LONGEST_ATTENTION]
    optimizers = {name: torch.optim.AdamW(net.parameters(), lr=1e-3) for name, net in networks.items()}
    calls = [lambda name=name, T=T: step(networks[name], optimizers[name], *inputs[T]) for name, T in pairs]
    steps = dict(zip(pairs, interleaved(calls, repeats), strict=True))
    calls = [lambda name=name, T=T: forward(networks[name].eval(), inputs[T][0]) for name, T in pairs]
    return steps, dict(zip(pairs, interleaved(calls, repeats), strict=True))


def exponent(lengths, values):
    points = [(math.log(T), math.log(value)) for T, value in zip(lengths, values, strict=True) if T >= FITTED_FROM]
    return round(statistics.linear_regression(*zip(*points, strict=True)).slope, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**n for n in range(8, 17)])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="4,096 and 5,003 positions, one repeat")
    parser.add_argument("--memory-of", choices=["imports", "forward", "step"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_memory_of(options.memory_of, options.lengths[0])
        return
    lengths, repeats = ([4096, 5003], 1) if options.quick else (options.lengths, 9)
    check(1031, 1)
    steps_of, forwards_of = times(
        {"lyra": nets()["ours"], "attention": attention_net()}, {T: data(1, T) for T in lengths}, repeats
    )
    steps, forwards = ([own["lyra", T] for T in lengths] for own in (steps_of, forwards_of))
    shared = [T for T in lengths if T <= LONGEST_ATTENTION]
    ratios = {
        what: {T: round(own["attention", T] / own["lyra", T], 2) for T in shared}
        for what, own in (("forward", forwards_of), ("step", steps_of))
    }
    imports = memory("imports", 1)
    peaks = {what: [memory(what, T) for T in lengths] for what in ("forward", "step")}
    print(f"positions  forward: ms   peak MiB    step: ms   peak MiB    (imports alone: {imports:.0f} MiB)")
    for row in zip(lengths, forwards, peaks["forward"], steps, peaks["step"], strict=True):
        T, forward_s, forward_mib, step_s, step_mib = row
        print(f"{T:9d} {1e3 * forward_s:12.1f} {forward_mib:10.0f} {1e3 * step_s:11.1f} {step_mib:10.0f}")
    exponents = {
        "forward_time": exponent(lengths, forwards),
        "step_time": exponent(lengths, steps),
        "forward_memory": exponent(lengths, [max(mib - imports, 1.0) for mib in peaks["forward"]]),
        "step_memory": exponent(lengths, [max(mib - imports, 1.0) for mib in peaks["step"]]),
    }
    print("time of attention over that of Lyra:", json.dumps(ratios))
    print("exponents from 4,096 on: " + ", ".join(f"{name.replace('_', ' ')} {e}" for name, e in exponents.items()))
    result = {
        "benchmark": "bio_growth",
        **machine(options.threads),
        "exponents": exponents,
        "attention_over_lyra": ratios,
    }
    result["seconds"] = {T: [round(a, 4), round(b, 4)] for T, a, b in zip(lengths, forwards, steps, strict=True)}
    result["peak_mib"] = {T: [round(a), round(b)] for T, a, b in zip(lengths, *peaks.values(), strict=True)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
