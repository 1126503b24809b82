"""Fit of all models on one dataset; the command line and the estimators share it.

What is fitted is kept in the run's folder, so that an interrupted run resumes where it was.

Axes: n rows, K columns of measurements, O outputs.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.data.dataset import PARTS, Dataset, with_both_strands
from subquad.bio.metrics.compared_models import baselines_for
from subquad.bio.metrics.conformal import coverage, fit_conformal_columns
from subquad.bio.metrics.scores import MAIN_METRIC, compare_models
from subquad.bio.models.baselines import Baseline, baseline_file, fit_baseline, fit_ridge
from subquad.bio.models.ensemble import NetEnsemble, ensemble_mean, ensemble_std, fit_ensemble
from subquad.bio.models.stacking import Stacking, fit_stacking
from subquad.bio.settings import FitSettings
from subquad.bio.splits.holdout import hold_out_units
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.storage import read_json, write_json

__all__ = ["FittedModels", "TrainingData", "check_trainable", "fit_models", "fit_net", "peak_memory", "prepare"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A dataset as models are trained on it."""

    dataset: Dataset
    """With the reverse complements of the training rows if the sequences are double-stranded."""
    positions: np.ndarray | None
    """Positions that vary in the training rows; None for all."""

    def with_train(self, rows: np.ndarray) -> "TrainingData":
        """Return the data with other training rows, for one fold."""
        return replace(self, dataset=replace(self.dataset, split={**self.dataset.split, "train": rows}))


@dataclass(frozen=True, kw_only=True)
class FittedModels:
    """All models of one dataset, fitted and compared."""

    models: list[str]
    """Names of the models that are saved."""
    net: NetEnsemble
    """Networks of the preset that is saved."""
    stacking: Stacking
    predictions: dict[str, Any]
    """Predictions of the test rows by each model: `net`, other presets, baselines and `stack`."""
    metrics: dict[str, Any]
    """Contents of `metrics.json`: metrics on the test rows, and how they were obtained."""
    selected: dict[str, Any]
    """What was selected on the validation rows."""


def prepare(dataset: Dataset) -> TrainingData:
    """Return a dataset with both strands and with the positions that vary.

    Raises:
        SubquadError: All training sequences are the same.
    """
    if dataset.inputs.is_double_stranded:
        # a position that is constant on one strand may vary on the other
        dataset = with_both_strands(dataset)
        return TrainingData(dataset=dataset, positions=None)
    inputs, target = dataset.inputs, dataset.target
    whole = TrainingData(dataset=dataset, positions=None)
    if not inputs.is_aligned or not inputs.codes.shape[1]:
        return whole
    train = inputs.take(dataset.split["train"])
    varies = (train.codes != train.codes[0]).any(0)
    if train.partner is not None:
        varies |= (train.partner != train.partner[0]).any(0)
    if not varies.any():
        if not inputs.covariates.shape[1]:
            raise SubquadError("all training sequences are the same; there is nothing to learn from")
        varies[0] = True
    if varies.all() or target.is_residue or target.task_type == "pairs":
        return whole
    return replace(whole, positions=np.flatnonzero(varies))


def check_trainable(dataset: Dataset) -> None:
    """Check that there is something to learn from, before anything is fitted or written.

    Raises:
        SubquadError: All training sequences are the same, a class has no training row, or a part of the split has no
            measurement in some column.
    """
    prepare(dataset)
    target = dataset.target
    if target.task_type in ("binary", "multiclass"):
        present = np.unique(target.y[dataset.split["train"]])
        absent = [repr(name) for k, name in enumerate(target.classes) if k not in present]
        if absent:
            raise SubquadError(f"no training row of class {', '.join(absent)}; there is nothing to learn from")
        return
    if target.task_type == "pairs":
        return
    is_known = np.isfinite(target.y) if target.y.dtype.kind == "f" else target.y >= 0
    # a column without a test row is left out of the metrics
    for part in PARTS if target.is_residue else PARTS[:2]:
        own = is_known[dataset.split[part]]
        known = [own.any()] if target.is_residue else own.any(0)
        names = [repr(name) for name, there in zip(target.names, known, strict=True) if not there]
        if names:
            raise SubquadError(
                f"no {'training' if part == 'train' else part} row has a value in column {', '.join(names)}; leave it "
                "out, or choose another split"
            )


