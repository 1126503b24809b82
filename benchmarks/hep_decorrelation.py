"""What decorrelation from the mass costs: rejection of QCD jets by W jets against the distance of QCD's mass shapes.

    SUBQUAD_DATA=DATA python benchmarks/hep_decorrelation.py --out decorrelation

Taggers are fitted without decorrelation, with weights that make the spectra of mass and pT flat in each class, and with
the DisCo penalty of several weights, all in batches of 256 and without dropout, whose noise would hide correlations
from the penalty; the split of the jets is that of the seed. Files: those of W and QCD jets in $SUBQUAD_DATA/hep/sim,
which are of version 1 of the simulated physics, or `--files`, such as those of
`subquad hep simulate --classes ZJetsToNuNu WToQQ --jets-per-class 4000`. The last line is JSON: of each tagger
the rejection and the inverse Jensen-Shannon divergence at signal efficiencies of 50 % and 30 %, means and ranges over
the seeds, and the largest inverse divergence that the number of jets lets one measure. Runs of the same preset, epochs
and seed that are in --out already are not repeated, whatever their files.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad import hep
from subquad.runs.storage import read_json

SIMULATED = ("ZJetsToNuNu_000.root", "WToQQ_000.root")
BINS = (
    *("jet_sdmass", "0", "20", "40", "60", "80", "100", "130", "170", "250"),
    *("jet_pt", "500", "600", "700", "800", "1000"),
)


def taggers(preset: str, weights: list[float], epochs: int) -> dict[str, hep.FitSettings]:
    """Return the settings of each tagger by its name."""
    plain = hep.FitSettings(
        preset=preset,
        epochs=epochs,
        batch_size=256,
        dropout=0.0,
        test_fraction=0.4,
        no_boosting=True,
        background="QCD",
    )
    return {
        "plain": plain,
        "flat mass and pT": replace(plain, reweight_vars=BINS),
        **{
            f"DisCo, weight {weight:g}": replace(plain, decorrelate="jet_sdmass", decorrelation_weight=weight)
            for weight in weights
        },
    }


def measured(files: list[str], settings: hep.FitSettings, out: Path, seed: int) -> dict[str, float]:
    """Return the numbers of one fit."""
    done = (out / "metrics.json").is_file()
    metrics = read_json(out / "metrics.json") if done else hep.fit(files, settings, out=out, seed=seed, quiet=True)
    (cuts,) = metrics["models"][0]["trainings"][0]["mass_shapes"].values()
    found = {"accuracy": metrics["test"]["net"]["accuracy"]}
    for cut in cuts:
        percent = f"{100 * cut['efficiency']:.0f}"
        found[f"rejection_{percent}"] = cut["rejection"]["value"]
        found[f"inverse_jsd_{percent}"], found[f"by_chance_{percent}"] = cut["inverse_jsd"], cut["by_chance"]
    return found


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--files", nargs="+", help="files of QCD jets and of jets of one other class")
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0, 3.0], help="weights of the penalty")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep" / "sim"
    files = options.files or [str(folder / name) for name in SIMULATED]
    rows: list[dict[str, Any]] = []
    of = f"{options.preset}_{options.epochs}"
    for name, settings in taggers(options.preset, options.weights, options.epochs).items():
        runs = [
            measured(files, settings, options.out / f"{of}_{name.replace(',', '').replace(' ', '_')}_{seed}", seed)
            for seed in range(options.seeds)
        ]
        row: dict[str, Any] = {"tagger": name}
        for key in runs[0]:
            values = [run[key] for run in runs if run.get(key) is not None]
            row[key] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
        rows.append(row)
        print(name, {key: value["mean"] for key, value in row.items() if key != "tagger"}, flush=True)
    print(json.dumps({"files": [Path(file).name for file in files], "epochs": options.epochs, "taggers": rows}))


if __name__ == "__main__":
    main()
