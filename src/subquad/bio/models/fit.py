"""Every model on one problem: rivals, nets, and the stack of them, with figures, intervals and times.

What is fitted is kept in the run's folder, so that a run that was killed goes on where it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from subquad.bio.data.dataset import PARTS, Dataset, with_both_strands
from subquad.bio.metrics.conformal import coverage, fit_conformal_columns
from subquad.bio.metrics.memory import peak_memory
from subquad.bio.metrics.scores import MAIN_METRIC, difference, intervals, score, undefined_metrics
from subquad.bio.models.baselines import Baseline, baselines_for, fit_baseline
from subquad.bio.models.fitted import NetEnsemble, drop_constant_positions, ensemble_mean, fit_ensemble
from subquad.bio.models.stacking import Stacking, fit_stacking
from subquad.bio.settings import MIN_CURVE_ROWS, FitSettings
from subquad.bio.splits.holdout import hold_out_units
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.storage import read_json, write_json

__all__ = ["FittedModels", "check_trainable", "fit_models"]


@dataclass(frozen=True, kw_only=True)
class FittedModels:
    """All models of one problem, fitted."""

    net: NetEnsemble
    """Of the preset that is saved."""
    stack: Stacking
    predictions: dict[str, Any]
    """Of the test rows, by model: net, other presets, rivals, stack."""
    metrics: dict[str, Any]
    """Figures on the test rows, and how they came to be: the contents of `metrics.json`."""
    chosen: dict[str, Any]
    """What was decided on the validation rows."""
    positions: np.ndarray | None
    """That the rivals look at; None: all."""


def fit_models(
    dataset: Dataset, settings: FitSettings, *, presets: Sequence[str], directory: Path, seed: int, quiet: bool
) -> FittedModels:
    """Fit the rivals, the nets and the stack, and measure all of them on the same test rows.

    Args:
        dataset: what to learn.
        settings: how.
        presets: of the nets; the first is the one that is saved, and called `net`.
        directory: where what is fitted is kept.
        seed: of everything random.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: there is nothing to learn from.
    """
    check_trainable(dataset)
    task_type, main, given = dataset.target.task_type, MAIN_METRIC[dataset.target.task_type], dataset
    if dataset.inputs.is_double_stranded:
        dataset = with_both_strands(dataset)
    narrowed, positions = drop_constant_positions(dataset)
    if positions is not None:
        say(f"{len(positions)} of {dataset.inputs.codes.shape[1]} positions vary and are looked at", quiet=quiet)
    seconds: dict[str, float] = {}
    rivals = {}
    for name in baselines_for(task_type):
        say(f"fitting {name} ({len(dataset.split['train']):,} rows) …", quiet=quiet)
        rivals[name], seconds[name] = _kept(directory, name, lambda name=name: _rival(name, narrowed, settings, seed))
        say(f"{name}: validation {main} {rivals[name].selected.get('validation', np.nan):.3f}", quiet=quiet)
    held: dict[str, dict[str, Any]] = {}
    for part in ("validation", "test"):
        own = narrowed.inputs.take(dataset.split[part])
        held[part] = {name: rival.predict(own) for name, rival in rivals.items()}
    nets, spreads = {}, {}
    for place, preset in enumerate(presets):
        name = "net" if place == 0 else preset
        own_settings = replace(settings, preset=preset)
        began = time.monotonic()
        nets[name] = _nets(
            dataset, narrowed, own_settings, rivals, positions, directory=directory, seed=seed, quiet=quiet
        )
        seconds[name] = nets[name].seconds or time.monotonic() - began
        for part, into in held.items():
            members = nets[name].predict_each(dataset.inputs.take(dataset.split[part]))
            into[name] = ensemble_mean(members)
            spreads[name, part] = _spread(task_type, members)
    validation, test = held["validation"], held["test"]
    stacked = [name for name in validation if name == "net" or name in rivals]
    stack, seconds["stack"] = _stack(
        dataset, narrowed, settings, validation, stacked, positions=positions, directory=directory, seed=seed
    )
    for own in held.values():
        own["stack"] = stack.predict({name: own[name] for name in stacked})
    metrics = _figures(given, test, rivals, seconds)
    metrics["parameters"] = sum(p.numel() for net in nets["net"].nets for p in net.parameters())
    metrics["ensemble_size"] = len(nets["net"].nets)
    metrics["stacking"] = stack.as_dict()
    if settings.learning_curve or settings.learning_sizes:
        metrics["learning_curve"] = _learning_curve(
            given, settings, metrics, directory=directory, seed=seed, quiet=quiet
        )
    chosen = {name: rival.selected for name, rival in rivals.items()} | {name: own.facts for name, own in nets.items()}
    if task_type == "regression":
        metrics["conformal"], chosen["conformal"] = _conformal(dataset, held, spreads)
    return FittedModels(
        net=nets["net"],
        stack=stack,
        predictions=test,
        metrics=metrics,
        chosen=chosen,
        positions=positions,
    )


def _learning_curve(
    dataset: Dataset, settings: FitSettings, metrics: Mapping[str, Any], *, directory: Path, seed: int, quiet: bool
) -> list[dict[str, Any]]:
    """Return the main figure on the test rows of models that learned from fewer rows, and its spread over drawings."""
    main, names = metrics["main_metric"], ("net", *baselines_for(metrics["task_type"]))
    count, validation = (len(dataset.split[part]) for part in ("train", "validation"))
    points = [{"rows": count, **{name: metrics["test"][name][main] for name in names}}]
    halves = [count // 2**halving for halving in range(1, settings.learning_curve + 1)]
    fewer = replace(settings, learning_curve=0, learning_sizes=(), stack_folds=1)
    for size in sorted(set(settings.learning_sizes), reverse=True) or halves:
        if not MIN_CURVE_ROWS <= size < count:
            continue
        found = []
        for repeat in range(settings.learning_repeats):
            say(f"learning curve: {size:,} rows, drawing {repeat + 1} of {settings.learning_repeats}", quiet=quiet)
            # one order for all sizes, so that the smaller sets are parts of the larger ones
            orders = [
                np.random.default_rng([seed, repeat, k]).permutation(n) for k, n in enumerate((count, validation))
            ]
            # who has few rows to learn from has few to choose on
            sizes = {"train": size, "validation": max(size // 4, MIN_CURVE_ROWS)}
            drawn = {
                part: np.sort(dataset.split[part][order[: sizes[part]]])
                for part, order in zip(("train", "validation"), orders, strict=True)
            }
            folder = directory / f"rows-{size}-{repeat}"
            folder.mkdir(exist_ok=True)
            own = replace(dataset, split={**dataset.split, **drawn})
            try:
                one = fit_models(
                    own, fewer, presets=(settings.preset,), directory=folder, seed=seed + repeat, quiet=True
                )
            except SubquadError as error:
                say(f"learning curve: left out, {error}", quiet=quiet)
                continue
            found.append({name: one.metrics["test"][name][main] for name in names})
        if found:
            points.insert(0, _point(size, found))
    return points


def _point(size: int, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = {name: [one[name] for one in found] for name in found[0]}
    point: dict[str, Any] = {"rows": size, **{name: fmean(own) for name, own in values.items()}}
    return point | ({"spread": {name: stdev(own) for name, own in values.items()}} if len(found) > 1 else {})


def check_trainable(dataset: Dataset) -> None:
    """Check that there is something to learn from, before anything is fitted or written.

    Raises:
        SubquadError: all training sequences are the same, no training row has some class, or a part of the rows has no
            measurement at all of some column.
    """
    drop_constant_positions(dataset)
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
    # of several columns those without a test row have no figure of their own
    for part in PARTS if target.is_residue else PARTS[:2]:
        own = is_known[dataset.split[part]]
        known = [own.any()] if target.is_residue else own.any(0)
        names = [repr(name) for name, there in zip(target.names, known, strict=True) if not there]
        if names:
            raise SubquadError(
                f"no {'training' if part == 'train' else part} row has a value in column {', '.join(names)}; leave it "
                "out, or split another way"
            )


def _rival(name: str, dataset: Dataset, settings: FitSettings, seed: int) -> Baseline:
    return fit_baseline(name, dataset, seed=seed, iterations=settings.boosting_iterations)


def _kept(directory: Path, name: str, make: Callable[[], Baseline]) -> tuple[Baseline, float]:
    """Return a fitted rival, from the run's folder where it is there, and the seconds that it took."""
    model, facts = directory / f"{name}.skops", directory / f"{name}.json"
    if not facts.is_file():
        began = time.monotonic()
        make().save(model)
        write_json(facts, {"seconds": time.monotonic() - began})
    # read back also when just fitted, so that a resumed run sees the very same numbers
    return Baseline.load(model), read_json(facts)["seconds"]


