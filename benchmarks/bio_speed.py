"""A training step and a forward pass of Lyra against the usual implementation: first equality, then ratios of time.

Run: python benchmarks/bio_speed.py [--lengths 20 64 256 1024 4096] [--batches 1 64] [--threads 1] [--quick]

The usual implementation is the same network with the same weights, written directly from the paper: PyTorch's layers,
the kernel of the state space by the naive Vandermonde matrix, the convolution by rfft, all gradients by autograd. A
training step is forward pass, backward pass and AdamW, with dropout 0.2; memory is the peak that one step adds, in a
separate process. The last line is JSON: ratios above 1 mean that ours is faster, or smaller.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from ops_sequence import fft_by_autograd, interleaved, naive_kernel
from torch import nn

from subquad.nn.sequence import Lyra
from subquad.ops.s4d import kernel, s4d_lin

LETTERS, OUTPUTS = 20, 1


class UsualPGC(nn.Module):
    """The projected gated convolution, layer by layer."""

    def __init__(self, width, inner):
        super().__init__()
        self.project = nn.Linear(width, 2 * inner)
        self.inner_norm = nn.RMSNorm(2 * inner)
        self.conv = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.back = nn.Linear(inner, width)
        self.norm = nn.RMSNorm(width)

    def forward(self, u):  # noqa: D102
        x, v = self.inner_norm(self.project(u)).chunk(2, dim=-1)
        return self.norm(self.back(v * self.conv(x.transpose(1, 2)).transpose(1, 2)))


class UsualS4D(nn.Module):
    """The diagonal state space, by the naive kernel and rfft."""

    def __init__(self, width, modes, dropout):
        super().__init__()
        self.log_dt, self.D = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.log_A_real, self.A_imag = (nn.Parameter(torch.zeros(width, modes)) for _ in range(2))
        self.C = nn.Parameter(torch.zeros(width, modes, 2))
        self.mix = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u):  # noqa: D102
        u = u.transpose(1, 2)
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        k = naive_kernel(A, torch.view_as_complex(self.C), self.log_dt.exp(), length=u.shape[-1])
        y = fft_by_autograd(u, k) + self.D[:, None] * u
        return nn.functional.glu(self.mix(self.dropout(nn.functional.gelu(y)).transpose(1, 2)), dim=-1)


class UsualLyra(nn.Module):
    """A network with the parameter names of `Lyra`, so that it can load its weights."""

    def __init__(self, width=64, gates=(16, 128), modes=32, dropout=0.2):
        super().__init__()
        self.encode = nn.Linear(LETTERS, width)
        self.gates = nn.ModuleList(UsualPGC(width, inner) for inner in gates)
        self.norm = nn.RMSNorm(width)
        self.state_space = UsualS4D(width, modes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, OUTPUTS)

    def forward(self, x):  # noqa: D102
        u = self.encode(x)
        for gate in self.gates:
            u = gate(u)
        return self.head((u + self.dropout(self.state_space(self.norm(u)))).mean(1))


def nets():
    torch.manual_seed(0)
    ours, usual = Lyra.paper(LETTERS, OUTPUTS), UsualLyra()
    usual.load_state_dict(ours.state_dict())
    return {"ours": ours, "usual": usual}


def data(B, T, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = nn.functional.one_hot(torch.randint(0, LETTERS, (B, T), generator=generator), LETTERS).to(dtype)
    return x, torch.randn(B, OUTPUTS, generator=generator).to(dtype)


def step(net, optimizer, x, y):
    optimizer.zero_grad()
    (net(x) - y).square().mean().backward()
    optimizer.step()


def forward(net, x):
    with torch.inference_mode():
        return net(x)


def check(T, batch):
    """Compare outputs and gradients in double precision and without dropout."""
    x, y = data(batch, T, torch.float64)
    found = []
    for net in nets().values():
        net.double().eval()
        out = net(x)
        (out - y).square().mean().backward()
        found.append({"output": out.detach()} | {name: p.grad for name, p in net.named_parameters()})
    for name, right in found[1].items():
        error = float((found[0][name] - right).abs().max() / right.abs().max().clamp(min=1e-9))
        # the usual implementation takes logarithms where the kernel needs powers, and loses digits for large T
        assert error < 1e-6, (T, batch, name, error)


def check_kernel(A, C, dt, T):
    wide = kernel(A.to(torch.complex128), C.to(torch.complex128), dt.double(), length=T)
    narrow = kernel(A, C, dt, length=T)
    assert (narrow - wide).abs().max() / wide.abs().max() < 1e-4
    right = naive_kernel(A.to(torch.complex128), C.to(torch.complex128), dt.double(), length=T)
    assert (wide - right).abs().max() / right.abs().max() < 1e-9


def kernel_ratio(T, repeats):
    """Return the speed-up of the kernel over the naive one: of its value, and of value and gradient."""
    A = s4d_lin(32).repeat(64, 1)
    C = torch.randn(64, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    dt = torch.logspace(-3, -1, 64)
    check_kernel(A, C, dt, T)

    def value(form):
        with torch.no_grad():
            form(A, C, dt, length=T)

    def gradient(form):
        leaves = [tensor.clone().requires_grad_() for tensor in (A, C, dt)]
        form(*leaves, length=T).square().sum().backward()

    ours, usual, ours_step, usual_step = interleaved(
        [lambda: value(kernel), lambda: value(naive_kernel), lambda: gradient(kernel), lambda: gradient(naive_kernel)],
        repeats,
    )
    return round(usual / ours, 1), round(usual_step / ours_step, 1)


def measure(T, batch, repeats):
    """Return the median seconds of both networks: of a training step, and of a forward pass."""
    x, y = data(batch, T)
    both = nets()
    optimizers = {name: torch.optim.AdamW(net.parameters(), lr=1e-3) for name, net in both.items()}
    steps = interleaved([lambda n=n: step(both[n], optimizers[n], x, y) for n in both], repeats)
    for net in both.values():
        net.eval()
    return steps, interleaved([lambda net=net: forward(net, x) for net in both.values()], repeats)


def machine(threads):
    """Return the machine, for the JSON line."""
    return {"threads": threads, "cores": os.cpu_count(), "torch": torch.__version__}


def peak():
    """Return the peak memory of this process in MiB (Linux only, because `getrusage` includes the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def added_memory(name, T, batch):
    """Return the MiB that one training step adds to the peak, in a separate process."""
    command = [sys.executable, __file__, "--memory-of", name, "--lengths", str(T), "--batches", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory_of(name, T, batch):
    net = nets()[name]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    # warm-up: libraries that the first step loads are not memory of the step
    step(net, optimizer, *data(1, 16))
    x, y = data(batch, T)
    before = peak()
    step(net, optimizer, x, y)
    print(peak() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[20, 64, 256, 1024, 4096])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two short lengths, three repeats, no memory")
    parser.add_argument("--memory-of", choices=["ours", "usual"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_memory_of(options.memory_of, options.lengths[0], options.batches[0])
        return
    lengths, batches = ([20, 64], [1, 8]) if options.quick else (options.lengths, options.batches)
    result = {"benchmark": "bio_speed", **machine(options.threads)}
    result |= {"step": {}, "forward": {}, "memory": {}, "seconds": {}}
    print("positions  batch   step: ms usual    ms ours  ratio   forward: ratio   memory of a step: MiB usual  ours")
    for batch in batches:
        for T in lengths:
            check(T, min(batch, 3))
            repeats = 3 if options.quick else 5 if batch * T > 2**16 else 25 if batch * T > 2**12 else 75
            (ours, usual), (ours_forward, usual_forward) = measure(T, batch, repeats)
            key = f"{batch}x{T}"
            result["step"][key] = round(usual / ours, 2)
            result["forward"][key] = round(usual_forward / ours_forward, 2)
            result["seconds"][key] = [round(ours, 5), round(usual, 5)]
            memory = [] if options.quick else [added_memory(name, T, batch) for name in ("usual", "ours")]
            result["memory"][key] = [round(mib, 1) for mib in memory]
            print(
                f"{T:9d} {batch:6d} {1e3 * usual:16.1f} {1e3 * ours:10.1f} {usual / ours:6.2f}"
                f" {usual_forward / ours_forward:16.2f}   " + " ".join(f"{mib:12.1f}" for mib in memory),
                flush=True,
            )
    longest = max(lengths)
    value, gradient = kernel_ratio(longest, 3 if options.quick else 15)
    result["kernel"] = {"positions": longest, "value": value, "value_and_gradient": gradient}
    print(f"kernel alone at {longest}: {value}× ({gradient}× with its gradient)")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
