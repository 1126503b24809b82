"""The page of a batch of designs: the best, what they change, how sure the model is, and the plates. Plots only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from subquad.bio.design_search.plates import SHAPES
from subquad.bio.design_search.search import Tried
from subquad.bio.plots.maps import BY_PROPERTY, GREEN, GREY, INK, OCHRE, tidy
from subquad.reporting.page import Picture, Section, Table, page, picture, show

__all__ = ["render"]

MOST_POSITIONS = 60
"""Columns of the map of changes."""
SHOWN = 25
"""Designs in the table of the page."""


def render(frame: pd.DataFrame, plates: pd.DataFrame, record: Mapping[str, Any], *, tried: Tried) -> str:
    """Return the page.

    Args:
        frame: contents of `designs.csv`.
        plates: contents of `plates.csv`.
        record: contents of `design.json`.
        tried: all variants that were predicted.
    """
    settings, own = record["settings"], record["start_prediction"]
    low, high = show(float(frame["prediction"].min())), show(float(frame["prediction"].max()))
    lead = (
        f"{len(frame):,} designs with at most {settings['max_mutations']} changes; {record['output']} is predicted as "
        f"{low} to {high}, and as {show(float(own))} for the start. {record['tried']:,} variants were tried. "
        "A prediction is no measurement: the plate holds the start too, to compare with."
    )
    sections = [
        Section("Best designs", [_table(frame)]),
        Section("How far to go", [_by_mutations(frame, tried, own, record["output"])]),
        Section("What is changed", [_changes(tried, frame, record["start"])]),
        Section("Plates", _plates(plates, settings, record["output"])),
        Section("What was asked for", [_asked(settings, record)]),
    ]
    return page("Designs", lead=lead, sections=sections)


def _table(frame: pd.DataFrame) -> Table:
    rows = []
    for row in frame.head(SHOWN).to_dict("records"):
        spread = "" if pd.isna(row["spread"]) else f" ± {show(float(row['spread']))}"
        distance = None if pd.isna(row["distance"]) else int(row["distance"])
        mutants = row["mutants"].replace(":", " ")
        well = f"{row['plate']} {row['well']}"
        rows.append([row["name"], mutants, show(float(row["prediction"])) + spread, float(row["ucb"]), distance, well])
    caption = (
        f"The best {len(rows)} of {len(frame):,}; designs.csv holds all. ±: spread of the model's members; "
        "bound: prediction with beta times the spread, by which they are ranked; distance: letters to the "
        "nearest measured variant."
    )
    return Table(["name", "changes", "prediction", "bound", "distance", "plate, well"], rows, caption=caption)


def _by_mutations(frame: pd.DataFrame, tried: Tried, own: float, label: str) -> Picture:
    figure = Figure(figsize=(7.2, 3.8))
    axes = figure.add_subplot()
    random, rows = np.random.default_rng(0), np.flatnonzero(tried.violations == 0)
    if len(rows) > 6000:
        rows = random.choice(rows, 6000, replace=False)
    counts = (tried.codes[rows] != tried.rules.start).sum(1)
    jitter = random.uniform(-0.28, 0.28, len(rows))
    axes.scatter(counts + jitter, tried.mean[rows], s=5, color=GREY, alpha=0.35, linewidths=0, label="tried")
    jitter = random.uniform(-0.28, 0.28, len(frame))
    axes.scatter(frame["mutations"] + jitter, frame["prediction"], s=20, color=GREEN, linewidths=0, label="designs")
    axes.axhline(own, color=OCHRE, linewidth=1.4, linestyle="--", label="start")
    axes.set(xlabel="changes", ylabel=f"predicted {label}")
    axes.set_xticks(range(1, int(max(counts.max(), frame["mutations"].max())) + 1))
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    tidy(axes)
    caption = (
        "Predictions by the number of changes; the search tries mostly good ones, so the grey cloud is no picture of "
        "all variants. The further from what was measured, the less a prediction is worth."
    )
    return picture(figure, caption)


def _changes(tried: Tried, frame: pd.DataFrame, start: str) -> Picture | str:
    letters = tried.rules.letters
    ordered = sorted(letters, key=BY_PROPERTY.find) if len(letters) > 5 else list(letters)
    counts = np.zeros((len(ordered), len(start)))
    for text in frame["sequence"]:
        for place, letter in enumerate(text):
            if letter != start[place]:
                counts[ordered.index(letter), place] += 1
    places = np.flatnonzero(counts.any(0))
    kept = np.sort(places[np.argsort(-counts[:, places].sum(0), kind="stable")][:MOST_POSITIONS])
    shown = 100 * counts[:, kept] / len(frame)
    figure = Figure(figsize=(max(3.2, 0.22 * len(kept) + 1.8), 0.19 * len(ordered) + 1.3))
    axes = figure.add_subplot()
    shown[shown == 0] = np.nan
    image = axes.imshow(shown, cmap="YlGn", vmin=0, aspect="auto", interpolation="nearest")
    own = [(x, ordered.index(start[place])) for x, place in enumerate(kept)]
    axes.scatter(*zip(*own, strict=True), s=5, color=INK, linewidths=0)
    axes.set_yticks(range(len(ordered)), ordered, fontsize=7, family="monospace")
    axes.set_xticks(
        range(len(kept)), [f"{start[place]}{place + 1 + tried.rules.offset}" for place in kept], rotation=90, fontsize=7
    )
    axes.tick_params(length=0)
    axes.grid(which="minor", color="#eceef2", linewidth=0.5)
    axes.set_xticks(np.arange(len(kept) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(ordered) + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("% of designs", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    rest = f" The {len(kept)} positions changed most often of {len(places)}." if len(kept) < len(places) else ""
    return picture(figure, f"How many of the designs have which change; the dot is the start's own letter.{rest}")


def _plates(plates: pd.DataFrame, settings: Mapping[str, Any], label: str) -> list[str | Picture]:
    blocks: list[str | Picture] = []
    known = plates.loc[~plates["is_control"], "prediction"].to_numpy(dtype=float)
    wells, cmap = int(settings["wells"]), "YlGn" if settings["goal"] == "max" else "YlGn_r"
    norm = Normalize(known.min(), known.max() if known.max() > known.min() else known.min() + 1)
    for number, own in list(plates.groupby("plate"))[:4]:
        caption = (
            f"Plate {number}: {len(own)} wells filled by rows, best designs first; rings are wells with the start. "
            "The darker, the better the prediction. plates.csv holds the list."
        )
        blocks.append(picture(_plate(own, SHAPES[wells], ScalarMappable(norm, cmap), label), caption))
    more = plates["plate"].max() - len(blocks)
    return [*blocks, f"{more} further plates are in plates.csv."] if more > 0 else blocks


def _plate(own: pd.DataFrame, shape: tuple[int, int], colours: ScalarMappable, label: str) -> Figure:
    cell = 0.42 if shape[0] == 8 else 0.27
    figure = Figure(figsize=(shape[1] * cell + 1.6, shape[0] * cell + 0.6))
    axes = figure.add_subplot()
    for row in range(shape[0]):
        for column in range(shape[1]):
            axes.add_patch(Circle((column, row), 0.42, facecolor="#f6f7f9", edgecolor="#dfe3ea", linewidth=0.6))
    for well in own.to_dict("records"):
        is_control = well["is_control"]
        edge, width = (OCHRE, 2.2) if is_control else ("#5b6474", 0.5)
        place = (well["column"] - 1, well["row"] - 1)
        face = colours.to_rgba(well["prediction"])
        axes.add_patch(Circle(place, 0.42, facecolor=face, edgecolor=edge, linewidth=width))
    axes.set(xlim=(-0.6, shape[1] - 0.4), ylim=(shape[0] - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(shape[1]), range(1, shape[1] + 1), fontsize=7.5)
    axes.set_yticks(range(shape[0]), [chr(ord("A") + row) for row in range(shape[0])], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colours, ax=axes, pad=0.02, fraction=0.03, extend="both")
    bar.set_label(f"predicted {label}", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _asked(settings: Mapping[str, Any], record: Mapping[str, Any]) -> Table:
    given = {name: value for name, value in settings.items() if value is not None and name != "start"}
    rows = [[name.replace("_", " "), str(value)] for name, value in given.items()]
    rows.append(["seed", str(record["seed"])])
    return Table(["setting", "value"], rows, caption="design.json holds them too, with the start.")
