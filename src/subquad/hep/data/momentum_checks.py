"""Checks of momenta and angles, whose wrong units or order no single value shows; errors name the file.

Axes: J jets, C particles of all jets.
"""

from collections.abc import Sequence

import numpy as np

from subquad.hep.data.columns import ChunkErrors, add_particles, check_energies, jet_totals
from subquad.hep.data.input_collections import InputCollection, columns_of

__all__ = [
    "angles_from_momenta",
    "check_azimuth",
    "check_collections",
    "check_momenta",
    "check_points",
    "check_units",
    "eta_and_phi",
    "momenta_of_jets",
    "wrapped",
]

MIN_PAIRS = 20
"""Smallest number of pairs of particles from which the order of two angles is recognized."""
MAX_PAIRS = 20_000
"""Number of particles from which it is recognized; more would take longer."""
MAX_JET_PT = 50_000.0
"""Largest median transverse momentum in GeV; at any collider, larger numbers are MeV."""
MAX_RATIO = 100.0
"""Largest median ratio of the transverse momenta of jet and particles, or its inverse, in equal units."""
MANY_NEGATIVE = 0.1
"""Fraction of negative energies from which they are taken to be another quantity, such as a momentum."""
MAX_SHARE = 10.0
"""Largest median ratio of the transverse momenta of another collection of inputs and of the jet that it is part of."""
MIN_ENERGY = 0.9
"""Smallest median ratio of energy and momentum of particles, which rounding lowers to a little less than 1."""
MAX_ENERGY = 10.0
"""Largest median of this ratio; particles of jets are faster."""
MAX_BEYOND = 0.01
"""Largest fraction of angles in radians beyond ±2π."""
MAX_OFFSET = 0.4
"""Largest median difference between an angle of a file and that of the momenta; that of other jet axes is smaller."""
MAX_AXIS_OFFSET = 1.0
"""The same of both angles of a jet; the axis of a large jet may differ by some tenths from the sum of its particles."""


def angles_from_momenta(vectors: np.ndarray, lengths: np.ndarray, *, jets: np.ndarray | None = None) -> np.ndarray:
    """Return [C, 2] float32: Δη and Δφ between each particle and its jet.

    Args:
        vectors: [C, 4], momenta in GeV.
        lengths: [J].
        jets: [J, 3], momenta of the jets; None for the sums of their particles.
    """

    eta, phi = eta_and_phi(*vectors[:, :3].astype(np.float64).T)
    jets = momenta_of_jets(vectors, lengths) if jets is None else jets
    eta_of_jet, phi_of_jet = (np.repeat(x, lengths) for x in eta_and_phi(*jets.T))
    return np.stack([eta - eta_of_jet, wrapped(phi - phi_of_jet)], axis=1).astype(np.float32)


def eta_and_phi(px: np.ndarray, py: np.ndarray, pz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return η and φ of momenta in the shape of their components."""
    return np.arcsinh(pz / np.hypot(px, py).clip(1e-6)), np.arctan2(py, px)


def momenta_of_jets(vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return [J, 3]: the sums of the momenta of each jet's particles."""
    jet = np.repeat(np.arange(len(lengths)), lengths)
    return np.stack([jet_totals(jet, x, len(lengths)) for x in vectors[:, :3].astype(np.float64).T], axis=1)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Return angles between -π and π."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def check_collections(
    collections: Sequence[InputCollection],
    tables: Sequence[np.ndarray],
    counts: Sequence[np.ndarray],
    errors: ChunkErrors,
    *,
    has_energies: bool,
) -> None:
    """Check momenta and points of the collections of a data card, and those of further ones beside the first.

    Args:
        collections: One or more, with momenta.
        tables: [C, V] for each, in the order of its `columns`.
        counts: [J] for each: its entries in each jet.
        errors: Receives the errors.
        has_energies: Check that energies are above 0.
    """
    first = None
    for one, table, lengths in zip(collections, tables, counts, strict=True):
        vectors, points = columns_of(table, one, one.vectors), columns_of(table, one, one.points)
        advice = errors.drop(f"ak.all({one.vectors[3].name} > 0, axis=1)")
        if (vectors[:, 3] < 0).sum() > MANY_NEGATIVE * len(vectors):
            advice = f"{one.prefix}_vectors must be px, py, pz and energy; the fourth variable is {one.vectors[3].name}"
        if has_energies:
            name = "the energy" if first is None else f"the energy by {one.prefix}_vectors"
            check_energies(vectors[:, 3], lengths, errors, advice=advice, name=name)
        check_units(vectors, lengths, errors)
        if one.points:
            names = [point.name for point in one.points]
            some = lengths[np.cumsum(lengths) <= MAX_PAIRS]
            angles = angles_from_momenta(vectors[: some.sum()], some)
            check_points(points[: some.sum()], angles, some, names, errors, group=f"{one.prefix}_points")
        own = vectors, points, lengths
        if first is not None:
            _check_alike(first, own, (collections[0].prefix, one.prefix), errors)
        first = first or own


