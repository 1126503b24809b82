"""Simulated jets per second and core, and how far they can be told from a reference sample of the same ten classes.

    python benchmarks/hep_simulate.py [--jets-per-class N] [--reference DIR]

Without --reference the files are taken from $SUBQUAD_DATA/hep/sim; where there are none, only the speed is measured.
Those are of version 1 of the simulated physics (`PHYSICS`), and jets made now differ from them as
docs/hep-simulation.md says; files that this version made, of another seed, are a reference that agrees.
Agreement, per class, on 24 figures of a jet: the AUC of gradient boosting that tells one sample from the other (five
folds; 0.5 means that it cannot), and the largest Kolmogorov–Smirnov distance of any one figure.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from subquad.hep.commands.simulate import simulate
from subquad.hep.settings import SimulateSettings
from subquad.hep.simulation.writer import read_columns

KINDS = ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")


def figures(path: Path) -> dict[str, np.ndarray]:
    table = read_columns(path)
    starts = np.cumsum(table["npart"]) - table["npart"]
    pt = np.hypot(table["part_px"], table["part_py"])
    jet_pt = table["jet_pt"].astype(np.float64)

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(np.float64), starts)

    found = {name: table[f"jet_{name}"].astype(np.float64) for name in ("pt", "sdmass", "nparticles", "tau1")}
    found["abs_eta"] = np.abs(table["jet_eta"])
    for more in (2, 3, 4):
        found[f"tau{more}{more - 1}"] = table[f"jet_tau{more}"] / np.maximum(table[f"jet_tau{more - 1}"], 1e-6)
    for kind in KINDS:
        is_kind = table[f"part_is{kind}"]
        found[f"number_{kind}"] = total(is_kind)
        found[f"fraction_{kind}"] = total(pt * is_kind) / jet_pt
    for axis in ("d0", "dz"):
        error = table[f"part_{axis}err"]
        significance = np.abs(table[f"part_{axis}val"]) / np.where(error > 0, error, np.inf)
        found[f"most_{axis}"] = np.log1p(np.maximum.reduceat(significance, starts))
        found[f"number_{axis}"] = total(significance > 3)
    found["width"] = total(pt * np.hypot(table["part_deta"], table["part_dphi"])) / jet_pt
    found["dispersion"] = np.sqrt(total(pt**2)) / jet_pt
    return found


def agreement(ours: Path, reference: Path) -> dict[str, float | str]:
    samples = [figures(ours), figures(reference)]
    distances = {
        name: float(ks_2samp(samples[0][name], samples[1][name], method="asymp").statistic) for name in samples[0]
    }
    worst = max(distances, key=lambda name: distances[name])
    inputs = np.concatenate([np.stack(list(sample.values()), axis=1) for sample in samples])
    is_ours = np.repeat([1, 0], [len(sample["pt"]) for sample in samples])
    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=8, class_weight="balanced", random_state=0
    )
    score = cross_val_predict(model, inputs, is_ours, cv=5, method="predict_proba")[:, 1]
    return {
        "auc": round(float(roc_auc_score(is_ours, score)), 4),
        "largest_ks": round(distances[worst], 4),
        "largest_ks_figure": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets-per-class", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reference", type=Path, default=Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep" / "sim")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = SimulateSettings(jets_per_class=arguments.jets_per_class, jets_per_file=arguments.jets_per_class)
        files = simulate(settings, out=folder, seed=arguments.seed)
        # the processor time of the workers, the start of Pythia and of Python included
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        jets = arguments.jets_per_class * len(settings.classes)
        result = {"jets": jets, "jets_per_cpu_second": round(jets / (used.ru_utime + used.ru_stime), 1)}
        classes = {}
        for path in (path for path in files if (arguments.reference / path.name).is_file()):
            classes[path.name.split("_")[0]] = agreement(path, arguments.reference / path.name)
            print(path.name, classes[path.name.split("_")[0]], flush=True)
    if classes:
        result["mean_auc"] = round(float(np.mean([entry["auc"] for entry in classes.values()])), 4)
    print(json.dumps({**result, "classes": classes, "machine": platform.processor() or platform.machine()}))


if __name__ == "__main__":
    main()
