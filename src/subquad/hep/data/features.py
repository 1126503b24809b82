"""Particle features and jet-level features, the inputs of networks and gradient boosting: some µs per jet.

Axes: J jets, C particles of all jets, P particles of a padded batch, H features.
"""

from collections.abc import Callable

import numpy as np

from subquad.hep.data.columns import jet_totals
from subquad.hep.data.jets import OBSERVERS, PARTICLES, Jets
from subquad.hep.data.momentum_checks import angles_from_momenta

TYPES = ("isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon")

RAW_FEATURES = ("px", "py", "pz", "energy", "pt", "deta", "dphi", "d0val", "d0err", "dzval", "dzerr", *TYPES)
"""The 16 features of the PCN paper, in GeV, radians and mm as in the file."""

STANDARDIZATION = {
    **{"log pt": (1.7, 0.7), "log energy": (2.0, 0.7), "log pt/jet": (-4.7, 0.7), "log energy/jet": (-4.7, 0.7)},
    "dr": (0.2, 4.0),
}
"""Center and scale of standard features (arXiv:2202.03772); the other ones are taken as they are."""

STANDARD_FEATURES = (
    *("deta", "dphi", "log pt", "log energy", "log pt/jet", "log energy/jet", "dr", "charge", *TYPES),
    *("tanh d0", "d0err", "tanh dz", "dzerr", "d0 significance", "dz significance"),
)
"""JetClass's 17 features, standardized by `STANDARDIZATION`, and two impact parameter significances."""
JETCLASS_FEATURES = STANDARD_FEATURES[:17]
"""The features of ParticleNet and of Particle Transformer on JetClass."""

JET_FEATURES = (
    *("log pt", "|eta|", "log mass", "log sdmass", "particles", "log tau1", "log tau2", "log tau3", "log tau4"),
    *("tau21", "tau32", "tau43", "jet charge", "width", "pt dispersion", "log e2", "leading", "second", "third"),
    *(f"count {name}" for name in TYPES),
    *(f"part of pt {name}" for name in TYPES),
    *(f"d0 significance {i}" for i in (1, 2, 3, 4)),
    *(f"dz significance {i}" for i in (1, 2, 3)),
    *("displaced tracks", "mean d0 significance", "lepton pt/jet", "lepton dr", "mass of displaced"),
)
"""Jet-level features, for gradient boosting and for the head of the network."""
PARTICLE_SUMS = tuple(name for name in JET_FEATURES if name != "log sdmass" and not name.startswith(("tau", "log tau")))
"""Those that are sums over the particles: without soft-drop mass and N-subjettiness."""

MOMENTUM_FEATURES = (
    *("particles", "log pt", "|eta|", "log energy", "log mass", "width", "pt dispersion", "log e2"),
    *("leading", "second", "third"),
)
"""Jet-level features that are computed from the momenta of the particles alone."""


def _column(jets: Jets, name: str) -> np.ndarray:
    return jets.particles[:, PARTICLES.index(f"part_{name}")]


def _observer(jets: Jets, name: str) -> np.ndarray:
    return jets.observers[:, OBSERVERS.index(f"jet_{name}")].astype(np.float64)


def _significance(jets: Jets, name: str) -> np.ndarray:
    """Return [C]: sign(r) log(1 + |r|) of the ratio r of value and error; 0 for a particle without a track."""
    value, error = _column(jets, f"{name}val"), _column(jets, f"{name}err")
    has_track = error > 0
    ratio = np.divide(value, error, out=np.zeros_like(value), where=has_track)
    return np.sign(ratio) * np.log1p(np.abs(ratio))


def particle_features(jets: Jets, names: tuple[str, ...]) -> np.ndarray:
    """Return [C, H] float32: the features of the particles; `names` is `RAW_FEATURES`, or some `STANDARD_FEATURES`."""
    pt = np.hypot(_column(jets, "px"), _column(jets, "py"))
    if names == RAW_FEATURES:
        return np.stack([pt if name == "pt" else _column(jets, name) for name in RAW_FEATURES], axis=1)
    energy, deta, dphi = (_column(jets, name) for name in ("energy", "deta", "dphi"))
    jet_pt, jet_energy = (np.repeat(_observer(jets, name), jets.lengths).clip(1e-6) for name in ("pt", "energy"))
    log_pt, log_energy = np.log(pt.clip(1e-6)), np.log(energy.clip(1e-6))
    computed = {
        "log pt": log_pt,
        "log energy": log_energy,
        "log pt/jet": log_pt - np.log(jet_pt),
        "log energy/jet": log_energy - np.log(jet_energy),
        "dr": np.hypot(deta, dphi),
        "tanh d0": np.tanh(_column(jets, "d0val")),
        "d0err": _column(jets, "d0err").clip(0, 1),
        "tanh dz": np.tanh(_column(jets, "dzval")),
        "dzerr": _column(jets, "dzerr").clip(0, 1),
        "d0 significance": _significance(jets, "d0"),
        "dz significance": _significance(jets, "dz"),
    }
    columns = []
    for name in names:
        center, scale = STANDARDIZATION.get(name, (0.0, 1.0))
        columns.append((computed[name] - center) * scale if name in computed else _column(jets, name))
    return np.stack(columns, axis=1).clip(-10, 10).astype(np.float32)