def _check_alike(
    first: tuple[np.ndarray, np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray, np.ndarray],
    prefixes: tuple[str, str],
    errors: ChunkErrors,
) -> None:
    """Add an error if two collections of inputs have momenta in different units, or points in other coordinates.

    Args:
        first: Momenta [C, 4], points [C, 2] and lengths [J] of the collection that jets consist of.
        other: The same of another collection.
        prefixes: Their names.
        errors: Receives the errors.
    """
    jets, own = (momenta_of_jets(vectors, lengths) for vectors, _, lengths in (first, other))
    pt, own_pt = (np.hypot(*momenta[:, :2].T) for momenta in (jets, own))
    is_known = (pt > 0) & (own_pt > 0)
    if not is_known.any():
        return
    ratio = float(np.median(own_pt[is_known] / pt[is_known]))
    if ratio > MAX_SHARE:
        errors.errors.append(
            f"{errors.file}: the sum of {prefixes[1]}_vectors has {ratio:.3g} times the transverse momentum of that of "
            f"{prefixes[0]}_vectors (median of the jets); give both in GeV"
        )
    offsets = []
    for vectors, points, lengths in (first, other):
        jet = np.repeat(np.arange(len(lengths)), lengths)
        # from the angle to the jet to the point: 0 for Δη and Δφ, the axis of the jet for η and φ
        offset = points.astype(np.float64) - angles_from_momenta(vectors, lengths, jets=jets)
        turns = (jet_totals(jet, part(offset[:, 1]), len(lengths)) for part in (np.sin, np.cos))
        offsets.append((jet_totals(jet, offset[:, 0], len(lengths)) / lengths.clip(1), np.arctan2(*turns)))
    (eta, phi), (own_eta, own_phi) = offsets
    far = max(np.median(np.abs(x[is_known])) for x in (eta - own_eta, wrapped(phi - own_phi)))
    if far > MAX_OFFSET:
        errors.errors.append(
            f"{errors.file}: by the four-vectors, {prefixes[1]}_points do not have the origin of {prefixes[0]}_points "
            f"(off by {far:.2g}, median of the jets); give both relative to the axis of the jet, or none"
        )


