"""Reflections of training jets: of the same class, whatever the axis, and new to the network.

Axes: B jets of a batch, P particles of a padded batch, H features of a particle.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.features import STANDARD_FEATURES

__all__ = ["SIGNED", "UNSIGNED", "check_reflections", "drawn_for", "reflected"]

SIGNED = {
    **dict.fromkeys(("deta", "part_deta", "tanh dz", "dz significance"), 0),
    **dict.fromkeys(("dphi", "part_dphi", "tanh d0", "d0 significance"), 1),
}
"""Feature → axis, 0 for Δη and 1 for Δφ, whose reflection changes its sign."""
UNSIGNED = (
    *(name for name in STANDARD_FEATURES if name not in SIGNED),
    *("part_pt_log", "part_e_log", "part_logptrel", "part_logerel", "part_deltaR", "part_charge"),
    *(f"part_{name}" for name in STANDARD_FEATURES if name.startswith("is")),
)
"""Features that reflections do not change: of JetClass's branches, and of the cards of public layouts."""


def check_reflections(names: Sequence[str]) -> None:
    """Check that it is known of all features how reflections change them.

    Raises:
        SubquadError: It is unknown of one.
    """
    for name in names:
        if name not in SIGNED and name not in UNSIGNED:
            raise SubquadError(
                f"--reflect: it is unknown how a reflection changes the feature {name}; omit it, or use the features "
                "of JetClass's branches or of a public layout"
            )


def drawn_for(rows: Tensor, *, seed: int, epoch: int) -> torch.Generator:
    """Return the random numbers of one batch, the same whenever and in whichever process it is made.

    Args:
        rows: Indices of the jets of the batch.
        seed: Seed of the training.
        epoch: Number of the pass over the training jets.
    """
    (state,) = np.random.SeedSequence([seed, epoch, int(rows[0])]).generate_state(1)
    return torch.Generator().manual_seed(int(state))


def reflected(
    x: Float[Tensor, "B P H"], points: Float[Tensor, "B P 2"], names: Sequence[str], generator: torch.Generator
) -> tuple[Float[Tensor, "B P H"], Float[Tensor, "B P 2"]]:
    """Return features and points of jets that are reflected at random in Δη and in Δφ.

    Four-vectors need not be reflected, since networks take from them only what reflections do not change.

    Args:
        x: Features of the particles.
        points: Δη and Δφ.
        names: Names of the features, all of them known.
        generator: Random numbers.
    """
    signs = 1.0 - 2.0 * torch.randint(2, (len(x), 1, 2), generator=generator)
    one = torch.ones_like(signs[..., 0])
    of_features = torch.stack([signs[..., SIGNED[name]] if name in SIGNED else one for name in names], dim=-1)
    return x * of_features, points * signs
