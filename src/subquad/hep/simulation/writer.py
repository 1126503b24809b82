"""Jets as columns and as ROOT files in the branch layout of JetClass. Takes microseconds per jet.

Axes: J jets, K constituents of all jets, one jet after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import require
from subquad.hep.simulation.detector import CHARGED_HADRON, ELECTRON, MUON, NEUTRAL_HADRON, PHOTON, Candidates
from subquad.hep.simulation.jets import Jets
from subquad.hep.simulation.processes import PROCESSES, Process
from subquad.runs.storage import atomic

TREE = "tree"

_KINDS = {
    "isChargedHadron": CHARGED_HADRON,
    "isNeutralHadron": NEUTRAL_HADRON,
    "isPhoton": PHOTON,
    "isElectron": ELECTRON,
    "isMuon": MUON,
}
_PARTICLE_FLOATS = ("px", "py", "pz", "energy", "deta", "dphi", "d0val", "d0err", "dzval", "dzerr", "charge")
_PARTICLES = {**dict.fromkeys(_PARTICLE_FLOATS, "float32"), **dict.fromkeys(_KINDS, "int32")}
# the types of the labels in JetClass's own files
_LABEL_TYPES = {"label_QCD": "float32", "label_Hqql": "int32", "label_Tbl": "int32"}
_JETS = (
    *("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_nparticles", "jet_sdmass"),
    *("jet_tau1", "jet_tau2", "jet_tau3", "jet_tau4"),
    *("aux_genpart_eta", "aux_genpart_phi", "aux_genpart_pid", "aux_genpart_pt", "aux_truth_match"),
)

BRANCHES: dict[str, tuple[str, bool]] = {
    **{f"part_{name}": (kind, True) for name, kind in _PARTICLES.items()},
    **{process.label: (_LABEL_TYPES.get(process.label, "bool"), False) for process in PROCESSES.values()},
    **dict.fromkeys(_JETS, ("float32", False)),
}
"""Branch → (type, whether it has one entry per particle), in JetClass's order; `npart` counts the particles."""

Columns = Mapping[str, np.ndarray]


def columns(candidates: Candidates, jets: Jets, process: Process) -> dict[str, np.ndarray]:
    """Return the branches of the jets, those per particle flat, and `npart`."""
    sizes = np.diff(jets.first)
    px, py, pz, energy = jets.momentum.T
    pt = np.hypot(px, py)
    eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
    own = candidates.momentum[jets.rows]
    charge, kind = candidates.charge[jets.rows], candidates.kind[jets.rows]
    table: dict[str, Any] = {
        "part_px": own[:, 0],
        "part_py": own[:, 1],
        "part_pz": own[:, 2],
        "part_energy": own[:, 3],
        # the side of the jet towards the beam has the same sign in both halves of the detector
        "part_deta": (np.arcsinh(own[:, 2] / np.hypot(own[:, 0], own[:, 1])) - np.repeat(eta, sizes))
        * np.repeat(np.where(eta < 0, -1.0, 1.0), sizes),
        "part_dphi": _wrapped(np.arctan2(own[:, 1], own[:, 0]) - np.repeat(phi, sizes)),
        "part_charge": charge,
        "npart": sizes,
        "jet_pt": pt,
        "jet_eta": eta,
        "jet_phi": phi,
        "jet_energy": energy,
        "jet_nparticles": sizes,
        "jet_sdmass": jets.soft_drop_mass,
        "aux_truth_match": jets.codes,
        **_origin(jets),
    }
    for column, name in enumerate(("d0val", "d0err", "dzval", "dzerr")):
        table[f"part_{name}"] = candidates.impact[jets.rows, column]
    for name, value in _KINDS.items():
        table[f"part_{name}"] = kind == value
    for column in range(4):
        table[f"jet_tau{column + 1}"] = jets.subjettiness[:, column]
    for other in PROCESSES.values():
        table[other.label] = np.full(len(sizes), other.label == process.label)
    typed = {name: np.asarray(table[name]).astype(kind_) for name, (kind_, _) in BRANCHES.items()}
    return {"npart": sizes.astype("int32"), **typed}


def _origin(jets: Jets) -> dict[str, np.ndarray]:
    momentum = np.array([decay.momentum if decay else (0.0, 0.0, 0.0, 0.0) for decay in jets.decays]).reshape(-1, 4)
    px, py, pz, _ = momentum.T
    pt = np.hypot(px, py)
    return {
        "aux_genpart_eta": np.arcsinh(pz / np.where(pt > 0, pt, 1.0)),
        "aux_genpart_phi": np.arctan2(py, px),
        "aux_genpart_pid": np.array([decay.pdg if decay else 0 for decay in jets.decays], dtype=np.float64),
        "aux_genpart_pt": pt,
    }


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


def joined(tables: Iterable[Columns], *, jets: int | None = None) -> dict[str, np.ndarray]:
    """Return the concatenated columns of several batches, truncated after `jets` jets."""
    parts = list(tables)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if jets is None:
        return whole
    particles = int(whole["npart"][:jets].sum())
    return {name: column[: particles if name.startswith("part_") else jets] for name, column in whole.items()}


def shuffled(table: Columns, order: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Return the same jets in another order."""
    import awkward as ak

    sizes = table["npart"]
    return {
        name: ak.to_numpy(ak.flatten(ak.unflatten(column, sizes)[order])) if name.startswith("part_") else column[order]
        for name, column in table.items()
    }


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file that `write_jets` wrote."""
    import awkward as ak

    uproot = require("uproot", extra="hep")
    with uproot.open(path) as file:
        arrays = file[TREE].arrays(["npart", *BRANCHES])
    # the stubs of awkward know no None
    flat = {name: ak.flatten(arrays[name], axis=None) for name in arrays.fields}  # pyright: ignore[reportArgumentType]
    return {name: ak.to_numpy(column) for name, column in flat.items()}


def write_jets(path: Path, table: Columns, *, compression: Any = None) -> None:
    """Write the columns as a ROOT file, under a temporary name until it is complete."""
    import awkward as ak

    uproot = require("uproot", extra="hep")
    compression = compression or uproot.LZ4(4)
    particles = ak.zip({name: ak.unflatten(table[f"part_{name}"], table["npart"]) for name in _PARTICLES})
    scalars = {name: table[name] for name, (_, is_per_particle) in BRANCHES.items() if not is_per_particle}
    types = {"part": particles.type.content, **{name: column.dtype for name, column in scalars.items()}}
    with atomic(path) as temporary, uproot.recreate(temporary, compression=compression) as file:
        tree = file.mktree(
            TREE,
            types,
            counter_name=lambda counted: f"n{counted}",
            field_name=lambda outer, inner: inner if outer == "" else f"{outer}_{inner}",
        )
        tree.extend({"part": particles, **scalars})
