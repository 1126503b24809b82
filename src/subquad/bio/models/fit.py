"""Fit of all models on one dataset; the command line and the estimators share it.

What is fitted is kept in the run's folder, so that an interrupted run resumes where it was.

Axes: n rows, K columns of measurements, O outputs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE, NETWORKS, WITHOUT_LYRA, members_of, models_for
from subquad.bio.data.dataset import Dataset
from subquad.bio.metrics.conformal import coverage, fit_conformal_columns
from subquad.bio.metrics.scores import MAIN_METRIC, compare_models
from subquad.bio.models.baselines import BOOSTING_SECONDS, Baseline, baseline_file, fit_baseline, fit_ridge
from subquad.bio.models.initialization import LinearStart, fit_linear_start
from subquad.bio.models.members import Members
from subquad.bio.models.networks import NetworkEnsemble, train_networks
from subquad.bio.models.stacking import Stacking, combine, fit_stacking
from subquad.bio.models.training import epochs_for, seconds_for
from subquad.bio.models.training_data import TrainingData, check_trainable, prepare
from subquad.bio.settings import FitSettings
from subquad.bio.splits.holdout import hold_out_units
from subquad.errors import SubquadError, reading
from subquad.progress import say
from subquad.runs.folder import WORK
from subquad.runs.machine import peak_memory
from subquad.runs.storage import read_json, write_json
from subquad.train.distributed import processes, wait_for

VALIDATION = "validation.json"
"""File of a run to which each model is added when it is fitted: its main metric on the validation rows (mean over its
networks) and its processor time in seconds."""
STACK_FOLDS, FEW_VALIDATION_ROWS = 5, 30
"""Number of folds for the weights of the ensemble if there are fewer validation rows than this. With so few rows,
networks that were also stopped on them would be favoured."""
FEW_EPOCHS = 10.0
"""Passes over the rows below which Lyra starts at a trained additive path: linear model and curve need more of them."""


@dataclass(frozen=True, kw_only=True)
class FittedModels:
    """All models of one dataset, fitted and compared."""

    models: list[str]
    """Names of the models that are saved."""
    networks: dict[str, NetworkEnsemble]
    """Those that are networks; the others are in files of the run's folder."""
    stacking: Stacking | None
    """The ensemble; None for a single model."""
    predictions: dict[str, Any]
    """Predictions of the test rows by each model."""
    metrics: dict[str, Any]
    """Contents of `metrics.json`: metrics on the test rows, and how they were obtained."""
    bootstrap: dict[str, list[float | None]]
    """Main metric of each model in bootstrap samples of the test rows; None if a sample does not define it."""
    selected: dict[str, Any]
    """What was selected on the validation rows."""


def fit_network(
    kind: str,
    data: TrainingData,
    settings: FitSettings,
    *,
    ridge: Baseline | None = None,
    start: LinearStart | None = None,
    additive: NetworkEnsemble | None = None,
    seed: int,
    directory: Path | None = None,
    quiet: bool = True,
) -> NetworkEnsemble:
    """Fit one of the `NETWORKS`.

    Args:
        kind: Its name.
        data: Training data; see `prepare`.
        settings: Ensemble size, budget and optimizer.
        ridge: Ridge regression, near which some networks start. Default: fitted here if one is needed.
        start: Linear model at which an additive path starts. Default: fitted here if one is needed.
        additive: Trained additive path, at which Lyra starts if it sees the rows only a few times. Default: trained
            here if one is needed.
        seed: Seed of the initial weights and of the order of the rows.
        directory: Folder of the checkpoints; None keeps none.
        quiet: Show no progress bar.
    """
    dataset, target = data.dataset, data.dataset.target
    has_path = COMPARED_MODELS[kind].has_path and target.is_row
    if ridge is None and (has_path or (kind == "lyra" and target.is_residue)):
        ridge = fit_ridge(dataset, seed=seed)
    if has_path and start is None and ridge is not None:
        start = fit_linear_start(dataset, ridge, settings, seed=seed)
    starts_at_path = has_path and kind == "lyra" and epochs_for(dataset, settings) < FEW_EPOCHS
    if starts_at_path and additive is None:
        options: dict[str, Any] = {"ridge": ridge, "start": start, "seed": seed, "directory": directory}
        additive = fit_network("lyra-additive", data, settings, quiet=quiet, **options)
    return train_networks(
        kind,
        dataset,
        settings,
        ridge=ridge,
        start=start if has_path else None,
        path=additive if starts_at_path else None,
        positions=data.positions,
        seed=seed,
        directory=directory,
        quiet=quiet,
    )


