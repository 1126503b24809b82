r"""Diagonal state space: a convolution whose kernel is a sum of N decaying waves, so it is also a recurrence.

$$ x_t = \bar A x_{t-1} + \bar B u_t, \qquad y_t = 2\,\mathrm{Re} \sum_n C_n x_{t,n}, \qquad
   \bar A = e^{\Delta A}, \quad \bar B = (\bar A - 1) / A $$

Zero-order hold with B = 1, Eq. (2) and (4) of arXiv:2206.11893 (S4D). The modes come in conjugate pairs of which one is
kept, hence the 2 Re. Unrolled, $y = k * u$ with $k_t = 2\,\mathrm{Re} \sum_n C_n \bar B_n \bar A_n^t$.

A padded position (`mask` False) counts as the input 0 and gives the output 0. `C_reverse` adds the same operator run
from the last position to the first.

Axes: B sequences, H channels, T positions, N modes.

| form          | cost a channel                    | memory of the kernel | use                    |
|---------------|-----------------------------------|----------------------|------------------------|
| `s4d_direct`  | N T + B T²                        | H N T                | the definition         |
| `s4d`         | N T (one matrix product) + B T log T | H N √T            | training               |
| `s4d_scan`    | B N T, one position after another | none                 | definition of the state |
| `s4d_step`    | B N for one position              | none                 | generation             |
"""

import math

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from subquad.ops.longconv import longconv, longconv_direct

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
    r"""Return the S4D-Lin start of A, $A_n = -\tfrac12 + i \pi n$ (Eq. (9) of arXiv:2206.11893)."""
    n = torch.arange(modes, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n).to(torch.complex64)


def discretise(
    A: Complex[Tensor, "H N"], dt: Float[Tensor, " H"]
) -> tuple[Complex[Tensor, "H N"], Complex[Tensor, "H N"]]:
    r"""Return $\bar A = e^{\Delta A}$ and $\bar B = (\bar A - 1)/A$, the zero-order hold."""
    dtA = dt[:, None] * A
    grow, turn = dtA.real, dtA.imag
    # e^z - 1 without the cancellation that costs float32 four digits at dt = 1e-3
    real = torch.expm1(grow) * turn.cos() - 2 * (turn / 2).sin() ** 2
    return dtA.exp(), torch.complex(real, grow.exp() * turn.sin()) / A


def kernel_direct(
    A: Complex[Tensor, "H N"], C: Complex[Tensor, "H N"], dt: Float[Tensor, " H"], *, length: int
) -> Float[Tensor, "H T"]:
    r"""Return $k_t = 2\,\mathrm{Re} \sum_n C_n \bar B_n e^{t \Delta A_n}$, the definition, by a Vandermonde matrix."""
    _, Bbar = discretise(A, dt)
    t = torch.arange(length, device=dt.device, dtype=dt.dtype)
    # [H, N, T]
    V = (dt[:, None, None] * A[:, :, None] * t).exp()
    return 2 * torch.einsum("hn,hnt->ht", C * Bbar, V).real


def kernel(
    A: Complex[Tensor, "H N"], C: Complex[Tensor, "H N"], dt: Float[Tensor, " H"], *, length: int
) -> Float[Tensor, "H T"]:
    r"""Equal `kernel_direct`, by $e^{t\Delta A} = e^{ib\Delta A} e^{j\Delta A}$, $t = ib + j$ and $b \approx \sqrt T$.

    Only 2 √T exponentials a mode are taken, and no H × N × T tensor is made: the sum over modes is one real product.
    """
    b = max(1, math.isqrt(max(length - 1, 0)) + 1)
    _, Bbar = discretise(A, dt)
    dtA = dt[:, None, None] * A[:, :, None]
    place = torch.arange(b, device=dt.device, dtype=dt.dtype)
    start = place[: -(-length // b)] * b
    # [H, N, √T] twice
    coarse = 2 * (C * Bbar)[:, :, None] * (dtA * start).exp()
    fine = (dtA * place).exp()
    left = torch.cat([coarse.real, -coarse.imag], dim=1)
    right = torch.cat([fine.real, fine.imag], dim=1)
    return torch.bmm(left.transpose(1, 2), right).flatten(1)[:, :length]


def s4d_direct(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Return the definition: the whole kernel, convolved term by term."""
    T = u.shape[-1]
    ahead = None if C_reverse is None else kernel_direct(A, C_reverse, dt, length=T)
    return _masked(longconv_direct(_masked(u, mask), kernel_direct(A, C, dt, length=T), ahead), mask)


def s4d(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Equal `s4d_direct`, by the split kernel and the fast convolution."""
    T = u.shape[-1]
    ahead = None if C_reverse is None else kernel(A, C_reverse, dt, length=T)
    return _masked(longconv(_masked(u, mask), kernel(A, C, dt, length=T), ahead), mask)


def s4d_scan(
    u: Float[Tensor, "B H T"],
    A: Complex[Tensor, "H N"],
    C: Complex[Tensor, "H N"],
    *,
    dt: Float[Tensor, " H"],
    C_reverse: Complex[Tensor, "H N"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T"]:
    """Equal `s4d_direct`, by the recurrence: constant memory beside the output, T steps one after another."""
    u = _masked(u, mask)
    state = A.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[-1]):
        y_t, state = s4d_step(u[..., t], state, A, C=C, dt=dt)
        y.append(y_t)
    result = torch.stack(y, dim=-1)
    if C_reverse is not None:
        result = result + s4d_scan(u.flip(-1), A, C_reverse, dt=dt).flip(-1)
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
    # where, not a product: a padded NaN must not survive
    return x if mask is None else torch.where(mask[:, None, :], x, 0.0)
