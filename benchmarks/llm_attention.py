"""The student's attention, feature maps and all, in chunks against its quadratic form: forward + backward.

    python benchmarks/llm_attention.py [--threads 1] [--repeats 5]

Heads as in SmolLM2-135M: 9 query heads, 3 key heads, width 64, window 64. `transfer` learns the maps alone, `tuning`
passes gradients on to queries, keys and values too. Both forms are checked to be equal, in value and gradient, before
they are timed; the quadratic form is timed up to 4,096 tokens. Ends in one line of JSON.
"""

import argparse
import json
import platform
import time
from statistics import median

import torch
from torch import Tensor

from subquad.nn.attention import HybridAttention
from subquad.ops.linattn import hybrid_quadratic

LENGTHS = [256, 1024, 2048, 4096, 8192]
QUADRATIC_UP_TO = 4096


def student(window_shape: str, dtype: torch.dtype = torch.float32) -> HybridAttention:
    torch.manual_seed(0)
    return HybridAttention(heads=9, kv_heads=3, head_width=64, window_shape=window_shape).to(dtype)


def draw(T: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, T, 64, generator=generator, dtype=dtype) for heads in (9, 3, 3)]


def chunked(net: HybridAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return net(q, k, v)


def quadratic(net: HybridAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return hybrid_quadratic(
        q, k, v, phi_q=net.map_q(q), phi_k=net.map_k(k), mix=net.mix, window=net.window, window_shape=net.window_shape
    )


def both_passes(form, net: HybridAttention, inputs: list[Tensor]) -> list[Tensor]:
    y = form(net, *inputs)
    learnt = [*net.parameters(), *(x for x in inputs if x.requires_grad)]
    return [y, *torch.autograd.grad(y.square().sum(), learnt)]


def check(window_shape: str) -> float:
    net, inputs = student(window_shape, torch.float64), [x.requires_grad_() for x in draw(331, torch.float64)]
    pairs = zip(both_passes(chunked, net, inputs), both_passes(quadratic, net, inputs), strict=True)
    error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    if error > 1e-9:
        raise SystemExit(f"{window_shape}: chunked and quadratic differ by {error}")
    return error


def timed(form, net: HybridAttention, inputs: list[Tensor]) -> float:
    start = time.perf_counter()
    both_passes(form, net, inputs)
    return 1e3 * (time.perf_counter() - start)


def compare(net: HybridAttention, inputs: list[Tensor], repeats: int) -> dict[str, float]:
    forms = {"chunked_ms": chunked}
    if inputs[0].shape[2] <= QUADRATIC_UP_TO:
        forms["quadratic_ms"] = quadratic
    times = {name: [] for name in forms}
    for round_ in range(repeats + 1):
        for name, form in forms.items():
            value = timed(form, net, inputs)
            # the first round sets up memory
            if round_:
                times[name].append(value)
    row = {name: median(values) for name, values in times.items()}
    if "quadratic_ms" in row:
        row["quadratic_over_chunked"] = median(
            slow / fast for slow, fast in zip(times["quadratic_ms"], times["chunked_ms"], strict=True)
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for window_shape in ("terrace", "sliding"):
        error, net = check(window_shape), student(window_shape)
        for stage in ("transfer", "tuning"):
            for T in LENGTHS:
                inputs = [x.requires_grad_(stage == "tuning") for x in draw(T)]
                row = {"window_shape": window_shape, "stage": stage, "T": T, "largest_difference": error}
                row |= compare(net, inputs, options.repeats)
                print("  ".join(f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()))
                rows.append(row)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
    print(json.dumps({"benchmark": "llm_attention", **machine, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
