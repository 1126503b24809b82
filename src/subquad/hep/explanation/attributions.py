r"""First-order attributions: how strongly inputs, edges and graphs affect the logit of a class.

The attribution of an input v is $|\partial y / \partial v \cdot (v - \bar v)|$: the first-order change of the logit y
when v is replaced by its mean; it takes one backward pass per batch.

Axes: B jets, P particles, H particle features, J jet-level features, G = 4 pair variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.hep.data.batches import Batch
from subquad.nn.graph import PCN, unpacked
from subquad.nn.kinematic import EPCN, KinematicNet
from subquad.ops.chebyshev import knn_adjacency, rows, scaled_laplacian
from subquad.ops.edges import edges_of
from subquad.ops.kinematics import kinematic_adjacency, pair_kinematics
from subquad.progress import track


@dataclass(frozen=True, kw_only=True)
class InputMeans:
    """Means of the inputs over the sample."""

    features: Float[Tensor, " H"]
    jet_features: Float[Tensor, " J"] | None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Attributions of the logit of each jet's target class."""

    features: Float[Tensor, "B H"]
    """Particle features, summed over the particles."""
    particles: Float[Tensor, "B P"]
    """Particles, summed over their features."""
    jet_features: Float[Tensor, "B J"] | None
    graphs: Float[Tensor, "B G"] | None
    """E-PCN: Grad-CAM of the four graphs; each row sums to 1, or is NaN if no graph contributes positively."""
    variables: Float[Tensor, "B G"] | None
    """Kinematic networks: pair variables; each row sums to 1, or is NaN if none affects the logit."""
    edges: Float[Tensor, "B P P"]
    """Symmetric; 0 where there is no edge."""
    weights: Float[Tensor, "B P P"]
    """Edge weights, at most 1: the mean over weighted graphs; without them 1."""


def input_means(batches: Sequence[Batch]) -> InputMeans:
    """Return the means of the inputs over all particles and all jets of the sample, with the jets' weights."""
    particles = torch.cat([batch.x[batch.mask] for batch in batches])
    of_particles = torch.cat([batch.weights.repeat_interleave(batch.mask.sum(1)) for batch in batches])
    weights = torch.cat([batch.weights for batch in batches])
    of_jets = [batch.jet_features for batch in batches if batch.jet_features is not None]
    return InputMeans(
        features=_mean(particles, of_particles), jet_features=_mean(torch.cat(of_jets), weights) if of_jets else None
    )


def _mean(table: Tensor, weights: Tensor) -> Tensor:
    return ((weights[:, None] * table).sum(0, dtype=torch.float64) / weights.sum(dtype=torch.float64)).to(table.dtype)


def attribute_all(
    net: nn.Module, batches: Sequence[Batch], target: int | None, means: InputMeans, *, quiet: bool
) -> dict[str, np.ndarray]:
    """Return the attributions of every jet: `features`, `jet_features`, `graphs` and `variables`.

    Args:
        net: Network in evaluation mode.
        batches: The sample.
        target: Class whose logit is explained; None for the class of each jet.
        means: Means of the inputs over the sample.
        quiet: Show no progress.
    """
    found: dict[str, list[np.ndarray]] = {}
    with track("attributions", sum(len(batch.labels) for batch in batches), quiet=quiet) as advance:
        for batch in batches:
            classes = batch.labels if target is None else torch.full_like(batch.labels, target)
            attribution = attribute(net, batch, classes, means)
            for name in ("features", "jet_features", "graphs", "variables"):
                value = getattr(attribution, name)
                if value is not None:
                    found.setdefault(name, []).append(value.double().numpy())
            advance(len(batch.labels))
    return {name: np.concatenate(values) for name, values in found.items()}


