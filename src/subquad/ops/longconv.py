r"""Convolution with a kernel as long as the sequence: O(T log T) in place of the O(T²) definition.

$$ y_t = \sum_{s \le t} k_{t-s}\, u_s \;+\; \sum_{s \ge t} r_{s-t}\, u_s $$

`k` weights earlier positions and `r` (the argument `reverse`) later ones; without `reverse` the operator is causal.
Both kernels include the position itself, so the weight of $u_t$ in $y_t$ is $k_0 + r_0$. Each channel has its own
kernel (depthwise).

Axes: B sequences, H channels, T positions.

| form                 | multiplications per channel | memory beside u | use                                       |
|----------------------|-----------------------------|-----------------|-------------------------------------------|
| `longconv_direct`    | B T²                        | H T²            | the definition                            |
| `longconv_toeplitz`  | B T²                        | H T²            | short sequences: one matrix product       |
| `longconv`           | B T log T                   | B H T           | everything else; uses Toeplitz when short |
| `longconv_frozen`    | 8 B T²                      | 8 T²            | export: real numbers, no FFT              |
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from subquad.ops.precision import wide

__all__ = ["TOEPLITZ_LENGTH", "longconv", "longconv_direct", "longconv_frozen", "longconv_toeplitz"]

TOEPLITZ_LENGTH = 128
"""Up to this number of positions `longconv` multiplies by the Toeplitz matrix, which is then faster than the FFT.

