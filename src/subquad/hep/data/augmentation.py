"""Random reflections of training jets in Δη and Δφ (data augmentation).

The mirror image of a jet about its axis is a jet of the same class. In Δφ it is as likely as the jet itself, except
that it would have opposite charges in the field of a solenoid; in Δη it nearly is, and its energies stay as they are.

Axes: B jets of a batch, P particles of a padded batch, V columns of the table of particles.
"""

import ast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.card import Card
from subquad.hep.data.features import JET_FEATURES, MOMENTUM_FEATURES, PARTICLE_SUMS, TYPES
from subquad.hep.data.layout import ANGLES_FROM_MOMENTA, Layout
from subquad.hep.data.public_layouts import PARTICLE_EXPRESSIONS

__all__ = ["batch_generator", "check_reflections", "reflect"]

SIGNED = {
    **dict.fromkeys(("deta", "part_deta", ANGLES_FROM_MOMENTA[0], "tanh dz", "dz significance"), 0),
    **dict.fromkeys(("dphi", "part_dphi", ANGLES_FROM_MOMENTA[1], "tanh d0", "d0 significance"), 1),
}
"""Column → axis, 0 for Δη and 1 for Δφ, whose reflection changes its sign."""
UNSIGNED = {
    *("log pt", "log energy", "log pt/jet", "log energy/jet", "dr", "charge", "d0err", "dzerr", *TYPES),
    *("part_pt_log", "part_e_log", "part_logptrel", "part_logerel", "part_deltaR", "part_charge"),
    *(f"part_{name}" for name in TYPES),
}
"""Columns that reflections do not change: of JetClass's branches, and of the cards of public layouts."""
INVARIANT = (JET_FEATURES, PARTICLE_SUMS, MOMENTUM_FEATURES)
"""Jet-level features that reflections do not change."""
MOST_NAMES = 3


def check_reflections(layout: Layout, *, has_jet_features: bool) -> None:
    """Check that it is known of all inputs how reflections change them.

    Four-vectors are not reflected, since networks take from them only what reflections do not change.

    Args:
        layout: The columns.
        has_jet_features: Whether the network takes jet-level features.

    Raises:
        SubquadError: It is unknown of some.
    """
    names = dict.fromkeys((*layout.features.names, *layout.points.names))
    unknown = [name for name in names if not (name in SIGNED or name in UNSIGNED) or _is_redefined(name, layout.card)]
    # others are means over the particles
    if has_jet_features and layout.jet_features not in INVARIANT:
        unknown += layout.jet_features
    if unknown:
        more = f" and {len(unknown) - MOST_NAMES} more" if len(unknown) > MOST_NAMES else ""
        raise SubquadError(
            f"--reflect: it is not known how a reflection changes {', '.join(unknown[:MOST_NAMES])}{more}; omit "
            "--reflect, or use --preset auto or standard without a card of your own"
        )


def _is_redefined(name: str, card: Card | None) -> bool:
    """Return whether a card computes a column otherwise than the cards of public layouts do."""
    own = None if card is None else card.new_variables.get(name)
    known = PARTICLE_EXPRESSIONS.get(name)
    return own is not None and (known is None or ast.dump(own.tree) != ast.dump(ast.parse(known, mode="eval").body))


def batch_generator(rows: Tensor, *, seed: int, epoch: int) -> torch.Generator:
    """Return the random numbers of one batch, the same whenever and in whichever process it is made.

    Args:
        rows: Indices of the jets of the batch.
        seed: Seed of the training.
        epoch: Number of the pass over the training jets.
    """
    (state,) = np.random.SeedSequence([seed, epoch, int(rows[0])]).generate_state(1)
    return torch.Generator().manual_seed(int(state))


def reflect(table: Float[Tensor, "B P V"], layout: Layout, generator: torch.Generator) -> Float[Tensor, "B P V"]:
    """Return particles of jets of which each is reflected at random in Δη, in Δφ, in both or in none.

    Args:
        table: The columns of the layout, not standardized.
        layout: A layout that `check_reflections` has accepted.
        generator: Random numbers.
    """
    signs = 1.0 - 2.0 * torch.randint(2, (len(table), 1, 2), generator=generator)
    one = torch.ones_like(signs[..., 0])
    return table * torch.stack([signs[..., SIGNED[name]] if name in SIGNED else one for name in layout.particles], -1)
