"""Layouts of public data sets that are recognized by content, and the data card that each of them stands for.

The readers of arrays (`top_landscape`, `energyflow`, `padded_arrays`) give every layout the columns `part_px`,
`part_py`, `part_pz` and `part_energy`, and with PDG ids `part_charge` and types; the cards define inputs and labels.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from subquad.hep.data.features import TYPES
from subquad.hep.data.formats import Source
from subquad.hep.data.jets import OBSERVERS, PARTICLES

MOMENTUM = ("part_px", "part_py", "part_pz", "part_energy")
_TYPES = ("part_charge", *(f"part_{name}" for name in TYPES))
_IMPACT = ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")
LENGTH = 200
"""Largest number of particles per jet: that of the top tagging data set."""


@dataclass(frozen=True, kw_only=True)
class PublicLayout:
    """A layout of a public data set."""

    title: str
    """The data set, and where it is published."""
    content: str
    """What a file must hold to be recognized."""
    column: str = ""
    """Column with the number of the class, from 0 on."""
    classes: tuple[str, ...] = ()
    """Names of the classes by these numbers; empty for numbers, or for the names of label columns."""


LAYOUTS = {
    "jetclass": PublicLayout(title="JetClass, arXiv:2202.03772", content="the branches of JetClass"),
    "top-landscape": PublicLayout(
        title="top tagging reference data set, Zenodo 2603256",
        content="HDF5 with a table of pandas: E_0, PX_0, PY_0, PZ_0, E_1, … and is_signal_new",
        column="is_signal_new",
        classes=("QCD", "top"),
    ),
    "quark-gluon": PublicLayout(
        title="quark and gluon jets of EnergyFlow, Zenodo 3164691",
        content="NPZ with X [jets, particles, 4] (pT, rapidity, azimuth, PDG id) and y",
        column="y",
        classes=("gluon", "quark"),
    ),
    "boosted-top": PublicLayout(
        title="top and QCD jets in EnergyFlow's arrays, Zenodo 16986897",
        content="NPZ with X [jets, particles, 4] (pT, rapidity, azimuth, PDG id) and y",
        column="y",
        classes=("QCD", "top"),
    ),
    "four-vectors": PublicLayout(
        title="four-vectors with numbers as labels",
        content="vectors [jets, 4, particles] or part_px, part_py, part_pz and part_energy, and label or labels",
    ),
}
"""Layouts by the names that `--layout` takes."""


def layout_of_source(source: Source) -> str:
    """Return the name of the layout of a file; empty if it is none of `LAYOUTS`.

    `boosted-top` has the arrays of `quark-gluon`, as which it is recognized.
    """
    columns = {*source.columns}
    if source.layout:
        return source.layout
    if {*PARTICLES, *OBSERVERS} <= columns:
        return "jetclass"
    # named labels are those of JetClass, with branches missing
    has_labels = "label" in columns or any(re.fullmatch(r"label_\d+", name) for name in columns)
    return "four-vectors" if has_labels and {*MOMENTUM} <= columns and not {*_IMPACT} & columns else ""


def missing_inputs(columns: Collection[str]) -> list[str]:
    """Return which inputs of JetClass these columns lack."""
    inputs = {"charges and particle types": _TYPES, "impact parameters": _IMPACT, "jet substructure": OBSERVERS[5:]}
    return [title for title, names in inputs.items() if not {*names} <= {*columns}]


_JETS = {
    **{f"jet_{axis}": f"ak.sum(ak.values_astype(part_{axis}, 'float64'), axis=1)" for axis in ("px", "py", "pz")},
    "jet_energy": "ak.sum(ak.values_astype(part_energy, 'float64'), axis=1)",
    "jet_pt": "np.maximum(np.hypot(jet_px, jet_py), 1e-6)",
    "jet_eta": "np.arcsinh(jet_pz / jet_pt)",
    "jet_phi": "np.arctan2(jet_py, jet_px)",
    "jet_mass": "np.sqrt(np.maximum(jet_energy**2 - jet_px**2 - jet_py**2 - jet_pz**2, 0))",
}
PARTICLE_EXPRESSIONS = {
    "part_pt": "np.maximum(np.hypot(part_px, part_py), 1e-6)",
    "part_e": "np.maximum(part_energy, 1e-6)",
    "part_deta": "np.arcsinh(part_pz / part_pt) - jet_eta",
    "part_dphi": "(np.arctan2(part_py, part_px) - jet_phi + np.pi) % (2 * np.pi) - np.pi",
    "part_pt_log": "np.log(part_pt)",
    "part_e_log": "np.log(part_e)",
    "part_logptrel": "np.log(part_pt / jet_pt)",
    "part_logerel": "np.log(part_e / jet_energy)",
    "part_deltaR": "np.hypot(part_deta, part_dphi)",
}
"""Variables of particles that follow from their momenta, as expressions of a data card."""
# standardization of arXiv:2202.03772
_FEATURES = (
    *(["part_deta", None], ["part_dphi", None], ["part_pt_log", 1.7, 0.7], ["part_e_log", 2.0, 0.7]),
    *(["part_logptrel", -4.7, 0.7], ["part_logerel", -4.7, 0.7], ["part_deltaR", 0.2, 4.0]),
)


def layout_card(name: str, columns: Collection[str]) -> dict[str, Any]:
    """Return the content of the data card of a layout other than JetClass's.

    Args:
        name: One of `LAYOUTS`.
        columns: Those of a file in this layout.
    """
    types = [[name, None] for name in _TYPES] if {*_TYPES} <= {*columns} else []
    groups = {
        "pf_points": [["part_deta", None], ["part_dphi", None]],
        "pf_features": [*_FEATURES, *types],
        "pf_vectors": [[name, None] for name in MOMENTUM],
    }
    layout = LAYOUTS[name]
    flags = {f"label_{label}": f"{layout.column} == {i}" for i, label in enumerate(layout.classes)}
    return {
        "new_variables": {**_JETS, **PARTICLE_EXPRESSIONS, **flags},
        "inputs": {group: {"length": LENGTH, "vars": variables} for group, variables in groups.items()},
        "labels": {"type": "simple", "value": list(flags)} if flags else _numbered_labels(columns),
        "observers": ["jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass"],
    }


def _numbered_labels(columns: Collection[str]) -> Mapping[str, Any]:
    if "label" in columns:
        return {"type": "custom", "value": {"label": "label"}}
    numbered = [name for name in columns if re.fullmatch(r"label_\d+", name)]
    return {"type": "simple", "value": sorted(numbered, key=lambda name: int(name.removeprefix("label_")))}
