"""A detector like CMS without pile-up: particles in, energy-flow candidates out, about 1 ms per event.

Axes: P particles, T tracks, C candidates. Units: GeV, mm; angles of candidates are measured from the interaction point.

The physics follows Delphes (arXiv:1307.6346), the emulation behind JetClass: tracks with an efficiency and smeared
momenta and impact parameters; towers of an electromagnetic and a hadronic calorimeter with log-normal smearing; energy
flow by subtraction. A significant excess of a tower over its tracks becomes a neutral candidate; otherwise the tower
measures the energy of its tracks. As in JetClass, the tracks do not enter that measurement.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from subquad.hep.simulation.generator import Events
from subquad.hep.simulation.towers import ECAL, HCAL, Calorimeter

CHARGED_HADRON, NEUTRAL_HADRON, PHOTON, ELECTRON, MUON = range(5)

# the solenoid: field in tesla, radius and half length of the tracker in mm
_FIELD, _RADIUS, _HALF_LENGTH = 3.8, 1290.0, 3000.0
# pT in GeV of a unit charge per mm of its radius of curvature
_BEND = 2.99792458e-4 * _FIELD

_TRACKER_ETA = 2.5
# |η| of the barrel's end, then per region: efficiency below and above 1 GeV, by kind
_ENDCAP_ETA = 1.5
_EFFICIENCY = {
    CHARGED_HADRON: ((0.70, 0.95), (0.60, 0.85)),
    ELECTRON: ((0.73, 0.95), (0.50, 0.83)),
    MUON: ((0.75, 0.99), (0.70, 0.98)),
}
_MIN_TRACK_PT = 0.1
# a particle that turns by more than half a circle before it leaves the tracker is no track: JetClass has hardly any
# below 0.7 GeV, the least pT that reaches the barrel's end
_MAX_TURN = np.pi

# |η| of the tracker's regions, then per region a and b of the relative error of pT, a ⊕ b pT
_MOMENTUM_ETA = (0.5, 1.5)
_MOMENTUM_ERROR = {
    # coarse, as in JetClass: includes scattering of hadrons and radiation of electrons in the material
    CHARGED_HADRON: ((0.06, 1.3e-3), (0.10, 1.7e-3), (0.25, 3.1e-3)),
    ELECTRON: ((0.03, 1.3e-3), (0.05, 1.7e-3), (0.15, 3.1e-3)),
    MUON: ((0.010, 1.0e-4), (0.015, 1.5e-4), (0.025, 3.5e-4)),
}

# per region of |η|: the error is a ⊕ b / pT^c mm
_IMPACT_ETA = (0.9, 1.4)
_TRANSVERSE_ERROR = np.array([(0.0106, 0.0837, 0.75), (0.0093, 0.0982, 0.75), (0.0140, 0.1613, 0.90)])
_LONGITUDINAL_ERROR = np.array([(0.0305, 0.1152, 0.75), (0.0342, 0.1993, 0.80), (0.0782, 0.6464, 0.85)])
_MIN_IMPACT_PT = 0.2


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Energy-flow candidates of a batch of events."""

    event: Int[np.ndarray, " C"]
    """Event of each candidate, ascending."""
    momentum: Float[np.ndarray, "C 4"]
    """px, py, pz, E."""
    kind: Int[np.ndarray, " C"]
    """`CHARGED_HADRON`, `NEUTRAL_HADRON`, `PHOTON`, `ELECTRON` or `MUON`."""
    charge: Int[np.ndarray, " C"]
    """Charges in units of e."""
    impact: Float[np.ndarray, "C 4"]
    """d0, its error, dz, its error in mm; 0 for candidates without a track."""


def detect(events: Events, random: np.random.Generator) -> Candidates:
    """Return the energy-flow candidates of a batch of events."""
    events = _made_inside(events)
    kind = _kinds(events)
    position, turn = _at_calorimeter(events)
    is_track = _is_tracked(events, kind, turn, random)
    # measured by the tracker for tracks, true for all others
    momentum = _scaled(events.momentum, np.where(is_track, _momentum_scale(events, kind, random), 1.0))
    impact = _impact(events, momentum, is_track, random)

    hadronic, electromagnetic = _energy_fractions(kind)
    # energy of each track measured by the calorimeters, relative to the tracker
    scale = np.ones(len(kind))
    neutral = []
    for calorimeter, fraction, made in ((ECAL, electromagnetic, PHOTON), (HCAL, hadronic, NEUTRAL_HADRON)):
        event, flow = _flow(
            calorimeter,
            events,
            momentum,
            position=position,
            fraction=fraction,
            is_track=is_track,
            scale=scale,
            random=random,
        )
        neutral.append((event, flow, np.full(len(event), made)))

    tracks = np.flatnonzero(is_track & (scale > 0))
    rows = {"event": events.event[tracks], "kind": kind[tracks], "charge": events.charge[tracks]}
    measured = _scaled(momentum[tracks], scale[tracks])
    blank = np.zeros(sum(len(event) for event, _, _ in neutral), dtype=np.int64)
    event = np.concatenate([rows["event"], *(part[0] for part in neutral)])
    order = np.argsort(event, kind="stable")
    return Candidates(
        event=event[order],
        momentum=np.concatenate([measured, *(part[1] for part in neutral)])[order],
        kind=np.concatenate([rows["kind"], *(part[2] for part in neutral)])[order],
        charge=np.concatenate([rows["charge"], blank])[order],
        impact=np.concatenate([impact[tracks], np.zeros((len(blank), 4))])[order],
    )


