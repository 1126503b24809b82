"""A finished run as its pages read it: metrics, configuration, training history, and test rows or sequences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.compared_models import COMPARED_MODELS, names_of
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.data.names import folder_and_config
from subquad.bio.metrics.scores import BOOTSTRAP, MIN_TEST_ROWS, overall, title
from subquad.errors import SubquadError, reading
from subquad.runs.folder import METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import read_json

__all__ = [
    "TEST_ROWS",
    "TEST_SEQUENCES",
    "FinishedRun",
    "best_model",
    "best_single",
    "lead_of",
    "no_comparison",
    "read_bootstrap",
    "read_finished_run",
    "read_test_rows",
]

TEST_ROWS = "test.csv"
"""File of a run with its test rows, measured and predicted."""
TEST_SEQUENCES = "test.json"
"""The same for values per residue and base pairs: a list of test sequences."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The files of a finished run."""

    metrics: Mapping[str, Any]
    """Contents of `metrics.json`."""
    config: Mapping[str, Any]
    """Contents of `config.json`, and the `settings` of the run."""
    rows: Any
    """Test rows as a data frame, or test sequences as a list, with measured and predicted values."""
    history: Sequence[Mapping[str, Any]]

    @property
    def task_type(self) -> str:
        """Type of the prediction task."""
        return self.metrics["task_type"]

    @property
    def has_classes(self) -> bool:
        """Whether the target is classes or labels, of rows or of residues."""
        return self.task_type not in ("regression", "residue_regression", "pairs")

    @property
    def main(self) -> str:
        """Key of the main metric."""
        return self.metrics["main_metric"]

    @property
    def title(self) -> str:
        """Title of the main metric."""
        return title(self.main)

    @property
    def models(self) -> list[str]:
        """Names of the compared models."""
        return list(self.metrics["test"])

    @property
    def names(self) -> list[str]:
        """Target columns."""
        return list(self.config["target"]["names"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in self.config["target"]["classes"]]

    @property
    def metric_names(self) -> list[str]:
        """Keys of the metrics over all columns."""
        return overall(self.metrics["test"][self.models[0]])

    @property
    def undefined(self) -> Mapping[str, str]:
        """Metrics that the test rows do not define, and why."""
        return self.metrics.get("undefined", {})

    @property
    def best(self) -> str | None:
        """Model with the best main metric; None if the test rows cannot tell."""
        return None if no_comparison(self.metrics) else best_model(self.metrics)

    @property
    def best_single(self) -> str:
        """Model with the best main metric, without ensembles."""
        return best_single(self.metrics)

    @property
    def shown(self) -> str:
        """Model that figures show: the one that `predict` takes by default."""
        return self.config["models"][-1]

    def metric(self, model: str, name: str) -> float | None:
        """Return a metric of the test rows; None if they do not define it."""
        return None if name in self.undefined else self.metrics["test"][model].get(name)

    def interval(self, model: str, name: str) -> Sequence[float] | None:
        """Return the 95 % interval of a metric, if it is known."""
        return self.metrics.get("intervals", {}).get("test", {}).get(model, {}).get(name)

    def column(self, model: str, name: str) -> np.ndarray:
        """Return the measured or predicted values of a target column for the test rows."""
        column = model if model in self.rows else f"{model}:{name}"
        return self.rows[column].to_numpy(dtype=float)

    def probabilities(self, model: str) -> np.ndarray:
        """Return `(n, K)` predicted probabilities of the classes or labels for the test rows."""
        if self.task_type == "binary":
            own = self.rows[model].to_numpy(dtype=float)
            return np.stack([1 - own, own], axis=1)
        wanted = self.names if self.task_type == "multilabel" else self.classes
        return np.stack([self.column(model, name) for name in wanted], axis=1)

    def measured_classes(self) -> np.ndarray:
        """Return the indices of the measured classes of the test rows."""
        index = {name: k for k, name in enumerate(self.classes)}
        return self.rows["measured"].astype(str).map(index).to_numpy(dtype=int)


def no_comparison(metrics: Mapping[str, Any]) -> str:
    """Return why the test rows cannot tell which model is best; empty if they can."""
    rows, main = metrics["rows"]["test"], metrics["main_metric"]
    unit = "row" if metrics["task_type"] in ROW_TASK_TYPES else "sequence"
    unit = f"{rows:,} test {unit}{'s' if rows != 1 else ''}"
    reason = metrics.get("undefined", {}).get(main)
    if reason:
        return f"{reason} among the {unit}, so that {title(main)} is undefined"
    return f"{unit}, fewer than the {MIN_TEST_ROWS} that a comparison needs" if rows < MIN_TEST_ROWS else ""


def best_model(metrics: Mapping[str, Any]) -> str:
    """Return the model with the best main metric on the test rows; of equal ones the simplest."""
    test, main = metrics["test"], metrics["main_metric"]
    return max((name for name in COMPARED_MODELS if name in test), key=lambda name: test[name][main])


def best_single(metrics: Mapping[str, Any]) -> str:
    """Return the model with the best main metric on the test rows, without ensembles."""
    single = {name: own for name, own in metrics["test"].items() if name not in names_of("ensemble")}
    return best_model({**metrics, "test": single})


def lead_of(metrics: Mapping[str, Any]) -> str:
    """Return whether the best single model is clearly better than all others, and whether none is better than a mean.

    Empty if there are no others, and it is better.
    """
    texts = []
    if len([name for name in metrics["test"] if name not in names_of("ensemble")]) > 1:
        is_clear = metrics.get("wins") == best_single(metrics)
        seeds = "; training seeds were not varied" if is_clear else ""
        texts.append(f"It is {'' if is_clear else 'not '}clearly better than every other single model{seeds}.")
    highest = max(own.get("r2", 1.0) for own in metrics["test"].values())
    if highest <= 0:
        texts.append(f"No model is closer to the test rows than their mean (R² of at most {highest:.3f}).")
    return " ".join(texts)


def read_test_rows(directory: Path | str, task_type: str) -> pd.DataFrame:
    """Return the test rows of a run: sequences, groups, variants and measured classes as text, the rest as numbers."""
    path = Path(directory) / TEST_ROWS
    text: Any = dict.fromkeys(("sequence", "group", "mutant"), str)
    if task_type in ("binary", "multiclass"):
        text["measured"] = str
    # a group or class named NA is not a missing value
    with reading(path, "test rows"):
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def read_finished_run(directory: Path | str) -> FinishedRun:
    """Return the finished run in a folder.

    Raises:
        SubquadError: There is none, or a file of it is damaged.
    """
    directory, config = folder_and_config(directory)
    metrics = read_json(directory / METRICS)
    with reading(directory, "a finished run"):
        if "test" not in metrics:
            raise SubquadError(f"{directory}: a saved estimator, which has no test rows to report on")
        is_row = metrics["task_type"] in ROW_TASK_TYPES
        return FinishedRun(
            metrics=metrics,
            config={**config, "settings": config["subquad"]["settings"]},
            rows=read_test_rows(directory, metrics["task_type"]) if is_row else read_json(directory / TEST_SEQUENCES),
            history=read_history(directory),
        )


def read_bootstrap(folder: Path, models: Iterable[str]) -> dict[str, list[float | None]]:
    """Return the main metric of each model of a finished run in bootstrap samples of its test rows; None: undefined."""
    with reading(folder / BOOTSTRAP, "bootstrap samples"):
        samples = read_json(folder / BOOTSTRAP)
        return {name: samples[name] for name in models}
