r"""Networks on kNN graphs with $\Delta R$, $k_T$, $z$ and $m^2$ of each pair of neighbours: O(N) on N edges.

`EPCN` is E-PCN (arXiv:2512.07420): four graphs, one per variable, a PCN on each, all four pooled together.
`KinematicNet` is ours: residual blocks of a step over the neighbours and a feed-forward layer, and attention pooling
beside mean and maximum. The step is a continuous-filter convolution (SchNet, arXiv:1706.08566) or a Chebyshev filter on
several graphs with trainable exponents, each of which filters a group of the channels.

Axes: B jets, P particles (padded to the longest jet), N edges, N2 pairs (an edge in each direction), G graphs,
H channels, K terms, J jet-level features, C classes.
`mask` is true where a particle is real; padded rows are finite and have no effect.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from subquad.nn.graph import ChebConv, EdgeConv, masked_max, masked_mean, unpacked
from subquad.ops.chebyshev import Rows, knn_adjacency
from subquad.ops.edges import Edges, chebyshev_edges, edge_kinematics, edge_laplacians, edges_of, pair_means, rows_of
from subquad.ops.kinematics import VARIABLES
from subquad.ops.precision import autocast_disabled

__all__ = ["EPCN", "AttentionPool", "ChebyshevBlock", "ContinuousFilterBlock", "KinematicNet", "scaled_variables"]

_CENTER, _SCALE, _LARGEST = (-2.0, 0.0, -2.0, 1.0), (1.0, 1.5, 1.2, 2.5), 5.0
"""Means and standard deviations, roughly, of ln ΔR, ln kT, ln z and ln m² of neighbours; limit of scaled variables."""


class _Branch(nn.Module):
    """Filters on one graph, an edge convolution after each but the last."""

    def __init__(self, features: int, width: int, terms: int, layers: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(ChebConv(width if i else features, width, terms) for i in range(layers))
        self.edges = nn.ModuleList(EdgeConv(width, width) for _ in range(layers - 1))

    def forward(self, x: Tensor, graph: Rows | Tensor) -> Tensor:
        for i, layer in enumerate(self.filters):
            x = functional.relu(layer(x, graph))
            if i < len(self.edges):
                x = functional.relu(self.edges[i](x, graph))
        return x


class EPCN(nn.Module):
    """Jet classifier on four kinematic graphs (arXiv:2512.07420): on each, filters with edge convolutions between them.

    Difference from the paper: the weight of an edge is the variable itself and not its logarithm, which can be negative
    and then has no normalised Laplacian.

    Args:
        features: Number of input features per particle.
        classes: Number of outputs per jet.
        width: Channels of every layer.
        terms: Number of Chebyshev terms K of every filter.
        layers: Number of filters on each graph.
        k: Number of nearest neighbours of each particle in angle.
    """

    def __init__(
        self, features: int, classes: int, *, width: int = 64, terms: int = 16, layers: int = 3, k: int = 3
    ) -> None:
        super().__init__()
        self.classes, self.jet_features, self.k = classes, 0, k
        self.on_each = nn.ModuleList(_Branch(features, width, terms, layers) for _ in VARIABLES)
        self.head = nn.Linear(len(VARIABLES) * width, classes)

    def forward(
        self,
        x: Float[Tensor, "B P H"],
        points: Float[Tensor, "B P 2"],
        mask: Bool[Tensor, "B P"],
        *,
        vectors: Float[Tensor, "B P 4"],
        jet_features: None = None,
        edges: Edges | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return the logits of each jet; the arguments are those of `KinematicNet`, without jet-level features."""
        return self.classify(self.branches(x, points, mask, vectors=vectors, edges=edges), mask)

    def branches(
        self,
        x: Float[Tensor, "B P H"],
        points: Float[Tensor, "B P 2"],
        mask: Bool[Tensor, "B P"],
        *,
        vectors: Float[Tensor, "B P 4"],
        edges: Edges | None = None,
    ) -> list[Float[Tensor, "B P H2"]]:
        """Return the particles after the last filter on each graph, in the order of `VARIABLES`."""
        if edges is None:
            edges = edges_of(knn_adjacency(points, mask, self.k, periodic=(1,)))
        return self.filtered(x, edge_kinematics(vectors, points, edges), edges, mask)

    def filtered(
        self,
        x: Float[Tensor, "B P H"],
        pairs: Float[Tensor, "N 4"],
        edges: Edges,
        mask: Bool[Tensor, "B P"],
    ) -> list[Float[Tensor, "B P H2"]]:
        """Return the output of `branches` from the edges and the logarithms of their variables, the weights."""
        laplacians, real = edge_laplacians(pairs, edges), x[mask]
        return [
            unpacked(branch(real, rows_of(laplacian, edges, mask)), mask)
            for laplacian, branch in zip(laplacians.unbind(1), self.on_each, strict=True)
        ]

    def classify(self, branches: Sequence[Float[Tensor, "B P H"]], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B C"]:
        """Return the logits from the output of `branches`."""
        return self.head(torch.cat([masked_mean(y, mask) for y in branches], dim=-1))


class AttentionPool(nn.Module):
    """Attention pooling: each head is a weighted mean over a jet's particles, with trained weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)

    def forward(self, x: Float[Tensor, "B P H"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """Return the concatenated means of all heads; 0 for an empty jet. Padded rows must be finite."""
        scores = self.score(x)
        # finite and not -inf: a softmax over an empty jet must not give NaN
        weights = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min).softmax(1)
        return (torch.where(mask[..., None], weights, 0).mT @ x).flatten(1)


def scaled_variables(pairs: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Return the logarithms of the variables of pairs, standardized roughly and limited to [-5, 5]."""
    return ((pairs - pairs.new_tensor(_CENTER)) / pairs.new_tensor(_SCALE)).clamp(-_LARGEST, _LARGEST)


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    layers = {"0": nn.LayerNorm(width), "1": nn.Linear(width, hidden), "2": nn.ReLU(), "4": nn.Linear(hidden, width)}
    # saved weights have these numbers
    return nn.Sequential(OrderedDict(layers))


class ContinuousFilterBlock(nn.Module):
    """A continuous-filter convolution (SchNet, arXiv:1706.08566), then a feed-forward layer; both are residual.

    A neighbour's channels are multiplied by trained functions of the pair's variables. A linear layer takes their mean
    over the neighbours, beside the channels of the particle itself and, with `has_jet_mean`, their mean over the jet
    (the equivariant layer of Deep Sets, arXiv:1703.06114).
    """

    def __init__(self, width: int, *, hidden: int, has_jet_mean: bool = False) -> None:
        super().__init__()
        self.norm, self.value = nn.LayerNorm(width), nn.Linear(width, width)
        self.functions = nn.Sequential(nn.Linear(len(VARIABLES), width), nn.ReLU())
        self.filter = nn.Linear(2 * width, width)
        self.jet = nn.Linear(width, width, bias=False) if has_jet_mean else None
        self.feed = _feed_forward(width, hidden)

    def forward(
        self,
        x: Float[Tensor, "B P H"],
        variables: Float[Tensor, "N2 4"],
        pair: Int[Tensor, " N2"],
        edges: Edges,
        mask: Bool[Tensor, "B P"],
    ) -> Float[Tensor, "B P H"]:
        """Return the updated particles.

        Args:
            x: Particles; padded ones have no neighbours.
            variables: Scaled variables of the pairs.
            pair: Numbers of the edges that stand for the pairs, as in `pair_means`.
            edges: The edges.
            mask: True where a particle is real.
        """
        y = self.norm(x)
        means = pair_means(self.value(y).flatten(0, 1), self.functions(variables), pair, edges)
        return self.mix(x, y, means.view_as(x), mask)

    def mix(
        self,
        x: Float[Tensor, "B P H"],
        y: Float[Tensor, "B P H"],
        means: Float[Tensor, "B P H"],
        mask: Bool[Tensor, "B P"],
    ) -> Float[Tensor, "B P H"]:
        """Return the particles after the convolution and the feed-forward layer, from the means over the neighbours."""
        update = self.filter(torch.cat([y, means], dim=-1))
        if self.jet is not None:
            update = update + self.jet(masked_mean(y, mask))[:, None]
        x = x + update
        return x + self.feed(x)


class ChebyshevBlock(nn.Module):
    """A Chebyshev filter with one graph per group of channels, then a feed-forward layer; both are residual.

    Raises:
        ValueError: The channels cannot be divided among the graphs.
    """

    def __init__(self, width: int, graphs: int, terms: int, *, hidden: int) -> None:
        super().__init__()
        if width % graphs:
            raise ValueError(f"{width} channels are not a multiple of {graphs} graphs")
        self.graphs, self.terms = graphs, terms
        self.norm, self.filter = nn.LayerNorm(width), nn.Linear(terms * width, width)
        self.feed = _feed_forward(width, hidden)

    def forward(
        self, x: Float[Tensor, "B P H"], laplacians: Float[Tensor, "N G"], edges: Edges
    ) -> Float[Tensor, "B P H"]:
        """Return the updated particles; padded particles have no neighbours."""
        return self.mix(x, chebyshev_edges(self.split(x), self.terms, laplacians, edges))

    def split(self, x: Float[Tensor, "B P H"]) -> Float[Tensor, "B P G h"]:
        """Return the normalised channels of each graph."""
        return self.norm(x).unflatten(-1, (self.graphs, -1))

    def mix(self, x: Float[Tensor, "B P H"], terms: Float[Tensor, "B P G K h"]) -> Float[Tensor, "B P H"]:
        """Return the particles after the filter and the feed-forward layer, from all terms of the filter."""
        x = x + self.filter(terms.flatten(2))
        return x + self.feed(x)


class KinematicNet(nn.Module):
    """Jet classifier on kNN graphs with the kinematics of pairs, in time linear in the number of particles.

    Args:
        features: Number of input features per particle.
        classes: Number of outputs per jet.
        jet_features: Number of jet-level features that are concatenated with the pooled particles before the head.
        filter: Step over the neighbours: continuous-filter convolutions, or Chebyshev filters on graphs whose edge
            weights are powers of the variables of the pair, with trained exponents.
        width: Channels of every layer.
        graphs: Number of weighted graphs of Chebyshev filters, the same in all layers; the channels are divided among
            them.
        terms: Number of Chebyshev terms K of every filter; continuous-filter convolutions have none.
        layers: Number of blocks.
        k: Number of nearest neighbours of each particle in angle.
        has_jet_mean: The blocks of continuous-filter convolutions also see the mean over all particles.
        feed: Hidden width of the feed-forward layers, in multiples of `width`.
        pool_heads: Number of heads of attention pooling, beside mean and maximum.
        dropout: Dropout probability in the head.

    Raises:
        ValueError: There is no such filter, or the channels cannot be divided among the graphs of Chebyshev filters.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        jet_features: int = 0,
        filter: Literal["continuous", "chebyshev"] = "continuous",  # noqa: A002
        width: int = 64,
        graphs: int = 4,
        terms: int = 4,
        layers: int = 3,
        k: int = 16,
        has_jet_mean: bool = True,
        feed: int = 2,
        pool_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.classes, self.jet_features, self.k = classes, jet_features, k
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))
        hidden = feed * width
        if filter == "chebyshev":
            # close, soft, asymmetric and light pairs get larger weights
            start = torch.eye(len(VARIABLES)).repeat(-(-graphs // len(VARIABLES)), 1)[:graphs] * -0.5
            self.exponents = nn.Parameter(start)
            blocks = [ChebyshevBlock(width, graphs, terms, hidden=hidden) for _ in range(layers)]
        elif filter == "continuous":
            self.exponents = None
            blocks = [ContinuousFilterBlock(width, hidden=hidden, has_jet_mean=has_jet_mean) for _ in range(layers)]
        else:
            raise ValueError(f"filter must be continuous or chebyshev, got {filter!r}")
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.attend = AttentionPool(width, pool_heads)
        pooled = (pool_heads + 2) * width + jet_features
        self.head = nn.Sequential(
            nn.LayerNorm(pooled),
            nn.Linear(pooled, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, classes),
        )

    def forward(
        self,
        x: Float[Tensor, "B P H"],
        points: Float[Tensor, "B P 2"],
        mask: Bool[Tensor, "B P"],
        *,
        vectors: Float[Tensor, "B P 4"],
        jet_features: Float[Tensor, "B J"] | None = None,
        edges: Edges | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return the logits of each jet.

        Args:
            x: Features of the particles.
            points: Δη and Δφ in radians, in which neighbours are searched.
            mask: True where a particle is real.
            vectors: px, py, pz and E in GeV, from which the variables of pairs are computed.
            jet_features: Jet-level features.
            edges: The graph of `k` nearest neighbours in `points`, if it is known; otherwise all distances are
                compared.

        Raises:
            ValueError: The number of jet-level features is not that of the network.
        """
        if (0 if jet_features is None else jet_features.shape[-1]) != self.jet_features:
            raise ValueError(f"this network takes {self.jet_features} jet-level features")
        if edges is None:
            edges = edges_of(knn_adjacency(points, mask, self.k, periodic=(1,)))
        pairs = edge_kinematics(vectors, points, edges)
        return self.classify(self.filtered(x, pairs, edges, mask), mask, jet_features=jet_features)

    def filtered(
        self,
        x: Float[Tensor, "B P F"],
        pairs: Float[Tensor, "N 4"],
        edges: Edges,
        mask: Bool[Tensor, "B P"],
    ) -> Float[Tensor, "B P H"]:
        """Return the particles after the last block, from the edges and their variables.

        Args:
            x: Features of the particles.
            pairs: Output of `subquad.ops.edges.edge_kinematics`, not scaled.
            edges: The graph.
            mask: True where a particle is real.
        """
        x = self.embed(torch.where(mask[..., None], x, 0))
        if self.exponents is None:
            # both directions of a pair have the same variables
            pair = (edges.row < edges.column).nonzero()[:, 0]
            of_edges = scaled_variables(pairs.index_select(0, pair)), pair, edges, mask
        else:
            with autocast_disabled(pairs.device.type):
                of_edges = edge_laplacians(pairs @ self.exponents.T, edges), edges
        for block in self.blocks:
            x = block(x, *of_edges)
        return x

    def classify(
        self,
        x: Float[Tensor, "B P H"],
        mask: Bool[Tensor, "B P"],
        *,
        jet_features: Float[Tensor, "B J"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return the logits from the output of `filtered`."""
        x = self.norm(x)
        pooled = [self.attend(x, mask), masked_mean(x, mask), masked_max(x, mask)]
        return self.head(torch.cat(pooled if jet_features is None else [*pooled, jet_features], dim=-1))
