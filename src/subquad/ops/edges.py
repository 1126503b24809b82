r"""Weighted graphs of particles as lists of edges: O(N) for N edges instead of the O(P²) of whole matrices.

A graph has each of its pairs in both directions, and symmetric weights; $\tilde L = -D^{-1/2} A D^{-1/2}$ as in
`subquad.ops.chebyshev`. G graphs share their edges and differ in the weights; each filters its own h channels.

| form                                | time of a hop | memory  | use                                    |
|-------------------------------------|---------------|---------|----------------------------------------|
| `chebyshev_terms` on whole matrices | O(G P² h)     | O(G P²) | the definition; ONNX                   |
| `chebyshev_edges`                   | O(G N h)      | O(G N)  | N is about 1.3 k P                     |
| `pair_means_direct`                 | O(P² m)       | O(P² m) | the definition                         |
| `pair_means`                        | O(N m)        | O(N m)  | a weight for each channel of each pair |

Axes: B jets, P particles of a padded jet, R = B P rows of the table of all particles, N directed edges sorted by their
first particle, G graphs, h channels of one graph, K terms; N/2 pairs, m channels.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from subquad.ops.chebyshev import Rows
from subquad.ops.kinematics import LEAST_ANGLE, LEAST_MASS, LEAST_PT, SIGNS, STRONGEST
from subquad.ops.precision import exact

__all__ = [
    "Edges",
    "chebyshev_edges",
    "edge_kinematics",
    "edge_laplacians",
    "edges_of",
    "pair_means",
    "pair_means_direct",
    "rows_of",
]

NUMBERS_AT_ONCE = 2**18
"""Number of gathered channels that fit into the cache of one core."""


class Edges(NamedTuple):
    """Pairs of particles that are joined, in both directions."""

    row: Int[Tensor, " N"]
    """Row of the first particle in the table of all, in ascending order."""
    column: Int[Tensor, " N"]
    """Row of the second particle."""
    start: Int[Tensor, " R"]
    """Number of the first edge of each row."""


def edges_of(adjacency: Float[Tensor, "B P P"]) -> Edges:
    """Return the edges of symmetric matrices that are not 0 where two particles are joined: O(B P²)."""
    B, P, _ = adjacency.shape
    jet, first, second = adjacency.nonzero(as_tuple=True)
    row = jet * P + first
    count = torch.bincount(row, minlength=B * P)
    return Edges(row, jet * P + second, count.cumsum(0) - count)


def rows_of(value: Float[Tensor, " N"], edges: Edges, mask: Bool[Tensor, "B P"]) -> Rows:
    """Return entries of a matrix on the edges as rows of the real particles, without padding."""
    is_real = mask.flatten()
    number = is_real.cumsum(0) - 1
    return Rows(number.index_select(0, edges.column), value, edges.start[is_real])


def edge_kinematics(
    vectors: Float[Tensor, "B P 4"], points: Float[Tensor, "B P 2"], edges: Edges
) -> Float[Tensor, "N 4"]:
    """Return `subquad.ops.kinematics.pair_kinematics` of the joined pairs."""
    row, column = edges.row, edges.column
    vectors, points = vectors.flatten(0, 1), points.flatten(0, 1)
    apart = points.index_select(0, row) - points.index_select(0, column)
    across = torch.remainder(apart[:, 1] + math.pi, 2 * math.pi) - math.pi
    squared = apart[:, 0].square().addcmul(across, across)
    angle = squared.clamp(min=LEAST_ANGLE**2).log() / 2
    pt = torch.hypot(vectors[:, 0], vectors[:, 1]).clamp(min=LEAST_PT)
    one, other = pt.index_select(0, row), pt.index_select(0, column)
    softer = torch.minimum(one, other).log()
    shared = softer - (one + other).log()
    # in float64: of 2 (E E' - p p') of collinear particles, float32 leaves few digits
    components = exact(vectors).T.contiguous()
    product = torch.zeros_like(row, dtype=components.dtype)
    for sign, component in zip(SIGNS, components, strict=True):
        product.addcmul_(component.index_select(0, row), component.index_select(0, column), value=2 * sign)
    mass = product.clamp(min=LEAST_MASS**2).log().to(vectors.dtype)
    return torch.stack([angle, softer + angle, shared, mass], dim=-1)


def edge_laplacians(powers: Float[Tensor, "N G"], edges: Edges) -> Float[Tensor, "N G"]:
    r"""Return the entries of $\tilde L$ of each graph from the logarithms of its symmetric edge weights.

    Weights are clipped to $e^{\pm 40}$, and the gradient ignores the clipping; see
    `subquad.ops.kinematics.kinematic_laplacians`.
    """
    return cast(Tensor, _Laplacians.apply(powers, edges.row, edges.column, len(edges.start)))


class _Laplacians(torch.autograd.Function):
    r"""$d \ln(-\tilde L_{ij}) = d \ln a_{ij} - \frac12 (d \ln D_i + d \ln D_j)$, as for whole matrices."""

    @staticmethod
    def forward(ctx: Any, powers: Tensor, row: Tensor, column: Tensor, rows: int) -> Tensor:
        weights = powers.clamp(-STRONGEST, STRONGEST).exp_()
        degree = weights.new_zeros(rows, weights.shape[1]).index_add_(0, row, weights)
        # rows without edges are not read
        scale = degree.rsqrt_()
        of_row = scale.index_select(0, row)
        share = weights * of_row.square()
        laplacians = weights.mul_(of_row).mul_(scale.index_select(0, column)).neg_()
        ctx.save_for_backward(laplacians, share, row, column)
        ctx.rows = rows
        return laplacians

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None]:
        laplacians, share, row, column = ctx.saved_tensors
        of_logarithm = gradients[0] * laplacians
        half = of_logarithm.new_zeros(ctx.rows, of_logarithm.shape[1])
        half.index_add_(0, row, of_logarithm).index_add_(0, column, of_logarithm)
        return of_logarithm.addcmul_(half.index_select(0, row), share, value=-0.5), None, None, None


def chebyshev_edges(
    x: Float[Tensor, "B P G h"], K: int, laplacians: Float[Tensor, "N G"], edges: Edges
) -> Float[Tensor, "B P G K h"]:
    r"""Return $T_0(\tilde L)x, …, T_{K-1}(\tilde L)x$ of each graph by the three-term recurrence.

    Args:
        x: Channels of the particles, of each graph.
        K: Number of terms.
        laplacians: Output of `edge_laplacians`.
        edges: The edges.
    """
    # autocast runs products in half precision, and sums over edges need one dtype
    x = x.to(laplacians.dtype)
    if K == 1:
        return x[..., None, :]
    B, P, G, h = x.shape
    # graph by graph, so that the edges of each follow one another
    terms = cast(Tensor, _Recurrence.apply(x.flatten(0, 1).transpose(0, 1), K, laplacians, edges))
    return terms.view(B, P, G, K, h)


class _Recurrence(torch.autograd.Function):
    r"""$t_0 = x$, $t_1 = \tilde L t_0$, $t_k = 2 \tilde L t_{k-1} - t_{k-2}$.

    With the gradients $g_k$ of the terms, $a_k = g_k + 2 \tilde L a_{k+1} - a_{k+2}$ is the gradient of $t_k$ ($k > 0$;
    the matrix is symmetric), and that of an entry of the matrix is $\sum_k c_k\, a_k[i] \cdot t_{k-1}[j]$ with
    $c_1 = 1$ and $c_k = 2$ otherwise, in one pass over the edges for all terms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, K: int, laplacians: Tensor, edges: Edges) -> Tensor:
        G, R, h = x.shape
        graph = torch.arange(G, device=x.device)[:, None]
        bags = ((edges.column + R * graph).flatten(), (edges.start + len(edges.row) * graph).flatten())
        value = laplacians.T.flatten()
        terms = x.new_empty(R, G, K, h)
        each = terms.transpose(0, 1).unbind(2)
        before, last = None, x.contiguous()
        each[0].copy_(last)
        for k in range(1, K):
            moved = _product(last, value, *bags)
            if before is not None:
                moved.mul_(2).sub_(before)
            before, last = last, moved
            each[k].copy_(moved)
        ctx.save_for_backward(terms, value, *bags, edges.row, edges.column)
        return terms

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, None]:
        terms, value, bags, starts, row, column = ctx.saved_tensors
        K = terms.shape[2]
        each = gradients[0].transpose(0, 1).unbind(2)
        # c_k a_k in the place of the term that it is multiplied by
        above = torch.empty_like(terms)
        places = above.transpose(0, 1).unbind(2)
        places[K - 1].zero_()
        after, last = None, each[K - 1].contiguous()
        for k in range(K - 1, 0, -1):
            torch.mul(last, 1 if k == 1 else 2, out=places[k - 1])
            moved = _product(last, value, bags, starts)
            moved = (moved if k == 1 else moved.mul_(2)).add_(each[k - 1])
            if after is not None:
                moved.sub_(after)
            after, last = last, moved
        of_laplacians = None
        if ctx.needs_input_grad[2]:
            one, two = terms.flatten(2), above.flatten(2)
            at_once = max(1, NUMBERS_AT_ONCE // max(1, one[:1].numel()))
            of_laplacians = terms.new_empty(len(row), terms.shape[1])
            chunks = zip(column.split(at_once), row.split(at_once), of_laplacians.split(at_once), strict=True)
            for j, i, into in chunks:
                torch.sum(one.index_select(0, j).mul_(two.index_select(0, i)), -1, out=into)
        return last, None, of_laplacians, None


def pair_means_direct(
    x: Float[Tensor, "B P m"], weights: Float[Tensor, "B P P m"], adjacency: Float[Tensor, "B P P"]
) -> Float[Tensor, "B P m"]:
    r"""Return $\frac{1}{|N(i)|} \sum_{j \in N(i)} w_{ij} \odot x_j$ from whole matrices: the definition.

    Args:
        x: Channels of the particles.
        weights: Weights of all pairs.
        adjacency: 1 where two particles are neighbours, else 0.
    """
    share = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("bij,bijm,bjm->bim", share, weights, x)


def pair_means(
    x: Float[Tensor, "R m"], weights: Float[Tensor, "N2 m"], pair: Int[Tensor, " N2"], edges: Edges
) -> Float[Tensor, "R m"]:
    r"""Return $\frac{1}{|N(i)|} \sum_{j \in N(i)} w_{ij} \odot x_j$, with a weight of each channel.

    A particle without neighbours gets 0.

    Args:
        x: Channels of all particles.
        weights: Weights of the pairs, the same in both directions, of any sign.
        pair: Numbers of the edges that stand for the pairs: of the two directions of each, one.
        edges: The edges.
    """
    first, second = edges.row.index_select(0, pair), edges.column.index_select(0, pair)
    sums = cast(Tensor, _PairSums.apply(x.to(weights.dtype), weights, first, second))
    degree = torch.diff(edges.start, append=edges.start.new_tensor([len(edges.row)]))
    return sums / degree.clamp(min=1)[:, None]


class _PairSums(torch.autograd.Function):
    r"""$y_i = \sum_j w_{ij} \odot x_j$; a pair is read once and counts for both of its particles.

    With the gradient $g$ of $y$, that of $x_j$ is $\sum_i w_{ij} \odot g_i$ and that of $w_{ij}$ is
    $g_i \odot x_j + g_j \odot x_i$. Pairs are taken in parts whose channels fit into the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights, first, second)
        y = torch.zeros_like(x)
        for i, j, weight in _parts(first, second, weights):
            y.index_add_(0, i, x.index_select(0, j).mul_(weight))
            y.index_add_(0, j, x.index_select(0, i).mul_(weight))
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        x, weights, first, second = ctx.saved_tensors
        of_x, of_weights = torch.zeros_like(x), torch.empty_like(weights)
        for i, j, weight, of_weight in _parts(first, second, weights, of_weights):
            of_i, of_j = gradients[0].index_select(0, i), gradients[0].index_select(0, j)
            torch.mul(of_i, x.index_select(0, j), out=of_weight).addcmul_(of_j, x.index_select(0, i))
            of_x.index_add_(0, j, of_i.mul_(weight))
            of_x.index_add_(0, i, of_j.mul_(weight))
        return of_x, of_weights, None, None


def _parts(first: Tensor, second: Tensor, *tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of equal length of the rows of all tables; on a GPU all at once."""
    at_once = max(1, NUMBERS_AT_ONCE // max(1, tables[0].shape[1])) if first.device.type == "cpu" else len(first)
    return zip(*(table.split(max(1, at_once)) for table in (first, second, *tables)), strict=True)


def _product(x: Tensor, value: Tensor, columns: Tensor, starts: Tensor) -> Tensor:
    table = x.view(-1, x.shape[-1])
    return functional.embedding_bag(columns, table, starts, mode="sum", per_sample_weights=value).view(x.shape)
