"""Single test sequences of models of residues and base pairs: distribution of the metric; best, median and worst."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from subquad.bio.compared_models import label_of
from subquad.bio.data.dataset import Target
from subquad.bio.metrics.base_pairs import agreement
from subquad.bio.metrics.scores import score
from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots.figures import (
    base_pair_panels,
    confusion,
    histograms,
    measured_predicted,
    probability_histogram,
    profiles,
)
from subquad.reporting.page import Block, Picture, Table, picture

MAX_POSITIONS = 600
"""Positions of a sequence that are drawn."""


def blocks(run: FinishedRun) -> list[Block]:
    """Return the distribution of the main metric over the test sequences, and the best, median and worst sequence."""
    values = {model: np.array([sequence_metric(run, row, model) for row in run.rows]) for model in run.models}
    of_shown = values[run.shown]
    known = np.flatnonzero(np.isfinite(of_shown))
    if not len(known):
        return []
    edges = np.linspace(min(0.0, float(np.quantile(of_shown[known], 0.02))), 1.0, 26)
    counts = {run.shown: np.histogram(np.clip(of_shown[known], edges[0], 1), edges)[0].tolist()}
    panel = {"edges": edges, "counts": counts, "label": f"{run.title} of a sequence"}
    caption = f"{run.title} ({label_of(run.shown)}) of each of {len(known):,} test sequences."
    order = known[np.argsort(-of_shown[known], kind="stable")]
    chosen = list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))
    ranks = ["best", "median", "worst"] if len(chosen) == 3 else ["shown"] * len(chosen)
    titles = [
        f"{rank}: row {run.rows[k]['row']:,}, {len(run.rows[k]['sequence'])} letters, {run.title} {of_shown[k]:.3f}"
        for rank, k in zip(ranks, chosen, strict=True)
    ]
    drawn = _base_pairs(run, chosen, titles) if run.task_type == "pairs" else _profiles(run, chosen, titles)
    ends = [*order[:5], *order[-10:]] if len(order) > 15 else list(order)
    rows = [
        [run.rows[k]["row"], len(run.rows[k]["sequence"]), *(_finite(values[model][k]) for model in run.models)]
        for k in ends
    ]
    table = Table(
        ["row", "length", *map(label_of, run.models)],
        rows,
        caption=f"{run.title} of the sequences that {label_of(run.shown)} predicts best and worst.",
    )
    return [picture(histograms([panel]), caption), drawn, table]


def main_figures(run: FinishedRun) -> list[Block]:
    """Return the figure below the first table: predictions of all residues of the test sequences."""
    if run.task_type == "pairs":
        return []
    parts = [_known(row, run.shown) for row in run.rows]
    y, p = (np.concatenate(own) for own in zip(*parts, strict=True))
    unit = f"residues of {len(run.rows):,} test sequences"
    if run.task_type == "residue_regression":
        figure = measured_predicted([(label_of(run.shown), y, p[:, 0])], target=run.names[0])
        return [picture(figure, f"Predicted against measured values of the {unit}.")]
    if run.task_type == "residue_binary":
        figure = probability_histogram(y == 1, p[:, -1], run.classes or ["0", "1"], unit="residues")
        return [picture(figure, f"Predicted probability ({label_of(run.shown)}) of the {unit}, by measured class.")]
    figure = confusion(y.astype(int), p.argmax(1), run.classes)
    return [picture(figure, f"Confusion matrix ({label_of(run.shown)}) of the {unit}, in % of the measured class.")]


def sequence_metric(run: FinishedRun, row: Mapping[str, Any], model: str) -> float:
    """Return the main metric of one sequence; NaN if it is undefined, for example with a single class."""
    if run.task_type == "pairs":
        measured, predicted = (_as_pairs(row[key]) for key in ("measured", model))
        return float(agreement(measured, predicted)["f1"])
    y, p = _known(row, model)
    if len(y) < 2 or (run.task_type != "residue_multiclass" and y.min() == y.max()):
        return float("nan")
    is_class = run.task_type != "residue_regression"
    target = Target(
        task_type=run.task_type,  # pyright: ignore[reportArgumentType]
        y=y[None].astype(np.int16) if is_class else y[None],
        classes=tuple(run.classes) or (("0", "1") if is_class else ()),
    )
    return score(target, p[None])[run.main]


def _measured(row: Mapping[str, Any]) -> np.ndarray:
    """Return the measured values of all residues, `(L,)`; NaN where unknown."""
    return np.array([np.nan if value is None else value for value in row["measured"]], dtype=float)


def _known(row: Mapping[str, Any], model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return measured values `(k,)` and predictions `(k, O)` of the measured residues."""
    y = _measured(row)
    p = np.asarray(row[model], dtype=float).reshape(len(y), -1)
    return y[np.isfinite(y)], p[np.isfinite(y)]


def _as_pairs(pairs: Any) -> np.ndarray:
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


def _base_pairs(run: FinishedRun, chosen: list[int], titles: list[str]) -> Picture:
    panels = [
        (title, len(run.rows[k]["sequence"]), _as_pairs(run.rows[k][run.shown]), _as_pairs(run.rows[k]["measured"]))
        for k, title in zip(chosen, titles, strict=True)
    ]
    caption = f"Base pairs: predicted by {label_of(run.shown)} (above) and measured (below)."
    return picture(base_pair_panels(panels), caption)


def _profiles(run: FinishedRun, chosen: list[int], titles: list[str]) -> Picture:
    is_multiclass = run.task_type == "residue_multiclass"
    models = dict.fromkeys(model for model in (run.shown, run.best_single, "ridge") if model in run.models)
    panels = []
    for k, title in zip(chosen, titles, strict=True):
        y = _measured(run.rows[k])
        predicted = {}
        for model in list(models)[:2]:
            p = np.asarray(run.rows[k][model], dtype=float).reshape(len(y), -1)
            if is_multiclass:
                of_true = p[np.arange(len(y)), np.nan_to_num(y).astype(int)]
                predicted[model] = np.where(np.isfinite(y), of_true, np.nan)[:MAX_POSITIONS]
            else:
                predicted[model] = p[:MAX_POSITIONS, -1]
        measured = np.full(len(y), np.nan) if is_multiclass else y
        panels.append((title, measured[:MAX_POSITIONS], predicted))
    axis = "probability of the true class" if is_multiclass else run.names[0]
    what = "Probability of the true class" if is_multiclass else "Measured and predicted values"
    caption = f"{what} along the best, median and worst test sequence."
    if any(len(run.rows[k]["sequence"]) > MAX_POSITIONS for k in chosen):
        caption += f" Of longer sequences the first {MAX_POSITIONS} positions are drawn."
    return picture(profiles(panels, label=axis), caption)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
