"""Page that compares finished runs: their settings, metrics, and paired differences on the same test rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.compared_models import COMPARED_MODELS, label_of
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.scores import MIN_TEST_ROWS, verdict
from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots.figures import forest
from subquad.errors import SubquadError
from subquad.reporting.page import Block, Section, Table, page, picture, signed
from subquad.reporting.run_comparison import seeds_text

__all__ = ["check_comparable", "comparison_page"]

Runs = Mapping[str, FinishedRun]
IGNORED_SETTINGS = ("fingerprint", "processes", "table")
MAX_SETTING = 60
"""Characters of a setting that are shown."""


def check_comparable(runs: Runs) -> None:
    """Check that runs predict the same target.

    Args:
        runs: Finished runs by name.

    Raises:
        SubquadError: Runs differ in their task type or target.
    """
    (first, one), *others = runs.items()
    for name, other in others:
        for what, a, b in (
            ("task type", one.task_type, other.task_type),
            ("target", ", ".join(one.names), ", ".join(other.names)),
        ):
            if a != b:
                raise SubquadError(
                    f"{name}: its {what} is {b}, that of {first} is {a}; only runs of the same target can be compared"
                )


def comparison_page(runs: Runs, bootstraps: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Return the page that compares runs.

    Args:
        runs: At least two finished runs of the same target, by name.
        bootstraps: Contents of each run's `bootstrap.json`.
    """
    (name, first), *others = runs.items()
    gaps = {
        (name, other): _gaps(first, run, bootstraps[name], bootstraps[other])
        for other, run in others
        if _are_paired(first, run)
    }
    values = "; ".join(f"{name} {_value(run, run.shown)}" for name, run in runs.items())
    lead = f"{first.title} of the model that `predict` uses: {values}. {_verdict(runs, gaps)}"
    title = f"Comparison of {len(runs)} runs: {', '.join(first.names[:3])}"
    return page(title, lead=lead, sections=[
        Section("Metrics", _metrics(runs)),
        Section("Differences on the same test rows", _differences(gaps, first.title, seeds=_seeds(runs))),
        Section("Runs", _about(runs)),
    ])  # fmt: skip


def _are_paired(one: FinishedRun, other: FinishedRun) -> bool:
    """Return whether two runs have the same test rows in the same order, and the same bootstrap samples of them."""
    # what is resampled together
    if one.config["settings"]["split_by"] != other.config["settings"]["split_by"]:
        return False
    if one.config["inputs"]["group"] != other.config["inputs"]["group"]:
        return False
    if one.task_type not in ROW_TASK_TYPES:
        keys = ("sequence", "measured")
        return [[row.get(key) for key in keys] for row in one.rows] == [
            [row.get(key) for key in keys] for row in other.rows
        ]
    columns = [
        name for name in one.rows if name == "sequence" or str(name).startswith(("measured", "partner", "group"))
    ]
    if len(one.rows) != len(other.rows) or not set(columns) <= set(other.rows):
        return False
    return one.rows[columns].equals(other.rows[columns])


def _gaps(
    one: FinishedRun,
    other: FinishedRun,
    draws: Mapping[str, Sequence[float | None]],
    other_draws: Mapping[str, Sequence[float | None]],
) -> dict[str, dict[str, float]]:
    """Return by how much the second run is higher, for each model of both, and for what each predicts by.

    There are no differences if the test rows do not define the metric.
    """
    pairs = {label_of(name): (name, name) for name in COMPARED_MODELS if name in draws and name in other_draws}
    if one.shown != other.shown:
        pairs[f"{label_of(other.shown)} − {label_of(one.shown)}"] = (one.shown, other.shown)
    found = {}
    for label, (name, other_name) in pairs.items():
        # equal test rows have equal bootstrap samples, so that the differences are paired
        drawn = pd.Series(other_draws[other_name], dtype=float) - pd.Series(draws[name], dtype=float)
        if drawn.isna().all():
            continue
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        value = other.metrics["test"][other_name][one.main] - one.metrics["test"][name][one.main]
        found[label] = {"value": value, "low": float(low), "high": float(high)}
    return found