def fit_net(
    data: TrainingData,
    settings: FitSettings,
    ridge: Baseline | None = None,
    *,
    seed: int,
    directory: Path | None = None,
    quiet: bool = True,
) -> NetEnsemble:
    """Fit the networks of the preset in the settings.

    Args:
        data: Training data; see `prepare`.
        settings: Preset, ensemble size, budget and optimizer.
        ridge: Ridge regression, at which the preset `auto` starts. Default: fitted here.
        seed: Seed of the initial weights and of the order of the rows.
        directory: Folder of the checkpoints; None keeps none.
        quiet: Show no progress bar.
    """
    options: dict[str, Any] = {"seed": seed, "directory": directory, "quiet": quiet}
    if settings.preset != "auto":
        return fit_ensemble(data.dataset, settings, None, **options)
    if ridge is None and data.dataset.target.task_type != "pairs":
        ridge = fit_ridge(data.dataset, seed=seed)
    return fit_ensemble(data.dataset, settings, ridge, positions=data.positions, **options)


def fit_models(
    dataset: Dataset, settings: FitSettings, *, presets: Sequence[str], directory: Path, seed: int, quiet: bool
) -> FittedModels:
    """Fit baselines, networks and their stack, and compare them on the test rows.

    Args:
        dataset: Inputs, targets and split.
        settings: Settings of the models and their training.
        presets: Presets of the networks; the first one is saved and named `net`.
        directory: Folder in which fitted models are kept.
        seed: Seed of all random numbers.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: There is nothing to learn from.
    """
    check_trainable(dataset)
    data, (_, truth) = prepare(dataset), dataset.part("test")
    seconds: dict[str, float] = {}
    if data.positions is not None:
        T = dataset.inputs.codes.shape[1]
        say(f"{len(data.positions)} of {T} positions vary; networks read no others", quiet=quiet)
    baselines = _fit_baselines(data, settings, seconds, directory=directory, seed=seed, quiet=quiet)
    predictions = {
        part: {name: own.predict(data.dataset.part(part)[0]) for name, own in baselines.items()}
        for part in ("validation", "test")
    }
    nets, spreads = {}, {}
    for name, preset in zip(("net", *presets[1:]), presets, strict=True):
        own_settings, ridge = replace(settings, preset=preset), baselines.get("ridge")
        nets[name] = fit_net(data, own_settings, ridge, seed=seed, directory=directory, quiet=quiet)
        seconds[name] = nets[name].seconds
        for part, own in predictions.items():
            each = nets[name].predict_each(data.dataset.part(part)[0])
            own[name], spreads[name, part] = ensemble_mean(each), ensemble_std(each)
    single = [*baselines, "net"]
    began = time.monotonic()
    stacking = _fit_stacking(
        data, settings, {name: predictions["validation"][name] for name in single}, directory, seed
    )
    seconds["stack"] = time.monotonic() - began
    for own in predictions.values():
        own["stack"] = stacking.predict({name: own[name] for name in single})
    metrics = compare_models(truth, predictions["test"], single=single)
    metrics |= _costs(dataset, nets, seconds) | {"stacking": stacking.as_dict()}
    selected = {name: own.selected for name, own in (baselines | nets).items()}
    if truth.task_type == "regression":
        metrics["conformal"], selected["conformal"] = _conformal(data.dataset, predictions, spreads)
    return FittedModels(
        models=["net", *baselines, "stack"],
        net=nets["net"],
        stacking=stacking,
        predictions=predictions["test"],
        metrics=metrics,
        selected=selected,
    )


