r"""Distance correlation: 0 for independent variables and only for these. O(N²) for N values.

With independent copies of a pair $(X, Y)$ marked by primes and weighted means $\langle\cdot\rangle$ (arXiv:2001.05310):

$$\mathrm{dCov}^2(X, Y) = \langle |X - X'| |Y - Y'| \rangle + \langle |X - X'| \rangle \langle |Y - Y'| \rangle
- 2 \langle |X - X'| |Y - Y''| \rangle, \qquad
\mathrm{dCorr}^2(X, Y) = \frac{\mathrm{dCov}^2(X, Y)}{\sqrt{\mathrm{dCov}^2(X, X)\, \mathrm{dCov}^2(Y, Y)}} .$$

Axes: N values.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["distance_correlation", "distance_correlation_direct"]


def distance_correlation_direct(
    x: Float[Tensor, " N"], y: Float[Tensor, " N"], weights: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Return the squared distance correlation by its definition: sums over pairs and triples, O(N³).

    Args:
        x: Values of the first variable.
        y: Values of the second variable.
        weights: Weights, not below 0; only their ratios count.
    """
    w = weights / weights.sum()
    of_pairs, of_triples = torch.einsum("i,j->ij", w, w), torch.einsum("i,j,k->ijk", w, w, w)

    def covariance(u: Tensor, v: Tensor) -> Tensor:
        a, b = (one[:, None] - one for one in (u, v))
        both = (of_pairs * a.abs() * b.abs()).sum()
        each = (of_pairs * a.abs()).sum() * (of_pairs * b.abs()).sum()
        return both + each - 2 * (of_triples * a.abs()[:, :, None] * b.abs()[:, None, :]).sum()

    return _ratio(covariance(x, y), covariance(x, x), covariance(y, y))


def distance_correlation(
    x: Float[Tensor, " N"], y: Float[Tensor, " N"], weights: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Return the squared distance correlation by distances that are centered in rows and columns, O(N²).

    The arguments are those of `distance_correlation_direct`.
    """
    w = weights / weights.sum()
    a, b = _centered(x, w), _centered(y, w)

    def covariance(u: Tensor, v: Tensor) -> Tensor:
        return w @ (u * v) @ w

    return _ratio(covariance(a, b), covariance(a, a), covariance(b, b))


def _centered(values: Float[Tensor, " N"], w: Float[Tensor, " N"]) -> Float[Tensor, "N N"]:
    distances = (values[:, None] - values).abs()
    # distances are symmetric, so that rows and columns have the same means
    means = distances @ w
    return distances - means[:, None] - means + w @ means


def _ratio(covariance: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    # 0 for a constant, which has no distances
    return covariance / (of_x * of_y).clamp(min=torch.finfo(covariance.dtype).tiny).sqrt()
