r"""Diagonal state space: a convolution whose kernel is a sum of N decaying modes, which is also a linear recurrence.

$$ x_t = \bar A x_{t-1} + \bar B u_t, \qquad y_t = 2\,\mathrm{Re} \sum_n C_n x_{t,n}, \qquad
   \bar A = e^{\Delta A}, \quad \bar B = (\bar A - 1) / A $$

Zero-order hold with B = 1, Eq. (2) and (4) of arXiv:2206.11893 (S4D). The modes come in conjugate pairs, of which
one is stored, hence the 2 Re. Unrolled, $y = k * u$ with $k_t = 2\,\mathrm{Re} \sum_n C_n \bar B_n \bar A_n^t$.

A padded position (`mask` False) is treated as input 0 and has output 0. `C_reverse` adds the same operator in the
reverse direction; `D` adds the skip connection $D u_t$.

Axes: B sequences, H channels, T positions, N modes.

| form          | cost per channel                  | memory of the kernel | use                    |
|---------------|-----------------------------------|----------------------|------------------------|
| `s4d_direct`  | N T + B T²                        | H N T                | the definition         |
| `s4d`         | N T (one matrix product) + B T log T | H N √T            | training               |
| `s4d_scan`    | B N T, one position after another | none                 | definition of the state |
| `s4d_step`    | B N for one position              | none                 | generation             |
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from subquad.ops.longconv import longconv, longconv_direct
from subquad.ops.precision import autocast_disabled

__all__ = [
    "discretise",
    "kernel",
    "kernel_direct",
    "s4d",
    "s4d_direct",
    "s4d_lin",
    "s4d_scan",
    "s4d_step",
]


def s4d_lin(modes: int) -> Complex[Tensor, " N"]:
    r"""Return the S4D-Lin initialization of A, $A_n = -\tfrac12 + i \pi n$ (Eq. (9) of arXiv:2206.11893)."""
    n = torch.arange(modes, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n).to(torch.complex64)


def discretise(
    A: Complex[Tensor, "H N"], dt: Float[Tensor, " H"]
) -> tuple[Complex[Tensor, "H N"], Complex[Tensor, "H N"]]:
    r"""Return $\bar A = e^{\Delta A}$ and $\bar B = (\bar A - 1)/A$, the zero-order hold."""
    dtA = dt[:, None] * A
    return dtA.exp(), _driven(dtA, A)


def _driven(dtA: Complex[Tensor, "H N"], A: Complex[Tensor, "H N"]) -> Complex[Tensor, "H N"]:
    r"""Return $\bar B$."""
    grow, turn = dtA.real, dtA.imag
    # e^z - 1 without the cancellation that costs float32 four digits at dt = 1e-3
    real = torch.expm1(grow) * turn.cos() - 2 * (turn / 2).sin() ** 2
    return torch.complex(real, grow.exp() * turn.sin()) / A


def kernel_direct(
    A: Complex[Tensor, "H N"], C: Complex[Tensor, "H N"], dt: Float[Tensor, " H"], *, length: int
) -> Float[Tensor, "H T"]:
    r"""Return $k_t = 2\,\mathrm{Re} \sum_n C_n \bar B_n e^{t \Delta A_n}$, by a Vandermonde matrix: the definition."""
    _, Bbar = discretise(A, dt)
    t = torch.arange(length, device=dt.device, dtype=dt.dtype)
    # [H, N, T]
    V = (dt[:, None, None] * A[:, :, None] * t).exp()
    return 2 * torch.einsum("hn,hnt->ht", C * Bbar, V).real


def kernel(
    A: Complex[Tensor, "H N"], C: Complex[Tensor, "H N"], dt: Float[Tensor, " H"], *, length: int
) -> Float[Tensor, "H T"]:
    r"""Compute `kernel_direct` from $e^{t\Delta A} = e^{ib\Delta A} e^{j\Delta A}$ with $t = ib + j$.

    With $b \approx \sqrt T$ it takes 2 √T exponentials per mode instead of T and makes no H × N × T tensor: the sum
    over modes is a matrix product.
    """
    dtA = dt[:, None] * A
    return _SplitKernel.apply(dtA, 2 * C * _driven(dtA, A), length)


class _SplitKernel(torch.autograd.Function):
    r"""$k_t = \mathrm{Re} \sum_n w_n e^{t z_n}$, with $p_i = e^{ibz}$ and $q_j = e^{jz}$, and its two gradients."""

    @staticmethod
    def forward(ctx: Any, z: Complex[Tensor, "H N"], w: Complex[Tensor, "H N"], length: int) -> Float[Tensor, "H T"]:
        b = max(1, math.isqrt(max(length - 1, 0)) + 1)
        j = torch.arange(b, device=z.device, dtype=z.real.dtype)
        i = j[: -(-length // b)] * b
        # [H, N, √T] each
        p, q = _wave(z, i), _wave(z, j)
        ctx.save_for_backward(w, i, j, *p, *q)
        w_re, w_im = w.real[:, :, None], w.imag[:, :, None]
        left = torch.cat([w_re * p[0] - w_im * p[1], -w_re * p[1] - w_im * p[0]], dim=1)
        with autocast_disabled(z.device.type):
            return torch.bmm(left.transpose(1, 2), torch.cat(q, dim=1)).flatten(1)[:, :length]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "H T"]
    ) -> tuple[Tensor, Tensor, None]:
        w, i, j, p_re, p_im, q_re, q_im = ctx.saved_tensors
        g = nn.functional.pad(gradients[0], (0, len(i) * len(j) - gradients[0].shape[1])).unflatten(1, (len(i), len(j)))
        # the sums over j of g q and of g j q, [H, N, √T]
        with autocast_disabled(g.device.type):
            sums = torch.bmm(torch.cat([q_re, q_im, j * q_re, j * q_im], dim=1), g.transpose(1, 2)).chunk(4, dim=1)
        p, over, over_j = torch.complex(p_re, p_im), torch.complex(*sums[:2]), torch.complex(*sums[2:])
        # the gradient of Re f(z) is the conjugate of f'(z)
        for_z = (w * (p * (i * over + over_j)).sum(-1)).conj()
        return for_z, (p * over).sum(-1).conj(), None


def _wave(z: Complex[Tensor, "H N"], t: Float[Tensor, " k"]) -> tuple[Tensor, Tensor]:
    r"""Return the real and the imaginary part of $e^{tz}$."""
    # real functions take a tenth of the time of the complex exponential
    size, angle = (z.real[:, :, None] * t).exp(), z.imag[:, :, None] * t
    return size * angle.cos(), size * angle.sin()


def s4d_direct(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    D: Float[Tensor, " H"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Return the definition: the whole kernel, convolved term by term."""
    T = u.shape[-1]
    later = None if C_reverse is None else kernel_direct(A, C_reverse, dt, length=T)
    u = _masked(u, mask)
    y = longconv_direct(u, kernel_direct(A, C, dt, length=T), later)
    return _masked(y if D is None else y + D[:, None] * u, mask)


