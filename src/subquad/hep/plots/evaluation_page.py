"""An evaluation as one HTML page and as a PDF with one picture a page. Some seconds."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from subquad.hep.plots.evaluation_figures import Drawing
from subquad.hep.plots.style import in_style
from subquad.hep.plots.tables import figures_table, rejections_table
from subquad.reporting.page import Section, Table, page, picture, show

__all__ = ["pdf", "tables", "whole_page"]

TITLE = "Jet taggers side by side"


def tables(evaluation: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the figures of all models, and their rejections."""
    entries = evaluation["models"]
    return figures_table(entries), rejections_table(entries, evaluation["background"])


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
