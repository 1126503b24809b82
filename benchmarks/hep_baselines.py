"""Our taggers against ParticleNet, Particle Transformer and gradient boosting on the same jets, split and budget.

    pip install --no-deps weaver-core
    SUBQUAD_DATA=DATA python benchmarks/hep_baselines.py --out marks --seconds 1800 [--seeds 0 1 2]
    SUBQUAD_DATA=DATA python benchmarks/hep_baselines.py --out marks_epochs --epochs 5
    python benchmarks/hep_baselines.py --out marks --seconds 1800 --jets sim more --test holdout --presets paper

`particlenet` and `part` are weaver-core's networks in the configurations of JetClass (arXiv:2202.03772), on its 17
features. With `--inputs` all models have the same inputs: `particles`, these 17 features, of which boosting takes
sums over the particles; or `particles+jet`, 19 features and our jet-level features, which the baselines take beside
what they have pooled, before a hidden layer of their heads. Without it each preset has its own. `published` is
ParticleNet with the weights trained on 100 million jets of JetClass ($SUBQUAD_DATA/hep/rivals), which is not fitted
here. `boosting` is scikit-learn's on our jet-level features, without a limit on time. Variants of `auto`, as
presets, show what its filter is worth: `auto-no-graph` without neighbours (Chebyshev order 1; with five blocks it has
as many weights), `auto-neighbour-mean` with one mean over the neighbours, all alike, in place of the filter,
`auto-unit-weights` with the filter on such a graph, and others with one setting changed.

All networks: one thread, float32, the same training, validation and test jets, drawn once for all seeds (20 % of each
class for testing, 10 % of the rest for validation; or the test jets of --test). The budget is the processor time of the
training steps, including the preparation of batches, or a number of epochs. Ten validations outside the budget, on at
most --most-validation jets, select the weights. The learning rate follows the used fraction of the budget: ours AdamW
as in `subquad hep fit`, with its moving average of the weights; the baselines' Ranger, flat and then falling over the
last 30 %, as published. Batches hold jets of similar length, padded to the longest of them; --arrange random gives the
baselines batches of any jets, since batch normalization depends on the other jets of a batch.

One JSON file per network and seed is written into --out: the same command resumes, and parts can run in parallel.
Prints a Markdown table with means and standard deviations over seeds; R is the background rejection at JetClass's
signal efficiencies, – if no background jet passed. --background measures it on these jets of the background instead,
for seed 0 only: 100,000 jets take the baselines up to a quarter of an hour. The last line is JSON.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.features import (
    JET_FEATURES,
    PARTICLE_SUMS,
    STANDARD_FEATURES,
    jet_features,
    particle_features,
)
from subquad.hep.data.jets import PARTICLES, Jets, read
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.store import dataset_of
from subquad.hep.metrics.classification import classification_metrics, rejections
from subquad.hep.models.boosting import boosting_probabilities
from subquad.hep.models.networks import build_network, forward, predict_logits
from subquad.hep.models.presets import PRESETS, net_settings
from subquad.hep.settings import FitSettings
from subquad.runs.storage import atomic
from subquad.train.bucketing import batches_by_length, bucketed_batches
from subquad.train.ema import ExponentialMovingAverage
from subquad.train.optim import parameter_groups, schedule

BASELINES = ("particlenet", "part", "boosting", "published")
VARIANTS = {
    "auto-no-graph": {"chebyshev_order": 1},
    "auto-no-graph-5-blocks": {"chebyshev_order": 1, "layers": 5},
    "auto-neighbour-mean": {"chebyshev_order": 2},
    "auto-unit-weights": {},
    "auto-2-terms": {"chebyshev_order": 2},
    "auto-8-terms": {"chebyshev_order": 8},
    "auto-16-neighbours": {"k": 16},
    "auto-wide": {"width": 128, "layers": 4},
}
"""Settings of `fit` by which a variant differs from `auto`."""
UNIT_WEIGHTS = ("auto-neighbour-mean", "auto-unit-weights")
"""Variants all of whose edges have the weight 1: the exponents are 0 and not trained."""
LEARNING_RATES = {"particlenet": 3e-3, "part": 1e-3}
WIDTHS = {"particlenet": 256, "part": 128}
"""What a network has pooled, before its head."""
VALIDATIONS = 10
MOST = 128
LEAST = 17
"""Particles of a padded batch of a baseline: ParticleNet takes 16 neighbours of each particle, if need be padding."""

# JetClass's 17 in the order of its files, as columns of `STANDARD_FEATURES`
COLUMNS = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 1]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with everything that its training needs."""

    net: nn.Module
    logits: Callable[[str, Tensor], Tensor]
    """Logits of some jets of a part: `train`, `validation`, `test` or `background`."""
    predict: Callable[[str], Tensor]
    """Logits of all jets of a part, without gradients."""
    plan: Callable[[int], Sequence[Tensor]]
    """The batches of an epoch."""
    optimizer: Any
    rate: Callable[[float], float]
    """Factor on the learning rates by the used fraction of the budget."""
    clip: float | None
    average: ExponentialMovingAverage | None = None
    """Moving average of the weights, which is validated and kept."""


