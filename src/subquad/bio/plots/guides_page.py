"""The page of a list of guides: the best of each gene on its map, and as a table. Plots only, no model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings
from subquad.bio.guide_search.sites import Sites
from subquad.bio.plots.maps import GREEN, INK, OCHRE, tidy
from subquad.reporting.page import Picture, Section, Table, page, picture, show

__all__ = ["render"]

MOST_GENES = 25
"""Genes that get a map of their own."""
MOST_TICKS = 20_000
"""Sites that a map draws."""


def render(
    best: pd.DataFrame,
    maps: Sequence[tuple[str, int, Sites, np.ndarray]],
    *,
    settings: GuideSettings,
    title: str,
    score: str | None,
) -> str:
    """Return the page.

    Args:
        best: the best guides of each gene, as `guides` returns them.
        maps: name, length, sites and scores of each gene.
        settings: what was looked for.
        title: the file's name.
        score: what the model predicts; None without one.
    """
    nuclease = NUCLEASES[settings.nuclease]
    total = sum(len(sites) for _, _, sites, _ in maps)
    pam = f" with PAM {settings.site_pam}" if settings.site_pam else ""
    lead = f"{total:,} guides{pam} in {len(maps):,} sequences, " + (
        f"ranked by {score} ({'high' if settings.goal == 'max' else 'low'} is best), as the model predicts it; a "
        "prediction is no measurement."
        if score
        else "listed without scores: give a model to rank them by."
    )
    sections = [Section("Sequences", [_summary(best, maps)])]
    for name, length, sites, values in maps[:MOST_GENES]:
        own = best[best["gene"] == name]
        blocks: list[str | Table | Picture] = ["No guide fits in here."]
        if len(sites):
            figure = _map(length, sites, values, own, label=score if np.isfinite(values).any() else None)
            blocks = [picture(figure, _caption(score, len(own), is_rna=nuclease.is_rna)), _table(own, score)]
        sections.append(Section(name, blocks))
    if len(maps) > MOST_GENES:
        sections.append(
            Section("More", [f"{len(maps) - MOST_GENES:,} further sequences are in the file of all guides."])
        )
    return page(f"{nuclease.title} guides of {title}", lead=lead, sections=sections)


def _summary(best: pd.DataFrame, maps: Sequence[tuple[str, int, Sites, np.ndarray]]) -> Table:
    rows = []
    first = best.drop_duplicates("gene").set_index("gene")
    for name, length, sites, values in maps[:100]:
        top = first.loc[name] if name in first.index else None
        scored = int(np.isfinite(values).sum())
        value = None if top is None or pd.isna(top["score"]) else float(top["score"])
        rows.append([name, length, len(sites), scored, None if top is None else top["guide"], value])
    if not any(np.isfinite(values).any() for _, _, _, values in maps):
        return Table(["sequence", "letters", "guides"], [row[:3] for row in rows], caption="Letters and guides.")
    caption = "Letters, guides, guides with a score, and the best one."
    return Table(["sequence", "letters", "guides", "scored", "best guide", "its score"], rows, caption=caption)


def _table(own: pd.DataFrame, score: str | None) -> Table:
    header = ["guide", "PAM", "place", "GC", "similar", "remark"]
    rows = []
    for row in own.to_dict("records"):
        place = f"{row['strand'].replace('-', '−')} {row['start']}–{row['end']}"
        cells = [row["guide"], row["pam"] or None, place, f"{row['gc']:.0%}", int(row["off_targets"])]
        cells.append(row["remark"] or None)
        if score:
            spread = "" if pd.isna(row["score_spread"]) else f" ± {show(float(row['score_spread']))}"
            cells.insert(1, None if pd.isna(row["score"]) else show(float(row["score"])) + spread)
        rows.append(cells)
    if score:
        header.insert(1, "score")
    caption = (
        "Strand, first and last letter of the place along the sequence given, from 1; similar: other sites of the file "
        f"that the guide nearly fits.{' ±: spread of the members of the model.' if score else ''}"
    )
    return Table(header, rows, caption=caption)


def _caption(score: str | None, count: int, *, is_rna: bool) -> str:
    strands = "" if is_rna else " Green points up: forward strand; ochre ones point down: reverse strand."
    if score:
        return (
            f"Each mark is a guide.{strands} Numbers are the ranks of the {count} best, where there is room for them."
        )
    return f"Each tick is a guide.{'' if is_rna else ' Above the line: forward strand; below it: reverse strand.'}"


def _map(length: int, sites: Sites, values: np.ndarray, own: pd.DataFrame, *, label: str | None) -> Figure:
    figure = Figure(figsize=(10.5, 2.6 if label else 1.4))
    axes = figure.add_subplot()
    rows = np.arange(len(sites))
    if len(rows) > MOST_TICKS:
        rows = rows[:: -(-len(rows) // MOST_TICKS)]
    x, is_reverse = sites.start[rows] + (sites.spacer + 1) / 2, sites.is_reverse[rows]
    if label:
        size = float(np.clip(6000 / len(rows), 2, 26))
        for side, marker, colour in ((~is_reverse, "^", GREEN), (is_reverse, "v", OCHRE)):
            axes.scatter(x[side], values[rows][side], s=size, marker=marker, color=colour, alpha=0.55, linewidths=0)
        _mark(axes, own, length, sites.spacer)
        axes.set_ylabel(label, fontsize=9)
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
    """Write the rank beside each of the best guides, unless that would cover another."""
    ranked = own[own["score"].notna()]
    span = float(ranked["score"].max() - ranked["score"].min()) if len(ranked) else 0.0
    # beside the mark on the side where it is better
    is_low_best = len(ranked) > 1 and ranked["score"].iloc[0] < ranked["score"].iloc[-1]
    shift, align = (-5, "top") if is_low_best else (4, "bottom")
    written: list[tuple[float, float]] = []
    for row in ranked.to_dict("records"):
        x, y = row["start"] + (spacer - 1) / 2, row["score"]
        if any(abs(x - u) < 0.02 * length and abs(y - v) < 0.6 * span + 1e-9 for u, v in written):
            continue
        written.append((x, y))
        place = {"textcoords": "offset points", "ha": "center", "va": align}
        axes.annotate(str(row["rank"]), (x, y), (0, shift), fontsize=7.5, color=INK, **place)
