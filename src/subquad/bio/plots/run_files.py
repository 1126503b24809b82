"""What a finished run left, as its report reads it: figures, facts, and test rows or sequences. Reads files only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.scores import MAIN_METRIC, MIN_TEST_ROWS, title
from subquad.errors import SubquadError
from subquad.runs.folder import load_config
from subquad.runs.history import HISTORY
from subquad.runs.storage import read_json

__all__ = ["WORDS", "Finished", "best", "read_history", "read_run", "silence", "winner"]

WORDS = {
    "net": "net (Lyra)",
    "ridge": "ridge",
    "boosting": "gradient boosting",
    "stack": "stack of all",
    "paper": "Lyra as published",
    "auto": "Lyra, preset auto",
    "vienna": "ViennaRNA, least free energy",
    "vienna_bpp": "ViennaRNA, pair probabilities",
}
SIMPLE_FIRST = ("ridge", "vienna", "vienna_bpp", "boosting", "paper", "auto", "net")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run."""

    metrics: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: Any
    """Measured and predicted: a frame of the test rows, or a list of examples of residues or base pairs."""
    history: Sequence[Mapping[str, Any]]

    @property
    def task_type(self) -> str:
        """Of the target."""
        return self.metrics["task_type"]

    @property
    def main(self) -> str:
        """Name of the figure that decides."""
        return self.metrics.get("main_metric", MAIN_METRIC[self.task_type])

    @property
    def title(self) -> str:
        """What people call that figure."""
        return title(self.main)

    @property
    def models(self) -> list[str]:
        """Names of all that was compared."""
        return list(self.metrics["test"])

    @property
    def names(self) -> list[str]:
        """Columns of measurements or labels."""
        return list(self.facts["target"]["names"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in self.facts["target"]["classes"]]

    @property
    def figures(self) -> list[str]:
        """Figures of all columns together."""
        return [name for name in self.metrics["test"][self.models[0]] if ":" not in name]

    @property
    def unmeasured(self) -> Mapping[str, str]:
        """Figures that the test rows cannot measure, and what is lacking."""
        return self.metrics.get("undefined", {})

    @property
    def winner(self) -> str | None:
        """Who has the best main figure; None where the test rows name no winner."""
        return winner(self.metrics)

    @property
    def best_single(self) -> str:
        """Who has the best main figure, the stack aside."""
        return best({**self.metrics, "test": {k: v for k, v in self.metrics["test"].items() if k != "stack"}})

    def figure(self, model: str, name: str) -> float | None:
        """Return a figure of the test rows; None where they cannot measure it."""
        return None if name in self.unmeasured else self.metrics["test"][model].get(name)

    def column(self, model: str, name: str) -> np.ndarray:
        """Return measured or predicted numbers of the test rows."""
        column = model if model in self.rows else f"{model}:{name}"
        return self.rows[column].to_numpy(dtype=float)

    def probabilities(self, model: str) -> np.ndarray:
        """Return `(n, K)` predicted probabilities of the test rows: of the classes, or of the labels."""
        if self.task_type == "binary":
            own = self.rows[model].to_numpy(dtype=float)
            return np.stack([1 - own, own], axis=1)
        wanted = self.names if self.task_type == "multilabel" else self.classes
        return np.stack([self.column(model, name) for name in wanted], axis=1)

    def measured_classes(self) -> np.ndarray:
        """Return places of the measured classes of the test rows."""
        place = {name: k for k, name in enumerate(self.classes)}
        return self.rows["measured"].astype(str).map(place).to_numpy(dtype=int)


def silence(metrics: Mapping[str, Any]) -> str:
    """Return why the test rows name no winner, in words; nothing where they name one."""
    rows, main = metrics["rows"]["test"], metrics.get("main_metric", MAIN_METRIC[metrics["task_type"]])
    unit = "row" if metrics["task_type"] in ROW_TASK_TYPES else "sequence"
    unit = f"{rows:,} test {unit}{'s' if rows != 1 else ''}"
    lacking = metrics.get("undefined", {}).get(main)
    if lacking:
        return f"{lacking} among the {unit}: {title(main)} cannot be measured"
    return f"{unit} only: fewer than {MIN_TEST_ROWS} tell no model from another" if rows < MIN_TEST_ROWS else ""


def winner(metrics: Mapping[str, Any]) -> str | None:
    """Return the `best`; None where there are too few test rows to say so, or what decides cannot be measured."""
    return None if silence(metrics) else best(metrics)


def best(metrics: Mapping[str, Any]) -> str:
    """Return who has the best main figure on the test rows; the simpler one where two are level."""
    test = metrics["test"]
    main = metrics.get("main_metric") or next(name for name in MAIN_METRIC.values() if name in test["net"])
    known = [name for name in SIMPLE_FIRST if name in test]
    return max([*known, *(name for name in test if name not in known)], key=lambda name: test[name][main])


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's history."""
    path = directory / HISTORY
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read_run(directory: Path | str) -> Finished:
    """Return a finished run from its folder.

    Raises:
        SubquadError: there is none.
    """
    directory = Path(directory)
    config = load_config(directory, "bio")
    facts = {**config, "settings": config["subquad"]["settings"]}
    metrics = read_json(directory / "metrics.json")
    if "test" not in metrics:
        raise SubquadError(f"{directory}: an estimator was saved here, without test rows that a report could be of")
    if metrics["task_type"] not in ROW_TASK_TYPES:
        rows = read_json(directory / "test.json")
    else:
        text = dict.fromkeys(("sequence", "group", "mutant"), str)
        if metrics["task_type"] in ("binary", "multiclass"):
            text["measured"] = str
        # a group or class called NA is no missing value
        rows = pd.read_csv(directory / "test.csv", dtype=text, keep_default_na=False, na_values=[""])
    return Finished(metrics=metrics, facts=facts, rows=rows, history=read_history(directory))
