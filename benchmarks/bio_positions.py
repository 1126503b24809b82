"""Single mutants at positions that training has not measured: cross-validation of five deep mutational scans.

Run: SUBQUAD_DATA=DATA python benchmarks/bio_positions.py --out positions [--only syua gb1_stability] [--splits modulo]

The single mutants of each scan are split in five folds in three ways, as ProteinGym's `modulo` (every fifth position),
`contiguous` (stretches of the protein) and by random whole positions (`position`). Every row is predicted by models
that had no row of its position. Spearman's correlation is that of all rows with their out-of-fold predictions, and the
mean of the folds. Published averages over ProteinGym's 217 assays stand beside these five for context only: one-hot
0.02 (modulo) and 0.06 (contiguous), Kermut, which reads a protein language model and a structure, 0.63 and 0.59.

Finished cross-validations are not repeated, so that the same command resumes. The last line is JSON.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bio_speed import machine

from subquad.bio.commands.cross_validate import cross_validate
from subquad.bio.settings import FitSettings
from subquad.runs.folder import METRICS
from subquad.runs.storage import read_json

ASSAYS = {
    "syua": "syua_newberry2020",
    "pten": "metl_pten-activity",
    "gb1_stability": "gb1_stability_nisthal",
    "tdp43": "tdp43",
    "grb2": "metl_grb2-abundance",
}
SPLITS = ("modulo", "contiguous", "position")
PUBLISHED = {"modulo": {"one-hot": 0.02, "Kermut": 0.63}, "contiguous": {"one-hot": 0.06, "Kermut": 0.59}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=tuple(ASSAYS), choices=tuple(ASSAYS))
    parser.add_argument("--splits", nargs="+", default=SPLITS, choices=SPLITS)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=4000, help="maximum number of single mutants, drawn at random")
    parser.add_argument("--models", nargs="+", default=())
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        parser.error("SUBQUAD_DATA must name the folder of the data")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.only:
        table = single_mutants(name, options)
        for split in options.splits:
            folder = options.out / f"{name}-{split}"
            if not (folder / METRICS).is_file():
                settings = FitSettings(
                    target=("target",), split_by=split, folds=5, tokens=options.tokens, models=tuple(options.models)
                )
                cross_validate(table, settings, out=folder, quiet=True)
            metrics = read_json(folder / METRICS)
            rows = sum(rows["test"] for rows in metrics["rows"])
            pooled = {model: round(own["spearman"], 4) for model, own in metrics["pooled"].items()}
            mean = {model: round(own["spearman"], 4) for model, own in metrics["test"].items()}
            found[f"{name}, {split}"] = {"rows": rows, "all_rows": pooled, "mean_of_folds": mean}
            print(name, split, json.dumps(found[f"{name}, {split}"]), flush=True)
    print(
        json.dumps(
            {
                "benchmark": "bio_positions",
                "machine": machine(options.threads),
                "tokens": options.tokens,
                "spearman": found,
                "means": means(found, options.splits),
                "published": PUBLISHED,
            }
        )
    )


def single_mutants(name, options):
    """Write the single mutants of a scan as a table of their own; return its path."""
    path = options.out / f"{name}.csv"
    if path.is_file():
        return path
    data = Path(os.environ["SUBQUAD_DATA"]) / "bio" / "dms" / f"{ASSAYS[name]}.csv.gz"
    frame = pd.read_csv(data, usecols=["sequence", "target"]).dropna().drop_duplicates("sequence")
    letters = np.array([list(sequence) for sequence in frame["sequence"]])
    # the wild type: at each position the letter of most variants
    wild = np.array([pd.Series(column).mode()[0] for column in letters.T])
    is_substitution = ((letters != wild).sum(1) == 1) & ~(letters == "*").any(1)
    single = frame[is_substitution]
    single.sample(min(len(single), options.rows), random_state=0).sort_index().to_csv(path, index=False)
    return path


def means(found, splits):
    """Return the mean over the assays of the correlation of all rows, for models that were fitted to all of them."""
    result = {}
    for split in splits:
        own = [values["all_rows"] for name, values in found.items() if name.endswith(f", {split}")]
        shared = [model for model in own[0] if all(model in values for values in own)]
        result[split] = {model: round(float(np.mean([values[model] for values in own])), 4) for model in shared}
    return result


if __name__ == "__main__":
    main()
