"""Our taggers against ParticleNet, Particle Transformer and gradient boosting on the same jets, split and budget.

    pip install --no-deps weaver-core
    SUBQUAD_DATA=DATA python benchmarks/hep_baselines.py --out marks --seconds 1800 [--seeds 0 1 2]
    SUBQUAD_DATA=DATA python benchmarks/hep_baselines.py --out marks_epochs --epochs 5
    python benchmarks/hep_baselines.py --out marks --seconds 1800 --jets sim more --test holdout --presets paper

`particlenet` and `part` are weaver-core's networks in the configurations of JetClass (arXiv:2202.03772);
`particlenet-lite` is the smaller network that was published with ParticleNet (arXiv:1902.08570). All three take
JetClass's 17 features, with weaver's padding by repeated particles and its random trimming of long jets in training.
With `--inputs` all models have the same inputs: `particles`, these 17 features, of which boosting takes sums over the
particles; or `particles+jet`, 19 features and our jet-level features, which the baselines take beside what they have
pooled, before a hidden layer of their heads. Without it each preset has its own. `published` is ParticleNet with the
weights trained on 100 million jets of JetClass ($SUBQUAD_DATA/hep/rivals), which is not fitted here and always has the
17 features. `boosting` is scikit-learn's on our jet-level features, without a limit on time; `boosting-tuned` chooses
among six settings on the validation jets.

Controls, which --presets takes too, show what a part is worth. Of `auto`: `auto-no-jet-mean` without the mean over the
jet; and, also without it, `auto-plain-mean` with the mean of the neighbours, all alike, in place of functions of the
pair, and `auto-no-neighbours`; `auto-adamw` by AdamW with the settings of `auto` before Muon. Of `auto-chebyshev`:
`chebyshev-no-graph` (Chebyshev order 1; with five blocks it has as many weights), `chebyshev-plain-mean` with one mean
over the neighbours in place of the filter, `chebyshev-unit-weights` with the filter on such a graph, and others with
one setting changed.

All networks: one thread, float32, the same training, validation and test jets, drawn once for all seeds (20 % of each
class for testing, 10 % of the rest for validation; or the test jets of --test). The budget is the processor time of the
training steps, including the preparation of batches, or a number of epochs. Ten validations outside the budget, on at
most --most-validation jets, select the weights. The learning rate follows the used fraction of the budget: ours with
optimizer, moving average of the weights and clipped gradients of `subquad hep fit`; the baselines with Ranger, flat and
then falling over the last 30 %, as published, or, as a control, with optimizer, schedule, clipping, moving average and
weight decay of `auto` (--baseline-training ours); learning rates are their own unless --baseline-learning-rate. Our
batches hold jets of similar length, padded to the longest of them; those of the baselines are random, since their batch
normalization depends on the other jets of a batch. With --arrange bucketed they have jets of similar length too, which
takes less time and costs both 9 to 16 points from particle features alone; with --preset-arrange random ours are random
too.

One JSON file per network and seed is written into --out: the same command resumes, and parts can run in parallel. The
trainings of the baselines, which take more than an hour, resume from a checkpoint after their last 120 steps.
Prints a Markdown table with means and standard deviations over seeds; R is the background rejection at JetClass's
signal efficiencies, – if no background jet passed. --background measures it on these jets of the background instead,
for seed 0 only: 100,000 jets take the baselines up to a quarter of an hour. The last line is JSON.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from jet_networks import LEARNING_RATES, VARIANTS, Model, baseline, data_folder, ours
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from subquad.hep.data.features import JET_FEATURES, PARTICLE_SUMS, jet_features
from subquad.hep.data.jets import Jets, read
from subquad.hep.metrics.classification import classification_metrics
from subquad.hep.metrics.rejection import rejections
from subquad.hep.models.boosting import boosting_probabilities
from subquad.hep.models.presets import PRESETS
from subquad.runs.storage import atomic
from subquad.train.checkpoint import load_checkpoint, save_checkpoint

BASELINES = ("particlenet", "particlenet-lite", "part", "boosting", "boosting-tuned", "published")
VALIDATIONS = 10
CHECKPOINT_STEPS = 120
"""A multiple of 6: then Ranger's slow weights are those of the network, which are all that a checkpoint has."""
BOOSTING = tuple(
    {"learning_rate": rate, "max_leaf_nodes": leaves, "max_iter": 1000}
    for rate in (0.05, 0.1)
    for leaves in (15, 31, 63)
)
"""What `boosting-tuned` tries; early stopping chooses the number of trees of each."""


