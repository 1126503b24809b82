"""An evaluation as one HTML page and as a PDF with one picture a page. Some seconds."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from subquad.hep.evaluating.drawings import Drawing
from subquad.hep.metrics import EFFICIENCIES, FIGURES
from subquad.hep.style import in_style
from subquad.report import Section, Table, page, picture, show

__all__ = ["pdf", "tables", "whole_page"]

TITLE = "Jet taggers side by side"


def _with_spread(entry: Mapping[str, Any], name: str) -> str:
    """Return a figure, in brackets its uncertainty in the last digits: over trainings, or, of a single one, jets."""
    around = entry["spread"].get(name)
    if around is None:
        return "–"
    error, interval = around["deviation"], entry["trainings"][0]["intervals"].get(name)
    if error is None and interval:
        error = (interval[1] - interval[0]) / 2
    return f"{around['mean']:.4f}" + ("" if error is None else f"({1e4 * error:.0f})")


def _rejection(entry: Mapping[str, Any], signal: str) -> str:
    one = entry["trainings"][0]["rejection"][signal]
    around = entry["spread"]["rejection"].get(signal)
    if around is None:
        return "–"
    if len(entry["trainings"]) == 1:
        if one["value"] is None:
            return f"> {one['low']:,.0f}"
        return f"{_round(one['value'])}  [{_round(one['low'])}, {_round(one['high'])}]"
    if around["median"] is None:
        return f"> {_round(min(one['rejection'][signal]['low'] for one in entry['trainings']))}"
    most = "∞" if around["most"] is None else _round(around["most"])
    return f"{_round(around['median'])}  [{_round(around['least'])}, {most}]"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def tables(evaluation: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the figures of all models, and their rejections."""
    entries = evaluation["models"]
    best = max(range(len(entries)), key=lambda k: entries[k]["spread"]["accuracy"]["mean"])
    has_times = any(one["milliseconds_per_jet"] is not None for entry in entries for one in entry["trainings"])
    figures = Table(
        ["model", "trainings", *FIGURES.values(), *(["ms per jet"] if has_times else [])],
        [
            [
                entry["name"],
                len(entry["trainings"]),
                *(_with_spread(entry, name) for name in FIGURES),
                *([_time(entry)] if has_times else []),
            ]
            for entry in entries
        ],
        caption="0.7417(52) is 0.7417 ± 0.0052, the standard deviation over trainings; of a single one, half the 68 % "
        "interval over jets. "
        "The PCN paper calls accuracy what is here accuracy, ovr: each class against the rest, where always answering "
        f"no has {1 - 1 / len(evaluation['classes']):g}.",
        winner=best if len(entries) > 1 else None,
    )
    signals = [name for name in evaluation["classes"] if name != evaluation["background"]]
    rejections = Table(
        ["signal", "efficiency", *(entry["name"] for entry in entries)],
        [
            [name, f"{100 * EFFICIENCIES.get(name, 0.5):g} %", *(_rejection(entry, name) for entry in entries)]
            for name in signals
        ],
        caption=f"Rejection of {evaluation['background']}, 1/ε_B; more is better. Of several trainings the median with "
        "the least and the most, of one the 68 % interval over jets.",
    )
    return figures, rejections


def _time(entry: Mapping[str, Any]) -> str:
    times = [one["milliseconds_per_jet"] for one in entry["trainings"] if one["milliseconds_per_jet"] is not None]
    return f"{np.mean(times):.3g}" if times else "–"


def whole_page(evaluation: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """Return the page."""
    figures, rejections = tables(evaluation)
    titles = list(dict.fromkeys(drawing.section for drawing in drawings))
    return page(
        TITLE,
        lead=_lead(evaluation),
        sections=[
            Section("How good they are", [*evaluation["notes"], figures, rejections]),
            *(
                Section(
                    title, [picture(d.figure, d.caption, is_half=d.is_half) for d in drawings if d.section == title]
                )
                for title in titles
            ),
        ],
    )


def _lead(evaluation: Mapping[str, Any]) -> str:
    jets = sum(evaluation["models"][0]["trainings"][0]["jets"].values())
    names = ", ".join(entry["name"] for entry in evaluation["models"])
    return f"{names}, measured on {jets:,} jets of {len(evaluation['classes'])} classes."


def pdf(folder: Path, evaluation: Mapping[str, Any], drawings: Sequence[Drawing]) -> None:
    """Write `report.pdf`, a title page and one picture a page, and each picture under `figures`, numbered as there."""
    (folder / "figures").mkdir(parents=True)
    with PdfPages(folder / "report.pdf", metadata={"Title": TITLE}) as pages:
        pages.savefig(_title_page(evaluation))
        for number, drawing in enumerate(drawings, start=2):
            pages.savefig(drawing.figure)
            name = re.sub(r"\W+", "_", drawing.name)
            drawing.figure.savefig(folder / "figures" / f"{number:02}_{name}.pdf")


@in_style
def _title_page(evaluation: Mapping[str, Any]) -> Figure:
    """Return the tables as a page."""
    figure = Figure(figsize=(11.7, 8.3))
    figure.text(0.05, 0.93, TITLE, fontsize=20)
    lines = [line for text in (_lead(evaluation), *evaluation["notes"]) for line in textwrap.wrap(text, 130)]
    top = _put_text(figure, lines, 0.91)
    for table in tables(evaluation):
        height = 0.033 * (1 + len(table.rows))
        axes = figure.add_axes((0.05, top - height, 0.9, height))
        axes.set_axis_off()
        cells = [[show(cell) for cell in row] for row in table.rows]
        drawn = axes.table(
            cells, colLabels=list(table.header), bbox=(0, 0, 1, 1), cellLoc="right", colLoc="right", edges="B"
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(9)
        drawn.auto_set_column_width(list(range(len(table.header))))
        for (row, column), cell in drawn.get_celld().items():
            is_bold = row == 0 or (table.winner is not None and row == table.winner + 1)
            cell.set_text_props(weight="bold" if is_bold else "normal")
            cell.set_edgecolor("0.8")
            if column == 0:
                cell.set_text_props(ha="left")
        top = _put_text(figure, textwrap.wrap(table.caption, 150), top - height - 0.01, size=8) - 0.03
    return figure


def _put_text(figure: Figure, lines: Sequence[str], top: float, *, size: float = 10) -> float:
    """Write lines below `top`, and return where they end."""
    figure.text(0.05, top, "\n".join(lines), fontsize=size, va="top", linespacing=1.4)
    return top - 0.0024 * size * len(lines) - 0.02
