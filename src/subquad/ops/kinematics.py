r"""Pairwise kinematics of particles, $\Delta R$, $k_T$, $z$ and $m^2$, and graphs weighted by powers of them.

The four variables of E-PCN (arXiv:2512.07420) and of Particle Transformer (arXiv:2202.03772), all symmetric in the two
particles: $\Delta R_{ij}$, $k_T = \min(p_{T,i}, p_{T,j}) \Delta R$, $z = \min(p_{T,i}, p_{T,j}) / (p_{T,i} + p_{T,j})$
and $m^2 = (E_i + E_j)^2 - |\vec p_i + \vec p_j|^2$ of two massless particles. O(P²) numbers per jet.

Axes: B jets, P particles, G graphs. `mask` is true where a particle is real.
"""

import math
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.ops.precision import autocast_disabled, exact

__all__ = ["VARIABLES", "kinematic_adjacency", "kinematic_laplacians", "pair_kinematics"]

VARIABLES = ("ΔR", "kT", "z", "m²")
"""The variables of a pair, in the order of the last axis."""

# limits of the logarithms: angles below a calorimeter's resolution, energies below any particle's
LEAST_ANGLE, LEAST_PT, LEAST_MASS = 1e-4, 1e-6, 1e-2
# E E' - p p' as a sum of products of px, py, pz and E
SIGNS = (-1, -1, -1, 1)
# limits of the weights' logarithms: float32 can represent their exponentials and sums of them
STRONGEST = 40


def pair_kinematics(
    vectors: Float[Tensor, "B P 4"], points: Float[Tensor, "B P 2"], mask: Bool[Tensor, "B P"]
) -> Float[Tensor, "B P P 4"]:
    r"""Return $\ln \Delta R$, $\ln k_T$, $\ln z$ and $\ln m^2$ of every pair.

    The values of padded particles are finite, without meaning.

    Args:
        vectors: px, py, pz and E in GeV.
        points: Δη and Δφ in radians; φ is compared modulo 2π.
        mask: True where a particle is real.
    """
    vectors, points = (x.masked_fill(~mask[..., None], 0) for x in (vectors, points))
    eta, phi = points.unbind(-1)
    across = torch.remainder(phi[:, :, None] - phi[:, None, :] + math.pi, 2 * math.pi) - math.pi
    squared = (eta[:, :, None] - eta[:, None, :]).square().addcmul(across, across)
    angle = squared.clamp(min=LEAST_ANGLE**2).log() / 2
    pt = torch.hypot(vectors[..., 0], vectors[..., 1]).clamp(min=LEAST_PT)
    softer = torch.minimum(pt[:, :, None], pt[:, None, :]).log()
    shared = softer - (pt[:, :, None] + pt[:, None, :]).log()
    # in float64: of 2 (E E' - p p') of collinear particles, float32 leaves few digits
    momenta = exact(vectors)
    with autocast_disabled(vectors.device.type):
        product = 2 * (momenta * momenta.new_tensor(SIGNS)) @ momenta.mT
    mass = product.clamp(min=LEAST_MASS**2).log().to(vectors.dtype)
    # in memory the variables follow one another
    return torch.stack([angle, softer + angle, shared, mass], dim=1).movedim(1, -1)


def kinematic_adjacency(
    pairs: Float[Tensor, "B P P 4"],
    adjacency: Float[Tensor, "B P P"],
    exponents: Float[Tensor, "G 4"],
) -> Float[Tensor, "B G P P"]:
    r"""Return G graphs with the edges of one and the weights $\Delta R^{a} k_T^{b} z^{c} (m^2)^{d}$.

    The weights of each graph are divided by the largest of the jet, so that no power overflows; this does not change
    the normalised Laplacian.

    Args:
        pairs: Output of `pair_kinematics`.
        adjacency: Symmetric; 1 where two particles are joined.
        exponents: a, b, c and d of each graph. All 0 gives edges of weight 1; unit vectors give E-PCN's four graphs.
    """
    is_edge = (adjacency > 0)[:, None]
    power = _powers(pairs, exponents)
    largest = power.detach().masked_fill(~is_edge, -math.inf).amax((2, 3), keepdim=True)
    # the lower bound keeps weak edges in the graph; a jet without edges has no largest weight
    power = (power - largest.masked_fill(largest == -math.inf, 0)).clamp(min=-20, max=0)
    return power.exp() * is_edge


def kinematic_laplacians(
    pairs: Float[Tensor, "B P P 4"],
    adjacency: Float[Tensor, "B P P"],
    exponents: Float[Tensor, "G 4"],
) -> Float[Tensor, "B G P P"]:
    r"""Return `scaled_laplacian` of each of the graphs of `kinematic_adjacency`, in one table.

    Both differ for extreme edges. Here weights are clipped to $e^{\pm 40}$ and the gradient ignores the clipping; there
    they are clipped to at least $e^{-20}$ of the jet's largest.
    """
    return cast(Tensor, _Laplacians.apply(_powers(pairs, exponents), adjacency))


def _powers(pairs: Float[Tensor, "B P P 4"], exponents: Float[Tensor, "G 4"]) -> Float[Tensor, "B G P P"]:
    with autocast_disabled(pairs.device.type):
        return (exponents @ pairs.movedim(-1, 1).flatten(2)).unflatten(-1, pairs.shape[1:3])


class _Laplacians(torch.autograd.Function):
    r"""From $\ln a_{ij}$ to $\tilde L_{ij} = -a_{ij} (D_i D_j)^{-1/2}$, where $D_i = \sum_j a_{ij}$ over the edges.

    $d \ln(-\tilde L_{ij}) = d \ln a_{ij} - \frac12 (d \ln D_i + d \ln D_j)$ and
    $d \ln D_i = \sum_j \frac{a_{ij}}{D_i} d \ln a_{ij}$.
    """

    @staticmethod
    def forward(ctx, powers: Tensor, adjacency: Tensor) -> Tensor:
        weights = powers.clamp(-STRONGEST, STRONGEST).exp_().mul_(adjacency[:, None])
        degree = weights.sum(-1)
        scale = torch.where(degree > 0, degree.rsqrt(), 0)
        laplacians = weights.mul_(-scale[..., :, None]).mul_(scale[..., None, :])
        ctx.save_for_backward(laplacians, scale)
        return laplacians

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        laplacians, scale = ctx.saved_tensors
        of_logarithm = gradients[0] * laplacians
        half = (of_logarithm.sum(-1) + of_logarithm.sum(-2)) / 2
        # a_ij / D_i = - L_ij s_i / s_j with s = D^(-1/2)
        inverse = torch.where(scale > 0, 1 / scale, 0)
        return of_logarithm.addcmul_(laplacians, (half * scale)[..., :, None] * inverse[..., None, :]), None
