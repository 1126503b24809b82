"""Lyra, baselines and their ensemble against published results on test rows that the suite of tasks does not have.

Run: SUBQUAD_DATA=DATA python benchmarks/bio_tasks.py --out published [--only cas13a azimuth] [--seeds 0 1 2] [--jobs 2]

Each result is one or several tasks of `subquad bio bench`, so that the same command resumes an interrupted benchmark.

- cas13a: ADAPT's held-out guides, AUROC over its 51,980 rows: 5,197 guide-target pairs, each with ten resampled
  measurements, of which those above log k = -4 are active. Trained on pairs with one measurement each.
- idr_*: residues of DisoFLAG's DP94 and of all 188 records of its DP93 file, AUROC, one task per function, tested on
  the proteins of both: no DP93 protein is in training.
- openvaccine_*: reactivity and degradation of RNA without the sequences whose residues all have the value 0, which
  were not measured; R² over residues.
- azimuth: 17 genes, each predicted by models of the others; Spearman of all rows out-of-fold, and its mean over genes.

The last line is JSON: for each result the published value, and mean and standard deviation over seeds of each model.
"""

import argparse
import gzip
import json
import os
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.commands.bench import bench
from subquad.bio.compared_models import COMPARED_MODELS
from subquad.runs.storage import read_json

ADAPT = "raw/adapt_published_predictions/classify__test.tsv.gz"
AZIMUTH = "raw/azimuth_FC_plus_RES_withPredictions.csv.gz"
DP93 = "raw/disoflag_DP93.txt.gz"

OPENVACCINE = ("reactivity", "deg_Mg_pH10", "deg_pH10", "deg_Mg_50C", "deg_50C")

# function, line of a record after its header, best published AUROC on DP94 (fIDPnn, DeepDISOBind) and DP93 (DisoFLAG)
FUNCTIONS = [
    ("disorder", 2, 0.829, 0.855),
    ("protein_binding", 3, 0.857, 0.839),
    ("DNA_binding", 4, 0.895, 0.896),
    ("RNA_binding", 5, 0.950, 0.908),
    ("flexible_linker", 8, 0.725, 0.897),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=(), help="results to run, by the start of their names")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--train-rows", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--models", nargs="+", default=(), help="models to fit; default: as for subquad bio fit")
    parser.add_argument("--settings", default="{}", help="JSON of further settings of the fit")
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        parser.error("SUBQUAD_DATA must name the folder of the data")
    data = Path(os.environ["SUBQUAD_DATA"]) / "bio"
    marks = [mark for mark in all_marks() if not options.only or mark["name"].startswith(tuple(options.only))]
    tasks = write_tasks(marks, data, options.out, json.loads(options.settings))
    settings = BenchSettings(
        seeds=tuple(options.seeds),
        jobs=options.jobs,
        train_rows=options.train_rows,
        tokens=options.tokens,
        models=tuple(options.models),
    )
    results = bench(tasks, settings, out=options.out)
    reached = {mark["name"]: reach(mark, results, options.out) for mark in marks}
    for name, mark in reached.items():
        print(name, json.dumps(mark))
    failed = [f"{run['id']}, seed {run['seed']}: {run['message']}" for run in results["failed"]]
    print(
        json.dumps(
            {
                "benchmark": "bio_tasks",
                "date": results["date"],
                "machine": results["machine"],
                "seeds": settings.seeds,
                "tokens": options.tokens,
                "core_hours": round(results["core_hours"], 3),
                "results": reached,
                "failed": failed,
            }
        )
    )
    raise SystemExit(1 if failed else 0)


def all_marks():
    marks = [{"name": "cas13a", "ids": ["marks/cas13a"], "metric": "auroc", "mark": 0.866}]
    for name, _, *published in FUNCTIONS:
        for group, mark in zip(("DP94", "DP93"), published, strict=True):
            own = {"ids": [f"marks/idr_{name}"], "group": group, "metric": "auroc", "mark": mark}
            marks.append({"name": f"idr_{group}_{name}", **own})
    for name in OPENVACCINE:
        own = {"ids": [f"marks/openvaccine_{name}"], "metric": "r2", "mark": None}
        marks.append({"name": f"openvaccine_{name}", **own})
    marks.append({"name": "azimuth", "ids": [], "metric": "spearman", "mark": 0.476})
    return marks