def fit_models(dataset: Dataset, settings: FitSettings, *, directory: Path, seed: int, quiet: bool) -> FittedModels:
    """Fit all models and their ensemble, and compare them on the test rows.

    Args:
        dataset: Inputs, targets and split.
        settings: Which models, and how they are trained.
        directory: Folder in which fitted models are kept.
        seed: Seed of all random numbers.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: There is nothing to learn from, or a model does not suit the task.
    """
    names = models_of(dataset, settings)
    check_trainable(dataset)
    data, (known, _), (test, truth) = prepare(dataset), dataset.part("validation"), dataset.part("test")
    if data.positions is not None:
        T = dataset.inputs.all_positions
        say(f"{len(data.positions)} of {T} positions vary; networks read no others", quiet=quiet)
    # impossible folds are refused before anything is fitted
    folds = _stack_folds(data.dataset, settings, seed)
    fitted, seconds = _fit_all(names, data, settings, directory=directory, seed=seed, quiet=quiet)
    found = {
        part: {name: own.members(inputs) for name, own in fitted.items()}
        for part, inputs in (("validation", known), ("test", test))
    }
    if folds:
        say(f"training all again on {len(folds)} folds, for the weights of the ensemble …", quiet=quiet)
    stackings = _fit_stackings(
        data, settings, found["validation"], folds, directory=directory, seed=seed, seconds=seconds
    )
    for own in found.values():
        own.update({name: combine(stacking, own) for name, stacking in stackings.items()})
    predictions = {name: own.mean for name, own in found["test"].items()}
    units = None if dataset.units is None else dataset.units[dataset.split["test"]]
    metrics = compare_models(truth, predictions, units=units)
    bootstrap = metrics.pop("bootstrap")
    metrics |= {
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "memory_mb": peak_memory(),
        "parameters": {
            name: sum(p.numel() for net in own.nets for p in net.parameters())
            for name, own in fitted.items()
            if isinstance(own, NetworkEnsemble)
        },
        "weights": {name: own.weights for name, own in stackings.items()},
    }
    selected = {name: own.selected for name, own in fitted.items()}
    if truth.task_type == "regression":
        metrics["conformal"], selected["conformal"] = _conformal(dataset, found)
    return FittedModels(
        models=[*fitted, *([ENSEMBLE] if ENSEMBLE in stackings else [])],
        networks={name: own for name, own in fitted.items() if isinstance(own, NetworkEnsemble)},
        stacking=stackings.get(ENSEMBLE),
        predictions=predictions,
        metrics=metrics,
        bootstrap=bootstrap,
        selected=selected,
    )


def models_of(dataset: Dataset, settings: FitSettings) -> tuple[str, ...]:
    """Return the names of the models to fit, without the ensemble, the simplest first.

    Raises:
        SubquadError: The settings name a model that does not exist or does not suit the task.
    """
    inputs = dataset.inputs
    return models_for(
        dataset.target.task_type,
        settings.models,
        has_sequence=inputs.codes.shape[1] > 0,
        has_embedding=inputs.embedding is not None,
        rows=len(dataset.split["train"]),
    )


