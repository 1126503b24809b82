"""The dense form of a tagger, which can be exported: it compares all pairs, and filters multiply by whole matrices.

ONNX has no sparse matrices, and continuous filters select the edges among all pairs. The dense form gives the same
values with O(P²) instead of O(E) operations.

Axes: B jets, P particles, N particles of all jets with padding, E pairs, W channels, H particle features, J jet-level
features, C classes, T regression targets; inputs are [B, H, P] as in weaver.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from subquad.hep.data.layout import Layout
from subquad.hep.models.networks import Network, logits_and_targets
from subquad.hep.models.targets import Targets
from subquad.hep.models.trained import TrainedTagger
from subquad.nn.graph import PCN, ChebConv, EdgeConv
from subquad.nn.kinematic import EPCN, KinematicNet, scaled_variables
from subquad.ops.chebyshev import chebyshev, chebyshev_terms, knn_adjacency, scaled_laplacian
from subquad.ops.kinematics import VARIABLES, kinematic_laplacians, pair_kinematics

MULTIPLICITIES, BATCH_SIZES = (1, 2, 7, 40, 128), (1, 3)
"""Sizes of the example inputs."""
OUTPUT = "softmax"
"""Name of the output in ONNX: the probabilities of the classes."""
TARGETS = "targets"
"""Name of the second output of taggers with regression targets: their predictions."""


class _DenseFilter(nn.Module):
    """A `ChebConv` on padded jets [B, P, H] and whole matrices [B, P, P]."""

    def __init__(self, of: ChebConv) -> None:
        super().__init__()
        self.weight, self.bias = of.weight, of.bias

    def forward(self, x: Tensor, laplacian: Tensor) -> Tensor:
        return chebyshev(x, self.weight, laplacian) + self.bias


class _DenseEdges(nn.Module):
    """An `EdgeConv` on padded jets [B, P, H] and whole matrices [B, P, P]."""

    def __init__(self, of: EdgeConv) -> None:
        super().__init__()
        self.theta, self.phi = of.theta, of.phi

    def forward(self, x: Tensor, laplacian: Tensor) -> Tensor:
        of_neighbour, is_edge = self.theta(x), laplacian != 0
        seen = torch.where(is_edge[..., None], of_neighbour[:, None], -torch.inf).amax(2)
        return torch.where(is_edge.any(-1, keepdim=True), seen - of_neighbour, 0) + self.phi(x)


class DenseTagger(nn.Module):
    """A network with weaver's inputs that returns probabilities, and the predictions of regression targets.

    Args:
        net: A PCN, an EPCN or a KinematicNet; it is copied.
        targets: Regression targets beside the classes.
        uses_features_as_points: Nearest neighbours are found in the features, and there is no input `pf_points`.
    """

    def __init__(self, net: Network, *, targets: Targets = Targets(), uses_features_as_points: bool = False) -> None:
        super().__init__()
        self.center, self.scale = (torch.tensor(numbers) for numbers in (targets.center, targets.scale))
        self.net: Network = copy.deepcopy(net).eval()
        self.uses_features_as_points = uses_features_as_points
        parts: list[Any] = [self.net] if isinstance(self.net, PCN) else [*getattr(self.net, "on_each", [])]
        for part in parts:
            part.filters = nn.ModuleList(_DenseFilter(one) for one in part.filters)
            part.edges = None if part.edges is None else nn.ModuleList(_DenseEdges(one) for one in part.edges)
        self.eval()

    def forward(
        self,
        pf_features: Float[Tensor, "B H P"],
        pf_mask: Float[Tensor, "B 1 P"],
        pf_points: Float[Tensor, "B 2 P"] | None = None,
        pf_vectors: Float[Tensor, "B 4 P"] | None = None,
        jet_features: Float[Tensor, "B J"] | None = None,
    ) -> Float[Tensor, "B C"] | tuple[Float[Tensor, "B C"], Float[Tensor, "B T"]]:
        """Return the probabilities; with regression targets also their predictions."""
        outputs = self._outputs(pf_features, pf_mask, pf_points, pf_vectors=pf_vectors, jet_features=jet_features)
        logits, targets = logits_and_targets(self.net, outputs)
        probabilities = logits.softmax(-1)
        return (probabilities, targets * self.scale + self.center) if len(self.center) else probabilities

    def _outputs(
        self,
        pf_features: Tensor,
        pf_mask: Tensor,
        pf_points: Tensor | None,
        *,
        pf_vectors: Tensor | None,
        jet_features: Tensor | None,
    ) -> Tensor:
        x, mask = pf_features.mT, pf_mask[:, 0] != 0
        points = x if self.uses_features_as_points or pf_points is None else pf_points.mT
        net, real = self.net, torch.where(mask[..., None], x, 0)
        if isinstance(net, KinematicNet):
            assert pf_vectors is not None
            return dense_kinematic(net, x, points, mask, pf_vectors.mT, jet_features)
        if isinstance(net, EPCN):
            assert pf_vectors is not None
            adjacency = knn_adjacency(points, mask, net.k, periodic=(1,))
            pairs = pair_kinematics(pf_vectors.mT, points, mask)
            laplacians = kinematic_laplacians(pairs, adjacency, torch.eye(len(VARIABLES)))
            parts = zip(laplacians.unbind(1), net.on_each, strict=True)
            return net.classify([part(real, matrix) for matrix, part in parts], mask)
        adjacency = knn_adjacency(points, mask, net.k, periodic=net.periodic)
        return net.classify(net.filtered(real, scaled_laplacian(adjacency, mask)), mask, jet_features=jet_features)


def dense_kinematic(  # noqa: PLR0917
    net: KinematicNet, x: Tensor, points: Tensor, mask: Tensor, vectors: Tensor, jet_features: Tensor | None
) -> Tensor:
    """Return the logits of a network from all pairs of particles; its arguments are those of the network."""
    adjacency = knn_adjacency(points, mask, net.k, periodic=(1,))
    pairs = pair_kinematics(vectors, points, mask)
    x = net.embed(torch.where(mask[..., None], x, 0))
    blocks: Any = net.blocks
    if net.exponents is None:
        return _continuous(net, x, pairs, adjacency, mask, jet_features)
    laplacians = kinematic_laplacians(pairs, adjacency, net.exponents)
    for block in blocks:
        parts = block.split(x).transpose(1, 2)
        terms = chebyshev_terms(parts.flatten(0, 1), block.terms, laplacians.flatten(0, 1))
        x = block.mix(x, torch.stack(terms, dim=2).unflatten(0, parts.shape[:2]).transpose(1, 2))
    return net.classify(x, mask, jet_features=jet_features)


def _continuous(  # noqa: PLR0917
    net: KinematicNet, x: Tensor, pairs: Tensor, adjacency: Tensor, mask: Tensor, jet_features: Tensor | None
) -> Tensor:
    """Return the logits of a network with continuous filters, which takes the place of `ContinuousFilterBlock.forward`.

    Few pairs are edges, and ONNX can select them. They are sorted by their first particle, and `order` sorts them by
    their second one.
    """
    is_edge = adjacency.triu(1) != 0
    jet, first, second = is_edge.nonzero(as_tuple=True)
    number = (is_edge.flatten().long().cumsum(0) - 1).view(is_edge.shape).mT
    order = number[is_edge.mT.nonzero(as_tuple=True)]
    variables = scaled_variables(pairs[jet, first, second])
    first, second = jet * x.shape[1] + first, jet * x.shape[1] + second
    degree = adjacency.sum(-1, keepdim=True).clamp(min=1)
    blocks: Any = net.blocks
    for block in blocks:
        y, functions = block.norm(x), block.functions(variables)
        values = block.value(y).flatten(0, 1)
        of_second, of_first = (functions * values.index_select(0, there) for there in (second, first))
        sums = _sums(of_second, is_edge.sum(2).flatten())
        sums = sums + _sums(of_first.index_select(0, order), is_edge.sum(1).flatten())
        x = block.mix(x, y, sums.view(x.shape) / degree, mask)
    return net.classify(x, mask, jet_features=jet_features)


def _sums(x: Float[Tensor, "E W"], counts: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
    """Return sums of consecutive rows, of as many as `counts` says.

    Differences of running sums, in float64: `index_add` becomes ScatterND, in which several threads of onnxruntime
    write to one place at a time and lose summands. A row that is not finite makes its own sum NaN, and no others.
    """
    is_bad = ~x.sum(1, keepdim=True).isfinite()
    rows = torch.cat([x.masked_fill(is_bad, 0), is_bad.to(x.dtype)], dim=1)
    running = functional.pad(rows.double().cumsum(0), (0, 0, 1, 0))
    ends = counts.cumsum(0)
    sums = running.index_select(0, ends) - running.index_select(0, ends - counts)
    return torch.where(sums[:, -1:] > 0, torch.nan, sums[:, :-1]).to(x.dtype)


def outputs_of_graph(tagger: TrainedTagger) -> Mapping[str, float | Tensor]:
    """Return the names of the outputs, and the unit of each: 1, and the standard deviations of the targets."""
    return {OUTPUT: 1.0, TARGETS: torch.tensor(tagger.targets.scale)} if len(tagger.targets) else {OUTPUT: 1.0}


def input_names(tagger: TrainedTagger) -> list[str]:
    """Return the names of the inputs that the tagger's network takes."""
    return [
        *(["pf_points"] if tagger.settings.graph == "angles" else []),
        "pf_features",
        *(["pf_vectors"] if isinstance(tagger.net, EPCN | KinematicNet) else []),
        "pf_mask",
        *(["jet_features"] if tagger.layout.jet_standardizer is not None else []),
    ]


def example_inputs(
    layout: Layout, names: Sequence[str], multiplicities: Sequence[int] = MULTIPLICITIES
) -> list[dict[str, Tensor]]:
    """Return random jets of so many particles, in batches of one and of three, some of them padded."""
    generator, found = torch.Generator().manual_seed(0), []
    for B, P in [(B, P) for B in BATCH_SIZES for P in multiplicities]:

        def normal(*shape: int, B: int = B) -> Tensor:
            return torch.randn(B, *shape, generator=generator)

        lengths = torch.randint(1, P + 1, (B, 1), generator=generator)
        # one jet has no padding
        lengths[0] = P
        pt, eta, phi = (1.5 * normal(P) + 1).exp(), 0.2 * normal(P), 0.2 * normal(P)
        inputs = {
            "pf_points": torch.stack([eta, phi], 1),
            "pf_features": normal(len(layout.features.names), P),
            "pf_vectors": torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], 1),
            "pf_mask": (torch.arange(P) < lengths)[:, None].float(),
            "jet_features": normal(len(layout.jet_features)),
        }
        found.append({name: inputs[name] for name in names})
    return found
