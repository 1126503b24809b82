r"""What moves a class's logit, by its gradient: features, particles, edges, the graphs of a kinematic net.

All are of first order, $|\partial y / \partial v \cdot (v - \bar v)|$: what the logit y would change by, if the number
v were what it is on average. One backward pass per batch.

Axes: B jets, P particles, H features of a particle, J numbers of the jet, G = 4 variables of a pair.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.hep.models.tagger import Batch
from subquad.nn.graph import PCN
from subquad.nn.kinematic import EPCN, KinematicPCN
from subquad.ops.chebyshev import knn_adjacency, neighbours, scaled_laplacian
from subquad.ops.kinematics import kinematic_adjacency, pair_kinematics

__all__ = ["Attribution", "Means", "attribute", "grad_cam", "shares"]


@dataclass(frozen=True, kw_only=True)
class Means:
    """What numbers are on average over the sample."""

    features: Float[Tensor, " H"]
    observers: Float[Tensor, " J"] | None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much the logit of each jet's class depends on what."""

    features: Float[Tensor, "B H"]
    """Sums over the particles."""
    particles: Float[Tensor, "B P"]
    """Sums over the features."""
    observers: Float[Tensor, "B J"] | None
    branches: Float[Tensor, "B G"] | None
    """E-PCN: Grad-CAM of its four graphs, as shares; NaN where none speaks for the class."""
    variables: Float[Tensor, "B G"] | None
    """Kinematic nets: how much the variables of the pairs move the logit, as shares; NaN where nothing does."""
    edges: Float[Tensor, "B P P"]
    """Symmetric; 0 where there is no edge."""
    weights: Float[Tensor, "B P P"]
    """Of the edges, at most 1; the mean over the graphs of a kinematic net."""


def shares(x: Float[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """Return the rows, each adding up to 1; NaN where a row is 0."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total, torch.nan)


def grad_cam(activations: Float[Tensor, "B P H"], gradients: Float[Tensor, "B P H"], mask: Tensor) -> Tensor:
    r"""Return [B]: $\sum_p \mathrm{ReLU}(\sum_h \alpha_h A_{ph})$, $\alpha_h$ the gradient's mean over the particles.

    Grad-CAM (arXiv:1610.02391, Eqs. 1 and 2) with particles in place of pixels, as E-PCN uses it.
    """
    real = mask[..., None]
    alpha = torch.where(real, gradients, 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return (torch.where(real, activations, 0) * alpha[:, None]).sum(-1).relu().sum(-1)


def attribute(net: nn.Module, batch: Batch, target: Int[Tensor, " B"], means: Means) -> Attribution:
    """Return how much the logit of each jet's `target` depends on what the net sees.

    Args:
        net: one of the three, in evaluation.
        batch: the jets.
        target: the class whose logit is explained.
        means: of the sample's features and observers.

    Raises:
        TypeError: another net.
    """
    mask = batch.mask
    x = torch.where(mask[..., None], batch.x, 0).detach().requires_grad_()
    observers = None if batch.observers is None else batch.observers.detach().requires_grad_()
    seen = _seen(net, batch, x, observers)
    outputs = seen.logits.gather(1, target[:, None]).sum()
    # a net of one layer of one term has no use for its edges
    leaves = [x, seen.relations, *seen.activations, *(() if observers is None else (observers,))]
    gradients = torch.autograd.grad(outputs, leaves, allow_unused=True, materialize_grads=True)
    of_x, of_relations, *rest = gradients
    by_feature = torch.where(mask[..., None], (of_x * (x - means.features)).detach().abs(), 0)
    edges, variables = _of_edges(seen, of_relations)
    branches = None
    if seen.activations:
        pairs = zip(seen.activations, rest, strict=False)
        branches = shares(torch.stack([grad_cam(a.detach(), g, mask) for a, g in pairs], -1))
    return Attribution(
        features=by_feature.sum(1),
        particles=by_feature.sum(2),
        observers=None if observers is None else (rest[-1] * (observers - means.observers)).detach().abs(),
        branches=branches,
        variables=variables,
        edges=edges,
        weights=seen.weights,
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """An answer, and what it was made of."""

    logits: Tensor
    relations: Tensor
    """A leaf: the variables of all pairs, or the adjacency of a net that has no such."""
    adjacency: Tensor
    activations: list[Tensor]
    """After the last filter on each graph of E-PCN."""
    weights: Tensor


def _seen(net: nn.Module, batch: Batch, x: Tensor, observers: Tensor | None) -> _Seen:
    mask = batch.mask
    if isinstance(net, PCN):
        adjacency = knn_adjacency(batch.points, mask, net.k, periodic=net.periodic).requires_grad_()
        graph = neighbours(scaled_laplacian(adjacency, mask))
        logits, plain = net.classify(x, graph, mask, observers=observers), adjacency.detach()
        return _Seen(logits=logits, relations=adjacency, adjacency=plain, activations=[], weights=plain)
    if not isinstance(net, EPCN | KinematicPCN):
        raise TypeError(f"{type(net).__name__} is no net that can be explained")
    assert batch.vectors is not None
    adjacency = knn_adjacency(batch.points, mask, net.k, periodic=(1,))
    pairs = pair_kinematics(batch.vectors, batch.points, mask).requires_grad_()
    if isinstance(net, EPCN):
        activations, exponents = net.filtered(x, pairs, adjacency, mask), torch.eye(4)
        logits = net.classify(activations, mask)
    else:
        activations, exponents = [], net.exponents.detach()
        logits = net.classify(x, pairs, adjacency, mask, observers=observers)
    weights = kinematic_adjacency(pairs.detach(), adjacency, exponents.to(pairs)).mean(1)
    return _Seen(logits=logits, relations=pairs, adjacency=adjacency, activations=activations, weights=weights)


def _of_edges(seen: _Seen, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the importance of the edges, and of the variables of a kinematic net."""
    # an edge is written twice, and both ways of it move together
    if seen.relations.dim() == 3:
        return ((gradient + gradient.mT) * seen.adjacency).abs(), None
    is_edge = (seen.adjacency > 0)[..., None]
    pairs = torch.where(is_edge, seen.relations.detach(), 0)
    count = is_edge.sum((1, 2), keepdim=True).clamp(min=1)
    moved = torch.where(is_edge, pairs - pairs.sum((1, 2), keepdim=True) / count, 0)
    by_variable = ((gradient + gradient.transpose(1, 2)) * moved).abs()
    # each pair stands there twice
    return by_variable.sum(-1), shares(by_variable.sum((1, 2)) / 2)