def _fit_all(
    names: Sequence[str], data: TrainingData, settings: FitSettings, *, directory: Path, seed: int, quiet: bool
) -> tuple[dict[str, Baseline | NetworkEnsemble], dict[str, float]]:
    """Return the fitted models and the processor time of each, in seconds."""
    dataset, fitted, seconds = data.dataset, {}, {}
    main, count = MAIN_METRIC[dataset.target.task_type], len(dataset.split["train"])
    options: dict[str, Any] = {"seed": seed, "directory": directory, "quiet": quiet}
    ridge, start, additive, started = None, None, None, 0.0
    with_path = [name for name in names if COMPARED_MODELS[name].has_path]
    needs_ridge = dataset.target.task_type != "pairs" and with_path
    for name in names if "ridge" in names or not needs_ridge else ("ridge", *names):
        if name not in NETWORKS:
            own, seconds[name] = _fit_baseline(name, data, settings, **options)
            say(f"{name}: validation {main} {own.selected.get('validation', np.nan):.3f}", quiet=quiet)
            ridge = own if name == "ridge" else ridge
        else:
            if start is None and name in with_path and ridge is not None and not dataset.target.is_residue:
                began = time.process_time()
                start = fit_linear_start(dataset, ridge, settings, seed=seed)
                started = seconds["ridge"] + time.process_time() - began
            is_trained = name in _read_validations(directory)
            what = f"{name}: trained already" if is_trained else f"training {name} ({count:,} rows) …"
            say(what, quiet=quiet)
            own = fit_network(name, data, settings, ridge=ridge, start=start, additive=additive, **options)
            additive = own if name == "lyra-additive" else additive
            before = started if own.features is not None else seconds["ridge"] if own.prior is not None else 0.0
            seconds[name] = own.cpu_seconds + before
        if name in names:
            fitted[name] = own
            _note_validation(directory, name, own, seconds[name])
    return fitted, {name: seconds[name] for name in names}


def _note_validation(directory: Path, name: str, own: Baseline | NetworkEnsemble, seconds: float) -> None:
    """Add a model to `validation.json`, from which the progress of a fit can be followed; see `VALIDATION`."""
    if not processes().is_main_process:
        return
    path, known = directory / VALIDATION, _read_validations(directory)
    each = own.selected if isinstance(own.selected, list) else [own.selected]
    values = [one["validation"] for one in each if one.get("validation") is not None]
    value = float(np.mean(values)) if values else None
    write_json(path, {**known, name: {"validation": value, "cpu_seconds": round(seconds, 2)}})


def _read_validations(directory: Path) -> dict[str, Any]:
    path = directory / VALIDATION
    if not path.is_file():
        return {}
    with reading(path, "the progress of a fit"):
        return {name: {**entry} for name, entry in read_json(path).items()}


def _fit_baseline(
    name: str, data: TrainingData, settings: FitSettings, *, directory: Path, seed: int, quiet: bool
) -> tuple[Baseline, float]:
    """Return a baseline and its processor time, from the run's folder if it is there."""
    model, record = baseline_file(directory, name), directory / f"{name}.json"
    if not record.is_file() and processes().is_main_process:
        say(f"fitting {name} ({len(data.dataset.split['train']):,} rows) …", quiet=quiet)
        began = time.process_time()
        limit = max(BOOSTING_SECONDS, seconds_for(data.dataset, settings))
        trees = settings.boosting_iterations
        own = fit_baseline(name, data.dataset, seed=seed, iterations=trees, seconds=limit)
        own.save(model)
        write_json(record, {"cpu_seconds": time.process_time() - began})
    # of several processes, the others take what the first one fits
    wait_for(record.is_file)
    # also read when just fitted, so that a resumed run has exactly the same numbers
    with reading(record, "the time of a fit"):
        return Baseline.load(model), float(read_json(record)["cpu_seconds"])


def _fit_stackings(
    data: TrainingData,
    settings: FitSettings,
    validation: Mapping[str, Members],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    directory: Path,
    seed: int,
    seconds: dict[str, float],
) -> dict[str, Stacking]:
    """Return the ensemble of all members, and the one without Lyra; add the time of both to `seconds`."""
    sets = {name: members_of(tuple(validation), name) for name in (WITHOUT_LYRA, ENSEMBLE)}
    if len(sets[ENSEMBLE]) < 2:
        return {}
    if "lyra" not in sets[ENSEMBLE] or not sets[WITHOUT_LYRA]:
        del sets[WITHOUT_LYRA]
    in_folds = dict.fromkeys(seconds, 0.0)
    if not folds:
        target, predicted = data.dataset.part("validation")[1], {name: own.mean for name, own in validation.items()}
    else:
        members = tuple(name for name in validation if any(name in own for own in sets.values()))
        target, predicted, in_folds = _out_of_fold(members, data, settings, folds, directory=directory, seed=seed)
    found = {}
    for name, own in sets.items():
        began = time.process_time()
        found[name] = fit_stacking(target, {member: predicted[member] for member in own}, is_out_of_fold=bool(folds))
        seconds[name] = time.process_time() - began + sum(seconds[member] + in_folds[member] for member in own)
    return found


