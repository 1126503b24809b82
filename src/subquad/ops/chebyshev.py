r"""Chebyshev filter on a kNN graph of particles: O(K N H) on N edges instead of O(K P² H) on all pairs.

$y = \sum_{k=0}^{K-1} T_k(\tilde L)\, x\, W_k$ (PCN, arXiv:2309.08630, after Eq. (4) of arXiv:1606.09375), where
$\tilde L = 2L/\lambda_{max} - I$ is the rescaled normalised Laplacian of one jet.

Axes: B jets, P particles (padded to the longest jet), D coordinates, H channels in, F channels out, K terms; C real
particles of all jets, N entries that are not 0. `mask` is true where a particle is real; a padded particle has no edge.

Differences from the paper's code: $\lambda_{max}$ is the upper bound 2 for every jet and not an eigenvalue of the whole
batch, so that a jet's result does not depend on the other jets of its batch. All neighbours that are as near as the
k-th are taken, so that neither the order of the particles nor padding changes the graph.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from subquad.ops.precision import exact

__all__ = [
    "Rows",
    "chebyshev",
    "chebyshev_direct",
    "chebyshev_rows",
    "chebyshev_terms",
    "knn_adjacency",
    "rows",
    "scaled_laplacian",
]


TIE = 1e-5
"""Relative difference of two distances up to which they are equal."""


class Rows(NamedTuple):
    r"""The rows of $\tilde L$ of the real particles of all jets, concatenated, without zeros and without padding.

    `value[n]` is in column `column[n]`; the entries of row c begin at `start[c]`.
    """

    column: Int[Tensor, " N"]
    value: Float[Tensor, " N"]
    start: Int[Tensor, " C"]


def knn_adjacency(
    points: Float[Tensor, "B P D"], mask: Bool[Tensor, "B P"], k: int, *, periodic: Sequence[int] = ()
) -> Float[Tensor, "B P P"]:
    r"""Return the symmetric 0/1 matrix of edges: i and j are joined if either is among the k nearest of the other.

    All that are as near as the k-th, within `TIE`, are joined. Costs O(D P²) for the distances. A jet of at most k
    particles is fully connected.

    Args:
        points: Coordinates of the particles; those of padded particles are ignored.
        mask: True where a particle is real.
        k: Number of nearest neighbours of each particle; symmetrisation can add more.
        periodic: Which of the D coordinates are angles, compared modulo $2\pi$.

    Raises:
        ValueError: `k` is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    # in float64, so that ties are the same by every way of computing them
    dtype, points = points.dtype, exact(points.detach().masked_fill(~mask[..., None], 0))
    B, P, D = points.shape
    distance = points.new_zeros(B, P, P)
    # one coordinate after the other: a [B, P, P, D] tensor would be the largest of the whole model
    for d in range(D):
        x = points[..., d]
        difference = x[:, :, None] - x[:, None, :]
        if d in periodic:
            difference = torch.remainder(difference + math.pi, 2 * math.pi) - math.pi
        distance.addcmul_(difference, difference)
    joined = mask[:, :, None] & mask[:, None, :] & ~torch.eye(P, dtype=torch.bool, device=points.device)
    distance.masked_fill_(~joined, math.inf)
    farthest = distance.topk(min(k, P), dim=-1, largest=False).values[..., -1:]
    is_near = distance <= farthest * (1 + TIE) ** 2
    return ((is_near | is_near.mT) & joined).to(dtype)


