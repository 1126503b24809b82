"""Systematic variations of jets: particles with other momenta, or without some of them, before features are computed.

Each particle's four-momentum is multiplied by a factor, which keeps its direction, is dropped, or is turned around the
beam. The momentum of the jet changes by that of the sum of its particles, and the angles to its axis with the axis.
Soft-drop mass and N-subjettiness change by the ratio of what FastJet finds in the particles after and before.

Axes: J jets, C particles of all jets, one jet after the other.
"""

import math
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require, unknown
from subquad.hep.data.columns import jet_totals
from subquad.hep.data.momentum_checks import eta_and_phi, wrapped
from subquad.hep.data.substructure import substructure

__all__ = ["Variation", "fixed_inputs", "parse_variation", "vary"]

KINDS = {
    "pt_scale": "momenta of all particles multiplied by this factor",
    "pt_smear": "momenta multiplied by 1 + this number times a normal random number, 0.1 at least",
    "drop": "particles dropped with this probability; the hardest one of a jet stays",
    "rotate": "jets turned around the beam by this angle in radians, which changes no input but rounding",
}
"""Kinds of variations, and what they do."""

# endings of the names of branches of particles, and what a factor on the momentum does to them
SCALED = ("px", "py", "pz", "p", "pt", "et", "energy", "e", "mass", "m")
FIXED = re.compile(r"(^|_)(d?eta|d?phi|charge|q|pid|pdg\w*|is[A-Z]\w*|d[0z]\w*|mask)$")
"""Branches of particles that a factor does not change, or only through the axis of the jet."""
JETS = ("pt", "energy", "e", "eta", "phi", "mass", "nparticles")
"""Endings of the names of branches of jets that are recomputed."""
SUBSTRUCTURE = re.compile(r"(^|_)(sdmass|softdrop_?mass|msoftdrop|tau[1-4])$", re.IGNORECASE)
"""Branches of jets that are recomputed by FastJet."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One variation, such as `pt_scale=1.02`."""

    name: str
    """As it is given."""
    kind: str
    """One of `KINDS`."""
    value: float
    seed: int = 0
    """Seed of its random numbers, which depend on file and entry too, but not on the tagger."""

    def generator(self, file: str, entry: int) -> np.random.Generator:
        """Return the random numbers for a chunk of a file that begins at an entry."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), zlib.crc32(file.encode()), entry])


def parse_variation(text: str, seed: int = 0) -> Variation:
    """Return the variation that `--vary` names.

    Raises:
        SubquadError: There is no such kind, or the value cannot work.
    """
    kind, _, number = text.partition("=")
    if kind not in KINDS:
        raise SubquadError(f"--vary {text}: {unknown('variation', kind, KINDS)}; write it as pt_scale=1.02")
    try:
        value = float(number)
    except ValueError:
        example = "1.02" if kind == "pt_scale" else "0.02"
        problem = f"{number!r} is not a number" if number else "has no value"
        raise SubquadError(f"--vary {text}: {problem}; write it as {kind}={example}") from None
    if not math.isfinite(value):
        raise SubquadError(f"--vary {text}: give a finite number")
    if kind == "pt_scale" and value <= 0:
        raise SubquadError(f"--vary {text}: give a factor above 0, such as 1.02")
    if kind in ("pt_smear", "drop") and not 0 <= value < 1:
        raise SubquadError(f"--vary {text}: give a number from 0 to less than 1")
    return Variation(name=text, kind=kind, value=value, seed=seed)


def fixed_inputs(particles: Iterable[str], jets: Iterable[str]) -> list[str]:
    """Return the branches among the inputs that cannot be recomputed from varied momenta.

    Args:
        particles: Branches of particles that the inputs are computed from.
        jets: Branches of jets likewise.
    """
    own = [name for name in particles if not FIXED.search(name) and _ending(name) not in SCALED]
    return own + [name for name in jets if not _is_recomputed(name) and not SUBSTRUCTURE.search(name)]


def _ending(name: str) -> str:
    return name.lower().rpartition("_")[2]


def _is_recomputed(name: str) -> bool:
    return name.lower().endswith(tuple(f"_{ending}" for ending in JETS)) and "soft" not in name.lower()


def vary(
    columns: Mapping[str, Any],
    variation: Variation,
    vectors: Callable[[Mapping[str, Any]], tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
    *,
    jets: Collection[str],
) -> dict[str, Any]:
    """Return the columns of some jets with varied momenta.

    Args:
        columns: Branches: awkward arrays [J, particles], and [J].
        variation: What is varied.
        vectors: Returns the four-momenta [C, 4] and numbers of particles [J] that belong to columns.
        generator: Random numbers.
        jets: Branches of jets that are recomputed, if their names say how; the others, such as labels, stay.

    Raises:
        SubquadError: The momenta that are computed from the varied branches are not the varied momenta.
    """
    ak = require("awkward", extra="hep")
    momenta, lengths = vectors(columns)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    factor, keep = _draw(variation, momenta, jet, generator)
    turn = variation.value if variation.kind == "rotate" else 0.0
    wanted = _turned(momenta * factor[:, None], turn)[keep]
    kept = np.bincount(jet[keep], minlength=len(lengths))
    before, after = (
        np.stack([jet_totals(one, column, len(lengths)) for column in table.T], axis=1)
        for one, table in ((jet, momenta), (jet[keep], wanted))
    )
    found: dict[str, Any] = {}
    is_clustered = any(name in jets and SUBSTRUCTURE.search(name) for name in columns)
    ratios = _substructure_ratios(variation, (momenta, lengths), (wanted, kept)) if is_clustered else np.ones((0, 5))
    for name, given in columns.items():
        column = ak.Array(given)
        if column.ndim == 1:
            value = ak.to_numpy(column)
            if name in jets and SUBSTRUCTURE.search(name):
                tau = name.lower().rpartition("tau")[2]
                found[name] = (value * ratios[:, int(tau) if tau.isdigit() else 0]).astype(value.dtype)
            else:
                found[name] = _jet_column(name, value, before, after, kept - lengths) if name in jets else value
            continue
        flat = ak.to_numpy(ak.flatten(column))
        # per-event collections of another length than the particles are left alone
        if len(flat) != len(jet):
            found[name] = column
            continue
        value = _particle_column(name, flat, columns, momenta, jet, factor=factor, turn=turn, sums=(before, after))
        found[name] = ak.unflatten(value[keep].astype(flat.dtype, copy=False), kept)
    got, _ = vectors(found)
    size = np.abs(wanted).max(initial=1e-6)
    if len(got) != len(wanted) or not np.allclose(got, wanted, rtol=1e-3, atol=1e-5 * size):
        raise SubquadError(
            f"--vary {variation.name}: the four-momenta of the card do not follow the varied branches "
            f"({', '.join(sorted(columns))}); name branches of particles as px, py, pz, energy or as pt, eta, phi, mass"
        )
    return found


def _draw(
    variation: Variation, momenta: np.ndarray, jet: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor on the momentum of each particle [C], and which particles stay [C]."""
    factor, keep = np.ones(len(jet)), np.ones(len(jet), bool)
    if variation.kind == "pt_scale":
        factor[:] = variation.value
    elif variation.kind == "pt_smear":
        factor = np.maximum(1 + variation.value * generator.standard_normal(len(jet)), 0.1)
    elif variation.kind == "drop":
        keep = generator.random(len(jet)) >= variation.value
        order = np.lexsort((-np.hypot(momenta[:, 0], momenta[:, 1]), jet))
        keep[order[np.flatnonzero(np.diff(jet[order], prepend=-1))]] = True
    return factor, keep