def _nets(
    dataset: Dataset,
    narrowed: Dataset,
    settings: FitSettings,
    rivals: Mapping[str, Baseline],
    positions: np.ndarray | None,
    *,
    directory: Path | None,
    seed: int,
    quiet: bool,
) -> NetEnsemble:
    is_auto = settings.preset == "auto"
    return fit_ensemble(
        narrowed if is_auto else dataset,
        settings,
        rivals.get("ridge") if is_auto else None,
        positions=positions if is_auto else None,
        seed=seed,
        directory=directory,
        quiet=quiet,
    )


def _spread(task_type: str, members: list[Any]) -> np.ndarray | None:
    return np.std(members, axis=0, ddof=1) if len(members) > 1 and task_type != "pairs" else None


def _stack(
    dataset: Dataset,
    narrowed: Dataset,
    settings: FitSettings,
    validation: dict[str, Any],
    names: Sequence[str],
    *,
    positions: np.ndarray | None,
    directory: Path,
    seed: int,
) -> tuple[Stacking, float]:
    began = time.monotonic()
    if settings.stack_folds == 1:
        _, truth = dataset.part("validation")
        return fit_stacking(truth, {name: validation[name] for name in names}), time.monotonic() - began
    rows, found = [], {name: [] for name in names}
    for number, (learnt, held) in enumerate(_folds(dataset, settings.stack_folds, seed)):
        split = {**dataset.split, "train": learnt}
        inner, inner_narrow = replace(dataset, split=split), replace(narrowed, split=split)
        inputs = inner_narrow.inputs.take(held)
        fold = directory / f"fold-{number}"
        fold.mkdir(exist_ok=True)
        own = {
            name: _kept(fold, name, lambda name=name: _rival(name, inner_narrow, settings, seed))[0]  # noqa: B023
            for name in names
            if name != "net"
        }
        for name, rival in own.items():
            found[name].append(rival.predict(inputs))
        nets = _nets(
            inner, inner_narrow, replace(settings, ensemble_size=1), own, positions, directory=fold, seed=seed, quiet=True
        )
        # the net cuts positions away itself, if at all
        found["net"].append(nets.predict(inner.inputs.take(held)))
        rows.append(held)
    joined = {name: _join(parts) for name, parts in found.items()}
    return fit_stacking(dataset.target.take(np.concatenate(rows)), joined), time.monotonic() - began


