"""Particle Chebyshev network (PCN, arXiv:2309.08630): filters on the kNN graph of each jet, O(K N H) per layer.

Axes: B jets, P particles (padded to the longest jet), C real particles of all jets, N edges, D coordinates of the
graph, H channels in, F channels out, K terms, J jet-level features. `mask` is true where a particle is real. Layers
see the real particles only.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.ops.chebyshev import Rows, chebyshev_rows, knn_adjacency, rows, scaled_laplacian
from subquad.ops.edges import Edges, edge_laplacians, rows_of

__all__ = ["PCN", "ChebConv", "EdgeConv", "knn_graph", "masked_max", "masked_mean", "unpacked"]


def knn_graph(
    points: Float[Tensor, "B P D"], mask: Bool[Tensor, "B P"], k: int, *, periodic: Sequence[int] = ()
) -> Rows:
    """Return the scaled Laplacian of the symmetrised kNN graph of each jet, for the real particles only."""
    return rows(scaled_laplacian(knn_adjacency(points, mask, k, periodic=periodic), mask), mask)


def unpacked(x: Float[Tensor, "C H"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B P H"]:
    """Return the real particles in their places of the padded jets, and 0 in all others: the inverse of `x[mask]`."""
    places = mask.flatten().nonzero()[:, 0]
    return x.new_zeros(mask.numel(), x.shape[1]).index_copy(0, places, x).unflatten(0, mask.shape)


def masked_mean(x: Float[Tensor, "B P H"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B H"]:
    """Return the mean over the real particles; 0 for an empty jet."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(mask[..., None], x, 0).sum(1) / count


