"""`fit`: from a table to saved models with metrics on a test set and a report.

Of several processes (`torchrun`) each trains the networks on its part of every epoch; the first one fits the baselines,
for which the others wait, and writes.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.analysis.audit import audit, count_unseen
from subquad.bio.compared_models import NETWORKS
from subquad.bio.data.dataset import PARTS, ROW_TASK_TYPES, Dataset, Inputs
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import naming
from subquad.bio.data.names import file_of
from subquad.bio.data.table import Table, read_table
from subquad.bio.metrics.scores import BOOTSTRAP, by_group
from subquad.bio.models.finished_run import TEST_ROWS, TEST_SEQUENCES, FinishedRun
from subquad.bio.models.fit import FittedModels, fit_models, models_of
from subquad.bio.models.fitted import network_tensors
from subquad.bio.models.initialization import fit_target_scaler
from subquad.bio.models.learning_curve import learning_curve
from subquad.bio.models.predictions import test_examples, test_frame
from subquad.bio.models.training_data import check_trainable
from subquad.bio.plots.fit_page import card, render
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import Split, make_split
from subquad.bio.splits.split_column import check_split_column
from subquad.progress import say
from subquad.runs.folder import METRICS, Run, check_run_folder
from subquad.runs.history import read_history
from subquad.runs.lock import locks_output
from subquad.runs.storage import (
    atomic,
    check_files_not_inside,
    check_not_inside,
    fingerprint,
    plain,
    read_json,
    write_json,
)
from subquad.train.distributed import open_shared_run, processes, wait_for, wait_for_everyone

__all__ = ["check_dataset", "check_inputs", "fit", "fit_table", "run_settings"]

EXAMPLES = 200
"""Number of test sequences whose residues or pairs are saved in `test.json`."""
FEW = 5
"""Classes with fewer test rows are logged."""


@locks_output
def fit(
    table: Path | str,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit baselines, Lyra and their ensemble on one split, save them, and return the contents of `metrics.json`.

    Args:
        table: Table or FASTA file of sequences or variants with measurements (see `read_table`), or `example:NAME`.
        settings: Columns, split, models and training. Default: inferred or standard values.
        out: Output folder. An unfinished run with the same settings in it is resumed.
        seed: Seed of the random split, the order of the rows and the initial weights.
        force: Overwrite a finished run in the folder.
        quiet: Print no progress and no remarks.

    Raises:
        SubquadError: The table cannot be read or there is nothing to learn from, in which case nothing has been
            written; or the folder holds other files.
    """
    began = time.monotonic()
    settings, path = settings or FitSettings(), resolve_table(table)
    check_inputs(path, settings, out)
    read = read_table(path, settings, check=lambda frame: check_split_column(path, frame, settings))
    # a folder that cannot be written is refused before anything is printed
    identity = run_settings(path, settings, seed)
    check_run_folder(out, kind="bio", settings=identity, force=force)
    for remark in read.remarks:
        say(remark, quiet=quiet or not processes().is_main_process)
    seconds = time.monotonic() - began
    return fit_table(read, settings, out=out, seed=seed, force=force, quiet=quiet, seconds=seconds)


def fit_table(
    read: Table,
    settings: FitSettings,
    *,
    out: Path | str,
    seed: int,
    force: bool = False,
    quiet: bool = False,
    seconds: float = 0.0,
    split: Split | None = None,
) -> dict[str, Any]:
    """Fit all models to a table that has been read, and return the contents of `metrics.json`; see `fit`.

    Args:
        read: The table.
        settings: Split, models and training.
        out: Output folder. An unfinished run with the same settings in it is resumed.
        seed: Seed of the random split, the order of the rows and the initial weights.
        force: Overwrite a finished run in the folder.
        quiet: Print no progress and no remarks.
        seconds: Time that reading the table took.
        split: Split of the table. Default: made here.

    Raises:
        SubquadError: The table cannot be split or there is nothing to learn from, in which case nothing has been
            written; or the folder holds other files.
    """
    began, path, group = time.monotonic() - seconds, read.path, processes()
    # only the first process prints and writes
    quiet = quiet or not group.is_main_process
    split = make_split(read, settings, seed=seed) if split is None else split
    say(f"split: {split.how}", quiet=quiet)
    dataset = read.with_split(split.parts, split.units)
    unseen = count_unseen(dataset.inputs, split.parts["train"], split.parts["test"])
    if unseen and not dataset.inputs.has_substitutions:
        say(
            f"{unseen:,} of {len(split.parts['test']):,} test rows have only substitutions that no training row has; "
            "one-hot letters do not tell them apart, and predictions of them are nearly constant",
            quiet=quiet,
        )
    for remark in _rare_classes(dataset):
        say(remark, quiet=quiet)
    seconds = time.monotonic() - began
    check_dataset(dataset, settings, place=str(path))
    for remark in _ranked_columns(dataset, settings):
        say(remark, quiet=quiet)
    wait_for_everyone()
    run = open_shared_run(out, kind="bio", settings=run_settings(path, settings, seed), force=force)
    if run.is_resumed:
        say(f"{run.directory}: resuming an unfinished run", quiet=quiet)
    fitted = fit_models(dataset, settings, directory=run.directory, seed=seed, quiet=quiet)
    metrics = fitted.metrics
    if settings.learning_curve or settings.learning_sizes:
        metrics["learning_curve"] = learning_curve(
            dataset, settings, metrics, directory=run.directory, seed=seed, quiet=quiet
        )
    if not group.is_main_process:
        wait_for((run.directory / METRICS).is_file)
        return read_json(run.directory / METRICS)
    metrics["seconds"] = {"read": round(seconds, 2), "total": round(time.monotonic() - began, 2)}
    metrics["seconds"]["is_resumed"] = run.is_resumed
    metrics["leakage"], metrics["audit"] = split.leakage.as_dict(), audit(read, split)
    if read.groups is not None:
        metrics["groups"] = _by_group(fitted, dataset, read.groups)
    _finish(run, read, split, dataset, fitted)
    return metrics


