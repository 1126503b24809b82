"""Small ROOT files in JetClass's layout, with jets made up so that a tagger can distinguish their classes."""

from dataclasses import replace

import awkward as ak
import numpy as np
import uproot

from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.jets import OBSERVERS, PARTICLES
from subquad.hep.data.layout import Standardizer, layout_of
from subquad.hep.data.store import dataset_of

CLASSES = ("QCD", "Hbb", "Tbqq")
JETCLASS = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")


def columns(label, jets=23, seed=0, classes=CLASSES):
    """Jets of one class: it decides into how many clusters the particles fall, and their impact parameters."""
    generator = np.random.default_rng([seed, classes.index(label)])
    kind = classes.index(label)
    lengths = generator.integers(2, 14, jets)
    lengths[0] = 1
    total = int(lengths.sum())
    pt = np.exp(generator.normal(2.0, 1.0, total))
    cluster = generator.integers(0, kind + 1, total)
    deta = 0.3 * cluster + generator.normal(0, 0.03, total)
    dphi = 0.2 * cluster * (-1) ** cluster + generator.normal(0, 0.03, total)
    eta = 0.5 + deta
    charge = generator.integers(-1, 2, total)
    values = {
        "px": pt * np.cos(dphi),
        "py": pt * np.sin(dphi),
        "pz": pt * np.sinh(eta),
        "energy": pt * np.cosh(eta) * 1.001,
        "deta": deta,
        "dphi": dphi,
        "d0val": np.where(charge != 0, generator.normal(0, 0.02 * (1 + 5 * kind), total), 0),
        "d0err": np.where(charge != 0, 0.02, 0),
        "dzval": np.where(charge != 0, generator.normal(0, 0.05, total), 0),
        "dzerr": np.where(charge != 0, 0.03, 0),
        "charge": charge,
        "isChargedHadron": charge != 0,
        "isNeutralHadron": np.zeros(total),
        "isPhoton": charge == 0,
        "isElectron": np.zeros(total),
        "isMuon": np.zeros(total),
    }
    table = {name: ak.unflatten(values[name.removeprefix("part_")].astype(np.float32), lengths) for name in PARTICLES}
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    table |= {
        **{name: generator.uniform(0.1, 0.5, jets).astype(np.float32) for name in OBSERVERS},
        "jet_pt": np.add.reduceat(pt, first).astype(np.float32),
        "jet_energy": np.add.reduceat(values["energy"], first).astype(np.float32),
        "jet_nparticles": lengths.astype(np.float32),
        "jet_sdmass": (80.0 + 40 * kind + generator.normal(0, 8, jets)).astype(np.float32),
    }
    return table | {f"label_{name}": np.full(jets, name == label) for name in classes}


def write(path, table, tree="tree"):
    """Write the columns as one tree, with one counter for all particles, as JetClass's files have it."""
    per_particle = {name: value for name, value in table.items() if isinstance(value, ak.Array)}
    per_jet = {name: value for name, value in table.items() if name not in per_particle}
    with uproot.recreate(path) as file:
        types = {name: value.dtype for name, value in per_jet.items()}
        content = dict.fromkeys(per_particle, "var * float32")
        file.mktree(tree, {**content, **types}).extend({**per_particle, **per_jet})
    return path


def dataset_in_memory(jets, net, standardizer=None):
    """Jets as a network takes them, with jet-level features standardized by the jets themselves unless given."""
    layout = layout_of(net)
    dataset = dataset_of(chunk_of(jets, layout), layout)
    if net.has_jet_features:
        standardizer = standardizer or Standardizer.fit(dataset.jet_features)
        dataset = replace(dataset, layout=replace(layout, jet_standardizer=standardizer))
    return dataset
