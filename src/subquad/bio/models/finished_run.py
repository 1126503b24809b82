"""A finished run as its pages read it: metrics, configuration, training history, and test rows or sequences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.compared_models import COMPARED_MODELS, names_of
from subquad.bio.data.dataset import ROW_TASK_TYPES, TaskType
from subquad.bio.metrics.scores import BOOTSTRAP, MIN_TEST_ROWS, overall, title
from subquad.errors import SubquadError
from subquad.runs.checksums import check_if_present
from subquad.runs.examples import run_folder
from subquad.runs.folder import CONFIG, METRICS, load_config
from subquad.runs.history import HISTORY, read_history
from subquad.runs.records import check_record, damaged, read_record, shown
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
REMEDY = "fit again, or copy the whole folder again"


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
    """Return the test rows of a run: sequences, groups, variants and measured classes as text, the rest as numbers.

    Raises:
        SubquadError: The file is missing or damaged.
    """
    path = Path(directory) / TEST_ROWS
    text: Any = dict.fromkeys(("sequence", "group", "mutant"), str)
    if task_type in ("binary", "multiclass"):
        text["measured"] = str
    # a group or class named NA is not a missing value
    try:
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise SubquadError(f"{path}: missing or damaged ({error}); fit again") from error


def read_finished_run(directory: Path | str) -> FinishedRun:
    """Return the finished run in a folder.

    Raises:
        SubquadError: There is none, or a file of it is damaged.
    """
    directory = run_folder(directory)
    config, metrics = load_config(directory, "bio"), read_record(directory / METRICS, remedy=REMEDY)
    if "test" not in metrics:
        raise SubquadError(f"{directory}: a saved estimator, which has no test rows to report on")
    _check_metrics(metrics, directory / METRICS)
    _check_config(config, directory / CONFIG, networks=metrics["parameters"])
    check_if_present(directory / METRICS)
    if metrics["task_type"] not in ROW_TASK_TYPES:
        rows = read_json(directory / TEST_SEQUENCES)
        if not rows or not isinstance(rows, list):
            raise damaged(directory / TEST_SEQUENCES, "there is no list of test sequences", remedy=REMEDY)
    else:
        rows = read_test_rows(directory, metrics["task_type"])
        _check_rows(rows, directory / TEST_ROWS, metrics, config["target"])
    config = {**config, "settings": config["subquad"]["settings"]}
    history = read_history(directory)
    for part in dict.fromkeys(entry["part"] for entry in history):
        # several networks of one model are numbered
        if not {part, part.rpartition(" ")[0]} & {*COMPARED_MODELS}:
            raise damaged(directory / HISTORY, f"part is {shown(part)}, which is no model", remedy=REMEDY)
    return FinishedRun(
        metrics=metrics,
        config=config,
        rows=rows,
        history=history,
    )


def _check_rows(rows: pd.DataFrame, path: Path, metrics: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Check that the test rows have the columns of a run, with numbers and its classes.

    Raises:
        SubquadError: They have not.
    """
    numbers, outputs = ["row"], [*target["names"], *map(str, target["classes"])]
    for name in ["measured", *metrics["test"]]:
        own = [name] if name in rows else [f"{name}:{output}" for output in outputs if f"{name}:{output}" in rows]
        if metrics["task_type"] == "multiclass" and name != "measured":
            own = [f"{name}:{output}" for output in map(str, target["classes"])]
        elif metrics["task_type"] == "multilabel" or not own:
            own = [f"{name}:{output}" for output in target["names"]]
        if name != "measured" or metrics["task_type"] not in ("binary", "multiclass"):
            numbers += own
    missing = [name for name in ("sequence", *numbers) if name not in rows]
    if missing:
        raise damaged(path, f"has no column {missing[0]}", remedy=REMEDY)
    texts = [name for name in numbers if not pd.api.types.is_numeric_dtype(rows[name])]
    if texts or rows["row"].isna().to_numpy().any():
        raise damaged(path, f"column {[*texts, 'row'][0]} has values that are no numbers", remedy=REMEDY)
    has_classes = metrics["task_type"] in ("binary", "multiclass")
    known = {*map(str, target["classes"])}
    if has_classes and not ("measured" in rows and {*rows["measured"].astype(str)} <= known):
        raise damaged(path, "column measured has values that are no classes of the run", remedy=REMEDY)


def _check_metrics(metrics: dict[str, Any], path: Path) -> None:
    types = dict.fromkeys(("test", "rows", "seconds", "cpu_seconds", "differences", "parameters", "weights"), dict)
    types |= {name: dict for name in ("undefined", "intervals") if name in metrics}
    check_record(metrics, path, remedy=REMEDY, task_type=TaskType, main_metric=str, **types)
    check_record(metrics["rows"], f"{path}: rows", remedy=REMEDY, train=int, validation=int, test=int)
    check_record(metrics["seconds"], f"{path}: seconds", remedy=REMEDY, total=float)
    for name, kind in (("cpu_seconds", float), ("weights", dict), ("differences", dict), ("parameters", int)):
        each: dict[str, Any] = dict.fromkeys(metrics[name], kind)
        check_record(metrics[name], f"{path}: {name}", remedy=REMEDY, **each)
    if not metrics["test"]:
        raise damaged(path, "test has no model", remedy=REMEDY)
    main: str = metrics["main_metric"]
    kind = float | None if main in metrics.get("undefined", {}) else float
    for name, own in metrics["test"].items():
        check_record(own, f"{path}: test: {name}", remedy=REMEDY, **{main: kind})


def _check_config(config: dict[str, Any], path: Path, *, networks: Mapping[str, Any]) -> None:
    types: dict[str, Any] = dict.fromkeys(("inputs", "target", "split", *(["networks"] if networks else [])), dict)
    check_record(config, path, remedy=REMEDY, models=list[str], file=str, **types)
    if not config["models"]:
        raise damaged(path, "models has no model", remedy=REMEDY)
    if networks:
        check_record(config["networks"], f"{path}: networks", remedy=REMEDY, **dict.fromkeys(networks, dict))
    check_record(config["split"], f"{path}: split", remedy=REMEDY, how=str)
    check_record(config["target"], f"{path}: target", remedy=REMEDY, names=list[str], classes=list)
    check_record(config["subquad"], f"{path}: subquad", remedy=REMEDY, settings=dict)
    stamp = f"{path}: subquad: settings"
    check_record(config["subquad"]["settings"], stamp, remedy=REMEDY, seed=int, fingerprint=str)


def read_bootstrap(folder: Path, models: Iterable[str]) -> dict[str, list[float | None]]:
    """Return the main metric of each model of a finished run in bootstrap samples of its test rows; None: undefined.

    Raises:
        SubquadError: The file is missing or damaged.
    """
    types = dict.fromkeys(models, list[float | None])
    return read_record(folder / BOOTSTRAP, remedy=REMEDY, **types)
