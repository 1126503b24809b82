"""What commands of `subquad bio` print at their end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subquad.bio.compared_models import ENSEMBLE, label_of
from subquad.bio.metrics.scores import overall, title
from subquad.bio.models.finished_run import best_single, lead_of, no_comparison
from subquad.bio.models.support import interval_text
from subquad.bio.plots.cross_validation_page import mean_cell
from subquad.reporting.tables import print_table

__all__ = [
    "print_folds",
    "print_models",
    "print_round",
    "print_rows",
    "with_intervals",
    "with_short_names",
]


MAX_LETTERS = 24
"""Letters of a name in the first column; longer ones, such as sequences, are shortened."""


def print_models(metrics: dict[str, Any], out: Path) -> None:
    """Print one row of metrics per model, and what comes next."""
    test, weights = metrics["test"], metrics["weights"].get(ENSEMBLE, {})
    # the other metrics, and those of single columns and classes, are in the report
    names = overall(next(iter(test.values())))[:4]
    rows = [
        [
            label_of(model),
            *(None if name in metrics["undefined"] else own[name] for name in names),
            weights.get(model),
            metrics["cpu_seconds"][model],
        ]
        for model, own in test.items()
    ]
    wins, reason = metrics["wins"], no_comparison(metrics)
    header, heading = [*map(title, names), "weight", "CPU seconds"], f"{metrics['rows']['test']:,} test rows"
    print_table(["model", *header], rows, title=heading, best=None if wins is None else list(test).index(wins))
    if reason:
        print(f"No model is named best: {reason}.")
    elif len(test) > 1:
        best, main = best_single(metrics), metrics["main_metric"]
        print(f"Best single model: {label_of(best)}, {title(main)} {test[best][main]:.3f}. {lead_of(metrics)}".rstrip())
    print(f"Wrote {out}/ (report.html, metrics.json, test rows, models).")
    print(f"Next: open {out}/report.html, or subquad bio predict {out} TABLE.csv --out predictions.csv")


def print_folds(metrics: dict[str, Any], out: Path) -> None:
    """Print the mean and standard deviation of the metrics of each model over the folds."""
    mean = metrics["test"]
    names = overall(next(iter(mean.values())))[:6]
    rows = [[label_of(model), *(mean_cell(metrics, model, name) for name in names)] for model in mean]
    heading = f"mean and standard deviation over {len(metrics['rows'])} folds"
    if any(metrics["defined_folds"][name] < len(metrics["rows"]) for name in names):
        heading += ", without those that do not define a metric"
    print_table(["model", *map(title, names)], rows, title=heading)
    # residues and base pairs have none
    predictions = "predictions.csv, " if (out / "predictions.csv").is_file() else ""
    print(f"Wrote {out}/ (report.html, metrics.json, {predictions}a folder per fold).")
    print(f"Next: open {out}/report.html, or subquad bio predict {out}/fold-0 TABLE.csv --out predictions.csv")


def print_round(record: dict[str, Any], out: Path) -> None:
    """Print the batch that a round proposes, and what comes next."""
    number = len(record["rounds"])
    batch = out / f"round-{number}" / "batch.csv"
    if "proposed" in record["rounds"][-1]:
        frame = pd.read_csv(batch)
        names = ("name", "mutants", "mutant", "prediction", "90 % interval", "distance", "well")
        print_rows(with_intervals(frame), [name for name in names if name in frame or "%" in name], "variants")
    print(f"Wrote {out}/ (rounds.html, rounds.json, round-{number}).")
    if "proposed" in record["rounds"][-1]:
        print(f"Next: write the measurements into {batch}, and name it with --measured")


def with_intervals(frame: Any) -> Any:
    """Return a table with its 90 % intervals in one column of text."""
    ends = zip(frame["prediction_low"], frame["prediction_high"], strict=True)
    return frame.assign(**{"90 % interval": [interval_text(low, high) for low, high in ends]})


def with_short_names(frame: Any) -> Any:
    """Return a table with the texts of its first column shortened."""
    texts = frame.iloc[:, 0].astype(str)
    is_long = texts.str.len() > MAX_LETTERS
    return frame.assign(**{str(frame.columns[0]): texts.where(~is_long, texts.str[: MAX_LETTERS - 1] + "…")})


def print_rows(frame: Any, names: Sequence[str], title: str, *, most: int = 10) -> None:
    """Print the first rows of a table, without empty columns."""
    # a column without values, such as the standard deviation of a single network, is not shown
    names = [name for name in names if frame[name].notna().any()]
    shown = frame[names].head(most).astype(object)
    cells = shown.where(shown.notna(), None).to_numpy()
    # the table rounds Python's numbers, not NumPy's
    rows = [[cell.item() if hasattr(cell, "item") else cell for cell in row] for row in cells]
    print_table(names, rows, title=f"first of {len(frame):,} {title}")
