"""Small files in the layouts of public data sets, with jets made up so that a tagger can distinguish their classes."""

import re
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import uproot

from subquad.hep.data.energyflow import PARTICLES

DOCS = Path(__file__).parents[2] / "docs"
_BLOCKS = re.findall(
    r"^```yaml\n(.*?)^```", (DOCS / "hep-data.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
)
FLAT_CARD, FLAVOUR_CARD, NANO_CARD, VERTEX_CARD = (block for block in _BLOCKS if "inputs:" in block)
"""The complete cards of docs/hep-data.md, for `write_flat`, `write_flavour_tagging`, `write_nano` and `write_nano` with
vertices."""

TRUTH = ("truthE", "truthPX", "truthPY", "truthPZ")


def particles(jets=29, places=13, seed=0):
    """Labels [J] of two classes, and pT, η and φ [J, P] of their particles by descending pT; padding has pT 0."""
    generator = np.random.default_rng(seed)
    labels = np.arange(jets) % 2
    lengths = generator.integers(2, places + 1, jets)
    is_real = np.arange(places) < lengths[:, None]
    pt = np.where(is_real, -np.sort(-np.exp(generator.normal(2, 1, (jets, places)))), 0)
    # the jets of the second class are wider
    eta, phi = generator.normal(0, 0.05 + 0.3 * labels[None, :, None], (2, jets, places))
    return labels, pt, np.where(is_real, eta + 0.4, 0), np.where(is_real, phi + 3.1, 0)


def write_flat(path, jets=29, seed=0, **changes):
    """Write a ROOT file with own names of branches and a number as label; `changes` are branches or their functions."""
    labels, pt, eta, phi = particles(jets, seed=seed)
    phi = (phi + np.pi) % (2 * np.pi) - np.pi
    charge = np.random.default_rng([seed, 3]).integers(-1, 2, pt.shape)
    found = {
        "cand_pt": pt,
        "cand_eta": eta,
        "cand_phi": phi,
        "cand_e": 1.001 * pt * np.cosh(eta),
        "cand_charge": charge,
    }
    counts = (pt > 0).sum(axis=1)
    branches = {name: ak.unflatten(values[pt > 0].astype(np.float32), counts) for name, values in found.items()}
    sums = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)]).sum(axis=2)
    jet_pt = np.hypot(*sums[:2])
    table = {
        **branches,
        "truth": labels.astype(np.int32),
        **{"jet_pt": jet_pt, "jet_eta": np.arcsinh(sums[2] / jet_pt), "jet_phi": np.arctan2(sums[1], sums[0])},
    }
    table |= {name: change(table) if callable(change) else change for name, change in changes.items()}
    with uproot.recreate(path) as file:
        file["JetTree"] = table
    return path


def momenta(jets=29, places=13, seed=0):
    """Labels [J], and E, px, py and pz [J, P, 4] as float32."""
    labels, pt, eta, phi = particles(jets, places, seed)
    parts = (1.001 * pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta))
    return labels, np.stack(parts, axis=2).astype(np.float32)


def pickled_names(names):
    """The text in which PyTables stores a list of names: a pickle of protocol 0."""
    return np.bytes_("(lp0\n" + "".join(f"{'a' * (i > 0)}V{name}\np{i + 1}\n" for i, name in enumerate(names)) + "a.")


def write_top(path, vectors, labels, ttv=0, *, names=None, has_names=True, **options):
    """Write E, px, py and pz [J, P, 4] as pandas writes a data frame with PyTables."""
    jets, places, _ = vectors.shape
    names = names or [*(f"{part}_{i}" for i in range(places) for part in ("E", "PX", "PY", "PZ")), *TRUTH]
    blocks = [("values_block_0", "<f4", (len(names),)), ("values_block_1", "<i8", (2,))]
    rows = np.zeros(jets, [("index", "<i8"), *blocks])
    rows["values_block_0"][:, : 4 * places] = vectors.reshape(jets, 4 * places)[:, : len(names)]
    rows["values_block_1"] = np.stack([np.broadcast_to(ttv, jets), labels], axis=1)
    with h5py.File(path, "w") as file:
        file.create_group("table").attrs["pandas_type"] = np.bytes_("frame_table")
        options = {"chunks": (7,), "compression": "gzip", "shuffle": True, **options}
        table = file.create_dataset("table/table", data=rows, **options)
        if has_names:
            table.attrs["values_block_0_kind"] = pickled_names(names)
            table.attrs["values_block_1_kind"] = pickled_names(["ttv", "is_signal_new"])
        # the index that PyTables keeps of a table
        file["table/_i_table/index/ranges"] = np.zeros((0, 2), np.int64)
    return path