def write_tasks(marks, data, out, settings):
    """Write the tables that are derived from the data, and the list of tasks; return its path."""
    folder = (out / "tables" / "marks").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for mark in marks:
        if any(task["id"] in mark["ids"] for task in entries):
            continue
        if mark["name"] == "azimuth":
            own = azimuth_tasks(data, folder)
            mark["ids"] = [task["id"] for task in own]
        elif mark["name"] == "cas13a":
            own = [cas13a_task(data, folder)]
        elif mark["name"].startswith("openvaccine"):
            own = [openvaccine_task(data, folder, mark["name"])]
        else:
            own = [idr_task(data, folder, mark["ids"][0].removeprefix("marks/idr_"))]
        entries += [{**task, "settings": {**task.get("settings", {}), **settings}} for task in own]
    path = out / "marks.json"
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return path


def write_table(frame, path):
    # without a time stamp: equal rows give equal files, so that finished runs are recognised
    frame.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
    return {"file": str(path), "rows": len(frame)}


def cas13a_task(data, folder):
    """Train on the pairs of the suite; the test rows are ADAPT's, each with its own measurement."""
    shipped = pd.read_csv(data / "crispr/cas13a_active.csv.gz", dtype=str)
    rows = pd.read_csv(data / ADAPT, sep="\t")
    print(f"cas13a: ADAPT's own scores reach {roc_auc_score(rows['true_activity'], rows['predicted_activity']):.4f}")
    test = pd.DataFrame({"guide": rows["guide"], "context": rows["target"]})
    test["target"] = rows["true_activity"].astype(int).astype(str)
    test["split"] = "test"
    learned = shipped[shipped["split"].isin(["train", "validation"])]
    shared = set(learned["guide"]) & set(test["guide"])
    assert not shared, f"{len(shared)} test guides are in training"
    table = write_table(pd.concat([learned, test]), folder / "cas13a.csv.gz")
    return {"id": "marks/cas13a", "task_type": "binary", "alphabet": "ACGT", "length": [48, 48], **table}


def dp93_records(data):
    """Return the records of the DP93 file: header, sequence, and a line of 0 and 1 for disorder and each function."""
    with gzip.open(data / DP93, "rt", encoding="ascii") as file:
        lines = file.read().splitlines()
    records = [lines[start : start + 9] for start in range(0, len(lines), 9)]
    assert all(record[0].startswith(">") and len({len(line) for line in record[1:]}) == 1 for record in records)
    return records


def idr_task(data, folder, name):
    """Train on the proteins of the suite; the test proteins are those of DP94 and DP93, which form two groups."""
    line = next(line for function, line, *_ in FUNCTIONS if function == name)
    records = dp93_records(data)
    dp93 = pd.DataFrame({"sequence": [r[1] for r in records], "target": [r[line] for r in records], "split": "test"})
    shipped = pd.read_csv(data / f"idr/{name}.csv.gz", dtype=str)
    shipped = shipped[shipped["split"].isin(["train", "validation", "test"])]
    shared = set(shipped.loc[shipped["split"] != "test", "sequence"]) & set(dp93["sequence"])
    assert not shared, f"{len(shared)} proteins of DP93 are in training"
    table = write_table(
        pd.concat([shipped.assign(group="DP94"), dp93.assign(group="DP93")]), folder / f"idr_{name}.csv.gz"
    )
    lengths = [int(shipped["sequence"].str.len().mean())] * 2
    task = {
        "id": f"marks/idr_{name}",
        "task_type": "perres_bin",
        "alphabet": "ACDEFGHIKLMNPQRSTVWXYZ",
        "length": lengths,
    }
    return {**task, **table}


