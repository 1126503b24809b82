"""Hybrid attention in chunks against its quadratic definition and against softmax attention: forward + backward.

    python benchmarks/ops_linattn.py [--threads 1] [--repeats 5]

Heads as in SmolLM2-135M: 9 query heads, 3 key heads, width 64, 128 features, window 64. Checks that both forms are
equal before it times them. The quadratic form is timed up to 4,096 tokens. Ends in one line of JSON.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from subquad.ops.linattn import hybrid_chunked, hybrid_quadratic

LENGTHS = [256, 1024, 4096, 16384]
QUADRATIC_UP_TO = 4096


def draw(T: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (1, 9, T, 64), "k": (1, 3, T, 64), "v": (1, 3, T, 64), "phi_q": (1, 9, T, 128), "mix": (9,)}
    x = {name: torch.randn(size, generator=generator, dtype=dtype) for name, size in sizes.items()}
    x["phi_k"] = torch.randn(sizes["phi_q"], generator=generator, dtype=dtype).softmax(-1)
    x["phi_q"] = x["phi_q"].softmax(-1)
    return {name: tensor.requires_grad_() for name, tensor in x.items()}


def both_passes(form: Callable[..., Tensor], inputs: dict[str, Tensor], **options: str) -> list[Tensor]:
    y = form(**inputs, **options)
    return [y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))]


def softmax_attention(*, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def milliseconds(repeats: int, form: Callable[..., Tensor], inputs: dict[str, Tensor], **options: str) -> float:
    both_passes(form, inputs, **options)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        both_passes(form, inputs, **options)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def check(window_shape: str) -> float:
    inputs = draw(331, torch.float64)
    pairs = zip(
        both_passes(hybrid_chunked, inputs, window_shape=window_shape),
        both_passes(hybrid_quadratic, inputs, window_shape=window_shape),
        strict=True,
    )
    error = max((a - b).abs().max().item() for a, b in pairs)
    if error > 1e-9:
        raise SystemExit(f"{window_shape}: chunked and quadratic differ by {error}")
    return error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    for window_shape in ("terrace", "sliding"):
        error = check(window_shape)
        for T in LENGTHS:
            inputs = draw(T)
            row = {"window_shape": window_shape, "T": T, "largest_difference": error}
            repeats = arguments.repeats if T <= QUADRATIC_UP_TO else 1
            row["chunked_ms"] = milliseconds(repeats, hybrid_chunked, inputs, window_shape=window_shape)
            own = {name: inputs[name] for name in "qkv"}
            row["softmax_ms"] = milliseconds(repeats, softmax_attention, own)
            if T <= QUADRATIC_UP_TO:
                row["quadratic_ms"] = milliseconds(1, hybrid_quadratic, inputs, window_shape=window_shape)
                row["quadratic_over_chunked"] = row["quadratic_ms"] / row["chunked_ms"]
            row["softmax_over_chunked"] = row["softmax_ms"] / row["chunked_ms"]
            print("  ".join(f"{name} {x:.3g}" if isinstance(x, float) else f"{name} {x}" for name, x in row.items()))
            rows.append(row)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": arguments.threads}
    print(json.dumps({"benchmark": "ops_linattn", **machine, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
