"""Proton collisions from Pythia 8 as flat arrays, with the decays that produce the jets: 6–8 ms per event.

Axes: P final particles of all events of a batch. Units: GeV and mm.

Pythia generates the hard process in microseconds, and shower and hadrons in milliseconds; therefore a hard process that
cannot give a jet of the class is vetoed before its shower.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from subquad.errors import MissingExtra
from subquad.hep.simulation.processes import COMMON, Process, is_neutrino

MAX_SEED = 900_000_000

# the cuts on a jet, widened for shower and detector
_PT = (400.0, 1250.0)
_ETA = 2.3
_SPREAD = 1.1


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A decay of a heavy particle into the contents of one jet."""

    event: int
    """Index of the event in its batch."""
    pdg: int
    """PDG code."""
    momentum: tuple[float, float, float, float]
    """px, py, pz, E just before the decay."""
    products: tuple[tuple[float, float, float, float], ...]
    """Momenta of its quarks, gluons and charged leptons."""
    code: int
    """JetClass's `aux_truth_match`."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """Final-state particles of a batch of events."""

    count: int
    """Number of events."""
    event: Int[np.ndarray, " P"]
    """Event of each particle, ascending."""
    pdg: Int[np.ndarray, " P"]
    """PDG codes."""
    charge: Int[np.ndarray, " P"]
    """Charges in units of e."""
    momentum: Float[np.ndarray, "P 4"]
    """px, py, pz, E."""
    vertex: Float[np.ndarray, "P 3"]
    """Production vertex."""
    decays: tuple[Decay, ...]
    """Decays of the class."""


def pythia() -> Any:
    """Return the module `pythia8mc`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pythia8mc
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "pythia8mc is not installed, and jets cannot be simulated without it; install it with: "
            "pip install --only-binary pythia8mc pythia8mc. If no wheel fits this Python, use `example:jets`, "
            "which ships with subquad"
        ) from error
    return pythia8mc


@cache
def _hook_class() -> type:
    """Return the class of the hook, which derives from a class of Pythia."""

    class Hook(pythia().UserHooks):
        """Vetoes hard processes that cannot give a jet of the class."""

        def __init__(self, process: Process) -> None:
            super().__init__()
            self.process = process

        def canVetoProcessLevel(self) -> bool:
            return True

        def doVetoProcessLevel(self, record: Any) -> bool:
            return not _is_promising(record, self.process)

    return Hook


def _is_promising(record: Any, process: Process) -> bool:
    mothers = [0] * record.size()
    # decay products of each resonance; None: the parton that recoils against the Z
    groups: dict[int | None, list[tuple[int, float, float, float]]] = {}
    for index in range(5, record.size()):
        particle = record[index]
        pdg = particle.id()
        mother = particle.mother1()
        mothers[index] = index if abs(pdg) == process.resonance else mothers[mother]
        if particle.status() > 0:
            root = mothers[index] or None
            groups.setdefault(root, []).append((pdg, particle.px(), particle.py(), particle.pz()))
    for root, products in groups.items():
        if (root is None) == (process.resonance is None) and _is_jet(products, process):
            return True
    return False