def scaled_laplacian(adjacency: Float[Tensor, "B P P"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B P P"]:
    r"""Return $\tilde L = 2L/\lambda_{max} - I$ with $L = I - D^{-1/2} A D^{-1/2}$ and $\lambda_{max} = 2$.

    So $\tilde L = -D^{-1/2} A D^{-1/2}$, whose eigenvalues lie in [-1, 1]. The rows and columns of isolated and of
    padded particles are 0. Edge weights may be any symmetric, non-negative matrix; its gradient is finite everywhere.
    """
    joined = mask[:, :, None] & mask[:, None, :]
    adjacency = adjacency.masked_fill(~joined, 0)
    degree = adjacency.sum(-1)
    # the inner `where` keeps 1/sqrt(0) out of the backward pass
    has_edge = degree > 0
    scale = torch.where(has_edge, torch.where(has_edge, degree, 1).rsqrt(), 0)
    return -scale[:, :, None] * adjacency * scale[:, None, :]


def rows(laplacian: Float[Tensor, "B P P"], mask: Bool[Tensor, "B P"]) -> Rows:
    """Return the matrix as one list of entries, for tables `x[mask]` that hold real particles only."""
    place = (mask.flatten().cumsum(0) - 1).reshape(mask.shape)
    b, i, j = laplacian.detach().nonzero(as_tuple=True)
    degree = (laplacian.detach() != 0).sum(-1)[mask]
    return Rows(place[b, j], laplacian[b, i, j], degree.cumsum(0) - degree)


def chebyshev_direct(
    x: Float[Tensor, "B P H"], weight: Float[Tensor, "K H F"], laplacian: Float[Tensor, "B P P"]
) -> Float[Tensor, "B P F"]:
    r"""Return the definition, $\sum_k T_k(\tilde L) x W_k$, with every $T_k$ as a polynomial in powers of $\tilde L$.

    $T_0 = 1$, $T_k(z) = \frac{k}{2} \sum_{m=0}^{\lfloor k/2 \rfloor} (-1)^m \frac{(k-m-1)!}{m!\,(k-2m)!} (2z)^{k-2m}$.
    O(K P³); more than a few terms need float64, since the coefficients grow as $2^k$ and cancel.
    """
    power = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(laplacian)
    powers = [power]
    for _ in range(1, weight.shape[0]):
        powers.append(powers[-1] @ (2 * laplacian))
    y = x @ weight[0]
    for k in range(1, weight.shape[0]):
        T_k = torch.zeros_like(laplacian)
        for m in range(k // 2 + 1):
            coefficient = k / 2 * math.factorial(k - m - 1) / (math.factorial(m) * math.factorial(k - 2 * m))
            T_k = T_k + (-1) ** m * coefficient * powers[k - 2 * m]
        y = y + T_k @ x @ weight[k]
    return y


def chebyshev_terms(
    x: Float[Tensor, "B P H"], K: int, laplacian: Float[Tensor, "B P P"]
) -> list[Float[Tensor, "B P H"]]:
    r"""Return $T_0(\tilde L)x, …, T_{K-1}(\tilde L)x$ by $T_k = 2 \tilde L T_{k-1} - T_{k-2}$: O(K P² H)."""
    terms = [x]
    if K > 1:
        terms.append(torch.bmm(laplacian, x))
    for _ in range(2, K):
        terms.append(torch.baddbmm(terms[-2], laplacian, terms[-1], beta=-1, alpha=2))
    return terms


def chebyshev(
    x: Float[Tensor, "B P H"], weight: Float[Tensor, "K H F"], laplacian: Float[Tensor, "B P P"]
) -> Float[Tensor, "B P F"]:
    r"""Compute `chebyshev_direct` by the three-term recurrence with dense batched products: O(K P² min(H, F)).

    If the filter reduces the channels (H > F), Clenshaw's recurrence evaluates the sum on F channels instead of H:
    $b_k = x W_k + 2 \tilde L b_{k+1} - b_{k+2}$, $y = x W_0 + \tilde L b_1 - b_2$.
    """
    K, H, F = weight.shape
    if _is_fixed(laplacian):
        B, P, _ = x.shape

        def dense_hop(u: Tensor, before: Tensor | None) -> Tensor:
            jets = u.reshape(B, P, u.shape[-1])
            if before is None:
                return torch.bmm(laplacian, jets).reshape(u.shape)
            return torch.baddbmm(before.reshape(jets.shape), laplacian, jets, beta=-1, alpha=2).reshape(u.shape)

        return cast(Tensor, _Filter.apply(x.reshape(B * P, H), weight, dense_hop)).reshape(B, P, F)
    if H <= F:
        terms = torch.cat(chebyshev_terms(x, K, laplacian), dim=-1)
        return terms @ weight.reshape(K * H, F)
    b = (x @ weight.permute(1, 0, 2).reshape(H, K * F)).split(F, dim=-1)
    after, last = torch.zeros_like(b[0]), torch.zeros_like(b[0])
    for k in range(K - 1, 0, -1):
        after, last = torch.baddbmm(b[k] - last, laplacian, after, alpha=2), after
    return torch.baddbmm(b[0] - last, laplacian, after)


_HopForm = Callable[[Tensor, Tensor | None], Tensor]
r"""From $u$ and None to $\tilde L u$; from $u$ and $v$ to $2 \tilde L u - v$. On tables [B·P, H] of all particles."""


def _recurrence(x: Tensor, K: int, hop: _HopForm) -> Iterator[Tensor]:
    before, last = None, x
    yield last
    for _ in range(1, K):
        before, last = last, hop(last, before)
        yield last


class _Filter(torch.autograd.Function):
    r"""The filter on a graph without gradient; saves only its input, where autograd would save all K terms.

    The filter is its own adjoint: with $S_k = T_k(\tilde L)\, \partial y$ the gradient of $x$ is $\sum_k S_k W_k^T$ and
    that of $W_k$ is $x^T S_k$, so the backward pass is the same recurrence, whose terms stay in the cache one by one.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, hop: _HopForm) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.hop = hop
        K, H, F = weight.shape
        if K == 1 or H <= F:
            y = x @ weight[0]
            for k, term in enumerate(_recurrence(x, K, hop)):
                if k:
                    y.addmm_(term, weight[k])
            return y
        after, last = x @ weight[K - 1], None
        for k in range(K - 2, 0, -1):
            # the first hop is of twice the matrix too, with nothing to take from it
            folded = hop(after, torch.zeros_like(after) if last is None else last)
            after, last = folded.addmm_(x, weight[k]), after
        y = hop(after, None).addmm_(x, weight[0])
        return y if last is None else y.sub_(last)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        K, gradient = weight.shape[0], gradients[0].contiguous()
        if not ctx.needs_input_grad[0]:
            # if the filter adds channels, as in the first layer: on the fewer input channels
            return None, torch.stack([term.T @ gradient for term in _recurrence(x, K, ctx.hop)]), None
        of_x, of_weight = torch.zeros_like(x), []
        for k, term in enumerate(_recurrence(gradient, K, ctx.hop)):
            of_x.addmm_(term, weight[k].T)
            of_weight.append(x.T @ term)
        return of_x, torch.stack(of_weight), None


def _is_fixed(matrix: Tensor) -> bool:
    # autocast sets the dtype of single products and does not reach inside `_Filter`
    return not matrix.requires_grad and not torch.is_autocast_enabled(matrix.device.type)


def chebyshev_rows(x: Float[Tensor, "C H"], weight: Float[Tensor, "K H F"], graph: Rows) -> Float[Tensor, "C F"]:
    """Compute `chebyshev_direct` on the real particles only: O(K N min(H, F)), at any lengths of the jets.

    The matrix must be symmetric, as `scaled_laplacian` makes it; the backward pass relies on it.
    """
    K, H, F = weight.shape
    once = graph.value
    twice = 2 * once

    def hop(u: Tensor, before: Tensor | None) -> Tensor:
        value = once if before is None else twice
        moved = functional.embedding_bag(graph.column, u, graph.start, mode="sum", per_sample_weights=value)
        return moved if before is None else moved.sub_(before)

    # autocast runs the products in half precision, and the hops between them need one dtype
    x = x.to(once.dtype)
    if _is_fixed(once):
        return cast(Tensor, _Filter.apply(x, weight, hop))
    return torch.cat(list(_recurrence(x, K, hop)), dim=-1) @ weight.reshape(K * H, F)
