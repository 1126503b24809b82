"""Jets in EnergyFlow's arrays: `X` [jets, particles, 4] with pT, rapidity, azimuth and PDG id, padded by 0, and `y`.

Such are the quark and gluon jets of Zenodo 3164691 (Pythia) and 3066475 (Herwig), and the top jets of Zenodo 16986897.

Axes: n jets of a chunk, P places of particles.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.data.columns import Place
from subquad.hep.data.padded_arrays import COUNTS, MASKS, PARTS, SequentialArray, arrays_of_rows

_LEPTONS = {11: (0.000511, -1, "Electron"), 13: (0.105658, -1, "Muon")}
_NEUTRAL = {22: (0.0, 0, "Photon"), **dict.fromkeys((12, 14, 16), (0.0, 0, ""))}
_HADRONS = {
    **{111: (0.134977, 0), 211: (0.139570, 1), 130: (0.497611, 0), 310: (0.497611, 0), 321: (0.493677, 1)},
    **{2112: (0.939565, 0), 2212: (0.938272, 1), 3122: (1.115683, 0), 3112: (1.197449, -1), 3222: (1.189370, 1)},
    **{3312: (1.321710, -1), 3322: (1.314860, 0), 3334: (1.672450, -1)},
}
PARTICLES = {
    **_LEPTONS,
    **_NEUTRAL,
    **{code: (*entry, "ChargedHadron" if entry[1] else "NeutralHadron") for code, entry in _HADRONS.items()},
}
"""Mass in GeV, charge and type of each particle by its PDG id; antiparticles have the opposite id and charge."""

MIN_PARTICLES = 500
"""Particles from which rapidity and azimuth are told apart: rapidities of both signs occur among so many."""

_CODES = np.array(sorted(PARTICLES))
_MASSES = np.array([PARTICLES[code][0] for code in _CODES])
_CHARGES = np.array([PARTICLES[code][1] for code in _CODES])
_TYPES = np.array([f"part_is{PARTICLES[code][2]}" for code in _CODES])


def is_energyflow(arrays: Mapping[str, SequentialArray]) -> bool:
    """Return whether these arrays are `X` and `y` of EnergyFlow; `y` may miss, as in jets to score."""
    if "X" not in arrays or len(arrays["X"].shape) != 3 or arrays.keys() & {*MASKS, *COUNTS}:
        return False
    return "y" in arrays or arrays["X"].shape[2] == 4


def momenta_and_types(path: Path, arrays: Mapping[str, SequentialArray]) -> dict[str, SequentialArray]:
    """Return the arrays `vectors` and `particle_types` in place of `X`, with the particles by descending pT.

    Args:
        path: The file, for messages.
        arrays: `X` and further arrays.

    Raises:
        SubquadError: `X` has another shape. Or, when the arrays are read, pT is negative, an azimuth is beyond ±3π, a
            PDG id is unknown, or rapidity and azimuth are exchanged.
    """
    x = arrays["X"]
    jets, places, features = x.shape
    if features != 4:
        raise SubquadError(f"{path}: array 'X' has the shape {list(x.shape)}; it must be [jets, particles, 4]")

    def make(rows: np.ndarray, begin: int) -> dict[str, np.ndarray]:
        return _converted(rows.astype(np.float64), path, begin)

    shapes = {"vectors": (jets, 4, places), "particle_types": (jets, len(PARTS["particle_types"]), places)}
    others = {name: array for name, array in arrays.items() if name != "X"}
    return {**arrays_of_rows(x.take, make, shapes), **others}


def _converted(x: np.ndarray, path: Path, begin: int) -> dict[str, np.ndarray]:
    """Return px, py, pz and E [n, 4, P] and charge and types [n, 6, P] of particles [n, P, 4]."""
    x = np.take_along_axis(x, np.argsort(-x[..., 0], axis=1, kind="stable")[..., None], axis=1)
    pt, rapidity, phi, code = np.moveaxis(x, 2, 0)
    is_real = (x != 0).any(2)
    which = np.searchsorted(_CODES, np.abs(code)).clip(max=len(_CODES) - 1)
    is_unknown = is_real & (_CODES[which] != np.abs(code))
    place = Place(file=str(path), entries=np.repeat(np.arange(begin, begin + len(x)), x.shape[1]))
    for is_bad, what, values, remedy in (
        (pt < 0, "pT in 'X' is", pt, ""),
        # a jet at 2π may have particles beyond it
        (np.abs(phi) > 3 * np.pi, "an azimuth in 'X' is", phi, "give radians, from 0 to 2π"),
        (is_unknown, "a PDG id in 'X' is", code, "store unprocessed ids of particles that reach a detector"),
    ):
        place.refuse(is_bad.ravel(), what, values.ravel(), remedy=remedy)
    if is_real.sum() >= MIN_PARTICLES and rapidity.min() >= 0 > phi.min():
        raise SubquadError(f"{path}: 'X' has azimuth before rapidity; it must be pT, rapidity, azimuth and PDG id")
    mass = np.where(is_real, _MASSES[which], 0)
    transverse = np.hypot(pt, mass)
    vectors = [pt * np.cos(phi), pt * np.sin(phi), transverse * np.sinh(rapidity), transverse * np.cosh(rapidity)]
    types = [_TYPES[which] == name for name in PARTS["particle_types"][1:]]
    charge = np.where(is_real, _CHARGES[which] * np.sign(code), 0)
    return {
        "vectors": np.stack(vectors, axis=1).astype(np.float32),
        "particle_types": (np.stack([charge, *types], axis=1) * is_real[:, None]).astype(np.float32),
    }
