"""Page of the rounds in a folder: what was proposed and measured, and how well it had been predicted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subquad.bio.models.support import describe_direction, sign_of
from subquad.bio.plots.maps import correlation_text
from subquad.reporting.page import Link, Section, Table, page, picture
from subquad.reporting.style import BLUE, GREEN, GREY, INK, OCHRE, literal, tidy

__all__ = ["render"]

COLOURS = (GREEN, OCHRE, BLUE, "#9a6fb0", "#b5616a", GREY)


def render(record: Mapping[str, Any], measured: Mapping[int, pd.DataFrame]) -> str:
    """Return the page as HTML.

    Args:
        record: Contents of `rounds.json`.
        measured: New measurements of each round with their predictions by the model before (`measured.csv`).
    """
    steps = record["rounds"]
    target = next((step["target"] for step in steps if "target" in step), "target")
    new = sum(step.get("new_measurements", 0) for step in steps)
    lead = (
        f"{len(steps)} {'round' if len(steps) == 1 else 'rounds'}, {new:,} new measurements. "
        f"{describe_direction(record['direction'], target)} {_next(steps)}"
    )
    sections = [Section("Rounds", [_table(steps), *_links(steps)])]
    if measured:
        sections.append(
            Section("Predicted and measured", _compared(measured, target, sign=sign_of(record["direction"])))
        )
    return page("Rounds of design and measurement", lead=lead, sections=sections)


def _next(steps: list[Mapping[str, Any]]) -> str:
    name = f"round-{len(steps)}/batch.csv"
    if "proposed" in steps[-1]:
        return f"Next: measure the variants of {name}, write the values into it, and name it with --measured."
    return "Next: propose variants with --propose."


def _table(steps: list[Mapping[str, Any]]) -> Table:
    rows = []
    for number, step in enumerate(steps, start=1):
        inside = step.get("inside_interval")
        rows.append(
            [
                number,
                step.get("new_measurements"),
                step.get("best_new"),
                None if inside is None else f"{100 * inside:.0f} %",
                step.get("proposed"),
                step["settings"]["acquisition"] if "proposed" in step else None,
                step.get("best_prediction"),
            ]
        )
    header = ["round", "new measurements", "best of them", "inside 90 % interval", "proposed", "acquisition"]
    caption = (
        "Measurements are those read at the start of the round; the intervals are of the model that proposed them. "
        "Below 90 %, the model was too certain of variants like these."
    )
    return Table([*header, "first prediction"], rows, caption=caption)


def _links(steps: list[Mapping[str, Any]]) -> list[Link]:
    links = []
    for number, step in enumerate(steps, start=1):
        if "run" in step:
            links.append(Link(f"Report of the models of round {number}", f"{step['run']}/report.html"))
        if "proposed" in step:
            links.append(Link(f"Batch of round {number}", f"round-{number}/batch.html"))
    return links


def _compared(measured: Mapping[int, pd.DataFrame], target: str, *, sign: int) -> list[Any]:
    figure = Figure(figsize=(5.6, 4.4))
    axes = figure.add_subplot()
    for k, (number, frame) in enumerate(measured.items()):
        x, y = frame["measured"].to_numpy(), frame["prediction"].to_numpy()
        colour = COLOURS[k % len(COLOURS)]
        low, high = (frame[f"prediction_{side}"].to_numpy() for side in ("low", "high"))
        if np.isfinite(low).all():
            axes.vlines(x, low, high, color=colour, alpha=0.25, linewidth=1)
        axes.scatter(x, y, s=16, color=colour, linewidths=0, label=f"round {number}", zorder=3)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
    axes.set(xlabel=literal(f"measured {target}"), ylabel="predicted before", xlim=(low, high))
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    tidy(axes)
    texts = [
        f"round {number}: {len(frame)} variants, {correlation_text(*frame[['measured', 'prediction']].to_numpy().T)}"
        for number, frame in measured.items()
    ]
    caption = (
        f"Measurements of each round, predicted by the model before it was fitted to them ({'; '.join(texts)}); lines "
        f"are 90 % intervals. Proposed variants are selected for {'high' if sign > 0 else 'low'} predictions, so that "
        f"their measurements are on average {'below' if sign > 0 else 'above'} these, and less correlated with them "
        "than those of random variants."
    )
    return [picture(figure, caption)]
