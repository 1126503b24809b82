"""Prediction output: columns of a table, and the test rows and sequences that the report shows."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import Target
from subquad.bio.data.table import Table
from subquad.bio.data.variants import renumbered
from subquad.bio.metrics.base_pairs import decode_pairs, dot_bracket
from subquad.bio.models.fitted import BioModel

__all__ = ["add_predictions", "test_examples", "test_frame"]


def add_predictions(read: Table, model: BioModel, by: str) -> pd.DataFrame:
    """Return the table, n rows, with the predictions of a model in additional columns.

    These are `prediction` (one measurement, class, structure, or text of all residues), or `prediction_NAME` for each
    of several columns or labels; `prediction_class` of two classes, `probability_CLASS` of several; `prediction_std`
    and the interval, where known.

    Args:
        read: The table.
        model: The models of a run.
        by: Name of the one that predicts.
    """
    frame, classes, names = read.frame.copy(), model.classes, model.names
    members = model.members(read.inputs, by)
    prediction, spread = members.mean, members.std()
    match model.task_type:
        case "regression" if len(names) == 1:
            frame["prediction"] = prediction[:, 0]
            if spread is not None:
                frame["prediction_std"] = spread[:, 0]
            _add_intervals(frame, model, by, prediction, spread)
        case "regression" | "multilabel":
            for k, name in enumerate(names):
                frame[f"prediction_{name}"] = prediction[:, k]
            _add_intervals(frame, model, by, prediction, spread)
        case "binary":
            frame["prediction"] = prediction[:, 0]
            frame["prediction_class"] = np.asarray(classes, dtype=object)[(prediction[:, 0] > 0.5).astype(int)]
            if spread is not None:
                frame["prediction_std"] = spread[:, 0]
        case "multiclass":
            frame["prediction"] = np.asarray(classes, dtype=object)[prediction.argmax(1)]
            for k, name in enumerate(classes):
                frame[f"probability_{name}"] = prediction[:, k]
        case "pairs":
            frame["prediction"] = [dot_bracket(decode_pairs(values), len(values)) for values in prediction]
        case _:
            own = (prediction[row, :length] for row, length in enumerate(read.inputs.lengths))
            frame["prediction"] = [_residues(values, model.task_type, classes) for values in own]
    return frame


def test_frame(read: Table, rows: np.ndarray, predictions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return measured and predicted values of the test rows, one column per model (and target or class, if several)."""
    assert read.target is not None
    target = read.target.take(rows)
    frame = pd.DataFrame({"row": rows + 1, "sequence": [read.sequences[row] for row in rows]})
    if read.groups is not None:
        frame["group"] = read.groups[rows]
    if read.mutants is not None:
        mutants = [read.mutants[row] for row in rows]
        frame["mutant"] = [renumbered(mutant, read.schema.offset) for mutant in mutants]
        frame["mutations"] = [len(mutant.split(":")) if mutant else 0 for mutant in mutants]
    if target.task_type in ("binary", "multiclass"):
        frame["measured"] = np.asarray(target.classes, dtype=object)[target.y]
    else:
        for k, name in enumerate(_columns(target, "measured")):
            frame[name] = target.y[:, k]
    for model, values in predictions.items():
        for k, name in enumerate(_columns(target, model)):
            frame[name] = values[:, k]
    return frame


def test_examples(read: Table, rows: np.ndarray, predictions: Mapping[str, Any], *, most: int) -> list[dict[str, Any]]:
    """Return the first test sequences with measured and predicted values of their residues or base pairs."""
    assert read.target is not None
    target, lengths, examples = read.target, read.inputs.lengths, []
    for place, row in enumerate(rows[:most]):
        length = int(lengths[row])
        example: dict[str, Any] = {"row": int(row) + 1, "sequence": read.sequences[row]}
        if target.task_type == "pairs":
            example["measured"] = np.asarray(target.y[row]).tolist()
            for model, values in predictions.items():
                example[model] = np.asarray(decode_pairs(values[place])).tolist()
        else:
            known = np.asarray(target.y[row][:length], dtype=float)
            is_known = np.isfinite(known) & (known >= 0 if target.classes else True)
            example["measured"] = [float(y) if there else None for y, there in zip(known, is_known, strict=True)]
            for model, values in predictions.items():
                example[model] = np.round(values[place, :length], 4).tolist()
        examples.append(example)
    return examples


def _columns(target: Target, model: str) -> list[str]:
    """Return the names of a model's columns."""
    if target.task_type == "multiclass" and model != "measured":
        return [f"{model}:{name}" for name in target.classes]
    if target.task_type in ("regression", "multilabel") and len(target.names) > 1:
        return [f"{model}:{name}" for name in target.names]
    return [model]


def _add_intervals(
    frame: pd.DataFrame, model: BioModel, by: str, prediction: np.ndarray, spread: np.ndarray | None
) -> None:
    """Add the interval of each column of measurements; empty if the validation rows were too few for one."""
    for k, name in enumerate(model.names):
        ends = model.interval(prediction[:, k], None if spread is None else spread[:, k], name=by, column=k)
        end = "" if len(model.names) == 1 else f"_{name}"
        for side, limit in zip(("low", "high"), ends or (), strict=False):
            frame[f"prediction_{side}{end}"] = np.where(np.isfinite(limit), limit, np.nan)


def _residues(values: np.ndarray, task_type: str, classes: list[str]) -> str:
    if task_type != "residue_multiclass":
        return json.dumps(np.round(values[:, 0], 4).tolist())
    predicted = [classes[k] for k in values.argmax(1)]
    return "".join(predicted) if all(len(name) == 1 for name in classes) else json.dumps(predicted)
