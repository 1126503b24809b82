"""Predictions as people read them: columns of a table, and the test sequences that the report shows."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import Target
from subquad.bio.data.table import Table
from subquad.bio.data.variants import renumbered
from subquad.bio.metrics.base_pairs import decode_pairs, dot_bracket
from subquad.bio.metrics.conformal import Conformal
from subquad.bio.models.fitted import BioModel, ensemble_mean

__all__ = ["add_predictions", "test_examples", "test_frame"]

INTERVAL = 0.9


def add_predictions(read: Table, model: BioModel, by: str) -> pd.DataFrame:
    """Return the table with predictions of the net, a rival or the stack in further columns."""
    members = model.nets.predict_each(read.inputs) if by == "net" else []
    prediction, frame = ensemble_mean(members) if members else model.predict_by(by, read.inputs), read.frame.copy()
    spread = np.std(members, axis=0, ddof=1) if len(members) > 1 and model.task_type != "pairs" else None
    classes, names = model.classes, model.names
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
            frame["prediction"] = [_brackets(values) for values in prediction]
        case _:
            lengths = read.inputs.lengths
            own = (prediction[row, :length] for row, length in enumerate(lengths))
            frame["prediction"] = [_residues(values, model.task_type, classes) for values in own]
    return frame


def test_frame(read: Table, rows: np.ndarray, predictions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return measured and predicted values of the test rows, one column a model (and name or class, where several)."""
    target = read.target.take(rows)
    frame = pd.DataFrame({"row": rows + 1, "sequence": [read.sequences[row] for row in rows]})
    if read.groups is not None:
        frame["group"] = read.groups[rows]
    if read.mutants is not None:
        offset = read.schema.offset
        frame["mutant"] = [renumbered(read.mutants[row], offset) for row in rows]
        frame["mutations"] = [len(read.mutants[row].split(":")) if read.mutants[row] else 0 for row in rows]
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
    """Return the first test sequences with what was measured and predicted of their residues or base pairs."""
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
    """Add the interval of each column of measurements; empty where too few rows could promise one."""
    for k, said in enumerate(model.config["selected"].get("conformal", {}).get(by, ())):
        if said is None:
            continue
        end = "" if len(model.names) == 1 else f"_{model.names[k]}"
        own = None if spread is None else spread[:, k]
        for side, values in zip(
            ("low", "high"), Conformal.from_dict(said).interval(prediction[:, k], own, INTERVAL), strict=True
        ):
            frame[f"prediction_{side}{end}"] = np.where(np.isfinite(values), values, np.nan)


def _residues(values: np.ndarray, task_type: str, classes: list[str]) -> str:
    if task_type != "residue_multiclass":
        return json.dumps(np.round(values[:, 0], 4).tolist())
    chosen = [classes[k] for k in values.argmax(1)]
    return "".join(chosen) if all(len(name) == 1 for name in classes) else json.dumps(chosen)


def _brackets(values: np.ndarray) -> str:
    """Return the structure as dots and brackets, or as a list of pairs from 1 where pairs cross."""
    pairs = np.asarray(decode_pairs(values)).reshape(-1, 2)
    crosses = any(i < k < j < m for i, j in pairs for k, m in pairs)
    if crosses:
        return json.dumps((pairs + 1).tolist())
    return dot_bracket(pairs, len(values))