def _made_inside(events: Events) -> Events:
    """Return the events without particles produced outside the tracker's cylinder, in decays of K⁰S or Λ.

    As in Delphes, they do not reach the calorimeters either, which lowers the mass of a jet by 2 to 3 %.
    """
    x, y, z = events.vertex.T
    rows = np.flatnonzero((np.hypot(x, y) < _RADIUS) & (np.abs(z) < _HALF_LENGTH))
    kept = {name: getattr(events, name)[rows] for name in ("event", "pdg", "charge", "momentum", "vertex")}
    return dataclasses.replace(events, **kept)


def _kinds(events: Events) -> Int[np.ndarray, " P"]:
    pdg = np.abs(events.pdg)
    kind = np.where(events.charge != 0, CHARGED_HADRON, NEUTRAL_HADRON)
    for code, value in ((11, ELECTRON), (13, MUON), (22, PHOTON)):
        kind[pdg == code] = value
    return kind


def _energy_fractions(kind: Int[np.ndarray, " P"]) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Return the fractions of each particle's energy in the hadronic and the electromagnetic calorimeter."""
    electromagnetic = np.where((kind == PHOTON) | (kind == ELECTRON), 1.0, 0.0)
    hadronic = np.where(kind == MUON, 0.0, 1.0 - electromagnetic)
    return hadronic, electromagnetic


def _at_calorimeter(events: Events) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """Return η and φ at which particles leave the tracker's cylinder, and the angle that their helix turns until then.

    They propagate on helices or straight lines from their production vertex, which must be inside.
    """
    x, y, z = events.vertex.T
    px, py, pz, _ = events.momentum.T
    pt = np.maximum(np.hypot(px, py), 1e-12)
    slope = pz / pt
    is_straight = events.charge == 0
    curvature = _BEND * events.charge / pt
    # signed radius; the circle's centre, and the angle of the start as seen from it
    radius = 1.0 / np.where(is_straight, 1.0, curvature)
    u, v = x + radius * py / pt, y - radius * px / pt
    start = np.arctan2(y - v, x - u)
    # the circle is outside the barrel within this angle on both sides of the point farthest from the beam
    apart = np.hypot(u, v)
    cosine = (_RADIUS**2 - apart**2 - radius**2) / (2 * np.maximum(apart, 1e-9) * np.abs(radius))
    outside = np.arccos(np.clip(cosine, -1.0, 1.0))
    passed = np.mod(np.sign(radius) * (np.arctan2(v, u) - start), 2 * np.pi)
    barrel = np.abs(radius) * np.maximum(2 * np.pi - outside - passed, 0.0)
    barrel[cosine >= 1.0] = np.inf
    # straight lines
    along = (x * px + y * py) / pt
    line = np.sqrt(np.maximum(along**2 + _RADIUS**2 - x**2 - y**2, 0.0)) - along
    end = np.abs(np.copysign(_HALF_LENGTH, pz) - z) / np.maximum(np.abs(slope), 1e-12)
    path = np.minimum(np.where(is_straight, line, barrel), end)
    turn = path * np.abs(curvature)
    angle = start - np.sign(radius) * turn
    x = np.where(is_straight, x + path * px / pt, u + np.abs(radius) * np.cos(angle))
    y = np.where(is_straight, y + path * py / pt, v + np.abs(radius) * np.sin(angle))
    eta = np.arcsinh((z + slope * path) / np.maximum(np.hypot(x, y), 1e-9))
    return np.stack([eta, np.arctan2(y, x)], axis=1), turn


def _is_tracked(
    events: Events, kind: Int[np.ndarray, " P"], turn: Float[np.ndarray, " P"], random: np.random.Generator
) -> Bool[np.ndarray, " P"]:
    """Draw which particles have a track; `turn` is the angle of each helix inside the tracker."""
    px, py, pz, _ = events.momentum.T
    pt = np.hypot(px, py)
    eta = np.abs(np.arcsinh(pz / np.maximum(pt, 1e-12)))
    table = np.zeros((5, 2, 2))
    for name, values in _EFFICIENCY.items():
        table[name] = values
    efficiency = table[kind, (eta > _ENDCAP_ETA).astype(int), (pt > 1.0).astype(int)]
    can_be = (events.charge != 0) & (eta < _TRACKER_ETA) & (pt > _MIN_TRACK_PT) & (turn < _MAX_TURN)
    return can_be & (random.random(len(pt)) < efficiency)


