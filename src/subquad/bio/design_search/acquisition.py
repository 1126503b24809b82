r"""Acquisition functions: what variants are ranked by. A prediction has mean $\mu$ and standard deviation $\sigma$.

Upper confidence bound: $\mu + \beta\sigma$. Expected improvement over the best measurement $f^*$ (Jones et al., J.
Global Optim. 13 (1998) 455): $(\mu - f^*)\,\Phi(z) + \sigma\,\varphi(z)$ with $z = (\mu - f^*) / \sigma$. Thompson
sampling ranks each choice of a batch by another draw: a random member of an ensemble, or a sample from the posterior of
a Gaussian process. If a lower value is better, all signs of the target are turned.

Axes: n variants, m members, b choices of a batch.
"""

from dataclasses import dataclass

import numpy as np

from subquad.bio.design_search.settings import AcquisitionKind
from subquad.bio.models.support import sign_of
from subquad.bio.settings import Direction
from subquad.errors import SubquadError

__all__ = ["Acquisition", "draws_of_members", "make_acquisition"]


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """What variants are ranked by."""

    kind: AcquisitionKind
    sign: int
    """1 to maximize, -1 to minimize."""
    beta: float
    """Weight of the standard deviation in the upper confidence bound."""
    best: float = np.nan
    """Best measurement, for expected improvement."""

    def value(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the value of the acquisition function, `(n,)`; higher is better.

        For Thompson sampling, which needs `draws_of_members` or samples of a posterior, it is the upper confidence
        bound, by which a search finds the candidates.

        Args:
            mean: `(n,)` predictions in units of the target.
            std: `(n,)` standard deviations; NaN counts as 0.
        """
        std = np.nan_to_num(std)
        if self.kind != "ei":
            return self.sign * mean + self.beta * std
        from scipy.stats import norm

        gain, std = self.sign * (mean - self.best), np.maximum(std, 1e-12)
        z = gain / std
        return np.maximum(gain * norm.cdf(z) + std * norm.pdf(z), 0.0)


def make_acquisition(
    kind: AcquisitionKind, direction: Direction | None, *, beta: float | None, members: int, best: float | None
) -> tuple[Acquisition, str | None]:
    """Return the acquisition function, and a remark if it cannot use the uncertainty of the model.

    Args:
        kind: Its name.
        direction: Which direction of the target is better.
        beta: Weight of the standard deviation; None: 1, or 0 for a single member.
        members: Number of members of the predicting model.
        best: Best measurement; None if unknown.

    Raises:
        SubquadError: The model has a single member and thus no standard deviation, but `beta` is above 0 or `kind`
            needs one; or expected improvement without a known measurement.
    """
    sign, single = sign_of(direction), "the predicting model has a single member and no standard deviation"
    if members < 2 and (kind != "ucb" or beta):
        what = f"beta {beta:g}" if kind == "ucb" else f"acquisition {kind}"
        raise SubquadError(f"{single}, which {what} needs; fit several models")
    if kind == "ei" and best is None:
        raise SubquadError("acquisition ei needs the best measurement, which this model does not know")
    value = float(members > 1) if beta is None else beta
    remark = (
        f"Warning: {single}; variants are ranked by the prediction alone." if members < 2 and beta is None else None
    )
    return Acquisition(kind=kind, sign=sign, beta=value, best=np.nan if best is None else best), remark


def draws_of_members(each: np.ndarray, weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return the predictions of members drawn in proportion to their weights, `(b, n)` for `b = count`.

    Args:
        each: `(m, n)` predictions of the members.
        weights: `(m,)`, with sum one.
        count: Number of draws.
        random: Source of the draws.
    """
    return each[random.choice(len(each), count, p=weights / weights.sum())]