def check_momenta(
    vectors: np.ndarray, angles: np.ndarray, lengths: np.ndarray, jets: np.ndarray, errors: ChunkErrors
) -> None:
    """Add errors if momenta or angles in JetClass's branches have other units or another order than they must have.

    Args:
        vectors: [C, 4], px, py, pz and energy.
        angles: [C, 2], the branches part_deta and part_dphi.
        lengths: [J].
        jets: [J, 3], the branches jet_pt, jet_eta and jet_phi.
        errors: Receives the errors.
    """
    check_units(vectors, lengths, errors, jet_pt=jets[:, 0])
    _check_axes(vectors, lengths, jets[:, 1:], errors)
    is_bad = np.abs(angles[:, 1]) > np.pi * (1 + 1e-3)
    if is_bad.any():
        add_particles(is_bad, angles[:, 1], lengths, "part_dphi", errors, advice="give Δφ in radians, from -π to π")
        return
    first = lengths[np.cumsum(lengths) <= MAX_PAIRS]
    own, vectors = angles[: first.sum()], vectors[: first.sum()]
    advice = "exchange these branches"
    names = ("part_deta", "part_dphi")
    before, true = len(errors.errors), angles_from_momenta(vectors, first)
    check_points(own, true, first, names, errors, advice=advice)
    is_real = np.hypot(vectors[:, 0], vectors[:, 1]) > 0
    if len(errors.errors) > before or is_real.sum() < MIN_PAIRS:
        return
    # absolute values, as the sign of Δη may be flipped by that of the jet's η
    offsets = np.median(np.abs(np.abs(own[is_real]) - np.abs(true[is_real])), axis=0)
    for name, offset in zip(names, offsets, strict=True):
        if offset > MAX_OFFSET:
            errors.errors.append(
                f"{errors.file}: by the four-vectors, {name} is not the difference to the jet axis (off by "
                f"{offset:.2g}, median of the particles); subtract the angle of the jet"
            )


def _check_axes(vectors: np.ndarray, lengths: np.ndarray, axes: np.ndarray, errors: ChunkErrors) -> None:
    """Add an error if η and φ of the jets [J, 2] are not those of the sums of their particles."""
    momenta = momenta_of_jets(vectors, lengths)
    known = np.hypot(momenta[:, 0], momenta[:, 1]) > 0
    if known.sum() < MIN_PAIRS:
        return
    (eta, phi), (own_eta, own_phi) = eta_and_phi(*momenta[known].T), axes[known].astype(np.float64).T

    def off(first: np.ndarray, second: np.ndarray) -> float:
        # absolute values, as some files have |η|
        return float(np.median(np.abs(np.abs(first) - np.abs(eta))) + np.median(np.abs(wrapped(second - phi))))

    # such as 0 for jets whose direction was not filled
    is_constant = (own_eta == own_eta[0]).all() and off(own_eta, phi) > MAX_OFFSET
    if off(own_eta, own_phi) > MAX_AXIS_OFFSET or is_constant:
        is_exchanged = not is_constant and off(own_phi, own_eta) < MAX_AXIS_OFFSET
        remedy = "exchange these branches" if is_exchanged else "give those of the jets, in radians"
        errors.errors.append(
            f"{errors.file}: by the four-vectors, jet_eta and jet_phi are not η and φ of the sum of the particles (off "
            f"by {off(own_eta, own_phi):.2g}, median of the jets); {remedy}"
        )


def check_azimuth(values: np.ndarray, name: str, place: str, errors: ChunkErrors) -> None:
    """Add an error for a column of angles of which many are beyond ±2π, as those in degrees are.

    Momenta that are computed from such angles agree with them, so that the other checks find no difference.

    Args:
        values: The angles, of jets or of particles.
        name: Name of their column.
        place: Card and key that takes this column as an angle in radians.
        errors: Receives the error.
    """
    is_beyond = np.abs(values) > 2 * np.pi
    if len(values) and is_beyond.mean() > MAX_BEYOND:
        errors.errors.append(
            f"{errors.file}: {place}: {100 * is_beyond.mean():.0f} % of the values of {name} are beyond ±2π, such as "
            f"{values[np.argmax(is_beyond)]:.5g}; angles must be in radians: define another variable as "
            f"np.deg2rad({name}) in new_variables, and take it wherever the card has {name}"
        )


