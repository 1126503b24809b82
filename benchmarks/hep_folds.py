"""Taggers on samples of public data sets, by five-fold cross-validation beside gradient boosting: 15 minutes.

    SUBQUAD_DATA=DATA python benchmarks/hep_folds.py --out folds

2,000 jets each of the top tagging and of the quark and gluon data set, in $SUBQUAD_DATA/hep/real: few, so a difference
of a point can be noise. Of the 1,600 jets of a fold a tenth chooses the epoch. All models have the momenta of the
particles; boosting and the networks also have jet-level features that are computed from them. The folds are the same
for all models. One folder per network and fold is written into --out: the same command resumes.

Prints a Markdown table: means over the folds ± their standard error, and of the difference to boosting on the same
fold; the errors are somewhat too small, as the training jets of two folds overlap. The last line is JSON.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from subquad.hep import FitSettings, fit
from subquad.hep.models.presets import PRESETS

SAMPLES = ("top_landscape", "quark_gluon")
FOLDS = 5
METRICS = ("accuracy", "auc_ovo")


def fold_files(sample: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Write the jets of each fold as two files, to fit and to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(sample, allow_pickle=False) as file:
        arrays = dict(file)
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(arrays["labels"], arrays["labels"])
    pairs = []
    for i, rows in enumerate(split):
        paths = [folder / f"{sample.stem}_{i}_{part}.npz" for part in ("train", "test")]
        for path, indices in zip(paths, rows, strict=True):
            np.savez(path, **{name: array[indices] for name, array in arrays.items()})
        pairs.append((paths[0], paths[1]))
    return pairs


def fitted(train: Path, test: Path, preset: Any, epochs: int, out: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of the network and of boosting on the test jets."""
    path = out / "metrics.json"
    metrics = (
        json.loads(path.read_text())
        if path.is_file()
        else fit([train], FitSettings(preset=preset, epochs=epochs, threads=1), out=out, test=[test], quiet=True)
    )
    return {name: {key: metrics["test"][name][key] for key in METRICS} for name in ("net", "boosting")}


def around(values: list[float]) -> dict[str, float]:
    return {"mean": fmean(values), "standard_error": stdev(values) / len(values) ** 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=["auto", "standard"], choices=PRESETS)
    parser.add_argument("--samples", nargs="+", default=SAMPLES, choices=SAMPLES)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        raise SystemExit("set SUBQUAD_DATA to the folder with hep/real")
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for sample in options.samples:
        pairs = fold_files(Path(os.environ["SUBQUAD_DATA"]) / "hep" / "real" / f"{sample}.npz", options.out / "jets")
        by_model: dict[str, list[dict[str, float]]] = {}
        for preset in options.presets:
            for i, (train, test) in enumerate(pairs):
                out = options.out / f"{sample}_{preset}_{options.epochs}_{i}"
                both = fitted(train, test, preset, options.epochs, out)
                by_model.setdefault(preset, []).append(both["net"])
                # boosting is the same beside each network
                if preset == options.presets[0]:
                    by_model.setdefault("boosting", []).append(both["boosting"])
                print(f"{sample}, fold {i}: {preset} {both['net']}, boosting {both['boosting']}", flush=True)
        found[sample] = {
            model: {
                **{key: around([fold[key] for fold in folds]) for key in METRICS},
                "accuracy_above_boosting": around(
                    [
                        fold["accuracy"] - other["accuracy"]
                        for fold, other in zip(folds, by_model["boosting"], strict=True)
                    ]
                ),
            }
            for model, folds in by_model.items()
        }
    print("| sample | model | top-1 | AUC | top-1 above boosting |\n|---|---|---|---|---|")
    for sample, models in found.items():
        for model, figures in models.items():
            cells = (f"{one['mean']:.3f} ± {one['standard_error']:.3f}" for one in figures.values())
            print(f"| {sample} | {model} | {' | '.join(cells)} |")
    machine = {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    print(json.dumps({"benchmark": "hep_folds", **machine, "epochs": options.epochs, "samples": found}))


if __name__ == "__main__":
    main()