def openvaccine_task(data, folder, name):
    """Leave out the sequences whose residues all have the value 0."""
    frame = pd.read_csv(data / f"rna/{name}.csv.gz", dtype=str)
    is_measured = frame["target"].map(lambda text: any(json.loads(text)))
    print(f"{name}: measured in {is_measured.sum():,} of {len(frame):,} sequences")
    table = write_table(frame[is_measured], folder / f"{name}.csv.gz")
    length = int(frame.loc[is_measured, "sequence"].str.len().mean())
    return {"id": f"marks/{name}", "task_type": "perres_reg", "alphabet": "ACGU", "length": [length] * 2, **table}


def azimuth_tasks(data, folder):
    """Return one task per gene, which is the test set; some of the other genes are the validation set."""
    frame = pd.read_csv(data / AZIMUTH)
    frame = pd.DataFrame(
        {
            "sequence": frame["30mer"],
            "target": frame["score_drug_gene_rank"].map(repr),
            "group": frame["Target gene"],
        }
    )
    sizes = frame["group"].value_counts()
    tasks = []
    for gene in sorted(sizes.index):
        others = sizes.drop(gene)
        # a gene with a fifth of all rows is needed in training
        order = [name for name in sorted(others.index) if others[name] < 0.2 * others.sum()]
        chosen, order = [], list(np.random.default_rng(len(tasks)).permutation(order))
        while others[chosen].sum() < 0.12 * others.sum():
            chosen.append(order.pop())
        parts = {name: "validation" if name in chosen else "train" for name in others.index} | {gene: "test"}
        table = write_table(frame.assign(split=frame["group"].map(parts)), folder / f"azimuth_{gene}.csv.gz")
        tasks.append(
            {"id": f"marks/azimuth_{gene}", "task_type": "reg", "alphabet": "ACGT", "length": [30, 30], **table}
        )
    return tasks


def reach(mark, results, out):
    """Return the published value, and mean and standard deviation of each model over the finished seeds."""
    entries = [entry for entry in results["tasks"] if entry["id"] in mark["ids"]]
    seeds = [seed for seed in entries[0]["seeds"] if all("test" in entry["seeds"][seed] for entry in entries)]
    if mark["name"] == "azimuth":
        per_seed = [azimuth_metrics(mark["ids"], seed, out) for seed in seeds]
    elif "group" in mark:
        folders = [out / "runs" / mark["ids"][0] / str(seed) for seed in seeds]
        groups = [read_json(folder / "metrics.json")["groups"][mark["group"]] for folder in folders]
        per_seed = [{model: metrics[mark["metric"]] for model, metrics in own.items()} for own in groups]
    else:
        runs = [entries[0]["seeds"][seed]["test"] for seed in seeds]
        per_seed = [{model: metrics[mark["metric"]] for model, metrics in run.items()} for run in runs]
    models = list(per_seed[0]) if per_seed else []
    return {
        "published": mark["mark"],
        "metric": mark["metric"],
        "mean": {model: round(fmean(run[model] for run in per_seed), 4) for model in models},
        "std": {model: round(stdev(run[model] for run in per_seed), 4) for model in models if len(per_seed) > 1},
        "seeds": len(per_seed),
    }


def azimuth_metrics(ids, seed, out):
    """Return the Spearman of each model over all rows, and its mean over genes."""
    frames = [pd.read_csv(out / "runs" / name / str(seed) / "test.csv") for name in ids]
    models = [name for name in COMPARED_MODELS if name in frames[0]]
    metrics = {}
    for model in models:
        pooled = pd.concat(frames)
        metrics[f"{model}, pooled"] = float(spearmanr(pooled["measured"], pooled[model]).statistic)
        genes = [float(spearmanr(frame["measured"], frame[model]).statistic) for frame in frames]
        metrics[f"{model}, mean of genes"] = fmean(genes)
    return metrics


if __name__ == "__main__":
    main()
