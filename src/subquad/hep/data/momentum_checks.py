"""Angles of momenta, and checks of what no single value shows: MeV, exchanged angles, and Δφ beyond ±π.

Axes: J jets, C particles of all jets.
"""

from collections.abc import Sequence

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.data.columns import Place, jet_totals

MOST_PARTICLES = 20_000
"""Particles from which the meaning of two angles is recognized; more would take longer."""
MAX_JET_PT = 50_000.0
"""Largest median transverse momentum in GeV; at any collider, larger numbers are MeV."""
MAX_RATIO = 100.0
"""Largest median ratio of the transverse momenta of jet and particles, or its inverse, in equal units."""


def angles_from_momenta(vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return [C, 2] float32: Δη and Δφ between each particle and the sum of the particles of its jet.

    Args:
        vectors: [C, 4], momenta in GeV.
        lengths: [J].
    """
    momenta = vectors[:, :3].astype(np.float64).T
    jet = np.repeat(np.arange(len(lengths)), lengths)
    eta, phi = eta_and_phi(*momenta)
    eta_of_jet, phi_of_jet = eta_and_phi(*(jet_totals(jet, x, len(lengths)) for x in momenta))
    return np.stack([eta - eta_of_jet[jet], wrapped(phi - phi_of_jet[jet])], axis=1).astype(np.float32)


def eta_and_phi(px: np.ndarray, py: np.ndarray, pz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return η and φ of momenta in the shape of their components."""
    return np.arcsinh(pz / np.hypot(px, py).clip(1e-6)), np.arctan2(py, px)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Return angles between -π and π."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def check_momenta(vectors: np.ndarray, lengths: np.ndarray, place: Place, *, jet_pt: np.ndarray | None = None) -> None:
    """Refuse momenta in MeV, those of jets and particles in different units, and energies that are not above 0.

    Args:
        vectors: [C, 4], px, py, pz and energy.
        lengths: [J].
        place: Where the jets are, for errors.
        jet_pt: [J], transverse momenta of the jets by the file; None if there are none.
    """
    remedy = "omit padding, and give the energy of each particle"
    place.refuse(vectors[:, 3] <= 0, "the energy of a particle is", vectors[:, 3], lengths=lengths, remedy=remedy)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    pt = np.hypot(*(jet_totals(jet, component, len(lengths)) for component in vectors[:, :2].T))
    middle = float(np.median(pt[pt > 0])) if (pt > 0).any() else 0.0
    if middle > MAX_JET_PT:
        raise SubquadError(f"{place.file}: jets have a median pT of {middle:.3g} GeV; momenta must be in GeV, not MeV")
    is_known = np.zeros(len(pt), bool) if jet_pt is None else (pt > 0) & (jet_pt > 0)
    if jet_pt is not None and is_known.any():
        ratio = float(np.median(jet_pt[is_known] / pt[is_known]))
        if not 1 / MAX_RATIO < ratio < MAX_RATIO:
            raise SubquadError(f"{place.file}: jet_pt is {ratio:.3g} times the pT of its particles; give both in GeV")


def check_points(
    points: np.ndarray, vectors: np.ndarray, lengths: np.ndarray, names: Sequence[str], place: Place
) -> None:
    """Refuse coordinates that by the momenta are Δφ and Δη in this order, in degrees, or differences beyond ±π.

    Only the second coordinate is compared modulo 2π. Coordinates of another kind are left alone.

    Args:
        points: [C, 2].
        vectors: [C, 4], momenta.
        lengths: [J].
        names: Names of the coordinates.
        place: Where the jets are, for errors.
    """
    some = lengths[np.cumsum(lengths) <= MOST_PARTICLES]
    count, jet = int(some.sum()), np.repeat(np.arange(len(some)), some)
    eta, phi = eta_and_phi(*vectors[:count, :3].astype(np.float64).T)
    given = points[:count].astype(np.float64).T
    is_pair = jet[1:] == jet[:-1]
    if is_pair.sum() < 20:
        return
    # distances of consecutive particles do not depend on the origin; signs may be flipped by that of the jet's η
    true_eta, true_phi = np.abs(np.diff(eta))[is_pair], np.abs(wrapped(np.diff(phi)))[is_pair]
    first, second = (np.abs(np.diff(column))[is_pair] for column in given)

    def off(of_eta: np.ndarray, of_phi: np.ndarray) -> float:
        return float(np.median(np.abs(of_eta - true_eta) + np.abs(np.abs(wrapped(of_phi)) - true_phi)))

    least, (one, other) = 0.1 * off(first, second), names
    if off(second, first) < least:
        raise SubquadError(f"{place.file}: {one} is Δφ and {other} Δη by the momenta; exchange them: Δη comes first")
    if off(first, np.radians(second)) < least:
        raise SubquadError(f"{place.file}: {other} is in degrees by the momenta; give radians")
    # φ itself may have any turn
    is_phi = np.median(np.abs(wrapped(given[1] - phi))) < 0.1
    if not is_phi and off(first, second) < 0.1 * np.median(true_eta + true_phi):
        is_beyond = np.abs(points[:, 1]) > np.pi * (1 + 1e-3)
        remedy = "give Δφ from -π to π: (Δφ + np.pi) % (2 * np.pi) - np.pi"
        place.refuse(is_beyond, f"{other} is", points[:, 1], lengths=lengths, remedy=remedy)
