"""`fit` and `predict`: from a table to a saved model with its report, and from a model to predictions."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.analysis.audit import audit
from subquad.bio.data.dataset import PARTS, ROW_TASK_TYPES, Dataset
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import separator_of
from subquad.bio.data.table import Table, read_like, read_table
from subquad.bio.models.fit import FittedModels, check_trainable, fit_models
from subquad.bio.models.fitted import BioModel
from subquad.bio.plots import fit_page as report
from subquad.bio.settings import FitSettings, validate_presets
from subquad.bio.splits.split import Split, check_split_column, make_split
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.folder import Run, open_run
from subquad.runs.storage import as_file, atomic, fingerprint, plain, write_json

__all__ = ["fit", "predict"]

SHOWN = 200
"""Sequences whose residues or pairs are kept in `test.json`, to be looked at."""


def fit(
    table: Path | str,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    presets: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit the rivals, the net and their stack on one split, save them, and return the figures of `metrics.json`.

    Args:
        table: a table or FASTA file of sequences, or of variants, with measurements; see `read_table`.
        settings: which columns to read, how to split, and how to learn.
        out: the folder to write; an unfinished run with the same settings in it goes on.
        presets: of further nets that are fitted to be compared only; the one of the settings comes first.
        seed: of the random split, the order of the rows and the start of the net.
        force: replace what is in the folder.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the table cannot be read, or the folder is taken; nothing has been written then.
    """
    began = time.monotonic()
    settings, path = settings or FitSettings(), resolve_table(table)
    validate_presets(presets)
    read = read_table(path, settings, check=lambda frame: check_split_column(path, frame, settings))
    for remark in read.remarks:
        say(remark, quiet=quiet)
    split = make_split(read, settings, seed=seed)
    say(f"split: {split.how}", quiet=quiet)
    seconds = time.monotonic() - began
    presets = tuple(dict.fromkeys((settings.preset, *presets)))
    asked = {**plain(settings), "presets": list(presets), "seed": seed, "table": path.name}
    asked["fingerprint"] = fingerprint(path)
    dataset = read.with_split(split.parts, split.units)
    try:
        check_trainable(dataset)
        run = open_run(out, kind="bio", settings=asked, force=force)
        if run.is_resumed:
            say(f"{run.directory}: going on with an unfinished run", quiet=quiet)
        compared = fit_models(dataset, settings, presets=presets, directory=run.directory, seed=seed, quiet=quiet)
    except SubquadError as error:
        raise SubquadError(f"{path}: {error}") from error
    metrics = compared.metrics
    metrics["seconds"]["read"] = round(seconds, 2)
    metrics["seconds"]["total"] = round(sum(metrics["seconds"].values()), 2)
    metrics["leakage"], metrics["audit"] = split.leakage.to_json(), audit(read, split)
    if read.groups is not None:
        metrics["groups"] = _by_group(compared, dataset, read.groups)
    _finish(run, read, split, dataset, compared)
    return metrics


def predict(
    directory: Path | str,
    table: Path | str,
    *,
    out: Path | str,
    model: str = "net",
    sequence: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the table with a model's predictions beside its columns, and return it.

    A regression adds `prediction`; several add `prediction_NAME` each, as do several labels. Two classes add
    `prediction`, the probability of the second one, and `prediction_class`; more classes add `prediction`, the
    likeliest, and one `probability_CLASS` each. Residues add `prediction`, a JSON list (of classes: a string or list of
    names), and base pairs a dot-bracket or a JSON list of pairs. `prediction_std` is the spread of the members and
    `prediction_low`, `prediction_high` the 90 % interval (of several, `prediction_low_NAME` …); it is empty where too
    few validation rows could promise it.

    Args:
        directory: the folder that `fit` wrote.
        table: a table with sequences, or with variants where the model learned from variants.
        out: the file to write; `.tsv` and `.gz` at its end say how.
        model: `net`, a rival (`ridge`, `boosting`; of base pairs `vienna`, `vienna_bpp`), or the `stack` of all.
        sequence: column of the sequences; by default the one of the fit, else guessed.
        quiet: no remarks.

    Raises:
        SubquadError: the model or the table cannot be read; nothing has been written then.
    """
    from subquad.bio.models.predictions import add_predictions

    fitted, out, path = BioModel.load(directory), as_file(out), resolve_table(table)
    read = read_like(path, fitted.schema, sequence=sequence)
    taken = [name for name in read.frame.columns if name.startswith(("prediction", "probability_"))]
    if taken:
        raise SubquadError(f"{path}: has a column {taken[0]!r} already; rename it, so that it is not overwritten")
    for remark in [*read.remarks, *fitted.warn_unobserved(read.inputs)]:
        say(remark, quiet=quiet)
    frame = add_predictions(read, fitted, model)
    if any(name.startswith("prediction_low") and frame[name].isna().all() for name in frame):
        say("there is no 90 % interval: it takes nine validation rows, and the fit had fewer", quiet=quiet)
    # the compression is that of the name, which the temporary file shares
    with atomic(out) as temporary:
        frame.to_csv(temporary, index=False, sep=separator_of(out))
    return frame


def _by_group(compared: FittedModels, dataset: Dataset, groups: np.ndarray) -> dict[str, dict[str, float]]:
    from subquad.bio.metrics.scores import by_group

    _, truth = dataset.part("test")
    own, result = groups[dataset.split["test"]], {}
    for model, prediction in compared.predictions.items():
        for group, value in by_group(truth, prediction, own).items():
            result.setdefault(str(group), {})[model] = value
    return result


def _finish(run: Run, read: Table, split: Split, dataset: Dataset, compared: FittedModels) -> None:
    from subquad.bio.models.predictions import test_examples, test_frame

    rows = dataset.split["test"]
    if dataset.target.task_type in ROW_TASK_TYPES:
        examples = test_frame(read, rows, compared.predictions)
        with atomic(run.directory / "test.csv") as temporary:
            examples.to_csv(temporary, index=False)
    else:
        examples = test_examples(read, rows, compared.predictions, most=SHOWN)
        write_json(run.directory / "test.json", examples)
    train = dataset.inputs.codes[dataset.split["train"]]
    facts = {
        "inputs": read.schema.to_json(),
        "target": {"task_type": dataset.target.task_type, "classes": list(read.target.classes), "names": list(read.target.names)},
        "observed_letters": [np.unique(column).tolist() for column in train.T] if dataset.inputs.is_aligned else None,
        "file": read.path.name,
        "split": {"how": split.how, "rows": {part: len(dataset.split[part]) for part in PARTS}},
        "model": compared.net.as_dict(),
        "stacking": compared.stack.as_dict(),
        "positions": None if compared.positions is None else compared.positions.tolist(),
        "selected": compared.chosen,
    }
    said = {**facts, "settings": run.settings}
    history = report.read_history(run.directory)
    run.finish(
        config=facts,
        tensors=compared.net.tensors(),
        metrics=compared.metrics,
        card=report.card(compared.metrics, said),
        report=report.render(compared.metrics, said, examples, history),
    )