def _is_jet(products: Sequence[tuple[int, float, float, float]], process: Process) -> bool:
    visible = [product[1:] for product in products if not is_neutrino(product[0])]
    if not visible or process.code([product[0] for product in products]) is None:
        return False
    px, py, pz = (sum(axis) for axis in zip(*visible, strict=True))
    pt = math.hypot(px, py)
    if not _PT[0] < pt < _PT[1] or abs(math.asinh(pz / pt)) > _ETA:
        return False
    return all(distance((px, py, pz), product) < _SPREAD for product in visible)


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return ΔR between two momenta."""
    (x, y, z), (u, v, w) = first[:3], second[:3]
    # argument of the product of one with the complex conjugate of the other
    azimuth = math.atan2(x * v - y * u, x * u + y * v)
    return math.hypot(math.asinh(z / math.hypot(x, y)) - math.asinh(w / math.hypot(u, v)), azimuth)


class Generator:
    """Pythia for one class; the same seed gives the same events."""

    def __init__(self, process: Process, *, seed: int) -> None:
        module = pythia()
        self._process = process
        self._pythia = module.Pythia("", False)
        own = (
            f"PhaseSpace:pTHatMin = {process.min_pt}",
            "Random:setSeed = on",
            f"Random:seed = {1 + seed % MAX_SEED}",
        )
        for command in (*COMMON, *process.commands, *own):
            if not self._pythia.readString(command):
                raise ValueError(f"unknown Pythia setting {command!r}")
        # Pythia keeps no reference of its own
        self._hook = _hook_class()(process)
        self._pythia.setUserHooksPtr(self._hook)
        if not self._pythia.init():
            raise RuntimeError(f"Pythia does not initialize for {process.label}")
        self._charges: dict[int, int] = {}

    def batch(self, events: int) -> Events:
        """Return the next events."""
        record = _Record(self._pythia.nextBatch(events))
        rows = np.flatnonzero((record.status > 0) & ~np.isin(np.abs(record.pdg), (12, 14, 16)))
        return Events(
            count=record.count,
            event=record.event[rows],
            pdg=record.pdg[rows],
            charge=self._charge(record.pdg[rows]),
            momentum=record.momentum[rows],
            vertex=record.vertices()[rows],
            decays=tuple(record.decays(self._process)),
        )

    def _charge(self, pdg: Int[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
        codes, inverse = np.unique(pdg, return_inverse=True)
        for code in codes.tolist():
            if code not in self._charges:
                self._charges[code] = round(self._pythia.particleData.charge(code))
        return np.array([self._charges[code] for code in codes.tolist()])[inverse]


class _Record:
    """The full event record of a batch as flat arrays; mothers and daughters are rows of these arrays."""

    def __init__(self, batch: Any) -> None:
        import awkward as ak

        particles = batch.prt
        self.count = len(batch)
        sizes = ak.to_numpy(ak.num(particles))
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.event = np.repeat(np.arange(self.count), sizes)
        flat = ak.flatten(particles)
        self.pdg, self.status, self.mother, self.daughter1, self.daughter2 = (
            ak.to_numpy(flat[name]).astype(np.int64) for name in ("id", "status", "mother1", "daughter1", "daughter2")
        )
        self.momentum = np.stack([ak.to_numpy(flat.p[axis]) for axis in ("px", "py", "pz", "e")], axis=1)
        self.mass = ak.to_numpy(flat.m)
        self.lifetime = ak.to_numpy(flat.tau)

    def vertices(self) -> Float[np.ndarray, "R 3"]:
        """Return the production vertices, as sums of the flight paths of the ancestors.

        `nextBatch` of pythia8mc 8.317 returns vertices too, but sometimes those of other particles.
        """
        status = np.abs(self.status)
        # 91–99: decay products of hadrons and leptons; all others come from the primary vertex
        children = np.flatnonzero((status >= 91) & (status <= 99))
        mothers = self.mother[children] + self.first[self.event[children]]
        flights = self.momentum[mothers, :3] * (self.lifetime[mothers] / np.maximum(self.mass[mothers], 1e-9))[:, None]
        vertices = np.zeros((len(status), 3))
        while True:
            reached = vertices[mothers] + flights
            if np.array_equal(reached, vertices[children]):
                return vertices
            vertices[children] = reached

    def decays(self, process: Process) -> Iterator[Decay]:
        """Yield the decays of the class."""
        if process.resonance is None:
            return
        # 22: intermediate particle of the hard process, before radiation
        for row in np.flatnonzero((np.abs(self.pdg) == process.resonance) & (self.status == -22)).tolist():
            last = self._last_copy(row)
            products = list(self._products(last))
            code = process.code([int(self.pdg[product]) for product in products])
            if code is None:
                continue
            yield Decay(
                event=int(self.event[row]),
                pdg=int(self.pdg[row]),
                momentum=tuple(self.momentum[last].tolist()),
                products=tuple(
                    tuple(self.momentum[product].tolist())
                    for product in products
                    if not is_neutrino(int(self.pdg[product]))
                ),
                code=code,
            )

    def _daughters(self, row: int) -> list[int]:
        start = int(self.first[self.event[row]])
        first, last = int(self.daughter1[row]), int(self.daughter2[row])
        if first == 0:
            return []
        if last in (0, first):
            return [start + first]
        return [start + index for index in (range(first, last + 1) if last > first else (first, last))]

    def _last_copy(self, row: int) -> int:
        while True:
            copies = [daughter for daughter in self._daughters(row) if self.pdg[daughter] == self.pdg[row]]
            if not copies:
                return row
            row = copies[0]

    def _products(self, row: int) -> Iterator[int]:
        for daughter in self._daughters(row):
            if abs(self.pdg[daughter]) in (23, 24):
                yield from self._products(self._last_copy(daughter))
            else:
                yield daughter
