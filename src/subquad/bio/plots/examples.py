"""Test sequences one by one, of models of residues and base pairs: how figures spread; the best, median and worst."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Target
from subquad.bio.metrics.base_pairs import agreement
from subquad.bio.metrics.scores import score
from subquad.bio.plots import figures as plots
from subquad.bio.plots.run_files import WORDS, Finished
from subquad.reporting.page import Picture, Table, picture

__all__ = ["blocks", "figure_of", "main_pictures"]

Block = str | Table | Picture
FIGURES = {"residue_regression": "r2", "residue_binary": "auroc", "residue_multiclass": "accuracy", "pairs": "f1"}
LONGEST = 600
"""Positions of an example that are drawn."""


def blocks(run: Finished) -> list[Block]:
    """Return how the figure spreads over the test sequences, and the sequences of the best, median and worst."""
    values = {model: np.array([figure_of(run, example, model) for example in run.rows]) for model in run.models}
    known = np.flatnonzero(np.isfinite(values["net"]))
    if not len(known):
        return []
    edges = np.linspace(min(0.0, float(np.quantile(values["net"][known], 0.02))), 1.0, 26)
    counts = {"net": np.histogram(np.clip(values["net"][known], edges[0], 1), edges)[0].tolist()}
    said = f"{run.title} of each of {len(known):,} test sequences, the net's. Some sequences are hard for all."
    panel = {"edges": edges, "counts": counts, "label": f"{run.title} of a sequence"}
    order = known[np.argsort(-values["net"][known], kind="stable")]
    places = list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))
    words = ["best", "median", "worst"][: len(places)] if len(places) == 3 else ["shown"] * len(places)
    titles = [
        f"{word}: row {run.rows[k]['row']:,}, {len(run.rows[k]['sequence'])} letters, {run.title} "
        f"{values['net'][k]:.3f}"
        for word, k in zip(words, places, strict=True)
    ]
    drawn = _structures(run, places, titles) if run.task_type == "pairs" else _profiles(run, places, titles)
    ends = [*order[:5], *order[-10:]] if len(order) > 15 else list(order)
    rows = [
        [run.rows[k]["row"], len(run.rows[k]["sequence"]), *(_shown(values[model][k]) for model in run.models)]
        for k in ends
    ]
    header = ["row", "letters", *(WORDS.get(model, model) for model in run.models)]
    caption = f"{run.title} of the best and the worst sequences of the net."
    return [picture(plots.steps([panel]), said), drawn, Table(header, rows, caption=caption)]


def main_pictures(run: Finished) -> list[Block]:
    """Return the picture under the first table: all residues of the examples together."""
    if run.task_type == "pairs":
        return []
    pairs = [_known(example, "net") for example in run.rows]
    y, p = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    some = f"residues of {len(run.rows):,} test sequences"
    if run.task_type == "residue_regression":
        panels = [(WORDS["net"], y, p[:, 0])]
        return [picture(plots.densities(panels, target=run.names[0]), f"Predicted against measured, {some}.")]
    if run.task_type == "residue_binary":
        names = run.classes or ["0", "1"]
        figure = plots.two_classes(y == 1, p[:, -1], names, unit="residues")
        return [picture(figure, f"What the net says of the {some}; the further apart, the better.")]
    figure = plots.confusion(y.astype(int), p.argmax(1), run.classes)
    return [picture(figure, f"Measured and predicted classes, in %, {some}; the diagonal is right.")]


def figure_of(run: Finished, example: Mapping[str, Any], model: str) -> float:
    """Return the main figure of one sequence; NaN where it has none, as with one class only."""
    if run.task_type == "pairs":
        truth, said = (_pairs(example[key]) for key in ("measured", model))
        return float(agreement(truth, said)["f1"])
    y, p = _known(example, model)
    if len(y) < 2 or (run.task_type != "residue_multiclass" and y.min() == y.max()):
        return float("nan")
    is_class = run.task_type != "residue_regression"
    target = Target(
        task_type=run.task_type,
        y=y[None].astype(np.int16) if is_class else y[None],
        classes=tuple(run.classes) or (("0", "1") if is_class else ()),
    )
    return score(target, p[None])[FIGURES[run.task_type]]


def _known(example: Mapping[str, Any], model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return measured values `(k,)` and predictions `(k, O)` of the residues that were measured."""
    y = np.array([np.nan if value is None else value for value in example["measured"]], dtype=float)
    p = np.asarray(example[model], dtype=float).reshape(len(y), -1)
    return y[np.isfinite(y)], p[np.isfinite(y)]


def _pairs(pairs: Any) -> np.ndarray:
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


def _structures(run: Finished, places: list[int], titles: list[str]) -> Picture:
    own = [
        (title, len(run.rows[k]["sequence"]), _pairs(run.rows[k]["net"]), _pairs(run.rows[k]["measured"]))
        for k, title in zip(places, titles, strict=True)
    ]
    said = "Base pairs as arcs: above the line predicted by the net, below it measured. Mirror images are right."
    return picture(plots.structures(own), said)


def _profiles(run: Finished, places: list[int], titles: list[str]) -> Picture:
    shown = [model for model in ("net", run.best_single, "ridge") if model in run.models][:3]
    shown = list(dict.fromkeys(shown))[:2]
    parts = []
    for k, title in zip(places, titles, strict=True):
        example = run.rows[k]
        y = np.array([np.nan if value is None else value for value in example["measured"]], dtype=float)[:LONGEST]
        predicted = {}
        for model in shown:
            p = np.asarray(example[model], dtype=float).reshape(len(example["measured"]), -1)[:LONGEST]
            if run.task_type == "residue_multiclass":
                # of the class that was measured: how sure of the truth
                chosen = p[np.arange(len(y)), np.nan_to_num(y).astype(int)]
                predicted[model] = np.where(np.isfinite(y), chosen, np.nan)
            else:
                predicted[model] = p[:, -1]
        parts.append((title, np.full(len(y), np.nan) if run.task_type == "residue_multiclass" else y, predicted))
    label = "probability of the truth" if run.task_type == "residue_multiclass" else run.names[0]
    said = "Along the best, the median and the worst test sequence: measured (grey or dark) and predicted."
    if run.task_type == "residue_multiclass":
        said = "The probability given to the measured class along the best, the median and the worst test sequence."
    return picture(plots.profiles(parts, label=label, words=WORDS), said)


def _shown(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
