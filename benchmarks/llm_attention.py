"""Hybrid attention with its feature maps, in chunks against its quadratic form: forward and backward pass.

    python benchmarks/llm_attention.py [--threads 1] [--repeats 5]
    python benchmarks/llm_attention.py --device cuda [--precision bfloat16]

Heads as in SmolLM2-135M: 9 query heads, 3 key heads, width 64, window 64. `transfer` trains the feature maps alone,
`lora` also passes gradients to queries, keys and values. All forms are compared with the quadratic one, in value and
gradient, before they are timed; the quadratic form is timed up to 4,096 tokens. Ends in one line of JSON.
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


def student(window_shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> HybridAttention:
    torch.manual_seed(0)
    return HybridAttention(heads=9, kv_heads=3, head_width=64, window_shape=window_shape).to(device, dtype)


def draw(T: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, T, 64, generator=generator).to(device, dtype) for heads in (9, 3, 3)]


def chunked(net: HybridAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return net(q, k, v)


def quadratic(net: HybridAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return hybrid_quadratic(
        q, k, v, phi_q=net.map_q(q), phi_k=net.map_k(k), mix=net.mix, window=net.window, window_shape=net.window_shape
    )


def both_passes(form, net: HybridAttention, inputs: list[Tensor]) -> list[Tensor]:
    y = form(net, *inputs)
    trained = [*net.parameters(), *(x for x in inputs if x.requires_grad)]
    return [y, *torch.autograd.grad(y.square().sum(), trained)]


FORMS = {"chunked": chunked, "quadratic": quadratic}


def check(window_shape: str, name: str, device: str) -> float:
    net = student(window_shape, torch.float64, device)
    inputs = [x.requires_grad_() for x in draw(331, torch.float64, device)]
    pairs = zip(both_passes(FORMS[name], net, inputs), both_passes(quadratic, net, inputs), strict=True)
    error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    if error > 1e-9:
        raise SystemExit(f"{window_shape}: {name} and quadratic differ by {error}")
    return error


def timed(form, net: HybridAttention, inputs: list[Tensor]) -> float:
    wait = torch.cuda.synchronize if inputs[0].is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    both_passes(form, net, inputs)
    wait()
    return 1e3 * (time.perf_counter() - start)


def compare(net: HybridAttention, inputs: list[Tensor], names: list[str], repeats: int) -> dict[str, float]:
    names = [name for name in names if name != "quadratic" or inputs[0].shape[2] <= QUADRATIC_UP_TO]
    times = {name: [] for name in names}
    for round_ in range(repeats + 1):
        for name in names:
            value = timed(FORMS[name], net, inputs)
            # the first round sets up memory and compiles
            if round_:
                times[name].append(value)
    row = {f"{name}_ms": median(values) for name, values in times.items()}
    for name in names[1:]:
        ratios = (slow / fast for slow, fast in zip(times[name], times[names[0]], strict=True))
        row[f"{name}_over_{names[0]}"] = median(ratios)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["chunked", "quadratic"])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the heads' inputs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = options.device, getattr(torch, options.precision)
    rows = []
    for window_shape in ("terrace", "sliding"):
        error = max(check(window_shape, name, device) for name in options.forms)
        net = student(window_shape, device=device)
        for stage in ("transfer", "lora"):
            for T in LENGTHS:
                inputs = [x.requires_grad_(stage == "lora") for x in draw(T, dtype, device)]
                row = {"window_shape": window_shape, "stage": stage, "T": T, "largest_difference": error}
                row |= compare(net, inputs, options.forms, options.repeats)
                print("  ".join(f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()))
                rows.append(row)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
    if device != "cpu":
        machine = {"gpu": torch.cuda.get_device_name(device)}
    machine |= {"precision": options.precision, "torch": torch.__version__}
    print(json.dumps({"benchmark": "llm_attention", **machine, "rows": rows}))


if __name__ == "__main__":
    main()