def _folds(dataset: Dataset, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return learned and held rows of each fold of the training rows, what the split held together on one side."""
    rows = dataset.split["train"]
    units = np.arange(len(dataset.inputs)) if dataset.units is None else dataset.units
    hold = hold_out_units(units, "groups of training rows for --stack-folds")
    folds = (hold(rows, fraction=0.0, fold=(k, count), random=np.random.default_rng(seed)) for k in range(count))
    return [(kept, held) for held, kept in folds]


def _join(parts: list[Any]) -> Any:
    return [x for part in parts for x in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _figures(
    dataset: Dataset, test: Mapping[str, Any], rivals: Mapping[str, Baseline], seconds: dict[str, float]
) -> dict[str, Any]:
    _, truth = dataset.part("test")
    figures = {name: score(truth, values) for name, values in test.items()}
    main = MAIN_METRIC[truth.task_type]
    single = [name for name in test if name in (*rivals, "net")]
    best = max(single, key=lambda name: figures[name][main])
    return {
        "task_type": truth.task_type,
        "main_metric": main,
        "test": figures,
        "undefined": undefined_metrics(truth),
        "intervals": {"test": {name: intervals(truth, values, 200) for name, values in test.items()}},
        "differences": {name: difference(truth, test["net"], test[name]) for name in test if name != "net"},
        "stack_versus_best": {"best": best, **difference(truth, test["stack"], test[best])},
        "rows": {part: len(rows) for part, rows in dataset.split.items()},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "memory_mb": peak_memory(),
    }


def _conformal(
    dataset: Dataset,
    held: Mapping[str, Mapping[str, np.ndarray]],
    spreads: Mapping[tuple[str, str], np.ndarray | None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return coverage and width of the intervals on the test rows, and what makes them; by model and column."""
    (_, known), (_, truth) = dataset.part("validation"), dataset.part("test")
    covered: dict[str, Any] = {}
    made: dict[str, Any] = {}
    for model, predicted in held["test"].items():
        own = fit_conformal_columns(known, held["validation"][model], spreads.get((model, "validation")))
        made[model] = [None if conformal is None else conformal.as_dict() for conformal in own]
        covered[model] = {}
        for k, (name, conformal) in enumerate(zip(truth.names, own, strict=True)):
            if conformal is None or not np.isfinite(truth.y[:, k]).any():
                continue
            spread = spreads.get((model, "test"))
            covered[model][name] = {
                str(level): _covered(truth.y[:, k], *conformal.interval(predicted[:, k], _column(spread, k), level))
                for level in conformal.levels
            }
    return covered, made


def _column(spread: np.ndarray | None, k: int) -> np.ndarray | None:
    return None if spread is None else spread[:, k]


def _covered(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    width = float(np.median(high - low))
    # few validation rows promise nothing: JSON knows no infinity
    return {"coverage": coverage(truth, low, high), "width": width if np.isfinite(width) else None}
