"""Finished runs of each task type, as the files in their folders describe them, without any fit."""

import json

import numpy as np
import pandas as pd
import torch

from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import MAIN_METRIC, compare_models
from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots.fit_page import card
from subquad.bio.settings import ALPHABETS
from subquad.runs.folder import open_run
from subquad.runs.storage import write_json

ROWS, LENGTH = 67, 23


def noisy(random, y, size):
    return y + random.normal(0, size, np.shape(y))


def target_and_predictions(task_type, random):
    """Return a target and predictions of five models, Lyra's the best."""
    noise = {"ridge": 0.7, "boosting": 0.5, "lyra": 0.3, "ensemble-without-lyra": 0.45, "ensemble": 0.4}
    if task_type == "pairs":
        y = [np.array([[0, 11], [1, 10], [2, 9]]) for _ in range(ROWS)]
        square = []
        for row in range(ROWS):
            P = np.zeros((LENGTH, LENGTH))
            for i, j in y[row][: 1 + row % 3]:
                P[i, j] = P[j, i] = 0.9
            square.append(P)
        models = ("vienna", "vienna_bpp", *list(noise)[2:])
        return Target(task_type=task_type, y=y), dict.fromkeys(models, square)
    if task_type == "regression":
        y = random.normal(size=(ROWS, 1))
        return Target(task_type=task_type, y=y, names=("score",)), {m: noisy(random, y, s) for m, s in noise.items()}
    if task_type == "residue_regression":
        y = random.normal(size=(ROWS, LENGTH))
        y[:, -3:] = np.nan
        predicted = {m: noisy(random, np.nan_to_num(y), s)[..., None] for m, s in noise.items()}
        return Target(task_type=task_type, y=y, names=("order",)), predicted
    if task_type == "multilabel":
        y = (random.random((ROWS, 2)) < 0.4).astype(float)
        predicted = {m: np.clip(noisy(random, 0.2 + 0.6 * y, s / 2), 0, 1) for m, s in noise.items()}
        return Target(task_type=task_type, y=y, names=("liver", "brain")), predicted
    shape = (ROWS, LENGTH) if task_type.startswith("residue") else (ROWS,)
    count = 3 if task_type.endswith("multiclass") else 2
    y = random.integers(0, count, shape)
    predicted = {}
    for model, size in noise.items():
        logits = noisy(random, 2.0 * np.eye(count)[y], 3 * size)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        predicted[model] = p if count > 2 else p[..., 1:]
    dtype = np.int16 if task_type.startswith("residue") else np.int64
    return Target(task_type=task_type, y=y.astype(dtype), classes=("no", "yes", "very")[:count]), predicted


def finished(task_type, seed=0, errors=1.0):
    """Return a finished run as its files describe it; errors of a regression are so many times as large."""
    random = np.random.default_rng(seed)
    target, predictions = target_and_predictions(task_type, random)
    if errors != 1:
        predictions = {name: target.y + errors * (own - target.y) for name, own in predictions.items()}
    first, second, *_ = predictions
    metrics = compare_models(target, predictions) | {
        # as if the additive path, which is left out here, were clearly below
        "wins": "lyra",
        "rows": {"train": 500, "validation": 50, "test": ROWS},
        "cpu_seconds": {name: 7.25 + k for k, name in enumerate(predictions)},
        "seconds": {"read": 0.5, "total": 61.0},
        "parameters": {"lyra": 47_169},
        "memory_mb": 512,
        "weights": {
            "ensemble": {first: 0.3, second: 0.0, "lyra": 0.7},
            "ensemble-without-lyra": {first: 0.45, second: 0.55},
        },
        "leakage": {"exact": 2, "near_duplicates": 5, "definition": "up to 1 substitution", "removed": 7, "marked": 0},
    }
    config = {
        "inputs": {"alphabet": "protein", "wild_type": None, "group": None},
        "file": "assay.csv",
        "target": {"task_type": task_type, "classes": list(target.classes), "names": list(target.names)},
        "split": {"how": "at random", "rows": metrics["rows"]},
        "models": [first, second, "lyra", "ensemble"],
        "networks": {"lyra": {"selected": [{"best_step": 41}, {"best_step": 53}]}},
        "selected": {"ridge": {"penalty": 10.0}, "lyra": [{"best_step": 41, "steps": 100}]},
        "settings": {"seed": seed, "fingerprint": "0123456789abcdef", "split_by": "random", "epochs": 7 * errors},
    }
    history = [{"part": "lyra", "step": k, "loss": 1 / k} for k in range(1, 31)]
    history += [{"part": "lyra", "step": k, f"validation_{MAIN_METRIC[task_type]}": k / 30} for k in (10, 20, 30)]
    sequences = ["".join(random.choice(list(ALPHABETS["protein"]), LENGTH)) for _ in range(ROWS)]
    return FinishedRun(metrics=metrics, config=config, rows=rows_of(target, predictions, sequences), history=history)


def rows_of(target, predictions, sequences):
    task_type = target.task_type
    if task_type.startswith("residue") or task_type == "pairs":
        rows = []
        for k, sequence in enumerate(sequences):
            own = {"row": k + 1, "sequence": sequence}
            if task_type == "pairs":
                own["measured"] = target.y[k].tolist()
                own |= {m: np.argwhere(np.triu(p[k]) > 0.5).tolist() for m, p in predictions.items()}
            else:
                own["measured"] = [None if np.isnan(y) else float(y) for y in target.y[k].astype(float)]
                own |= {m: p[k].tolist() for m, p in predictions.items()}
            rows.append(own)
        return rows
    frame = pd.DataFrame({"row": np.arange(ROWS) + 1, "sequence": sequences, "mutations": np.arange(ROWS) % 3})
    many = target.classes if task_type == "multiclass" else target.names if task_type == "multilabel" else ()
    if target.classes:
        frame["measured"] = np.asarray(target.classes)[target.y]
    else:
        for k, name in enumerate(target.names):
            frame[f"measured:{name}" if many else "measured"] = target.y[:, k]
    for model, p in predictions.items():
        for k in range(p.shape[1]):
            frame[f"{model}:{many[k]}" if many else model] = p[:, k]
    return frame


def folder(directory, task_type, **options):
    finished_run = finished(task_type, **options)
    run = open_run(directory, kind="bio", settings=finished_run.config["settings"], force=False)
    if isinstance(finished_run.rows, list):
        write_json(run.directory / "test.json", finished_run.rows)
    else:
        finished_run.rows.to_csv(run.directory / "test.csv", index=False)
    (run.directory / "history.jsonl").write_text("\n".join(map(json.dumps, finished_run.history)))
    config = {name: value for name, value in finished_run.config.items() if name != "settings"}
    tensors = {"w": torch.zeros(1)}
    metrics = dict(finished_run.metrics)
    write_json(run.directory / "bootstrap.json", metrics.pop("bootstrap"))
    run.finish(config=config, tensors=tensors, metrics=metrics, card=card(finished_run), report=lambda: "")
    return finished_run