def _verdict(runs: Runs, gaps: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]) -> str:
    if not gaps:
        return "Their test rows differ, so that small differences between these values mean nothing."
    texts = []
    for (a, b), own in gaps.items():
        if not own:
            texts.append(f"{b} against {a}: {runs[a].title} is undefined on the test rows.")
            continue
        shown, other = runs[a].shown, runs[b].shown
        label = label_of(shown) if shown == other else f"{label_of(other)} − {label_of(shown)}"
        gap = own[label]
        ends = f"{signed(gap['value'], 4)}, 95 % interval {signed(gap['low'], 4)} to {signed(gap['high'], 4)}"
        is_short = runs[a].metrics["rows"]["test"] < MIN_TEST_ROWS
        texts.append(f"{b} against {a}: {'too few test rows' if is_short else verdict(gap)} ({ends}).")
    return f"{' '.join(texts)} {_seeds(runs)}"


def _seeds(runs: Runs) -> str:
    return seeds_text([run.config["settings"] for run in runs.values()])


def _metrics(runs: Runs) -> list[Block]:
    models = [name for name in COMPARED_MODELS if any(name in run.models for run in runs.values())]
    main = next(iter(runs.values())).title
    rows, cells = [], []
    for model in models:
        line: list[str | None] = [label_of(model)]
        for name, run in runs.items():
            if model not in run.models:
                line.append(None)
                continue
            value = run.metric(model, run.main)
            if value is None:
                line.append(None)
                continue
            low, high = run.interval(model, run.main) or (value, value)
            line.append(f"{value:.3f} ({low:.3f}–{high:.3f})")
            if model == run.shown:
                rows.append((name, model, value, low, high))
        cells.append(line)
    table = Table(["model", *runs], cells, caption=f"{main} on each run's test rows, with 95 % intervals over rows.")
    caption = f"{main} of the model that `predict` uses in each run, with 95 % bootstrap intervals over the test rows."
    return [table, *([picture(forest(rows, label=main), caption)] if rows else [])]


def _value(run: FinishedRun, model: str) -> str:
    value = run.metric(model, run.main)
    return "–" if value is None else f"{value:.3f}"


def _differences(
    gaps: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]], title: str, *, seeds: str
) -> list[Block]:
    if not gaps:
        return [
            "No other run has the first one's test rows in the same order. Fit them with the same table and the same "
            "split, such as `--split COLUMN` or the same `--seed`, to compare them row by row."
        ]
    rows = [
        [f"{b} − {a}", label, *(signed(gap[name], 4) for name in ("value", "low", "high")), verdict(gap)]
        for (a, b), own in gaps.items()
        for label, gap in own.items()
    ]
    if not rows:
        return [f"{title} is undefined on the test rows of these runs, so that they cannot be compared by it."]
    caption = (
        f"Paired differences in {title} on the same bootstrap samples of the test rows (95 % intervals). {seeds} "
        "Another seed may move a difference further than its interval."
    )
    return [Table(["runs", "model", "difference", "low", "high", "verdict"], rows, caption=caption)]


def _about(runs: Runs) -> list[Block]:
    facts = {
        "table": lambda run: run.config["file"],
        "rows for training / validation / test": lambda run: " / ".join(
            f"{run.metrics['rows'][part]:,}" for part in ("train", "validation", "test")
        ),
        "split": lambda run: run.config["split"]["how"],
        "seconds": lambda run: f"{run.metrics['seconds']['total']:,.0f}",
    }
    rows = [[fact, *(of(run) for run in runs.values())] for fact, of in facts.items()]
    settings = [run.config["settings"] for run in runs.values()]
    for name in dict.fromkeys(key for own in settings for key in own if key not in IGNORED_SETTINGS):
        values = [own.get(name) for own in settings]
        if any(value != values[0] for value in values):
            rows.append([f"--{name.replace('_', '-')}", *map(_short, values)])
    return [Table(["", *runs], rows, caption="What the runs are, and the settings in which they differ.")]


def _short(value: Any) -> str:
    text = "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= MAX_SETTING else text[:MAX_SETTING] + " …"