def endless(model: Model) -> Iterator[Tensor]:
    epoch = 0
    while True:
        yield from model.plan(epoch)
        epoch += 1


def trained(
    model: Model, parts: dict[str, Jets], options: argparse.Namespace, checkpoint: Path | None
) -> dict[str, Any]:
    """Fit the net, leave it at its best weights, and return what that took; a checkpoint lets it resume."""
    net, optimizer, average = model.net.train(), model.optimizer, model.average
    rates = [group["lr"] for group in optimizer.param_groups]
    labels = {part: torch.from_numpy(jets.labels) for part, jets in parts.items()}
    used, steps, jets, validated = 0.0, 0, 0, 0
    best, best_at, best_weights = -1.0, 0.0, {}
    all_steps = options.epochs * len(model.plan(0)) if options.epochs else None
    if checkpoint and checkpoint.is_file():
        counters, copies = load_checkpoint(checkpoint, net, optimizer)
        used, steps, jets, validated, best, best_at = counters["values"]
        best_weights = copies["best"]
        if average is not None:
            average.weights = copies["ema"]
    batches = islice(endless(model), steps, None)
    while True:
        progress = steps / all_steps if all_steps else used / options.seconds
        if progress >= 1 or progress * VALIDATIONS >= validated + 1:
            validated = int(progress * VALIDATIONS)
            with nullcontext() if average is None else average.applied_to(net.state_dict()):
                accuracy = (model.predict("validation").argmax(-1) == labels["validation"]).float().mean().item()
                if accuracy > best:
                    best, best_at = accuracy, progress
                    best_weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            print(f"  {100 * progress:.0f} %: {steps} steps, {used:.0f} s, validation {accuracy:.4f}", flush=True)
        if progress >= 1:
            break
        begin = time.process_time()
        rows = next(batches)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * model.rate(progress)
        loss = nn.functional.cross_entropy(model.logits("train", rows), labels["train"][rows])
        optimizer.zero_grad()
        loss.backward()
        if model.clip:
            nn.utils.clip_grad_norm_(net.parameters(), model.clip)
        optimizer.step()
        if average is not None:
            average.update(net.state_dict(), steps + 1)
        used += time.process_time() - begin
        steps, jets = steps + 1, jets + len(rows)
        if checkpoint and steps % CHECKPOINT_STEPS == 0:
            copies = {"best": best_weights, "ema": {} if average is None else average.weights}
            values = [used, steps, jets, validated, best, best_at]
            save_checkpoint(checkpoint, net, optimizer, copies=copies, state={"values": values})
    net.load_state_dict(best_weights)
    return {
        **{"cpu_seconds": used, "steps": steps, "epochs": jets / len(parts["train"]), "best_at": best_at},
        **{"validation": best, "jets_per_cpu_second": jets / max(used, 1e-9)},
    }