def _momentum_scale(
    events: Events, kind: Int[np.ndarray, " P"], random: np.random.Generator
) -> Float[np.ndarray, " P"]:
    """Return the log-normal ratio of measured and true momentum of each particle, as if it were a track."""
    px, py, pz, _ = events.momentum.T
    pt = np.hypot(px, py)
    region = np.searchsorted(_MOMENTUM_ETA, np.abs(np.arcsinh(pz / np.maximum(pt, 1e-12))), side="right")
    table = np.zeros((5, 3, 2))
    for name, values in _MOMENTUM_ERROR.items():
        table[name] = values
    constant, rate = table[kind, region].T
    variance = np.log1p(constant**2 + (rate * pt) ** 2)
    return np.exp(np.sqrt(variance) * random.standard_normal(len(pt)) - 0.5 * variance)


def _impact(
    events: Events, momentum: Float[np.ndarray, "P 4"], is_track: Bool[np.ndarray, " P"], random: np.random.Generator
) -> Float[np.ndarray, "P 4"]:
    """Return d0, its error, dz, its error of each track, at the point of closest approach to the beam."""
    rows = np.flatnonzero(is_track)
    px, py, pz, _ = events.momentum[rows].T
    x, y, z = events.vertex[rows].T
    pt = np.hypot(px, py)
    # signed radius, and the circle's centre
    radius = pt / (_BEND * events.charge[rows])
    u, v = x + radius * py / pt, y - radius * px / pt
    # positive if the beam is to the left of the track, as in JetClass
    d0 = np.sign(radius) * (np.hypot(u, v) - np.abs(radius))
    # angle from the point of closest approach to the vertex, counter-clockwise
    angle = np.arctan2(v * (x - u) - u * (y - v), -u * (x - u) - v * (y - v))
    dz = z + pz / pt * radius * angle

    pt = np.hypot(momentum[rows, 0], momentum[rows, 1])
    eta = np.abs(np.arcsinh(momentum[rows, 2] / pt))
    region = np.searchsorted(_IMPACT_ETA, eta, side="right")
    impact = np.zeros((len(is_track), 4))
    for column, value, table in ((0, d0, _TRANSVERSE_ERROR), (2, dz, _LONGITUDINAL_ERROR)):
        floor, rate, power = table[region].T
        error = np.hypot(floor, rate * np.maximum(pt, _MIN_IMPACT_PT) ** -power)
        impact[rows, column] = value + error * random.standard_normal(len(rows))
        impact[rows, column + 1] = error
    return impact


def _flow(
    calorimeter: Calorimeter,
    events: Events,
    momentum: Float[np.ndarray, "P 4"],
    *,
    position: Float[np.ndarray, "P 2"],
    fraction: Float[np.ndarray, " P"],
    is_track: Bool[np.ndarray, " P"],
    scale: Float[np.ndarray, " P"],
    random: np.random.Generator,
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 4"]]:
    """Return event and momentum of the neutral candidates of a calorimeter; set `scale` of its tracks in place."""
    hits = np.flatnonzero((fraction > 0) & (np.abs(position[:, 0]) < calorimeter.reach))
    cell, eta, phi = calorimeter.cells(position[hits], random)
    _, first, inverse = np.unique(events.event[hits] * calorimeter.count + cell, return_index=True, return_inverse=True)
    energy = events.momentum[hits, 3] * fraction[hits]
    deposited = np.bincount(inverse, energy)
    tracked = np.bincount(inverse, momentum[hits, 3] * fraction[hits] * is_track[hits])
    eta, phi = eta[first], phi[first]

    measured = calorimeter.measure(deposited, eta, random)
    excess = np.maximum(measured - tracked, 0.0)
    is_neutral = excess > calorimeter.significance * calorimeter.resolution(measured, eta)
    # without a significant excess the tower measures its tracks, even as 0
    ratio = np.where(is_neutral | (tracked == 0), 1.0, measured / np.where(tracked == 0, 1.0, tracked))
    scale[hits] *= np.where(is_track[hits], ratio[inverse], 1.0)

    energy, eta, phi = excess[is_neutral], eta[is_neutral], phi[is_neutral]
    pt = energy / np.cosh(eta)
    neutral = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy], axis=1)
    return events.event[hits][first][is_neutral], neutral


def _scaled(momentum: Float[np.ndarray, "T 4"], scale: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 4"]:
    """Return momenta scaled at fixed mass."""
    square = np.maximum(momentum[:, 3] ** 2 - (momentum[:, :3] ** 2).sum(axis=1), 0.0)
    three = momentum[:, :3] * scale[:, None]
    return np.concatenate([three, np.sqrt((three**2).sum(axis=1) + square)[:, None]], axis=1)