def ours(name: str, parts: dict[str, Jets], seed: int, inputs: str | None) -> Model:
    base = "auto" if name in VARIANTS else name
    fit = FitSettings(preset=base, inputs=inputs, **VARIANTS.get(name, {}))
    preset = replace(PRESETS[base], net=net_settings(fit))
    layout = layout_of(preset.net)
    chunks = {part: chunk_of(jets, layout) for part, jets in parts.items()}
    train = dataset_of(chunks["train"], layout)
    layout = fit_standardization(layout, preset.net, train.particles, train.jet_features)
    datasets = {part: dataset_of(chunk, layout) for part, chunk in chunks.items()}
    net = build_network(preset.net, layout, len(parts["train"].classes))
    if name in UNIT_WEIGHTS:
        net.exponents.requires_grad_(False).zero_()
    rows = torch.arange(len(train))

    shape, warmup = preset.schedule
    groups = parameter_groups(net, learning_rate=preset.learning_rate, weight_decay=fit.weight_decay)
    return Model(
        net=net,
        logits=lambda part, rows: forward(net, collate(datasets[part], rows)),
        predict=lambda part: predict_logits(net, datasets[part]),
        plan=lambda epoch: bucketed_batches(rows, train.lengths, fit.batch_size, seed=seed, epoch=epoch),
        optimizer=torch.optim.AdamW(groups),
        rate=schedule(shape, warmup=warmup),
        clip=1.0,
        average=ExponentialMovingAverage(net.state_dict(), preset.ema_decay) if preset.ema_decay else None,
    )


@dataclass(frozen=True)
class BaselineInputs:
    """Features and four-vectors of all particles, as flat tables."""

    features: Tensor
    vectors: Tensor
    first: Tensor
    lengths: Tensor
    of_jets: Tensor
    """Jet-level features [J, H], not standardized; H is 0 without any."""

    @classmethod
    def of(cls, jets: Jets, columns: Sequence[int], *, has_jet_features: bool) -> "BaselineInputs":
        """Return the inputs of the baselines; weaver clips standardized features at 5."""
        vectors = [PARTICLES.index(f"part_{name}") for name in ("px", "py", "pz", "energy")]
        return cls(
            torch.from_numpy(particle_features(jets, STANDARD_FEATURES)[:, columns].clip(-5, 5)),
            torch.from_numpy(jets.particles[:, vectors].copy()),
            torch.from_numpy(jets.first[:-1]),
            torch.from_numpy(np.minimum(jets.lengths, MOST)),
            torch.from_numpy(jet_features(jets)) if has_jet_features else torch.zeros(len(jets), 0),
        )

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [B, F, P], four-vectors [B, 4, P] and mask [B, 1, P], padded to the longest jet."""
        lengths = self.lengths[rows]
        places = torch.arange(max(LEAST, int(lengths.max())))
        mask = places < lengths[:, None]
        index = (self.first[rows, None] + places).masked_fill(~mask, 0)
        tables = [(table[index] * mask[..., None]).mT.contiguous() for table in (self.features, self.vectors)]
        return tables[0], tables[1], mask[:, None]


class HeadWithJetFeatures(nn.Module):
    """A head that takes jet-level features beside what a network has pooled."""

    def __init__(self, width: int, train: Tensor, classes: int):
        super().__init__()
        self.register_buffer("center", train.mean(0))
        self.register_buffer("scale", train.std(0).clamp(min=1e-6))
        self.net = nn.Sequential(nn.Linear(width + train.shape[1], 128), nn.ReLU(), nn.Linear(128, classes))
        self.of_jets = train[:0]

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits; the features of the jets of the batch are in `of_jets`."""
        return self.net(torch.cat((pooled, ((self.of_jets - self.center) / self.scale).clamp(-5, 5)), 1))


