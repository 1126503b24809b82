r"""What two particles of a jet are to each other: $\Delta R$, $k_T$, $z$, $m^2$; edges weighted by powers of them.

The four variables of E-PCN (arXiv:2512.07420) and of Particle Transformer (arXiv:2202.03772), all symmetric in the two
particles: $\Delta R_{ij}$, $k_T = \min(p_{T,i}, p_{T,j}) \Delta R$, $z = \min(p_{T,i}, p_{T,j}) / (p_{T,i} + p_{T,j})$
and $m^2 = (E_i + E_j)^2 - |\vec p_i + \vec p_j|^2$ of two massless particles. O(P²) numbers per jet.

Axes: B jets, P particles, G graphs. `mask` is true where a particle is real.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["VARIABLES", "kinematic_adjacency", "pair_kinematics"]

VARIABLES = ("ΔR", "kT", "z", "m²")
"""The variables of a pair, in the order of the last axis."""

# where the logarithms end: angles that a calorimeter cannot tell apart, GeV that no particle has
_LEAST_ANGLE, _LEAST_PT, _LEAST_MASS = 1e-4, 1e-6, 1e-2


def pair_kinematics(
    vectors: Float[Tensor, "B P 4"], points: Float[Tensor, "B P 2"], mask: Bool[Tensor, "B P"]
) -> Float[Tensor, "B P P 4"]:
    r"""Return $\ln \Delta R$, $\ln k_T$, $\ln z$ and $\ln m^2$ of every pair; 0 where one of both is padding.

    Args:
        vectors: px, py, pz and E in GeV.
        points: Δη and Δφ in radians; φ is compared modulo 2π.
        mask: true where a particle is real.
    """
    joined = (mask[:, :, None] & mask[:, None, :])[..., None]
    vectors, points = (x.masked_fill(~mask[..., None], 0) for x in (vectors, points))
    eta, phi = points.unbind(-1)
    across = torch.remainder(phi[:, :, None] - phi[:, None, :] + math.pi, 2 * math.pi) - math.pi
    angle = torch.hypot(eta[:, :, None] - eta[:, None, :], across).clamp(min=_LEAST_ANGLE).log()
    pt = torch.hypot(vectors[..., 0], vectors[..., 1]).clamp(min=_LEAST_PT)
    softer = torch.minimum(pt[:, :, None], pt[:, None, :]).log()
    shared = softer - (pt[:, :, None] + pt[:, None, :]).log()
    # 2 (E E' - p p'), as one product for all pairs
    product = 2 * torch.bmm(vectors * vectors.new_tensor([-1, -1, -1, 1]), vectors.mT)
    mass = product.clamp(min=_LEAST_MASS**2).log()
    return torch.stack([angle, softer + angle, shared, mass], dim=-1).masked_fill(~joined, 0)


def kinematic_adjacency(
    pairs: Float[Tensor, "B P P 4"],
    adjacency: Float[Tensor, "B P P"],
    exponents: Float[Tensor, "G 4"],
) -> Float[Tensor, "B G P P"]:
    r"""Return G weighted graphs on the edges of one: $\Delta R^{a} k_T^{b} z^{c} (m^2)^{d}$, an exponent each.

    Each graph's weights are divided by the largest of the jet, which its Laplacian does not see, so that no power
    overflows.

    Args:
        pairs: what `pair_kinematics` returns.
        adjacency: symmetric, 1 where two particles are joined.
        exponents: a, b, c and d of each graph; 0 leaves edges of weight 1, unit vectors are E-PCN's four graphs.
    """
    is_edge = (adjacency > 0)[:, None]
    power = (pairs @ exponents.mT).permute(0, 3, 1, 2)
    largest = power.detach().masked_fill(~is_edge, -math.inf).amax((2, 3), keepdim=True)
    # the floor keeps a weak edge an edge; a jet without any has no largest
    power = (power - largest.masked_fill(largest == -math.inf, 0)).clamp(min=-20, max=0)
    return torch.where(is_edge, power.exp(), 0)