def jet_features(jets: Jets, names: tuple[str, ...] = JET_FEATURES) -> np.ndarray:
    """Return [J, H] float32: some or all of the jet-level features in `JET_FEATURES`."""
    lengths, total = jets.lengths, _totals(jets.lengths)
    pt = np.hypot(_column(jets, "px"), _column(jets, "py")).astype(np.float64)
    sum_pt = total(pt).clip(1e-6)
    dr = np.hypot(_column(jets, "deta"), _column(jets, "dphi"))
    d0, dz = np.abs(_significance(jets, "d0")), np.abs(_significance(jets, "dz"))
    charged = _column(jets, "charge") != 0
    is_lepton = (_column(jets, "isElectron") + _column(jets, "isMuon")) > 0
    displaced = charged & (d0 > np.log1p(3.0))
    tau = [_observer(jets, f"tau{i}").clip(1e-6) for i in (1, 2, 3, 4)]
    lepton_pt = _ranked(pt * is_lepton, jets.first, 1)[:, 0]
    is_first_lepton = is_lepton & (pt == np.repeat(lepton_pt, lengths))
    shapes, fractions = _shapes(pt, dr, lengths)
    columns = [
        np.log(_observer(jets, "pt").clip(1e-6)),
        np.abs(_observer(jets, "eta")),
        np.log1p(_mass(jets, total)),
        np.log1p(_observer(jets, "sdmass").clip(0)),
        lengths,
        *(np.log(value) for value in tau),
        *(tau[i + 1] / tau[i] for i in range(3)),
        total(_column(jets, "charge") * np.sqrt(pt)) / np.sqrt(sum_pt),
        *shapes,
        *fractions,
        *(total(_column(jets, name)) for name in TYPES),
        *(total(_column(jets, name) * pt) / sum_pt for name in TYPES),
        *_ranked(d0, jets.first, 4).T,
        *_ranked(dz, jets.first, 3).T,
        total(displaced),
        total(d0 * charged) / total(charged).clip(1),
        lepton_pt / sum_pt,
        total(dr * is_first_lepton) / total(is_first_lepton).clip(1),
        np.log1p(_mass(jets, lambda values: total(values * displaced))),
    ]
    chosen = [columns[JET_FEATURES.index(name)] for name in names]
    return np.stack(chosen, axis=1).astype(np.float32)


def _totals(lengths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that sums values [C] over the particles of each jet."""
    jet = np.repeat(np.arange(len(lengths)), lengths)
    return lambda values: jet_totals(jet, values, len(lengths))


def _shapes(pt: np.ndarray, dr: np.ndarray, lengths: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Return width, pT dispersion and log e2 [J] each, and the pT fractions [3, J] of the hardest particles."""
    total, first = _totals(lengths), np.concatenate([[0], np.cumsum(lengths)])
    sum_pt = total(pt).clip(1e-6)
    e2 = total(pt * dr**2).clip(1e-6) / sum_pt
    shapes = [total(pt * dr) / sum_pt, np.sqrt(total(pt**2)) / sum_pt, np.log(e2)]
    return shapes, (_ranked(pt, first, 3) / sum_pt[:, None]).T


def momentum_features(vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return [J, H] float32: the jet-level features named in `MOMENTUM_FEATURES`, from momenta [C, 4] in GeV."""
    pt = np.hypot(vectors[:, 0], vectors[:, 1]).astype(np.float64)
    px, py, pz, energy = map(_totals(lengths), vectors.astype(np.float64).T)
    pt_of_jet = np.hypot(px, py).clip(1e-6)
    shapes, fractions = _shapes(pt, np.hypot(*angles_from_momenta(vectors, lengths).T), lengths)
    columns = [
        lengths,
        np.log(pt_of_jet),
        np.abs(np.arcsinh(pz / pt_of_jet)),
        np.log(energy.clip(1e-6)),
        np.log1p(_invariant_mass(px, py, pz, energy)),
        *shapes,
        *fractions,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _mass(jets: Jets, total) -> np.ndarray:
    px, py, pz, energy = (total(_column(jets, name).astype(np.float64)) for name in ("px", "py", "pz", "energy"))
    return _invariant_mass(px, py, pz, energy)


def _invariant_mass(px: np.ndarray, py: np.ndarray, pz: np.ndarray, energy: np.ndarray) -> np.ndarray:
    return np.sqrt((energy**2 - px**2 - py**2 - pz**2).clip(0))


def _ranked(values: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
    """Return [J, count]: the largest of the non-negative values of each jet, padded with 0."""
    lengths = np.diff(first)
    places = max(count, int(lengths.max(initial=0)))
    table = np.zeros((len(lengths), places))
    table[np.arange(places) < lengths[:, None]] = values
    return -np.sort(-np.partition(table, places - count, axis=1)[:, places - count :], axis=1)
