"""Jets with particles and secondary vertices, and a data card that takes both."""

import awkward as ak
import numpy as np
import uproot

CARD = {
    "new_variables": {
        "part_pt_log": "np.log(np.hypot(part_px, part_py))",
        "sv_ratio": "np.log(sv_pt / jet_pt)",
        "sv_px": "sv_pt * np.cos(sv_phi)",
        "sv_py": "sv_pt * np.sin(sv_phi)",
        "sv_pz": "sv_pt * np.sinh(sv_eta)",
        "sv_energy": "np.hypot(sv_pt * np.cosh(sv_eta), sv_mass)",
        "is_near": "np.hypot(sv_deta, sv_dphi) < 0.8",
    },
    "preprocess": {"method": "auto"},
    "inputs": {
        "pf_points": {"length": 128, "vars": ["part_deta", "part_dphi"]},
        "pf_features": {"length": 128, "vars": [["part_pt_log", 1.7, 0.7], ["part_deta", None], ["part_charge", None]]},
        "pf_vectors": {"length": 128, "vars": ["part_px", "part_py", "part_pz", "part_energy"]},
        "sv_points": {"length": 3, "vars": ["sv_deta", "sv_dphi"]},
        "sv_features": {"length": 3, "vars": ["sv_ratio", "sv_mass", ["sv_deta", None]]},
        "sv_vectors": {"length": 3, "vars": ["sv_px", "sv_py", "sv_pz", "sv_energy"]},
        "sv_mask": {"length": 3, "vars": ["is_near"]},
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Hcc"]},
    "observers": ["jet_pt"],
}


def write_vertices(paths, folder):
    """Write JetClass's files with zero to four secondary vertices in each jet, more and heavier ones in b jets."""
    found = []
    for path in paths:
        generator = np.random.default_rng(len(found))
        with uproot.open(path) as file:
            jets = file["tree"].arrays()
        counts = generator.integers(0, 5, len(jets))
        deta, dphi = generator.normal(0, 0.3, (2, counts.sum()))
        jet = np.repeat(np.arange(len(jets)), counts)
        mass = generator.exponential(1, counts.sum()) + 3 * np.asarray(jets["label_Hbb"])[jet]
        pt = np.asarray(jets["jet_pt"])[jet] * generator.uniform(0.05, 0.3, counts.sum())
        eta, phi = np.asarray(jets["jet_eta"])[jet] + deta, np.asarray(jets["jet_phi"])[jet] + dphi
        own = {"deta": deta, "dphi": dphi, "mass": mass, "pt": pt, "eta": eta, "phi": phi}
        vertices = {f"sv_{name}": ak.unflatten(values.astype("f4"), counts) for name, values in own.items()}
        found.append(folder / path.name)
        with uproot.recreate(found[-1]) as file:
            file["tree"] = {**{name: jets[name] for name in jets.fields}, **vertices}
    return found