def energyflow_arrays(jets=29, places=13, seed=0):
    """Labels [J], and pT, rapidity, azimuth and PDG id [J, P, 4]; the particles of a jet are not sorted."""
    generator = np.random.default_rng([seed, 1])
    labels, pt, rapidity, phi = particles(jets, places, seed)
    codes = np.array(sorted(PARTICLES))
    charged = np.abs([PARTICLES[code][1] for code in codes])
    code = codes[generator.integers(0, len(codes), pt.shape)]
    code = code * np.where((charged[np.searchsorted(codes, code)] > 0) & (generator.random(pt.shape) < 0.5), -1, 1)
    x = np.stack([pt, rapidity, phi % (2 * np.pi), np.where(pt > 0, code, 0)], axis=2)
    for j, row in enumerate(x):
        length = np.count_nonzero(pt[j])
        row[:length] = row[generator.permutation(length)]
    return labels, x


def write_energyflow(path, jets=29, places=13, seed=0):
    """Write EnergyFlow's arrays."""
    labels, x = energyflow_arrays(jets, places, seed)
    np.savez_compressed(path, X=x, y=labels.astype(np.float64))
    return path


def write_flavour_tagging(path, jets=29, places=13, seed=0):
    """Write jets and tracks as compound types, as ATLAS's training-dataset-dumper does."""
    labels, pt, eta, phi = particles(jets, places, seed)
    of_jets = np.zeros(jets, [("pt", "<f4"), ("eta", "<f2"), ("flavour_label", "i1"), ("name", "S4")])
    of_jets["pt"], of_jets["eta"], of_jets["flavour_label"] = pt.sum(1), 0.4, labels * 5
    names = ("pt", "deta", "dphi", "d0")
    tracks = np.zeros((jets, places), [*((name, "<f2" if name == "d0" else "<f4") for name in names), ("valid", "?")])
    for name, values in zip(names, (pt, eta - 0.4, phi - 3.1, labels[:, None] * 0.5), strict=True):
        tracks[name] = np.where(pt > 0, values, np.nan)
    tracks["valid"] = pt > 0
    with h5py.File(path, "w") as file:
        for name, rows in (("jets", of_jets), ("tracks", tracks)):
            file.create_dataset(name, data=rows, chunks=(7, *rows.shape[1:]), compression="gzip")
        file["weights"] = 1.0 + labels
        file["cutBookkeeper/nominal/counts"] = np.ones(3, [("nEvents", "<i8")])
    return path


def write_nano(path, jets=29, places=13, seed=0, **changes):
    """Write jets of events as NanoAOD does: 0 to 3 jets per event, their particles in one list of another order."""
    generator = np.random.default_rng([seed, 2])
    labels, pt, eta, phi = particles(jets, places, seed)
    per_event = np.array([0, 3, 1, 2])[np.arange(jets) % 4]
    per_event = np.append(per_event[: np.argmax(np.cumsum(per_event) >= jets)], 0)
    per_event[-1] = jets - per_event.sum()
    event_of_jet = np.repeat(np.arange(len(per_event)), per_event)
    jet, place = np.nonzero(pt)
    first = (np.cumsum(per_event) - per_event)[event_of_jet]
    event = event_of_jet[jet]
    # one particle per event that belongs to no jet, and a link to nothing
    event = np.concatenate([event, np.arange(len(per_event))])
    own = {name: np.append(x[jet, place], np.full(len(per_event), 9)) for name, x in (("pt", pt), ("eta", eta))}
    own["phi"] = np.append(phi[jet, place], np.full(len(per_event), 9))
    of_jet = np.append((np.arange(jets) - first)[jet], np.full(len(per_event), -1))
    shuffled = np.lexsort((generator.random(len(event)), event))
    number = np.zeros(len(event), int)
    number[shuffled] = np.arange(len(event))
    number -= np.searchsorted(event[shuffled], event)
    links = np.argsort(event, kind="stable")

    def lists(values, owner, order):
        return ak.unflatten(values[order], np.bincount(owner, minlength=len(per_event)))

    table = {
        **{f"FatJet_{name}": lists(x, event_of_jet, slice(None)) for name, x in (("pt", pt.sum(1)), ("isTop", labels))},
        **{f"PFCands_{name}": lists(values, event, shuffled) for name, values in own.items()},
        "FatJetPFCands_jetIdx": lists(of_jet, event, links),
        "FatJetPFCands_pFCandsIdx": lists(number, event, links),
        "FatJetPFCands_btag": lists(np.append(pt[jet, place], np.zeros(len(per_event))), event, links),
        "event": np.arange(len(per_event)) + 1000,
        **changes,
    }
    with uproot.recreate(path) as file:
        file["Events"] = {name: values for name, values in table.items() if values is not None}
    return path