def check_dataset(dataset: Dataset, settings: FitSettings, *, place: str) -> None:
    """Check that all models suit a dataset and that there is something to learn from, before anything is written.

    Args:
        dataset: Inputs, targets and split.
        settings: Which models.
        place: Name of the dataset in messages.

    Raises:
        SubquadError: A model does not exist or does not suit the task, or the training rows do not suffice.
    """
    models_of(dataset, settings)
    with naming(place):
        check_trainable(dataset)


def check_inputs(path: Path, settings: FitSettings, out: Path | str) -> None:
    """Check that an output folder, which `--force` clears, holds none of the files of a fit.

    Raises:
        SubquadError: It holds the table, or a file that the settings name.
    """
    check_not_inside(out, file_of(path))
    check_files_not_inside(out, settings, "embeddings", "wild_type")


def run_settings(path: Path, settings: FitSettings, seed: int) -> dict[str, Any]:
    """Return what identifies a run of a table, so that an unfinished one can be resumed."""
    named: dict[str, Any] = {"seed": seed, "table": path.name, "fingerprint": fingerprint(file_of(path))}
    named["processes"] = processes().num_processes
    if settings.embeddings is not None:
        named["fingerprint_embeddings"] = fingerprint(settings.embeddings)
    if settings.wild_type is not None and os.path.isfile(settings.wild_type):
        named["fingerprint_wild_type"] = fingerprint(Path(settings.wild_type))
    return {**plain(settings), **named}


def _by_group(fitted: FittedModels, dataset: Dataset, groups: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the metrics of each group of test rows, by group and model."""
    _, truth = dataset.part("test")
    own, result = groups[dataset.split["test"]], {}
    for model, prediction in fitted.predictions.items():
        for group, values in by_group(truth, prediction, own).items():
            result.setdefault(group, {})[model] = values
    return result


def _rare_classes(dataset: Dataset) -> list[str]:
    """Return a remark about each class of which the test rows have too few to tell models apart."""
    _, truth = dataset.part("test")
    if truth.task_type not in ("binary", "multiclass"):
        return []
    counts = np.bincount(truth.y[truth.y >= 0], minlength=len(truth.classes))
    rare = [f"{count} of class {name!r}" for name, count in zip(truth.classes, counts, strict=True) if count < FEW]
    if not rare:
        return []
    return [f"of {counts.sum():,} test rows only {', '.join(rare)}: metrics of so few rows are mostly chance"]


def _ranked_columns(dataset: Dataset, settings: FitSettings) -> list[str]:
    """Return a remark about each target column that networks are trained on as ranks, though nobody asked for it."""
    networks = {*models_of(dataset, settings)} & {*NETWORKS} - {"lyra-paper"}
    if settings.transform != "auto" or not networks or dataset.target.task_type != "regression":
        return []
    columns = zip(dataset.target.names, fit_target_scaler(dataset, settings).columns, strict=True)
    return [
        f"target {name!r}: strongly skewed, so networks are trained on its ranks (--transform none overrides)"
        for name, column in columns
        if column.values is not None
    ]


def _observed(chain: Inputs, train: np.ndarray) -> list[list[int]] | None:
    """Return the codes that training rows have at each position; None if lengths vary."""
    return [np.unique(column).tolist() for column in chain.codes[train].T] if chain.is_aligned else None


def _measured_range(dataset: Dataset) -> list[list[float]] | None:
    """Return the lowest and highest measurement of each column, in all parts of the split; None for classes."""
    if dataset.target.task_type != "regression":
        return None
    y = dataset.target.y[np.concatenate(list(dataset.split.values()))]
    return np.stack([np.nanmin(y, axis=0), np.nanmax(y, axis=0)], axis=1).tolist()


def _finish(run: Run, read: Table, split: Split, dataset: Dataset, fitted: FittedModels) -> None:
    """Write test rows, `config.json`, weights, model card and report."""
    rows, target = dataset.split["test"], dataset.target
    if target.task_type in ROW_TASK_TYPES:
        examples: Any = test_frame(read, rows, fitted.predictions)
        with atomic(run.directory / TEST_ROWS) as temporary:
            examples.to_csv(temporary, index=False)
    else:
        examples = test_examples(read, rows, fitted.predictions, most=EXAMPLES)
        write_json(run.directory / TEST_SEQUENCES, examples)
    write_json(run.directory / BOOTSTRAP, fitted.bootstrap)
    first, *partner = (_observed(chain, dataset.split["train"]) for chain in dataset.inputs.chains)
    config = {
        "inputs": read.schema.as_dict(),
        "target": {"task_type": target.task_type, "classes": list(target.classes), "names": list(target.names)},
        "observed_letters": first,
        "observed_partner_letters": partner[0] if partner else None,
        "measured_range": _measured_range(dataset),
        "file": read.path.name,
        "split": {"how": split.how, "rows": {part: len(dataset.split[part]) for part in PARTS}},
        "models": fitted.models,
        "networks": {name: own.as_dict() for name, own in fitted.networks.items()},
        "stacking": None if fitted.stacking is None else fitted.stacking.as_dict(),
        "selected": fitted.selected,
    }
    finished = FinishedRun(
        metrics=fitted.metrics,
        config={**config, "settings": run.settings},
        rows=examples,
        history=read_history(run.directory),
    )
    run.finish(
        config=config,
        tensors=network_tensors(fitted.networks),
        metrics=fitted.metrics,
        card=card(finished),
        report=lambda: render(finished),
    )
