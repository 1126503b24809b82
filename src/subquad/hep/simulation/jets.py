"""Anti-kT jets from energy-flow candidates, matched to decays, with soft-drop mass and N-subjettiness: 2 ms per event.

Axes: C candidates, J jets. FastJet (arXiv:1111.6097) does the clustering, all events of a batch in one call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from subquad.hep.data.substructure import RADIUS, jets_of_vectors, substructure
from subquad.hep.simulation.detector import Candidates
from subquad.hep.simulation.generator import Decay, Events, distance
from subquad.hep.simulation.processes import Process

PT_RANGE = (500.0, 1000.0)
ETA_MAX = 2.0

_MIN_CANDIDATE_PT = 1e-3
_QCD_CODE = 50


@dataclass(frozen=True, kw_only=True)
class Jets:
    """Jets of a batch; constituents of jet j are `rows[first[j]:first[j + 1]]` of the candidates, by descending pT."""

    first: Int[np.ndarray, " J1"]
    """First row of each jet, and the end of the last."""
    rows: Int[np.ndarray, " K"]
    """Rows of the candidates."""
    momentum: Float[np.ndarray, "J 4"]
    """px, py, pz, E."""
    soft_drop_mass: Float[np.ndarray, " J"]
    """Mass after soft drop with β = 0 and z = 0.1 (arXiv:1402.2657)."""
    subjettiness: Float[np.ndarray, "J 4"]
    """τ1 … τ4 (arXiv:1011.2268) with β = 1."""
    decays: tuple[Decay | None, ...]
    """Decay in each jet; None for jets of light quarks and gluons."""
    codes: Int[np.ndarray, " J"]
    """JetClass's `aux_truth_match`."""


def find_jets(events: Events, candidates: Candidates, process: Process) -> Jets:
    """Return the jets of the class within the cuts."""
    import awkward as ak
    import fastjet

    rows = np.flatnonzero(np.hypot(candidates.momentum[:, 0], candidates.momentum[:, 1]) > _MIN_CANDIDATE_PT)
    sizes = np.bincount(candidates.event[rows], minlength=events.count)
    # FastJet cannot cluster an event without candidates
    kept = np.flatnonzero(sizes)
    cluster = fastjet.ClusterSequence(
        jets_of_vectors(candidates.momentum[rows], sizes[kept]), fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    )
    index = cluster.constituent_index(PT_RANGE[0] - 1.0)
    starts = np.concatenate([[0], np.cumsum(sizes[kept])])[:-1]
    per_event = ak.to_numpy(ak.num(index))
    members = ak.to_numpy(ak.flatten(ak.flatten(index + starts)))
    lengths = ak.to_numpy(ak.flatten(ak.num(index, axis=2)))
    chosen: list[tuple[np.ndarray, Decay | None]] = []
    # np.split would give one jet without members
    if not len(lengths):
        return _assemble(candidates, chosen)
    for event, jet in zip(np.repeat(kept, per_event).tolist(), np.split(members, np.cumsum(lengths)[:-1]), strict=True):
        own = rows[jet]
        axis = candidates.momentum[own].sum(axis=0).tolist()
        if not _is_within(axis):
            continue
        decay = _matched(axis, event, events)
        if decay is not None or process.resonance is None:
            pt = np.hypot(candidates.momentum[own, 0], candidates.momentum[own, 1])
            chosen.append((own[np.argsort(-pt, kind="stable")], decay))
    return _assemble(candidates, chosen)


def _is_within(axis: Sequence[float]) -> bool:
    pt = math.hypot(axis[0], axis[1])
    return PT_RANGE[0] < pt < PT_RANGE[1] and abs(math.asinh(axis[2] / pt)) < ETA_MAX


def _matched(axis: Sequence[float], event: int, events: Events) -> Decay | None:
    """Return the decay whose quarks and charged leptons are all inside the jet."""
    for decay in events.decays:
        if decay.event == event and all(distance(axis, product) < RADIUS for product in decay.products):
            return decay
    return None


def _assemble(candidates: Candidates, chosen: list[tuple[Int[np.ndarray, " K"], Decay | None]]) -> Jets:
    sizes = np.array([len(own) for own, _ in chosen], dtype=np.int64)
    rows = np.concatenate([own for own, _ in chosen]) if chosen else np.zeros(0, dtype=np.int64)
    first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    constituents = candidates.momentum[rows]
    momentum = np.add.reduceat(constituents, first[:-1], axis=0) if chosen else np.zeros((0, 4))
    mass, subjettiness = substructure(constituents, sizes)
    decays = tuple(decay for _, decay in chosen)
    return Jets(
        first=first,
        rows=rows,
        momentum=momentum,
        soft_drop_mass=mass,
        subjettiness=subjettiness,
        decays=decays,
        codes=np.array([_QCD_CODE if decay is None else decay.code for decay in decays], dtype=np.int64),
    )