def s4d(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    D: Float[Tensor, " H"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Compute `s4d_direct` from the split kernel, with the skip added to its first element, and `longconv`."""
    T = u.shape[-1]
    later = None if C_reverse is None else kernel(A, C_reverse, dt, length=T)
    back = kernel(A, C, dt, length=T)
    if D is not None:
        back = back + nn.functional.pad(D[:, None], (0, T - 1))
    return _masked(longconv(_masked(u, mask), back, later), mask)


def s4d_scan(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    D: Float[Tensor, " H"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Compute `s4d_direct` by the recurrence: T sequential steps, with constant memory beside the output."""
    u = _masked(u, mask)
    state = A.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[-1]):
        y_t, state = s4d_step(u[..., t], state, A, C=C, dt=dt)
        y.append(y_t)
    result = torch.stack(y, dim=-1)
    if C_reverse is not None:
        result = result + s4d_scan(u.flip(-1), A, C_reverse, dt=dt).flip(-1)
    if D is not None:
        result = result + D[:, None] * u
    return _masked(result, mask)


def s4d_step(
    u: Float[Tensor, "B H"],
    state: Complex[Tensor, "B H N"],
    A: Complex[Tensor, "H N"],
    *,
    C: Complex[Tensor, "H N"],
    dt: Float[Tensor, " H"],
) -> tuple[Float[Tensor, "B H"], Complex[Tensor, "B H N"]]:
    """Return the output at one position and the state after it; the state before the first position is 0."""
    Abar, Bbar = discretise(A, dt)
    state = Abar * state + Bbar * u[:, :, None]
    return 2 * (C * state).sum(-1).real, state


def _masked(x: Float[Tensor, "B H T"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B H T"]:
    # `where` and not a product, so that a NaN in a padded position is removed
    return x if mask is None else torch.where(mask[:, None, :], x, 0.0)
