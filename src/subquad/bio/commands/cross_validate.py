"""`cross_validate`: all models on each fold in turn, so that each row is predicted by models not trained on it.

Costs one fit per fold. The settings define the folds: at random, by group, similarity, position or number of mutations,
or by a column of fold numbers. With as many folds as groups, each group is predicted from all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.commands.fit import check_dataset, check_inputs, fit_table, run_settings
from subquad.bio.compared_models import ENSEMBLE
from subquad.bio.data.dataset import ROW_TASK_TYPES, Target
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.table import Table, read_table
from subquad.bio.metrics.scores import difference, score
from subquad.bio.models.finished_run import read_test_rows
from subquad.bio.plots.cross_validation_page import render, verdict
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import Split, make_split, split_method
from subquad.bio.splits.split_column import check_split_column, count_folds
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.folder import CONFIG, METRICS, check_run_folder, open_run
from subquad.runs.lock import locks_output
from subquad.runs.storage import atomic, read_json

__all__ = ["cross_validate"]

PREDICTIONS = "predictions.csv"


@locks_output
def cross_validate(
    table: Path | str,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit all models on each fold, write predictions of all rows, and return the contents of `metrics.json`.

    The folder gets `fold-0`, `fold-1` …, each as `fit` writes it, `predictions.csv` (for one value or class per row:
    measured values, and predictions by models that were not trained on the row), `metrics.json` and `report.html`. An
    interrupted run resumes at its fold.

    Args:
        table: As for `fit`.
        settings: Columns, folds, models and training.
        out: Output folder.
        seed: Seed of the folds and of the networks.
        force: Overwrite a finished run in the folder.
        quiet: Print no progress and no remarks.

    Raises:
        SubquadError: The table or its folds cannot be used, or the folder holds other files.
    """
    settings, path = settings or FitSettings(), resolve_table(table)
    if settings.fold is not None:
        raise SubquadError("cross-validation uses each fold in turn; leave out --fold")
    check_inputs(path, settings, out)
    read = read_table(path, settings, check=lambda frame: check_split_column(path, frame, settings))
    count = count_folds(read, settings)
    identity = run_settings(path, settings, seed)
    check_run_folder(out, kind="bio folds", settings=identity, force=force)
    # impossible folds are refused before anything is written
    splits = _splits(read, settings, count, seed=seed)
    run = open_run(out, kind="bio folds", settings=identity, force=force)
    for remark in read.remarks:
        say(remark, quiet=quiet)
    folds = []
    for fold, split in enumerate(splits):
        folder = run.directory / f"fold-{fold}"
        # the settings of the whole run identify its folds, so that a finished one is not repeated
        if not (folder / METRICS).is_file():
            say(f"fold {fold} of {count}, counted from 0", quiet=quiet)
            own = replace(settings, fold=fold)
            fit_table(read, own, out=folder, seed=seed, quiet=quiet, split=split)
        folds.append(read_json(folder / METRICS))
    frame = _predictions(run.directory, count, folds[0]["task_type"])
    if frame is not None:
        with atomic(run.directory / PREDICTIONS) as temporary:
            frame.to_csv(temporary, index=False)
    config = read_json(run.directory / "fold-0" / CONFIG)
    units = None if frame is None else _units(frame, [split.units for split in splits])
    metrics = _metrics(folds, frame, config["target"], units)
    some = {model for fold in folds for model in fold["test"]} - set(metrics["test"])
    if some:
        say(f"not fitted in each fold, and left out: {', '.join(sorted(some))}", quiet=quiet)
    name = f"{', '.join(config['target']['names'][:3])} from sequence, {count} folds: {path.name}"
    card = f"# {name}\n\n{verdict(metrics)}\n"
    how = config["split"]["how"]
    run.finish(config={}, tensors=None, metrics=metrics, card=card, report=lambda: render(metrics, name, how=how))
    return metrics


def _splits(read: Table, settings: FitSettings, count: int, *, seed: int) -> list[Split]:
    """Return the split of each fold, after the check that models can be trained on all of them."""
    method, splits = split_method(read, replace(settings, fold=0)), []
    for fold in range(count):
        split = make_split(read, replace(settings, fold=fold), seed=seed, method=method)
        check_dataset(read.with_split(split.parts, split.units), settings, place=f"{read.path}: fold {fold}")
        splits.append(split)
    return splits


