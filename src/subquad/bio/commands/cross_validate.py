"""`cross_validate`: all models on each fold in turn, so that each row is predicted by models that never saw it.

Costs one fit for each fold. Folds are cut as `FitSettings` says: at random, by group, similarity, position or number of
mutations, or by a column of fold numbers. With as many folds as groups, each group is predicted from all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.commands.fit import fit
from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.table import read_table
from subquad.bio.metrics.scores import difference, score
from subquad.bio.plots.cross_validation_page import render, verdict
from subquad.bio.settings import FitSettings, validate_presets
from subquad.bio.splits.split import count_folds
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.folder import open_run
from subquad.runs.storage import atomic, fingerprint, plain, read_json

__all__ = ["cross_validate"]

METRICS, TEST, PREDICTIONS = "metrics.json", "test.csv", "predictions.csv"


def cross_validate(
    table: Path | str,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    presets: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit all models on each fold, write the predictions of all rows, and return the figures of `metrics.json`.

    The folder gets `fold-0`, `fold-1` …, each as `fit` writes it, `predictions.csv` (of row kinds: measured and
    predicted, each row by models that did not see it, but for copies of training rows), `metrics.json` and
    `report.html`. A run that was stopped goes on at the fold where it was.

    Args:
        table: as for `fit`.
        settings: which columns to read, how to cut `folds`, and how to learn.
        out: the folder to write.
        presets: of further nets, as for `fit`.
        seed: of the folds and of the nets.
        force: replace what is in the folder.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the table or its folds cannot be used, or the folder is taken.
    """
    settings, path = settings or FitSettings(), resolve_table(table)
    if settings.fold is not None:
        raise SubquadError("cross-validation takes each fold in turn; leave out --fold")
    validate_presets(presets)
    count = count_folds(read_table(path, settings), settings)
    asked = {**plain(settings), "presets": list(presets), "seed": seed, "table": path.name}
    run = open_run(out, kind="bio folds", settings={**asked, "fingerprint": fingerprint(path)}, force=force)
    folds = []
    for fold in range(count):
        folder = run.directory / f"fold-{fold}"
        # the settings of the whole are those of its folds, so that a finished one is known
        if not (folder / METRICS).is_file():
            say(f"fold {fold + 1} of {count}", quiet=quiet)
            fit(path, replace(settings, fold=fold), out=folder, presets=presets, seed=seed, quiet=quiet)
        folds.append(read_json(folder / METRICS))
    frame = _predictions(run.directory, count)
    if frame is not None:
        with atomic(run.directory / PREDICTIONS) as temporary:
            frame.to_csv(temporary, index=False)
    facts = read_json(run.directory / "fold-0" / "config.json")
    metrics = _metrics(folds, frame, facts["target"])
    name = f"{', '.join(facts['target']['names'][:3])} from sequence, {count} folds: {path.name}"
    card = f"# {name}\n\n{verdict(metrics)}\n"
    html = render(metrics, name, how=facts["split"]["how"])
    run.finish(config={}, tensors=None, metrics=metrics, card=card, report=html)
    return metrics


def _predictions(directory: Path, count: int) -> pd.DataFrame | None:
    """Return the test rows of all folds, in the order of the table; None of residues and pairs."""
    paths = [directory / f"fold-{fold}" / TEST for fold in range(count)]
    if not all(path.is_file() for path in paths):
        return None
    frames = [pd.read_csv(path, dtype={"sequence": str}).assign(fold=fold) for fold, path in enumerate(paths)]
    return pd.concat(frames).sort_values("row", kind="stable", ignore_index=True)


def _metrics(
    folds: Sequence[Mapping[str, Any]], frame: pd.DataFrame | None, target: Mapping[str, Any]
) -> dict[str, Any]:
    task_type, main = folds[0]["task_type"], folds[0]["main_metric"]
    models = list(folds[0]["test"])
    figures = [name for name in folds[0]["test"]["net"] if all(name in fold["test"]["net"] for fold in folds)]
    values = {model: {name: [fold["test"][model][name] for fold in folds] for name in figures} for model in models}
    metrics: dict[str, Any] = {
        "task_type": task_type,
        "main": main,
        "rows": [fold["rows"] for fold in folds],
        "folds": {model: own[main] for model, own in values.items()},
        "mean": {model: {name: fmean(each) for name, each in own.items()} for model, own in values.items()},
        "spread": {
            model: {name: stdev(each) if len(each) > 1 else 0.0 for name, each in own.items()}
            for model, own in values.items()
        },
        "first": {
            model: sum(max(models, key=lambda own: values[own][main][k]) == model for k in range(len(folds)))
            for model in models
        },
        "seconds": round(sum(fold["seconds"]["total"] for fold in folds), 2),
    }
    if frame is not None and task_type in ("regression", "binary") and len(target["names"]) == 1:
        metrics |= _pooled(frame, models, task_type, target["classes"])
    return metrics


def _pooled(frame: pd.DataFrame, models: Sequence[str], task_type: TaskType, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of all rows together, and by how much the net is above each other model."""
    if task_type == "binary":
        y = (frame["measured"].astype(str) == str(classes[1])).to_numpy(dtype=np.int64)
    else:
        y = frame[["measured"]].to_numpy(dtype=np.float64)
    truth = Target(task_type=task_type, y=y, classes=tuple(classes))
    predicted = {model: frame[[model]].to_numpy(dtype=np.float64) for model in models}
    return {
        "pooled": {model: score(truth, own) for model, own in predicted.items()},
        "above": {
            model: difference(truth, predicted["net"], own) for model, own in predicted.items() if model != "net"
        },
    }