def _stack_folds(dataset: Dataset, settings: FitSettings, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and held-out rows of the folds that determine the weights of the ensemble; none: the validation
    rows do.

    Raises:
        SubquadError: The training rows cannot be divided into the number of folds that the settings name.
    """
    count = settings.stack_folds
    if count is None:
        count = STACK_FOLDS if dataset.target.is_row and len(dataset.split["validation"]) < FEW_VALIDATION_ROWS else 1
    if count == 1:
        return []
    try:
        folds = _folds(dataset, count, seed)
        for train, _ in folds:
            check_trainable(replace(dataset, split={**dataset.split, "train": train}))
    except SubquadError:
        if settings.stack_folds is not None:
            raise
        return []
    return folds


def _out_of_fold(
    members: Sequence[str],
    data: TrainingData,
    settings: FitSettings,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    directory: Path,
    seed: int,
) -> tuple[Any, dict[str, Any], dict[str, float]]:
    """Return the target of the training rows, predictions by models of other folds, and the time of each model."""
    rows, found, seconds = [], {name: [] for name in members}, dict.fromkeys(members, 0.0)
    for number, (train, held_out) in enumerate(folds):
        fold, folder = data.with_train(train), directory / WORK / f"fold-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        own = replace(settings, ensemble_size=1)
        fitted, taken = _fit_all(members, fold, own, directory=folder, seed=seed, quiet=True)
        for name, model in fitted.items():
            seconds[name] += taken[name]
            found[name].append(model.predict(fold.dataset.inputs.take(held_out)))
        rows.append(held_out)
    predicted = {name: _concatenate(parts) for name, parts in found.items()}
    return data.dataset.target.take(np.concatenate(rows)), predicted, seconds


def _folds(dataset: Dataset, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and held-out rows of each fold of the training rows; units of the split stay together."""
    rows = dataset.split["train"]
    units = np.arange(len(dataset.inputs)) if dataset.units is None else dataset.units
    hold = hold_out_units(units, "different training rows or groups")
    folds = (hold(rows, fraction=0.0, fold=(k, count), random=np.random.default_rng(seed)) for k in range(count))
    return [(kept, held_out) for held_out, kept in folds]


def _concatenate(parts: list[Any]) -> Any:
    return [x for part in parts for x in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _conformal(dataset: Dataset, found: Mapping[str, Mapping[str, Members]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return coverage and width of the intervals on the test rows, and the intervals; by model and column."""
    (_, known), (_, truth) = dataset.part("validation"), dataset.part("test")
    covered: dict[str, Any] = {}
    calibrated: dict[str, Any] = {}
    for model, test in found["test"].items():
        validation, spread = found["validation"][model], test.std()
        own = fit_conformal_columns(known, validation.mean, validation.std())
        calibrated[model] = [None if conformal is None else conformal.as_dict() for conformal in own]
        covered[model] = {}
        for k, (name, conformal) in enumerate(zip(truth.names, own, strict=True)):
            if conformal is None or not np.isfinite(truth.y[:, k]).any():
                continue
            column = None if spread is None else spread[:, k]
            covered[model][name] = {
                str(level): _coverage(truth.y[:, k], *conformal.interval(test.mean[:, k], column, level))
                for level in conformal.levels
            }
    return covered, calibrated


def _coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    width = float(np.median(high - low))
    if not np.isfinite(width):
        # too few validation rows give infinite intervals, which JSON cannot hold and which cover everything
        return {"coverage": None, "width": None}
    return {"coverage": coverage(truth, low, high), "width": width}