def masked_max(x: Float[Tensor, "B P H"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B H"]:
    """Return the largest value over the real particles; 0 for an empty jet."""
    if x.shape[1] == 0:
        return x.sum(1)
    largest = x.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return torch.where(mask.any(-1, keepdim=True), largest, 0)


class ChebConv(nn.Module):
    r"""One filter, $\sum_{k<K} T_k(\tilde L)\, x\, W_k + b$: the sum inside Eq. (1) of arXiv:2309.08630."""

    def __init__(self, features_in: int, features_out: int, terms: int) -> None:
        super().__init__()
        bound = (terms * features_in) ** -0.5
        self.weight = nn.Parameter(torch.empty(terms, features_in, features_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features_out).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "C H"], graph: Rows) -> Float[Tensor, "C F"]:
        """Return the filtered particles."""
        return chebyshev_rows(x, self.weight, graph) + self.bias


class EdgeConv(nn.Module):
    r"""$\max_{j \in N(i)} \Theta (x_j - x_i) + \Phi x_i$ (arXiv:1801.07829).

    Used between the filters of the paper's second variant.
    """

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.theta = nn.Linear(features_in, features_out)
        self.phi = nn.Linear(features_in, features_out)

    def forward(self, x: Float[Tensor, "C H"], graph: Rows) -> Float[Tensor, "C F"]:
        """Return the updated particles; an isolated particle has no neighbour term."""
        of_neighbour = self.theta(x)
        end = graph.start.new_tensor([len(graph.column)])
        seen = of_neighbour.index_select(0, graph.column)
        largest = torch.segment_reduce(seen, "max", offsets=torch.cat([graph.start, end]), axis=0)
        has_edge = torch.diff(graph.start, append=end)[:, None] > 0
        return torch.where(has_edge, largest - of_neighbour, 0) + self.phi(x)


class PCN(nn.Module):
    """Jet classifier: Chebyshev layers on a kNN graph, pooling over particles, and a classification head.

    The defaults are the published network (`PCN.paper`); the other options are ours.

    Args:
        features: Number of input features per particle.
        classes: Number of outputs per jet.
        jet_features: Number of jet-level features that are concatenated with the pooled particles before the head.
        width: Channels of every layer.
        terms: Number of Chebyshev terms K of every filter.
        layers: Number of filters.
        k: Number of nearest neighbours of each particle.
        periodic: Which coordinates of `points` are angles.
        has_edges: Use an `EdgeConv` after each filter but the last: the paper's second variant.
        is_normalised: Apply layer norm to the input of each filter but the first, and of a head with a hidden layer.
        is_residual: Add the input of each filter but the first to its output.
        pool: Pooling over particles.
        hidden: Width of the head's hidden layer; 0 for no hidden layer, as published.
        dropout: Dropout probability in the head.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        jet_features: int = 0,
        width: int = 64,
        terms: int = 16,
        layers: int = 3,
        k: int = 3,
        periodic: Sequence[int] = (),
        has_edges: bool = False,
        is_normalised: bool = False,
        is_residual: bool = False,
        pool: Literal["mean", "mean_max"] = "mean",
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.k, self.periodic, self.pool, self.is_residual = k, tuple(periodic), pool, is_residual
        self.filters = nn.ModuleList(ChebConv(width if i else features, width, terms) for i in range(layers))
        self.edges = nn.ModuleList(EdgeConv(width, width) for _ in range(layers - 1)) if has_edges else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers - 1)) if is_normalised else None
        pooled = width * (2 if pool == "mean_max" else 1) + jet_features
        self.jet_features = jet_features
        self.head = (
            nn.Sequential(
                nn.LayerNorm(pooled) if is_normalised else nn.Identity(),
                nn.Linear(pooled, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, classes),
            )
            if hidden
            else nn.Linear(pooled, classes)
        )

    @classmethod
    def paper(cls, features: int, classes: int, *, has_edges: bool = False) -> "PCN":
        """Return the published network: three filters of 16 terms and 64 channels, ReLU, mean, linear head."""
        return cls(features, classes, has_edges=has_edges)

    def forward(
        self,
        x: Float[Tensor, "B P H"],
        points: Float[Tensor, "B P D"],
        mask: Bool[Tensor, "B P"],
        *,
        jet_features: Float[Tensor, "B J"] | None = None,
        edges: Edges | None = None,
    ) -> Float[Tensor, "B F"]:
        """Return the logits of each jet from the features of its particles and the coordinates of its graph.

        With `edges`, the graph of `k` nearest neighbours in `points`, distances are not computed.

        Raises:
            ValueError: The number of jet-level features is not that of the network.
        """
        if (0 if jet_features is None else jet_features.shape[-1]) != self.jet_features:
            raise ValueError(f"this PCN takes {self.jet_features} jet-level features")
        if edges is None:
            graph = knn_graph(points, mask, self.k, periodic=self.periodic)
        else:
            equal = x.new_zeros(len(edges.row), 1)
            graph = rows_of(edge_laplacians(equal, edges)[:, 0], edges, mask)
        return self.classify(unpacked(self.filtered(x[mask], graph), mask), mask, jet_features=jet_features)

    def filtered(self, x: Float[Tensor, "*C H"], graph: Rows | Float[Tensor, "B P P"]) -> Float[Tensor, "*C H2"]:
        """Return the particles after the last filter, from the graph that `forward` builds from the points.

        Layers that are replaced for an export take padded jets and matrices in place of real particles and rows.
        """
        for i, layer in enumerate(self.filters):
            into = self.norms[i - 1](x) if self.norms is not None and i else x
            out = functional.relu(layer(into, graph))
            if self.edges is not None and i < len(self.edges):
                out = functional.relu(self.edges[i](out, graph))
            x = x + out if self.is_residual and i else out
        return x

    def classify(
        self,
        x: Float[Tensor, "B P H"],
        mask: Bool[Tensor, "B P"],
        *,
        jet_features: Float[Tensor, "B J"] | None = None,
    ) -> Float[Tensor, "B F"]:
        """Return the logits from the output of `filtered`."""
        pooled = [masked_mean(x, mask)]
        if self.pool == "mean_max":
            pooled.append(masked_max(x, mask))
        if jet_features is not None:
            pooled.append(jet_features)
        return self.head(torch.cat(pooled, dim=-1))