def check_units(
    vectors: np.ndarray, lengths: np.ndarray, errors: ChunkErrors, *, jet_pt: np.ndarray | None = None
) -> None:
    """Add an error if momenta are in MeV, those of jets and particles in different units, or energies no energies.

    Args:
        vectors: [C, 4], px, py, pz and energy.
        lengths: [J].
        errors: Receives the error.
        jet_pt: [J], transverse momenta of the jets by the file; None if there are none.
    """
    momentum = np.linalg.norm(vectors[:, :3].astype(np.float64), axis=1)
    # energies of 0, which columns with errors have too, are reported by particle
    is_known = (momentum > 0) & (vectors[:, 3] > 0)
    energy = vectors[is_known, 3] / momentum[is_known]
    if len(energy) and np.median(energy) < MIN_ENERGY:
        errors.errors.append(
            f"{errors.file}: the energy of the particles is {np.median(energy):.3g} times their momentum (median), and "
            "cannot be smaller than it; give the energy, not the mass or the transverse energy"
        )
    if len(energy) and np.median(energy) > MAX_ENERGY:
        errors.errors.append(
            f"{errors.file}: the energy of the particles is {np.median(energy):.4g} times their momentum (median), but "
            "most particles of jets are nearly as fast as light; give energies and momenta in the same unit, GeV"
        )
    jet = np.repeat(np.arange(len(lengths)), lengths)
    px, py = (jet_totals(jet, component, len(lengths)) for component in vectors[:, :2].T)
    pt = np.hypot(px, py)
    if not (pt > 0).any():
        return
    middle = float(np.median(pt[pt > 0]))
    if middle > MAX_JET_PT:
        errors.errors.append(
            f"{errors.file}: the transverse momentum of the jets, the sum of their particles, has a median of "
            f"{middle:.3g} GeV, which no collider reaches; momenta must be in GeV, so divide MeV by 1000"
        )
    known = np.zeros(len(pt), bool) if jet_pt is None else (pt > 0) & (jet_pt > 0)
    if jet_pt is None or not known.any():
        return
    ratio = float(np.median(jet_pt[known] / pt[known]))
    if not 1 / MAX_RATIO < ratio < MAX_RATIO:
        errors.errors.append(
            f"{errors.file}: jet_pt is {ratio:.3g} times the transverse momentum of the sum of the particles (median "
            "of the jets); give both in GeV"
        )


def check_points(
    points: np.ndarray,
    angles: np.ndarray,
    lengths: np.ndarray,
    names: Sequence[str],
    errors: ChunkErrors,
    *,
    advice: str = "",
    group: str = "pf_points",
) -> None:
    """Add an error if the points are not Δη and Δφ, of which only the second is compared modulo 2π, but Δφ and Δη.

    Δφ in degrees is an error, too.

    Args:
        points: [C, 2], coordinates by a data card or in the branches.
        angles: [C, 2], Δη and Δφ by the momenta.
        lengths: [J].
        names: Those of the points.
        errors: Receives the error.
        advice: What to do about branches; empty for the points of a data card.
        group: Name of these points in the card.
    """
    jet = np.repeat(np.arange(len(lengths)), lengths)
    is_pair = jet[1:] == jet[:-1]
    # distances of consecutive particles do not depend on the origin; signs may be flipped by that of the jet's η
    own, true = (np.abs(np.diff(table.astype(np.float64), axis=0)[is_pair]) for table in (points, angles))
    if len(own) < MIN_PAIRS:
        return

    def off(eta: np.ndarray, phi: np.ndarray) -> float:
        turn = np.minimum(phi % (2 * np.pi), -phi % (2 * np.pi))
        of_momenta = np.minimum(true[:, 1], 2 * np.pi - true[:, 1])
        return float(np.median(np.abs(eta - true[:, 0]) + np.abs(turn - of_momenta)))

    place = f"{errors.file}: " if advice else f"{errors.file}: {group}: "
    if off(own[:, 1], own[:, 0]) < 0.1 * off(own[:, 0], own[:, 1]):
        advice = advice or f"write Δη first and Δφ second: {names[1]}, {names[0]}"
        errors.errors.append(f"{place}by the four-vectors, {names[0]} is Δφ and {names[1]} is Δη; {advice}")
    elif off(own[:, 0], np.radians(own[:, 1])) < 0.1 * off(own[:, 0], own[:, 1]):
        errors.errors.append(
            f"{place}by the four-vectors, {names[1]} is in degrees; give radians, such as np.deg2rad({names[1]})"
        )