def boosted(
    parts: dict[str, Jets], measured: Sequence[str], seed: int, *, inputs: str | None, is_tuned: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the probabilities of the measured parts, and what the fit took."""
    begin, asked = time.process_time(), ("validation", *measured)
    known = PARTICLE_SUMS if inputs == "particles" else JET_FEATURES
    taken = [JET_FEATURES.index(feature) for feature in known]
    training_features, *features = (jet_features(parts[part])[:, taken] for part in ("train", *asked))
    ends = np.cumsum([len(table) for table in features])[:-1]
    tried = []
    for settings in BOOSTING if is_tuned else ({},):
        found = boosting_probabilities(
            training_features,
            parts["train"].labels,
            np.concatenate(features),
            classes=len(parts["test"].classes),
            seed=seed,
            **settings,
        )
        answers = dict(zip(asked, np.split(found, ends), strict=True))
        accuracy = float((answers["validation"].argmax(1) == parts["validation"].labels).mean())
        tried.append((accuracy, settings, answers))
        print(f"  {settings}: validation {accuracy:.4f}", flush=True)
    accuracy, settings, answers = max(tried, key=lambda one: one[0])
    return answers, {"cpu_seconds": time.process_time() - begin, "validation": accuracy, "settings": settings}


def run(name: str, parts: dict[str, Jets], seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit and measure one model."""
    test, measured = parts["test"], ["test"] + ["background"] * ("background" in parts and seed == 0)
    training: dict[str, Any] = {}
    if name in ("boosting", "boosting-tuned"):
        answers, training = boosted(parts, measured, seed, inputs=options.inputs, is_tuned=name == "boosting-tuned")
        parameters, scoring = None, None
    else:
        torch.manual_seed(seed)
        is_ours = name in (*PRESETS, *VARIANTS)
        model = ours(name, parts, seed, options) if is_ours else baseline(name, parts, seed, options)
        parameters = sum(p.numel() for p in model.net.parameters() if p.requires_grad)
        if name != "published":
            checkpoint = None if is_ours else options.out / f"{name}_{seed}.safetensors"
            training = trained(model, parts, options, checkpoint)
        begin = time.process_time()
        answers = {part: model.predict(part).double().softmax(-1).numpy() for part in measured}
        scoring = sum(len(parts[part]) for part in measured) / (time.process_time() - begin)
    background = "QCD" if "QCD" in test.classes else test.classes[0]
    scores = classification_metrics(answers["test"], test.labels, test.classes, background)
    if "background" in parts:
        scores["rejection"] = {}
    if "background" in answers:
        number = test.classes.index(background)
        is_signal, is_background = test.labels != number, parts["background"].labels == number
        both = np.concatenate([answers["test"][is_signal], answers["background"][is_background]])
        labels = np.concatenate([test.labels[is_signal], parts["background"].labels[is_background]])
        scores["rejection"] = rejections(both, labels, test.classes, background)
    return {
        **{"parameters": parameters, "training": training, "inference_jets_per_cpu_second": scoring},
        "scores": scores,
    }


def split(options: argparse.Namespace) -> dict[str, Jets]:
    """Return train, validation and test: the same for all seeds."""
    folders = options.jets or ([str(data_folder() / "sim")] if (data_folder() / "sim").is_dir() else [])
    jets = read(folders or "example:jets")
    if options.most_jets:
        order = np.random.default_rng(0).permutation(len(jets))[: options.most_jets]
        jets = jets[np.sort(order)]
    others = {
        part: with_classes(read(folders), jets.classes)
        for part, folders in (("test", options.test), ("background", options.background))
        if folders
    }
    generator = np.random.default_rng(0)
    part = np.zeros(len(jets), np.int64)
    for label in range(len(jets.classes)):
        rows = generator.permutation(np.flatnonzero(jets.labels == label))
        test = 0 if "test" in others else len(rows) // 5
        part[rows[:test]] = 2
        part[rows[test : test + (len(rows) - test) // 10]] = 1
    parts = {name: jets[np.flatnonzero(part == i)] for i, name in enumerate(("train", "validation", "test"))}
    count = len(parts["validation"])
    if options.most_validation and count > options.most_validation:
        rows = generator.permutation(count)[: options.most_validation]
        parts["validation"] = parts["validation"][np.sort(rows)]
    return {**parts, **others}


def with_classes(jets: Jets, classes: Sequence[str]) -> Jets:
    """Return the jets with labels as indices into `classes`."""
    index = np.array([classes.index(label) for label in jets.classes])
    return replace(jets, labels=index[jets.labels], classes=tuple(classes))


def columns_of(result: dict[str, Any]) -> dict[str, float | None]:
    """Return the columns of the table."""
    scores, training = result["scores"], result["training"]
    rejections = {f"R {name}": entry["value"] for name, entry in scores["rejection"].items()}
    return {
        **{"top-1": scores["accuracy"], "AUC": scores["auc_ovo"], "AP": scores["average_precision"], **rejections},
        **{"epochs": training.get("epochs"), "training jets/s": training.get("jets_per_cpu_second")},
        **{"scoring jets/s": result["inference_jets_per_cpu_second"], "CPU s": training.get("cpu_seconds")},
        "parameters": result["parameters"],
    }


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the mean and the standard deviation over seeds of each column; None if a seed has no value."""
    found = {}
    columns = [columns_of(result) for result in results]
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column[name] for column in columns if name in column]
        known = [value for value in values if value is not None]
        is_known = len(known) == len(values)
        found[name] = {
            "mean": fmean(known) if is_known else None,
            "sd": stdev(known) if is_known and len(known) > 1 else None,
        }
    return found


def cell(figure: dict[str, float | None]) -> str:
    mean, sd = figure["mean"], figure["sd"]
    if mean is None:
        return "–"
    digits = 4 if mean < 1 else 1 if mean < 100 else 0
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def table(summaries: dict[str, dict[str, dict[str, float | None]]]) -> str:
    columns = list(dict.fromkeys(name for found in summaries.values() for name in found))
    none = {"mean": None, "sd": None}
    lines = [f"| model | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [
        f"| {name} | {' | '.join(cell(found.get(key, none)) for key in columns)} |" for name, found in summaries.items()
    ]
    return "\n".join(lines)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", nargs="*", default=["standard"], choices=[*PRESETS, *VARIANTS])
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=BASELINES)
    parser.add_argument("--inputs", choices=["particles", "particles+jet"], help="the same for all models")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=float, help="processor time of training, for each net and seed")
    budget.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jets", nargs="+", help="folders of ROOT files in JetClass's layout")
    parser.add_argument("--test", nargs="+", help="folders of ROOT files to measure on, all of their jets")
    parser.add_argument("--background", nargs="+", help="folders of ROOT files of the background, for the rejections")
    parser.add_argument("--most-jets", type=int, help="jets taken from --jets, at random")
    parser.add_argument("--most-validation", type=int, help="jets that choose the weights, at random")
    parser.add_argument("--arrange", choices=["random", "bucketed"], default="random", help="batches of the baselines")
    parser.add_argument(
        "--preset-arrange", choices=["random"], help="batches of our networks; default: of jets of similar length"
    )
    parser.add_argument("--batch-size", type=int, help="of our networks; default: that of `fit`")
    parser.add_argument("--baseline-batch-size", type=int, default=64)
    parser.add_argument(
        "--baseline-training",
        choices=["ours"],
        help="optimizer, schedule, clipping and moving average of `auto` in place of the published recipe",
    )
    parser.add_argument("--baseline-learning-rate", type=float, help=f"default: {LEARNING_RATES}")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    # two runs in one table must agree in these
    settings = {
        key: value
        for key, value in vars(options).items()
        if key not in ("out", "presets", "baselines", "seeds") and value is not None
    }
    parts = None
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in (*options.presets, *options.baselines):
            # a network that is not fitted has no seed
            if name == "published" and name in results:
                continue
            file = options.out / f"{name}_{seed}.json"
            if not file.is_file():
                parts = parts or split(options)
                print(f"{name}, seed {seed}", flush=True)
                with threadpool_limits(1):
                    result = run(name, parts, seed, options)
                with atomic(file) as temporary:
                    temporary.write_text(json.dumps({"model": name, "seed": seed, "settings": settings, **result}))
                file.with_suffix(".safetensors").unlink(missing_ok=True)
            result = json.loads(file.read_text())
            if result["settings"] != settings:
                raise SystemExit(
                    f"{file}: was written with other settings ({result['settings']}); choose another --out"
                )
            results.setdefault(name, []).append(result)
    summaries = {name: summary(found) for name, found in results.items()}
    print(table(summaries))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    print(json.dumps({"benchmark": "hep_baselines", **machine, "settings": settings, "models": summaries}))


if __name__ == "__main__":
    main()