With fewer than T / 2 sequences the FFT is used anyway: the gradient of the kernel costs H T² at any B.
"""


NUMBERS_AT_ONCE = 2**19
"""Number of elements that `longconv` transforms at once."""


def longconv_direct(
    u: Float[Tensor, "B H T"], k: Float[Tensor, "H T"], reverse: Float[Tensor, "H T"] | None = None
) -> Float[Tensor, "B H T"]:
    r"""Return the definition, term by term: $y_t = \sum_{s \le t} k_{t-s} u_s + \sum_{s \ge t} r_{s-t} u_s$."""
    t = torch.arange(u.shape[-1], device=u.device)
    lag = t[:, None] - t[None, :]
    # [H, T, T]: row t, column s
    M = torch.where(lag >= 0, k[:, lag.clamp(min=0)], 0.0)
    if reverse is not None:
        M = M + torch.where(lag <= 0, reverse[:, (-lag).clamp(min=0)], 0.0)
    return torch.einsum("hts,bhs->bht", M, u)


def longconv_toeplitz(
    u: Float[Tensor, "B H T"], k: Float[Tensor, "H T"], reverse: Float[Tensor, "H T"] | None = None
) -> Float[Tensor, "B H T"]:
    """Compute `longconv_direct` as one batched product with a Toeplitz matrix; its backward pass is written by hand."""
    # every lag from T-1 down to -(T-1), so that each row of the matrix is a window of it
    centre = k[:, :1] if reverse is None else k[:, :1] + reverse[:, :1]
    later = torch.zeros_like(k[:, 1:]) if reverse is None else reverse[:, 1:]
    lags = torch.cat([k[:, 1:].flip(-1), centre, later], dim=-1)
    return _Toeplitz.apply(wide(u), wide(lags)).to(u.dtype)


def longconv(
    u: Float[Tensor, "B H T"], k: Float[Tensor, "H T"], reverse: Float[Tensor, "H T"] | None = None
) -> Float[Tensor, "B H T"]:
    """Compute `longconv_direct` by FFT, or by the Toeplitz matrix for T ≤ `TOEPLITZ_LENGTH` and B ≥ T / 2.

    Half-precision input is transformed in float32. The backward pass is written by hand and is not differentiable.
    """
    T = u.shape[-1]
    if not len(u):
        # libraries of FFTs refuse empty batches
        return u * (k if reverse is None else k + reverse)
    if T <= TOEPLITZ_LENGTH and 2 * u.shape[0] >= T:
        return longconv_toeplitz(u, k, reverse)
    return _FFTConvolution.apply(wide(u), wide(_circular(k, reverse, _fast_length(2 * T - 1)))).to(u.dtype)


def longconv_frozen(
    u: Float[Tensor, "B H T"], k: Float[Tensor, "H T"], reverse: Float[Tensor, "H T"] | None = None
) -> Float[Tensor, "B H T"]:
    """Compute `longconv_direct` with real Fourier matrices: no complex tensors and no FFT, for export.

    The matrices depend on T alone and are shared by all channels; an exporter folds them into constants.
    """
    T, n = u.shape[-1], 2 * u.shape[-1]
    f = torch.arange(n // 2 + 1, device=u.device)
    t = torch.arange(n, device=u.device)
    # the product is reduced before it becomes an angle: large angles lose digits
    angle = (t[:, None] * f[None, :] % n).to(k.dtype) * (2 * torch.pi / n)
    cos, sin = angle.cos(), angle.sin()
    U_re, U_im = u @ cos[:T], -(u @ sin[:T])
    kernel = _circular(k, reverse, n)
    K_re, K_im = kernel @ cos, -(kernel @ sin)
    Y_re, Y_im = U_re * K_re - U_im * K_im, U_re * K_im + U_im * K_re
    # the first and the last frequency stand for themselves, the others also for their conjugates
    weight = torch.where((f == 0) | (f == n // 2), 1.0, 2.0).to(k.dtype) / n
    return (Y_re * weight) @ cos[:T].T - (Y_im * weight) @ sin[:T].T


def _circular(k: Float[Tensor, "H T"], reverse: Float[Tensor, "H T"] | None, n: int) -> Float[Tensor, "H n"]:
    """Return both kernels on one circle of n ≥ 2T - 1 positions: lag d at index d, lag -d at index n - d."""
    T = k.shape[-1]
    if reverse is None:
        return nn.functional.pad(k, (0, n - T))
    gap = k.new_zeros(k.shape[0], n - 2 * T + 1)
    return torch.cat([k[:, :1] + reverse[:, :1], k[:, 1:], gap, reverse[:, 1:].flip(-1)], dim=-1)


def _fast_length(least: int) -> int:
    """Return the smallest even number ≥ least whose prime factors are 2, 3 and 5: FFTs of such lengths are fast."""
    n = least + least % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


class _Toeplitz(torch.autograd.Function):
    """y = M u with M[t, s] = lags[T-1 - (t-s)]."""

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "B H T"], lags: Float[Tensor, "H L"]) -> Float[Tensor, "B H T"]:
        T = u.shape[-1]
        # window i holds row T-1-i of M; copies, since a batched product of strided matrices takes twice as long
        windows = lags.unfold(-1, T, 1).flip(1)
        by_channel = u.transpose(0, 1).contiguous()
        ctx.save_for_backward(by_channel, windows)
        return torch.bmm(by_channel, windows.transpose(1, 2)).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "B H T"]
    ) -> tuple[Tensor | None, Tensor | None]:
        by_channel, windows = ctx.saved_tensors
        g = gradients[0].transpose(0, 1).contiguous()
        for_u = torch.bmm(g, windows).transpose(0, 1) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return for_u, None
        # the gradient of a lag is the sum along its diagonal; rows one place longer put diagonals into columns
        for_M = torch.bmm(g.transpose(1, 2), by_channel).flip(1)
        H, T, _ = for_M.shape
        skewed = nn.functional.pad(for_M, (0, T)).reshape(H, 2 * T * T)[:, : T * (2 * T - 1)].reshape(H, T, 2 * T - 1)
        return for_u, skewed.sum(1)


class _FFTConvolution(torch.autograd.Function):
    """Circular convolution of the kernel's length; four real FFTs of u's size, forward and backward."""

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "B H T"], kernel: Float[Tensor, "H n"]) -> Float[Tensor, "B H T"]:
        T, n = u.shape[-1], kernel.shape[-1]
        u = u.contiguous()
        result, spectra = torch.empty_like(u), []
        for part in _channels(u, n):
            U: Complex[Tensor, "B h f"] = torch.fft.rfft(u[:, part], n=n)
            K: Complex[Tensor, "h f"] = torch.fft.rfft(kernel[part], n=n)
            result[:, part] = torch.fft.irfft(U * K, n=n)[..., :T]
            if any(ctx.needs_input_grad):
                spectra += [U, K]
        ctx.save_for_backward(*spectra)
        ctx.places = n
        return result

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "B H T"]
    ) -> tuple[Tensor | None, Tensor | None]:
        spectra = ctx.saved_tensors
        g = gradients[0].contiguous()
        (_, H, T), n = g.shape, ctx.places
        for_u = torch.empty_like(g) if ctx.needs_input_grad[0] else None
        for_k = g.new_empty(H, n) if ctx.needs_input_grad[1] else None
        for part, U, K in zip(_channels(g, n), spectra[::2], spectra[1::2], strict=True):
            G = torch.fft.rfft(g[:, part], n=n)
            if for_u is not None:
                for_u[:, part] = torch.fft.irfft(G * K.conj(), n=n)[..., :T]
            if for_k is not None:
                # summed over the batch while still a spectrum: one small inverse transform in place of B
                for_k[part] = torch.fft.irfft((G * U.conj()).sum(0), n=n)
        return for_u, for_k


def _channels(u: Float[Tensor, "B H T"], n: int) -> Iterator[slice]:
    """Yield some of the channels at a time, so that their spectra stay in the cache."""
    size = max(1, NUMBERS_AT_ONCE // max(1, len(u) * n))
    for begin in range(0, u.shape[1], size):
        yield slice(begin, begin + size)