def _turned(momenta: np.ndarray, angle: float) -> np.ndarray:
    if not angle:
        return momenta
    px, py, pz, energy = momenta.T
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * px - sin * py, sin * px + cos * py, pz, energy], axis=1)


def _particle_column(
    name: str,
    values: np.ndarray,
    columns: Mapping[str, Any],
    momenta: np.ndarray,
    jet: np.ndarray,
    *,
    factor: np.ndarray,
    turn: float,
    sums: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return a varied branch of particles [C]."""
    ending = _ending(name)
    if turn and ending in ("px", "py"):
        partner = name[: -len(ending)] + {"px": "py", "py": "px"}[ending]
        ak = require("awkward", extra="hep")
        other = ak.to_numpy(ak.flatten(columns[partner])) if partner in columns else values
        return np.cos(turn) * values + (np.sin(turn) if ending == "py" else -np.sin(turn)) * other
    if turn and ending == "phi":
        return wrapped(values + turn)
    if ending in ("deta", "dphi") and not turn:
        index = ("deta", "dphi").index(ending)
        own, (old, new) = eta_and_phi(*momenta.T[:3])[index], (eta_and_phi(*table.T[:3])[index] for table in sums)
        difference, shift = own - old[jet], new - old
        if index:
            difference, shift = wrapped(difference), wrapped(shift)
        # some files count Δη towards the beam as positive on both sides of the detector
        sign = np.where(jet_totals(jet, values * difference, len(old)) < 0, -1.0, 1.0)
        return values - (sign * shift)[jet]
    return values * factor if ending in SCALED else values


def _jet_column(
    name: str, values: np.ndarray, before: np.ndarray, after: np.ndarray, dropped: np.ndarray
) -> np.ndarray:
    """Return a varied branch of jets [J]; those that are no momenta stay as they are."""
    if not _is_recomputed(name):
        return values
    ending = _ending(name)
    if ending == "nparticles":
        return (values + dropped).astype(values.dtype)
    if ending in ("eta", "phi"):
        index = ("eta", "phi").index(ending)
        shift = eta_and_phi(*after.T[:3])[index] - eta_and_phi(*before.T[:3])[index]
        new = values + (wrapped(shift) if index else shift)
        return (wrapped(new) if index else new).astype(values.dtype)
    measure = {"pt": _pt, "energy": _energy, "e": _energy, "mass": _mass}[ending]
    old, new = measure(before), measure(after)
    return (values * np.divide(new, old, out=np.ones(len(old)), where=old > 0)).astype(values.dtype)


def _substructure_ratios(
    variation: Variation, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return soft-drop mass and τ1 … τ4 [J, 5] of the varied jets relative to those of the jets; 1 where those are 0.

    Args:
        variation: What was varied.
        before: Four-momenta [C, 4] and numbers of particles [J].
        after: The same of the varied jets.
    """
    ratios = np.ones((len(before[1]), 5))
    if variation.kind == "pt_scale":
        # a common factor leaves the angles and the fractions of the momentum
        ratios[:, 0] = variation.value
    elif variation.kind != "rotate":
        rows = np.flatnonzero(before[1])
        old, new = (
            np.column_stack([mass, tau])
            for mass, tau in (substructure(momenta, lengths[rows]) for momenta, lengths in (before, after))
        )
        ratios[rows] = np.divide(new, old, out=np.ones_like(old), where=old > 0)
    return ratios


def _pt(sums: np.ndarray) -> np.ndarray:
    return np.hypot(sums[:, 0], sums[:, 1])


def _energy(sums: np.ndarray) -> np.ndarray:
    return sums[:, 3]


def _mass(sums: np.ndarray) -> np.ndarray:
    return np.sqrt((sums[:, 3] ** 2 - (sums[:, :3] ** 2).sum(1)).clip(0))
