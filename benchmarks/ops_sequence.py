"""Forward and backward of the sequence operators against the usual forms: equal results first, then ratios of time.

Run: python benchmarks/ops_sequence.py [--lengths 20 64 256 1024 4096] [--batch 16] [--channels 64]

The baselines are common implementations: a convolution by rfft with the backward pass of autograd, and the kernel
of a diagonal state space from the naive Vandermonde matrix.
The last line is JSON: ratios above 1 mean that ours is faster.
"""

import argparse
import json
import time

import torch

from subquad.ops.longconv import longconv, longconv_toeplitz
from subquad.ops.s4d import discretise, kernel, kernel_direct, s4d_lin

# its matrices grow with the square of the length
MOST_FOR_TOEPLITZ = 512


def fft_by_autograd(u, k):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]]


def naive_kernel(A, C, dt, *, length):
    grown, driven = discretise(A, dt)
    powers = torch.exp(grown.log()[..., None] * torch.arange(length))
    return 2 * torch.einsum("hn,hnt->ht", C * driven, powers).real


def gradients(form, *tensors, **options):
    leaves = [tensor.detach().clone().requires_grad_(True) for tensor in tensors]
    y = form(*leaves, **options)
    y.square().sum().backward()
    return y.detach(), [leaf.grad for leaf in leaves]


def check(ours, baseline, tolerance):
    for a, b in zip([ours[0], *ours[1]], [baseline[0], *baseline[1]], strict=True):
        error = float((a - b).abs().max() / b.abs().max())
        assert error < tolerance, error


def interleaved(forms, repeats=9):
    """Return the median seconds of each form, taken in turns so that all see the same noise."""
    for form in forms:
        form()
    seconds = [[] for _ in forms]
    for _ in range(repeats):
        for times, form in zip(seconds, forms, strict=True):
            began = time.perf_counter()
            form()
            times.append(time.perf_counter() - began)
    return [sorted(times)[repeats // 2] for times in seconds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[20, 64, 128, 256, 1024, 4096])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    result = {"benchmark": "ops_sequence", "threads": options.threads, "longconv": {}, "toeplitz": {}, "kernel": {}}
    for T in options.lengths:
        u = torch.randn(options.batch, options.channels, T, generator=generator)
        k = torch.randn(options.channels, T, generator=generator) / T**0.5
        A = s4d_lin(32).expand(options.channels, -1).clone()
        C = torch.randn(options.channels, 32, dtype=torch.complex64, generator=generator)
        dt = torch.logspace(-3, -1, options.channels)
        check(gradients(longconv, u, k), gradients(fft_by_autograd, u, k), 1e-4)
        check(gradients(kernel, A, C, dt, length=T), gradients(naive_kernel, A, C, dt, length=T), 1e-3)
        check(gradients(kernel, A, C, dt, length=T), gradients(kernel_direct, A, C, dt, length=T), 1e-3)
        forms = [lambda u=u, k=k: gradients(longconv, u, k), lambda u=u, k=k: gradients(fft_by_autograd, u, k)]
        if T <= MOST_FOR_TOEPLITZ:
            forms.append(lambda u=u, k=k: gradients(longconv_toeplitz, u, k))
        ours, baseline, *short = interleaved(forms)
        split, naive = interleaved(
            [
                lambda A=A, C=C, dt=dt, T=T: gradients(kernel, A, C, dt, length=T),
                lambda A=A, C=C, dt=dt, T=T: gradients(naive_kernel, A, C, dt, length=T),
            ]
        )
        result["longconv"][T] = round(baseline / ours, 2)
        if short:
            result["toeplitz"][T] = round(baseline / short[0], 2)
        result["kernel"][T] = round(naive / split, 2)
        print(f"T = {T}: convolution {baseline / ours:.2f}×, kernel {naive / split:.2f}×")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