def attribute(net: nn.Module, batch: Batch, target: Int[Tensor, " B"], means: InputMeans) -> Attribution:
    """Return the attributions of a batch.

    Args:
        net: A PCN, an EPCN or a KinematicNet in evaluation mode.
        batch: The jets.
        target: [B], the class whose logit is explained.
        means: Means of the inputs over the sample.

    Raises:
        TypeError: Another network.
    """
    mask = batch.mask
    x = torch.where(mask[..., None], batch.x, 0).detach().requires_grad_()
    jet_features = None if batch.jet_features is None else batch.jet_features.detach().requires_grad_()
    trace = _forward(net, batch, x, jet_features)
    outputs = trace.logits.gather(1, target[:, None]).sum()
    # a network of one layer with one Chebyshev term does not use its edges
    leaves = [x, trace.relations, *trace.activations, *(() if jet_features is None else (jet_features,))]
    gradients = torch.autograd.grad(outputs, leaves, allow_unused=True, materialize_grads=True)
    of_x, of_relations, *rest = gradients
    by_feature = torch.where(mask[..., None], (of_x * (x - means.features)).detach().abs(), 0)
    edges, variables = _edge_attributions(trace, of_relations)
    graphs = None
    if trace.activations:
        pairs = zip(trace.activations, rest, strict=False)
        graphs = _fractions(torch.stack([grad_cam(a.detach(), g, mask) for a, g in pairs], -1))
    of_jet = None
    if jet_features is not None and means.jet_features is not None:
        of_jet = (rest[-1] * (jet_features - means.jet_features)).detach().abs()
    return Attribution(
        features=by_feature.sum(1),
        particles=by_feature.sum(2),
        jet_features=of_jet,
        graphs=graphs,
        variables=variables,
        edges=edges,
        weights=trace.weights,
    )


def grad_cam(activations: Float[Tensor, "B P H"], gradients: Float[Tensor, "B P H"], mask: Tensor) -> Tensor:
    r"""Return [B]: $\sum_p \mathrm{ReLU}(\sum_h \alpha_h A_{ph})$, $\alpha_h$ the gradient's mean over the particles.

    Grad-CAM (arXiv:1610.02391, Eqs. 1 and 2) with particles in place of pixels, as E-PCN uses it.
    """
    is_real = mask[..., None]
    alpha = torch.where(is_real, gradients, 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return (torch.where(is_real, activations, 0) * alpha[:, None]).sum(-1).relu().sum(-1)


def _fractions(x: Float[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """Return the rows scaled to a sum of 1; NaN where a row is 0."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total, torch.nan)


@dataclass(frozen=True, kw_only=True)
class _Trace:
    """Logits, and the tensors on the way to them."""

    logits: Tensor
    relations: Tensor
    """A leaf: the variables of all pairs, or the adjacency of a PCN."""
    adjacency: Tensor
    activations: list[Tensor]
    """Output of the last filter on each graph of E-PCN."""
    weights: Tensor


def _forward(net: nn.Module, batch: Batch, x: Tensor, jet_features: Tensor | None) -> _Trace:
    mask = batch.mask
    if isinstance(net, PCN):
        adjacency = knn_adjacency(batch.points, mask, net.k, periodic=net.periodic).requires_grad_()
        graph, plain = rows(scaled_laplacian(adjacency, mask), mask), adjacency.detach()
        logits = net.classify(unpacked(net.filtered(x[mask], graph), mask), mask, jet_features=jet_features)
        return _Trace(logits=logits, relations=adjacency, adjacency=plain, activations=[], weights=plain)
    if not isinstance(net, EPCN | KinematicNet):
        raise TypeError(f"{type(net).__name__} cannot be explained; give a PCN, an EPCN or a KinematicNet")
    assert batch.vectors is not None
    adjacency = knn_adjacency(batch.points, mask, net.k, periodic=(1,))
    pairs = pair_kinematics(batch.vectors, batch.points, mask).requires_grad_()
    if isinstance(net, EPCN):
        activations, exponents = net.filtered(x, pairs[adjacency > 0], edges_of(adjacency), mask), torch.eye(4)
        logits = net.classify(activations, mask)
    else:
        activations, exponents = [], net.exponents
        particles = net.filtered(x, pairs[adjacency > 0], edges_of(adjacency), mask)
        logits = net.classify(particles, mask, jet_features=jet_features)
    if exponents is None:
        return _Trace(logits=logits, relations=pairs, adjacency=adjacency, activations=[], weights=adjacency)
    weights = kinematic_adjacency(pairs.detach(), adjacency, exponents.detach().to(pairs)).mean(1)
    return _Trace(logits=logits, relations=pairs, adjacency=adjacency, activations=activations, weights=weights)


def _edge_attributions(trace: _Trace, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the attributions of the edges, and of the pair variables of a kinematic network."""
    # both directions of an edge change together
    if trace.relations.dim() == 3:
        return ((gradient + gradient.mT) * trace.adjacency).abs(), None
    is_edge = (trace.adjacency > 0)[..., None]
    pairs = torch.where(is_edge, trace.relations.detach(), 0)
    count = is_edge.sum((1, 2), keepdim=True).clamp(min=1)
    change = torch.where(is_edge, pairs - pairs.sum((1, 2), keepdim=True) / count, 0)
    by_variable = ((gradient + gradient.transpose(1, 2)) * change).abs()
    # every pair occurs twice
    return by_variable.sum(-1), _fractions(by_variable.sum((1, 2)) / 2)
