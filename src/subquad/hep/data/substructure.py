"""Soft-drop mass and N-subjettiness of jets by FastJet (arXiv:1111.6097): 2 ms per jet.

Axes: J jets, C constituents of all jets, one jet after the other.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

RADIUS = 0.8
"""Radius of the jets."""


def substructure(
    constituents: Float[np.ndarray, "C 4"], sizes: Int[np.ndarray, " J"]
) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, "J 4"]]:
    """Return the soft-drop masses and τ1 … τ4 of jets whose constituents follow one another.

    τ uses axes from one pass of minimization starting at exclusive-kT axes; it is 0 with fewer particles than axes.
    """
    import awkward as ak
    import fastjet

    if len(sizes) == 0:
        return np.zeros(0), np.zeros((0, 4))
    # without a limit on the radius, so that one jet has all constituents
    largest = fastjet.JetDefinition.max_allowable_R  # pyright: ignore[reportAttributeAccessIssue]
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, largest)
    cluster = fastjet.ClusterSequence(jets_of_vectors(constituents, sizes), definition)
    groomed = cluster.exclusive_jets_softdrop_grooming(njets=1, beta=0, symmetry_cut=0.1, R0=RADIUS)
    taus = cluster.njettiness(njets=[1, 2, 3, 4], beta=1.0, R0=RADIUS)  # pyright: ignore[reportAttributeAccessIssue]
    mass = ak.to_numpy(groomed.msoftdrop).astype(np.float64).reshape(-1)
    return mass, ak.to_numpy(taus).astype(np.float64).reshape(len(sizes), 4)


def jets_of_vectors(momentum: Float[np.ndarray, "C 4"], sizes: Int[np.ndarray, " J"]) -> Any:
    """Return four-momenta as FastJet takes them, one list per jet or event."""
    import awkward as ak

    columns = {axis: np.ascontiguousarray(momentum[:, column]) for column, axis in enumerate(("px", "py", "pz", "E"))}
    return ak.unflatten(ak.zip(columns, with_name="Momentum4D"), sizes)
