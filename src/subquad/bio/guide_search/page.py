"""Page of CRISPR guides: the best guides of each gene on its map and as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings
from subquad.bio.guide_search.sites import Sites
from subquad.bio.models.support import describe_direction
from subquad.reporting.page import Section, Table, page, picture, show
from subquad.reporting.style import GREEN, INK, OCHRE, literal, tidy

__all__ = ["render"]

MAX_MAPS = 25
"""Genes with a map of their own."""
MAX_GENES = 100
"""Genes in the summary."""
MAX_SITES = 20_000
"""Sites drawn on a map."""


def render(
    best: pd.DataFrame,
    maps: Sequence[tuple[str, int, Sites, np.ndarray]],
    *,
    settings: GuideSettings,
    title: str,
    score: str | None,
) -> str:
    """Return the page as HTML.

    Args:
        best: The best guides of each gene, as `guides` returns them.
        maps: Name, length, sites and scores of each gene.
        settings: Nuclease, PAM and ranking.
        title: Name of the file.
        score: What the model predicts; None without a model.
    """
    nuclease = NUCLEASES[settings.nuclease]
    total = sum(len(sites) for _, _, sites, _ in maps)
    pam = f" with PAM {settings.site_pam}" if settings.site_pam else ""
    lead = f"{total:,} guides{pam} in {len(maps):,} sequences, " + (
        f"ranked by predicted {score}. {describe_direction(settings.direction, score)} Predictions are not "
        "measurements."
        if score
        else "without scores; give a fitted model with --model to rank them."
    )
    sections = [Section("Sequences", [_summary(best, maps)])]
    for name, length, sites, values in maps[:MAX_MAPS]:
        own: Any = best[best["gene"] == name]
        if not len(sites):
            sections.append(Section(name, ["No target site."]))
            continue
        figure = _map(length, sites, values, own, label=score if np.isfinite(values).any() else None)
        caption = _caption(score, len(own), is_rna=nuclease.is_rna)
        sections.append(Section(name, [picture(figure, caption), _table(own, score, settings.mismatches)]))
    if len(maps) > MAX_MAPS:
        sections.append(
            Section("Further sequences", [f"The output table lists {len(maps) - MAX_MAPS:,} further sequences."])
        )
    return page(f"{nuclease.title} guides of {title}", lead=lead, sections=sections)


def _summary(best: pd.DataFrame, maps: Sequence[tuple[str, int, Sites, np.ndarray]]) -> Table:
    rows = []
    first = best.drop_duplicates("gene").set_index("gene")
    for name, length, sites, values in maps[:MAX_GENES]:
        top = first.loc[name] if name in first.index else None
        scored = int(np.isfinite(values).sum())
        value = None if top is None or pd.isna(top["score"]) else float(top["score"])
        rows.append([name, length, len(sites), scored, None if top is None else top["guide"], value])
    if not any(np.isfinite(values).any() for _, _, _, values in maps):
        return Table(["sequence", "length", "guides"], [row[:3] for row in rows])
    return Table(["sequence", "length", "guides", "scored", "best guide", "its score"], rows)


def _table(own: pd.DataFrame, score: str | None, mismatches: int) -> Table:
    header = ["guide", "PAM", "position", "GC", "off-targets", "remark"]
    rows = []
    for row in own.to_dict("records"):
        position = f"{row['strand'].replace('-', '−')} {row['start']}–{row['end']}"
        cells = [row["guide"], row["pam"] or None, position, f"{row['gc']:.0%}", int(row["off_targets"])]
        cells.append(row["remark"] or None)
        if score:
            std = "" if pd.isna(row["score_std"]) else f" ± {show(float(row['score_std']))}"
            cells.insert(1, None if pd.isna(row["score"]) else show(float(row["score"])) + std)
        rows.append(cells)
    if score:
        header.insert(1, "score")
    caption = (
        "Position: strand, first and last nucleotide of the protospacer, from 1. Off-targets: other sites of this file "
        f"with at most {mismatches} mismatches.{' ±: standard deviation of the ensemble members.' if score else ''}"
    )
    return Table(header, rows, caption=caption)


def _caption(score: str | None, count: int, *, is_rna: bool) -> str:
    strands = "" if is_rna else " Green, pointing up: forward strand; ochre, pointing down: reverse strand."
    if score:
        return (
            f"Each mark is a guide.{strands} Numbers are the ranks of the {count} best guides, where they do not "
            "overlap."
        )
    return f"Each tick is a guide.{'' if is_rna else ' Above the line: forward strand; below: reverse strand.'}"


def _map(length: int, sites: Sites, values: np.ndarray, own: pd.DataFrame, *, label: str | None) -> Figure:
    figure = Figure(figsize=(10.5, 2.6 if label else 1.4))
    axes = figure.add_subplot()
    rows = np.arange(len(sites))
    if len(rows) > MAX_SITES:
        rows = rows[:: -(-len(rows) // MAX_SITES)]
    x, is_reverse = sites.start[rows] + (sites.spacer + 1) / 2, sites.is_reverse[rows]
    if label:
        size = float(np.clip(6000 / len(rows), 2, 26))
        for side, marker, colour in ((~is_reverse, "^", GREEN), (is_reverse, "v", OCHRE)):
            axes.scatter(x[side], values[rows][side], s=size, marker=marker, color=colour, alpha=0.55, linewidths=0)
        _mark(axes, own, length, sites.spacer)
        axes.set_ylabel(literal(label), fontsize=9)
        axes.margins(y=0.12)
    else:
        width = float(np.clip(400 / len(rows), 0.15, 1.6))
        axes.vlines(x, 0, np.where(is_reverse, -1, 1), color=GREEN, linewidth=width, alpha=0.7)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    axes.set_xlim(0, length + 1)
    axes.set_xlabel("position", fontsize=9)
    axes.tick_params(labelsize=8)
    tidy(axes)
    return figure


def _mark(axes: Axes, own: pd.DataFrame, length: int, spacer: int) -> None:
    """Write the rank beside each of the best guides, unless labels would overlap."""
    ranked: Any = own[own["score"].notna()]
    span = float(ranked["score"].max() - ranked["score"].min()) if len(ranked) else 0.0
    # on the side of the better scores, where there are fewer marks
    is_low_best = len(ranked) > 1 and ranked["score"].iloc[0] < ranked["score"].iloc[-1]
    shift, align = (-5, "top") if is_low_best else (4, "bottom")
    written: list[tuple[float, float]] = []
    for row in ranked.to_dict("records"):
        x, y = row["start"] + (spacer - 1) / 2, row["score"]
        if any(abs(x - u) < 0.02 * length and abs(y - v) < 0.6 * span + 1e-9 for u, v in written):
            continue
        written.append((x, y))
        axes.annotate(
            str(row["rank"]),
            (x, y),
            (0, shift),
            textcoords="offset points",
            ha="center",
            va=align,
            fontsize=7.5,
            color=INK,
        )