def baseline_network(name: str, features: int, classes: int) -> nn.Module:
    if name == "part":
        from weaver.nn.model.ParticleTransformer import ParticleTransformer

        return ParticleTransformer(
            input_dim=features,
            num_classes=classes,
            pair_input_dim=4,
            use_pre_activation_pair=False,
            embed_dims=(128, 512, 128),
            pair_embed_dims=(64, 64, 64),
            num_heads=8,
            num_layers=8,
            num_cls_layers=2,
            fc_params=(),
            trim=False,
        )
    from weaver.nn.model.ParticleNet import ParticleNet

    return ParticleNet(
        features,
        classes,
        conv_params=[(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
        fc_params=[(256, 0.1)],
        use_fusion=False,
        use_fts_bn=True,
        use_counts=True,
        trim=False,
    )


def flat_then_falling(progress: float) -> float:
    return 0.01 ** (max(0.0, min(progress, 1.0) - 0.7) / 0.3)


def baseline(name: str, parts: dict[str, Jets], seed: int, options: argparse.Namespace) -> Model:
    from weaver.utils.nn.optimizer.ranger import Ranger

    classes, has_jet_features = len(parts["train"].classes), options.inputs == "particles+jet"
    # the angles stay the last two
    columns = [*COLUMNS[:-2], 17, 18, *COLUMNS[-2:]] if has_jet_features else COLUMNS
    inputs = {part: BaselineInputs.of(jets, columns, has_jet_features=has_jet_features) for part, jets in parts.items()}
    net, head = baseline_network(name, len(columns), classes), None
    if has_jet_features:
        net.fc = head = HeadWithJetFeatures(WIDTHS[name], inputs["train"].of_jets, classes)
    if name == "published":
        net.load_state_dict(load_file(data_folder() / "rivals" / "ParticleNet_full.safetensors"))
    rows, lengths = torch.arange(len(parts["train"])), inputs["train"].lengths

    def logits(part: str, rows: Tensor) -> Tensor:
        features, vectors, mask = inputs[part].batch(rows)
        if head is not None:
            head.of_jets = inputs[part].of_jets[rows]
        if name == "part":
            return net(features, v=vectors, mask=mask)
        # the last two features are the angles, in which the first graph is built
        return net(features[:, -2:], features, mask=mask)

    @torch.no_grad()
    def predict(part: str) -> Tensor:
        net.eval()
        out = torch.zeros(len(parts[part]), len(parts[part].classes))
        for some in batches_by_length(inputs[part].lengths, 64):
            out[some] = logits(part, some)
        net.train()
        return out

    def plan(epoch: int) -> Sequence[Tensor]:
        if options.arrange == "bucketed":
            return bucketed_batches(rows, lengths, options.baseline_batch_size, seed=seed, epoch=epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return rows[torch.randperm(len(rows), generator=generator)].split(options.baseline_batch_size)

    learning_rate = options.baseline_learning_rate or LEARNING_RATES.get(name, 1e-3)
    return Model(
        net=net,
        logits=logits,
        predict=predict,
        plan=plan,
        optimizer=Ranger(net.parameters(), lr=learning_rate),
        rate=flat_then_falling,
        clip=None,
    )


def endless(model: Model) -> Iterator[Tensor]:
    epoch = 0
    while True:
        yield from model.plan(epoch)
        epoch += 1


def trained(model: Model, parts: dict[str, Jets], options: argparse.Namespace) -> dict[str, Any]:
    """Fit the net, leave it at its best weights, and return what that took."""
    net, optimizer = model.net.train(), model.optimizer
    rates = [group["lr"] for group in optimizer.param_groups]
    labels = {part: torch.from_numpy(jets.labels) for part, jets in parts.items()}
    used, steps, jets = 0.0, 0, 0
    best, best_at, best_weights = -1.0, 0.0, {}
    all_steps = options.epochs * len(model.plan(0)) if options.epochs else None
    validated = 0
    batches = endless(model)
    while True:
        progress = steps / all_steps if all_steps else used / options.seconds
        if progress >= 1 or progress * VALIDATIONS >= validated + 1:
            validated = int(progress * VALIDATIONS)
            average = model.average
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
        if model.average is not None:
            model.average.update(net.state_dict(), steps + 1)
        used += time.process_time() - begin
        steps, jets = steps + 1, jets + len(rows)
    net.load_state_dict(best_weights)
    return {
        **{"cpu_seconds": used, "steps": steps, "epochs": jets / len(parts["train"]), "best_at": best_at},
        **{"validation": best, "jets_per_cpu_second": jets / max(used, 1e-9)},
    }


def run(name: str, parts: dict[str, Jets], seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit and measure one model."""
    test, measured = parts["test"], ["test"] + ["background"] * ("background" in parts and seed == 0)
    training: dict[str, Any] = {}
    if name == "boosting":
        begin = time.process_time()
        known = PARTICLE_SUMS if options.inputs == "particles" else JET_FEATURES
        taken = [JET_FEATURES.index(feature) for feature in known]
        training_features, *features = (jet_features(parts[part])[:, taken] for part in ("train", *measured))
        probabilities = boosting_probabilities(
            training_features, parts["train"].labels, np.concatenate(features), classes=len(test.classes), seed=seed
        )
        ends = np.cumsum([len(parts[part]) for part in measured])
        answers = dict(zip(measured, np.split(probabilities, ends[:-1]), strict=True))
        training, parameters, scoring = {"cpu_seconds": time.process_time() - begin}, None, None
    else:
        torch.manual_seed(seed)
        is_ours = name in (*PRESETS, *VARIANTS)
        model = ours(name, parts, seed, options.inputs) if is_ours else baseline(name, parts, seed, options)
        parameters = sum(p.numel() for p in model.net.parameters())
        if name != "published":
            training = trained(model, parts, options)
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


def data_folder() -> Path:
    return Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep"


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
        **{"top-1": scores["accuracy"], "AUC": scores["auc_ovo"], **rejections},
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
    parser.add_argument(
        "--arrange", choices=["bucketed", "random"], default="bucketed", help="batches of the baselines"
    )
    parser.add_argument("--baseline-batch-size", type=int, default=64)
    parser.add_argument("--baseline-learning-rate", type=float, help=f"default: {LEARNING_RATES}")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    # two runs in one table must agree in these
    settings = {
        key: value for key, value in vars(options).items() if key not in ("out", "presets", "baselines", "seeds")
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