def _predictions(directory: Path, count: int, task_type: str) -> pd.DataFrame | None:
    """Return the test rows of all folds, in the order of the table; None for residues and pairs."""
    if task_type not in ROW_TASK_TYPES:
        return None
    frames = [read_test_rows(directory / f"fold-{fold}", task_type).assign(fold=fold) for fold in range(count)]
    return pd.concat(frames).sort_values("row", kind="stable", ignore_index=True)


def _units(frame: pd.DataFrame, of_folds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the index of the unit of each row of the predictions in the split that tests it, `(n,)`."""
    # folds of a column hold out groups, or equal sequences if a group is in several folds
    kinds = list({units.tobytes(): units for units in of_folds}.values())
    kind = np.array([next(k for k, own in enumerate(kinds) if np.array_equal(own, units)) for units in of_folds])
    of_row = kind[frame["fold"]]
    units = np.stack(kinds)[of_row, frame["row"] - 1]
    return np.unique(np.stack([of_row, units]), axis=1, return_inverse=True)[1].reshape(-1)


def _metrics(
    folds: Sequence[Mapping[str, Any]], frame: pd.DataFrame | None, target: Mapping[str, Any], units: np.ndarray | None
) -> dict[str, Any]:
    """Return means and standard deviations over the folds that define a metric, and metrics of all rows together.

    A metric that no fold defines is listed in `undefined`, as in the metrics of a fit; `defined_folds` has the number
    of folds behind each mean.
    """
    task_type, main = folds[0]["task_type"], folds[0]["main_metric"]
    # some are fitted on small tables only, and training rows differ from fold to fold
    models = [model for model in folds[0]["test"] if all(model in fold["test"] for fold in folds)]
    first = models[0]
    names = [name for name in folds[0]["test"][first] if all(name in fold["test"][first] for fold in folds)]
    undefined = [fold.get("undefined", {}) for fold in folds]
    nowhere = {name: why for name, why in undefined[0].items() if all(name in own for own in undefined)}

    def known(model: str, name: str) -> list[float]:
        is_known = [name in nowhere or name not in own for own in undefined]
        return [fold["test"][model][name] for fold, is_own in zip(folds, is_known, strict=True) if is_own]

    values = {model: {name: known(model, name) for name in names} for model in models}
    best = [max(models, key=lambda model: values[model][main][k]) for k in range(len(values[first][main]))]
    metrics: dict[str, Any] = {
        "task_type": task_type,
        "main_metric": main,
        "rows": [fold["rows"] for fold in folds],
        "folds": {
            model: [
                None if main in own else fold["test"][model][main] for fold, own in zip(folds, undefined, strict=True)
            ]
            for model in models
        },
        "undefined": nowhere,
        "defined_folds": {name: 0 if name in nowhere else len(values[first][name]) for name in names},
        "test": {model: {name: fmean(each) for name, each in own.items()} for model, own in values.items()},
        "std": {
            model: {name: stdev(each) if len(each) > 1 else 0.0 for name, each in own.items()}
            for model, own in values.items()
        },
        "best_folds": {model: 0 if main in nowhere else best.count(model) for model in models},
        "seconds": round(sum(fold["seconds"]["total"] for fold in folds), 2),
    }
    if frame is not None and task_type in ("regression", "binary") and len(target["names"]) == 1:
        metrics |= _pooled(frame, models, target, units)
    return metrics


def _pooled(
    frame: pd.DataFrame, models: Sequence[str], target: Mapping[str, Any], units: np.ndarray | None
) -> dict[str, Any]:
    """Return the metrics of all rows together, and the advantage of the ensemble (else Lyra) over each other model.

    Rows of one unit of the splits, such as a group, a cluster or equal sequences, stay together in bootstrap samples.
    """
    task_type, classes = target["task_type"], target["classes"]
    if task_type == "binary":
        y = (frame["measured"] == classes[1]).to_numpy(dtype=np.int64)
    else:
        y = frame[["measured"]].to_numpy(dtype=np.float64)
    truth = Target(task_type=task_type, y=y, classes=tuple(classes))
    predicted = {model: frame[[model]].to_numpy(dtype=np.float64) for model in models}
    first = next((name for name in (ENSEMBLE, "lyra") if name in predicted), models[0])
    others = {model: own for model, own in predicted.items() if model != first}
    gaps = {model: difference(truth, predicted[first], own, units=units) for model, own in others.items()}
    return {"pooled": {model: score(truth, own) for model, own in predicted.items()}, "differences": {first: gaps}}
