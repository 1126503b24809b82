"""Ablation of the model `lyra` on real tables, without their test rows.

Run: SUBQUAD_DATA=DATA python benchmarks/bio_ablation.py --out ablation [--only crispr/fmc_WT] [--forms lyra mlp]

A fifth of the training rows of each table (at least 100, at most 1,500) is held out and scored; the validation rows
stop the training as always, and the test rows of the table are not read. Forms:

- lyra: the model as it is.
- no direct head: Lyra only learns what the linear model leaves.
- no trained start: Lyra starts at the linear model also where it sees the rows fewer than ten times.
- linear head: no hidden layer between what was read out and the outputs.
- no motifs: Lyra without the convolution beside its linear encoder.
- no state space, no gates: Lyra without its state-space block, or without its gated convolutions.
- attention: attention over all positions in place of the state-space block.
- transformer: two transformer blocks in place of state-space block and gated convolutions; all else is Lyra's.
- transformer, slower: the same with a third of the learning rate.
- lyra-alone: without linear model and curve. lyra-additive: linear model and curve without Lyra.
- lyra-paper: the published network, trained for 50 passes.
- cnn, mlp, boosting, ridge: baselines; the CNN reads the letters as Lyra does.

Each result is kept in OUT/results.json, so that the same command resumes an interrupted benchmark. The last line is
JSON: the metric of each form on each table, the mean over the tables that have all forms, and CPU seconds.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import numpy as np
import torch
from attention_block import SelfAttention, Transformer
from bio_speed import machine
from torch import nn

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import read_tasks
from subquad.bio.data.table import read_table
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.baselines import BOOSTING_SECONDS, fit_baseline
from subquad.bio.models.fit import FEW_EPOCHS, fit_network
from subquad.bio.models.lyra import WIDTH, BioNet
from subquad.bio.models.training import seconds_for
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import make_split
from subquad.runs.storage import read_json, write_json

TABLES = (
    "dms/gb1_stability_nisthal",
    "dms/metl_dlg4-2022-abundance",
    "ab/cr6261_h1",
    "pep/antiviral",
    "pep/dppiv",
    "crispr/fmc_WT",
    "crispr/azimuth_fc_res",
    "rna/mrl_mpa_u",
    "dna/splice_uci",
    "idr/disorder",
)
CHANGED = ("no direct head", "linear head", "no motifs", "no state space", "no gates", "attention", "transformer")
SLOWER = "transformer, slower"
UNTRAINED = "no trained start"
NETWORKS = ("lyra", *CHANGED, SLOWER, UNTRAINED, "lyra-alone", "lyra-additive", "lyra-paper", "cnn", "mlp")
FORMS = (*NETWORKS, "boosting", "ridge")


class Nothing(nn.Module):
    """Adds nothing to a residual connection."""

    def forward(self, u, mask=None):  # noqa: D102
        return torch.zeros_like(u)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=TABLES, help="ids of tables")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--rows", type=int, default=6000, help="maximum number of training rows, before holding out")
    parser.add_argument("--tokens", type=int, default=1_500_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        parser.error("SUBQUAD_DATA must name the folder of the data")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    given = {"rows": options.rows, "tokens": options.tokens}
    saved = read_json(path) if path.is_file() else {"settings": given, "values": {}}
    if saved["settings"] != given:
        parser.error(f"{path} has results with {saved['settings']}; choose another --out")
    results = saved["values"]
    for name in options.only:
        for seed in options.seeds:
            own = results.setdefault(name, {}).setdefault(str(seed), {})
            if set(options.forms) <= set(own):
                continue
            data, settings = development_data(name, options, seed)
            is_residue = data.dataset.target.is_residue
            for form in options.forms:
                if form in own or (is_residue and form in ("mlp", "lyra-additive")):
                    continue
                own[form] = measure(form, data, settings, seed)
                write_json(path, saved)
                print(name, seed, form, json.dumps(own[form]), flush=True)
    print(json.dumps(summary(results, options)))


def development_data(name, options, seed):
    """Return a table's data with held-out training rows as the test set, and the settings of its fit."""
    data = Path(os.environ["SUBQUAD_DATA"]) / "bio" / "tasks.json"
    bench = BenchSettings(only=(name,), tokens=options.tokens, train_rows=options.rows)
    (task,) = read_tasks(data, bench, options.out)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in task.settings.items()}
    settings = FitSettings(**values)
    table = read_table(task.table, settings)
    split = make_split(table, settings, seed=seed)
    dataset = table.with_split(split.parts, split.units)
    rows = np.random.default_rng(seed).permutation(dataset.split["train"])
    count = int(np.clip(len(rows) // 5, 100, 1500))
    parts = {"train": np.sort(rows[count:]), "validation": dataset.split["validation"], "test": np.sort(rows[:count])}
    return prepare(replace(dataset, split=parts)), settings


def measure(form, data, settings, seed):
    began = time.process_time()
    if form == SLOWER:
        settings, form = replace(settings, learning_rate=settings.learning_rate / 3), "transformer"
    if form in NETWORKS:
        own = changed(form) if form in CHANGED else BioNet
        few = 0.0 if form == UNTRAINED else FEW_EPOCHS
        with patch("subquad.bio.models.networks.BioNet", own), patch("subquad.bio.models.fit.FEW_EPOCHS", few):
            model = fit_network("lyra" if form in (*CHANGED, UNTRAINED) else form, data, settings, seed=seed)
    else:
        limit = max(BOOSTING_SECONDS, seconds_for(data.dataset, settings))
        model = fit_baseline(form, data.dataset, seed=seed, seconds=limit)
    seconds = time.process_time() - began
    test, truth = data.dataset.part("test")
    metric = MAIN_METRIC[truth.task_type]
    return {"metric": metric, "value": score(truth, model.predict(test))[metric], "cpu_seconds": round(seconds, 1)}


def changed(form):
    """Return the class of the network in another form."""

    class Changed(BioNet):
        def __init__(self, spec):
            super().__init__(spec)
            if spec.kind != "lyra":
                return
            if form == "no direct head":
                self.direct = None
            elif form == "linear head":
                last = nn.Linear(self.lyra.head[1].in_features, spec.outputs)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
                self.lyra.head = last
            elif form == "no motifs":
                self.lyra.motifs = None
            elif form == "no state space":
                self.lyra.state_space = Nothing()
            elif form == "no gates":
                self.lyra.gates = nn.ModuleList()
            elif form == "attention":
                self.lyra.state_space = SelfAttention(WIDTH, spec.dropout)
            elif form == "transformer":
                self.lyra.gates, self.lyra.norm, self.lyra.dropout = nn.ModuleList(), nn.Identity(), nn.Dropout(0.0)
                self.lyra.state_space = Transformer(WIDTH, spec.dropout)
            else:
                raise ValueError(form)

    return Changed


def summary(results, options):
    values = {}
    for name, seeds in results.items():
        forms = [form for form in FORMS if all(form in own for own in seeds.values())]
        values[name] = {form: fmean(own[form]["value"] for own in seeds.values()) for form in forms}
    whole = [own for own in values.values() if set(options.forms) <= set(own)]
    means = {form: round(fmean(own[form] for own in whole), 4) for form in options.forms} if whole else {}
    seconds = sum(one["cpu_seconds"] for seeds in results.values() for own in seeds.values() for one in own.values())
    return {
        "benchmark": "bio_ablation",
        "machine": machine(options.threads),
        "tokens": options.tokens,
        "rows": options.rows,
        "seeds": list(options.seeds),
        "cpu_seconds": round(seconds),
        "values": {name: {form: round(value, 4) for form, value in own.items()} for name, own in values.items()},
        "means": means,
        "tables_in_means": [name for name, own in values.items() if set(options.forms) <= set(own)],
    }


if __name__ == "__main__":
    main()