def _costs(dataset: Dataset, nets: Mapping[str, NetEnsemble], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return sizes of data and networks, blending weights, time and memory."""
    return {
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "memory_mb": peak_memory(),
        "parameters": sum(p.numel() for net in nets["net"].nets for p in net.parameters()),
        "ensemble_size": len(nets["net"].nets),
        "blending": {name: own.blending for name, own in nets.items()},
    }


def _fit_baselines(
    data: TrainingData, settings: FitSettings, seconds: dict[str, float], *, directory: Path, seed: int, quiet: bool
) -> dict[str, Baseline]:
    """Return the fitted baselines, from the run's folder if they are there, and add their time to `seconds`."""
    baselines = {}
    main, count = MAIN_METRIC[data.dataset.target.task_type], len(data.dataset.split["train"])
    for name in baselines_for(data.dataset.target.task_type):
        model, record = baseline_file(directory, name), directory / f"{name}.json"
        if not record.is_file():
            say(f"fitting {name} ({count:,} rows) …", quiet=quiet)
            began = time.monotonic()
            own = fit_baseline(name, data.dataset, seed=seed, iterations=settings.boosting_iterations)
            own.save(model)
            write_json(record, {"seconds": time.monotonic() - began})
        # also read when just fitted, so that a resumed run has exactly the same numbers
        baselines[name], seconds[name] = Baseline.load(model), read_json(record)["seconds"]
        say(f"{name}: validation {main} {baselines[name].selected.get('validation', np.nan):.3f}", quiet=quiet)
    return baselines


def _fit_stacking(
    data: TrainingData, settings: FitSettings, validation: Mapping[str, Any], directory: Path, seed: int
) -> Stacking:
    """Return the stack, fitted on the validation rows or on out-of-fold predictions of the training rows."""
    if settings.stack_folds == 1:
        return fit_stacking(data.dataset.part("validation")[1], validation)
    rows, found = [], {name: [] for name in validation}
    for number, (train, held_out) in enumerate(_folds(data.dataset, settings.stack_folds, seed)):
        fold, folder = data.with_train(train), directory / f"fold-{number}"
        folder.mkdir(exist_ok=True)
        options: dict[str, Any] = {"directory": folder, "seed": seed, "quiet": True}
        baselines = _fit_baselines(fold, settings, {}, **options)
        for name, own in baselines.items():
            found[name].append(own.predict(fold.dataset.inputs.take(held_out)))
        net = fit_net(fold, replace(settings, ensemble_size=1), baselines.get("ridge"), **options)
        found["net"].append(net.predict(fold.dataset.inputs.take(held_out)))
        rows.append(held_out)
    return fit_stacking(
        data.dataset.target.take(np.concatenate(rows)), {name: _concatenate(parts) for name, parts in found.items()}
    )


def _folds(dataset: Dataset, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and held-out rows of each fold of the training rows; units of the split stay together."""
    rows = dataset.split["train"]
    units = np.arange(len(dataset.inputs)) if dataset.units is None else dataset.units
    hold = hold_out_units(units, "groups of training rows for --stack-folds")
    folds = (hold(rows, fraction=0.0, fold=(k, count), random=np.random.default_rng(seed)) for k in range(count))
    return [(kept, held_out) for held_out, kept in folds]


def _concatenate(parts: list[Any]) -> Any:
    return [x for part in parts for x in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _conformal(
    dataset: Dataset,
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    spreads: Mapping[tuple[str, str], np.ndarray | None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return coverage and width of the intervals on the test rows, and the intervals; by model and column."""
    (_, known), (_, truth) = dataset.part("validation"), dataset.part("test")
    covered: dict[str, Any] = {}
    calibrated: dict[str, Any] = {}
    for model, predicted in predictions["test"].items():
        spread = spreads.get((model, "test"))
        own = fit_conformal_columns(known, predictions["validation"][model], spreads.get((model, "validation")))
        calibrated[model] = [None if conformal is None else conformal.as_dict() for conformal in own]
        covered[model] = {}
        for k, (name, conformal) in enumerate(zip(truth.names, own, strict=True)):
            if conformal is None or not np.isfinite(truth.y[:, k]).any():
                continue
            column = None if spread is None else spread[:, k]
            covered[model][name] = {
                str(level): _coverage(truth.y[:, k], *conformal.interval(predicted[:, k], column, level))
                for level in conformal.levels
            }
    return covered, calibrated


def _coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    width = float(np.median(high - low))
    # too few validation rows give infinite intervals, which JSON cannot hold
    return {"coverage": coverage(truth, low, high), "width": width if np.isfinite(width) else None}


def peak_memory() -> int | None:
    """Return the peak memory of this process and of those that it started, in MiB; None if it is unknown."""
    try:
        import resource
    except ModuleNotFoundError:
        # not on Windows
        return None
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    own, children = (
        resource.getrusage(who).ru_maxrss / divisor for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.is_file():
        # on Linux getrusage includes the peak of the parent process at the start of this one
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        own = int(lines["VmHWM"].split()[0]) / 2**10 if "VmHWM" in lines else own
    return round(max(own, children))
