r"""Projected gated convolution of Lyra (arXiv:2503.16351): O(T); multiplies features of neighbouring positions.

$$ [x, v] = \mathrm{norm}(W_1 u + b_1), \qquad y = \mathrm{norm}(W_2\,(v \odot \mathrm{conv}_3(x)) + b_2) $$

The norms are RMS norms with a gain. The convolution is depthwise, over three
neighbours, with zeros beyond both ends and at padded positions.

Axes: B sequences, T positions, H channels, M channels of the gate.

| form         | multiplications per position | memory kept for backward | use            |
|--------------|------------------------------|--------------------------|----------------|
| `pgc_direct` | 3 H M + 4 M                  | 9 M + 4 H                | the definition; GPU |
| `pgc`        | 3 H M + 4 M                  | H                        | CPU: a window at a time, in the cache |
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from subquad.ops.linear import product

__all__ = ["PGCWeights", "pgc", "pgc_direct"]

NUMBERS_AT_ONCE = 2**17
"""Number of elements of the projection that are computed at once: about what fits into the cache of one core."""
FEW_NUMBERS = 2**14
"""Number of elements of the projection up to which the definition is faster, because it makes fewer calls."""


class PGCWeights(NamedTuple):
    """The parameters, in the layouts of `nn.Linear`, `nn.RMSNorm` and a depthwise `nn.Conv1d`."""

    project: Float[Tensor, "2*M H"]
    project_bias: Float[Tensor, " 2*M"]
    inner_gain: Float[Tensor, " 2*M"]
    kernel: Float[Tensor, "M 1 3"]
    kernel_bias: Float[Tensor, " M"]
    back: Float[Tensor, "H M"]
    back_bias: Float[Tensor, " H"]
    gain: Float[Tensor, " H"]


def pgc_direct(
    u: Float[Tensor, "B T H"], weights: PGCWeights, mask: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, "B T H"]:
    """Return the definition, term by term; padded positions are 0."""
    functional, w = nn.functional, weights
    p = functional.linear(u, w.project, w.project_bias)
    x, v = functional.rms_norm(p, p.shape[-1:], w.inner_gain).chunk(2, dim=-1)
    # masked before the convolution: the projection's bias has made padded positions non-zero
    a = functional.conv1d(_masked(x, mask).mT, w.kernel, w.kernel_bias, padding=1, groups=len(w.kernel)).mT
    z = functional.linear(v * a, w.back, w.back_bias)
    return _masked(functional.rms_norm(z, z.shape[-1:], w.gain), mask)


def pgc(
    u: Float[Tensor, "B T H"], weights: PGCWeights, mask: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, "B T H"]:
    """Compute `pgc_direct` a few positions at a time.

    The backward pass is written by hand and is not differentiable.
    """
    w, M = weights, len(weights.kernel)
    is_plain = u.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if u.device.type != "cpu" or not is_plain or u.shape[0] * u.shape[1] * 2 * M <= FEW_NUMBERS:
        return pgc_direct(u, weights, mask)
    # the inner gain goes into the matrices behind it: one pass over all positions less
    taps = (w.kernel[:, 0] * w.inner_gain[:M, None]).T.contiguous()
    back = w.back * w.inner_gain[M:]
    return _PGC.apply(u, mask, w.project, w.project_bias, taps, w.kernel_bias, back, w.back_bias, w.gain)


class _PGC(torch.autograd.Function):
    """Saves only u for the backward pass: recomputing the rest is cheaper than a round trip through memory."""

    @staticmethod
    def forward(
        ctx: Any, u: Float[Tensor, "B T H"], mask: Bool[Tensor, "B T"] | None, *weights: Tensor
    ) -> Float[Tensor, "B T H"]:
        ctx.save_for_backward(u, mask, *weights)
        result = torch.empty_like(u)
        for rows, inside, reach in _windows(u, weights):
            hidden = None if mask is None else ~mask[rows, reach, None]
            z = _forward(u[rows, reach], hidden, weights)[-2] * weights[-1]
            if hidden is not None:
                z.masked_fill_(hidden, 0.0)
            before = inside.start - reach.start
            result[rows, inside] = z[:, before : before + inside.stop - inside.start]
        return result

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Float[Tensor, "B T H"]
    ) -> tuple[Tensor | None, ...]:
        u, mask, *weights = ctx.saved_tensors
        for_u, sums = torch.zeros_like(u), [torch.zeros_like(w) for w in weights]
        for rows, inside, reach in _windows(u, weights):
            hidden = None if mask is None else ~mask[rows, reach, None]
            # the neighbours on both sides belong to other windows, which compute their gradients
            around = (inside.start - reach.start, reach.stop - inside.stop)
            g = nn.functional.pad(gradients[0][rows, inside], (0, 0, *around))
            g_u, *more = _backward(g if hidden is None else g.masked_fill(hidden, 0.0), u[rows, reach], hidden, weights)
            for_u[rows, reach] += g_u
            sums = [total + part for total, part in zip(sums, more, strict=True)]
        return for_u, None, *sums


def _forward(u: Float[Tensor, "b T H"], hidden: Bool[Tensor, "b T 1"] | None, weights: Sequence[Tensor]) -> tuple:
    """Return the factors of each product; p and z are normalised without the gain, followed by their scales."""
    project, project_bias, taps, kernel_bias, back, back_bias, _ = weights
    p, p_scale = _normalise(product(u, project, project_bias))
    x, v = p.chunk(2, dim=-1)
    if hidden is not None:
        x.masked_fill_(hidden, 0.0)
    # three shifted products: `conv1d` expects the channels before the positions, which takes two more copies
    a = torch.addcmul(kernel_bias, x, taps[1])
    a[:, 1:].addcmul_(x[:, :-1], taps[0])
    a[:, :-1].addcmul_(x[:, 1:], taps[2])
    y = a * v
    z, z_scale = _normalise(product(y, back, back_bias))
    return p, p_scale, a, y, z, z_scale


def _backward(
    g: Float[Tensor, "b T H"], u: Tensor, hidden: Bool[Tensor, "b T 1"] | None, weights: Sequence[Tensor]
) -> list[Tensor]:
    """Return the gradients of u and of the weights from the gradient of the output."""
    project, _, taps, _, back, _, gain = weights
    p, p_scale, a, y, z, z_scale = _forward(u, hidden, weights)
    x, v = p.chunk(2, dim=-1)
    for_gain = (g * z).sum((0, 1))
    g_z = _normalise_backward(g * gain, z, z_scale).flatten(0, 1)
    g_a = product(g_z, back.T).view_as(a)
    g_p = torch.empty_like(p)
    g_x, g_v = g_p.chunk(2, dim=-1)
    torch.mul(g_a, a, out=g_v)
    g_a *= v
    torch.mul(g_a, taps[1], out=g_x)
    g_x[:, :-1].addcmul_(g_a[:, 1:], taps[0])
    g_x[:, 1:].addcmul_(g_a[:, :-1], taps[2])
    if hidden is not None:
        g_x.masked_fill_(hidden, 0.0)
    pairs = ((g_a[:, 1:], x[:, :-1]), (g_a, x), (g_a[:, :-1], x[:, 1:]))
    for_taps = torch.stack([(after * before).sum((0, 1)) for after, before in pairs])
    g_p = _normalise_backward(g_p, p, p_scale).flatten(0, 1)
    return [
        product(g_p, project.T).view_as(u),
        product(g_p.T, u.flatten(0, 1).T),
        g_p.sum(0),
        for_taps,
        g_a.sum((0, 1)),
        product(g_z.T, y.flatten(0, 1).T),
        g_z.sum(0),
        for_gain,
    ]


def _windows(u: Float[Tensor, "B T H"], weights: Sequence[Tensor]) -> Iterator[tuple[slice, slice, slice]]:
    """Yield rows, positions and the positions that those depend on: one more on each side inside the sequence.

    A window is several sequences or a part of one; its projection has about `NUMBERS_AT_ONCE` elements.
    """
    B, T, _ = u.shape
    positions = max(1, NUMBERS_AT_ONCE // len(weights[0]))
    rows, length = max(1, positions // T), min(T, positions)
    for row in range(0, B, rows):
        for begin in range(0, T, length):
            end = min(begin + length, T)
            yield slice(row, row + rows), slice(begin, end), slice(max(begin - 1, 0), min(end + 1, T))


def _normalise(p: Float[Tensor, "b T W"]) -> tuple[Tensor, Float[Tensor, "b T 1"]]:
    """Divide by the root mean square in place; return the result and the factor."""
    W = p.shape[-1]
    scale = torch.linalg.vector_norm(p, dim=-1, keepdim=True).square_().div_(W).add_(torch.finfo(p.dtype).eps).rsqrt_()
    return p.mul_(scale), scale


def _normalise_backward(g: Tensor, p: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of the norm's input from that of its output; overwrites `g`."""
    along = (g * p).mean(-1, keepdim=True)
    return g.addcmul_(p, along, value=-1.0).mul_(scale)


def _masked(x: Float[Tensor, "B T H"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T H"]:
    # `where` and not a product, so that a NaN in a padded position is removed
    return x if mask is None else torch.where(mask[:, :, None], x, 0.0)
