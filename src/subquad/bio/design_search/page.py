"""Page of a batch of designs: the best designs, their mutations, and the plates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from subquad.bio.design_search.batch import PLATE_SHAPES
from subquad.bio.design_search.proposal import Proposal
from subquad.bio.design_search.search import ScoredVariants
from subquad.bio.models.support import count_of, describe_prediction, describe_quality, interval_text
from subquad.bio.plots.maps import BY_PROPERTY
from subquad.reporting.page import Picture, Section, Table, page, picture, show
from subquad.reporting.style import BAND, GREEN, GREY, INK, OCHRE, ON_LIGHT, literal, tidy

__all__ = ["render", "setting_text"]

LABELS = {"ucb": "UCB", "expected_improvement": "expected improvement", "draw": "draw"}
MEANINGS = {
    "ucb": "confidence bound, by which designs are ranked: the prediction, moved by `beta` standard deviations in the "
    "better direction, so that a design may lead because it is uncertain",
    "expected_improvement": "mean improvement over the best measurement, by which designs are ranked",
    "draw": "prediction by the random member, or sample of the posterior, that chose the design",
}
"""Columns by which designs are ranked, on the page."""

MAX_POSITIONS = 60
"""Columns of the map of mutations."""
MAX_DESIGNS = 25
"""Designs in the table of the page."""
MAX_POINTS = 6000
"""Scored variants that are drawn."""


def render(proposal: Proposal, record: Mapping[str, Any], *, title: str = "Designed variants") -> str:
    """Return the page as HTML.

    Args:
        proposal: The designs and how they were found.
        record: Contents of `design.json`.
        title: Title of the page.
    """
    designs, scored = proposal.designs, proposal.scored
    settings, target = record["subquad"]["settings"], record["target"]
    low, high = (show(float(value)) for value in np.quantile(designs["prediction"], [0, 1]))
    lead = (
        f"{len(designs):,} designs with at most {settings['max_mutations']} mutations, with a predicted {target} of "
        f"{low} to {high}; the start sequence is predicted at {describe_prediction(scored.scorer, record['start'])}. "
        f"{proposal.direction} {describe_quality(scored.scorer)} {record['scored']:,} variants were scored. "
        "Predictions are not measurements: the plates include the start sequence as a control."
    )
    sections = [
        Section("Best designs", [*proposal.warnings, _table(proposal)]),
        Section("Number of mutations", [_by_mutations(designs, scored, record)]),
        Section("Mutations", [_mutations(scored, designs, record["start"])]),
        Section("Plates", _plates(proposal.plates, settings, target)),
        Section("Settings", [_settings(settings, record)]),
    ]
    return page(title, lead=lead, sections=sections)


def _table(proposal: Proposal) -> Table:
    designs, column = proposal.designs, proposal.ranked_by
    has_interval, rows = bool(designs["prediction_low"].notna().any()), []
    # what holds for all designs alike is no column
    marked_as = {"observed": ("letters observed", "no"), "beyond_measured": ("beyond measured", "yes")}
    marks = {name: title for name, (title, value) in marked_as.items() if count_of(designs[name], value)}
    for row in designs.head(MAX_DESIGNS).to_dict("records"):
        std = "" if pd.isna(row["prediction_std"]) else f" ± {show(float(row['prediction_std']))}"
        distance = None if pd.isna(row["distance"]) else int(row["distance"])
        prediction, well = show(float(row["prediction"])) + std, f"{row['plate']} {row['well']}"
        interval = [interval_text(row["prediction_low"], row["prediction_high"])] if has_interval else []
        marked = [row[name] for name in marks]
        mutations = row["mutants"].replace(":", " ")
        rows.append([row["name"], mutations, prediction, *interval, float(row[column]), distance, *marked, well])
    caption = (
        f"The first {len(rows)} of {len(designs):,} designs in {proposal.file}. ±: standard deviation of the members "
        f"of the model; {LABELS[column]}: {MEANINGS[column]}; distance: substitutions to the nearest measured variant."
    )
    if has_interval:
        caption += (
            " The 90 % interval holds for variants like those of the table of the fit; with every further mutation it "
            "is less reliable."
        )
    header = ["name", "mutations", "prediction", *(["90 % interval"] if has_interval else []), LABELS[column]]
    return Table([*header, "distance", *marks.values(), "plate, well"], rows, caption=caption)


def _by_mutations(frame: pd.DataFrame, scored: ScoredVariants, record: Mapping[str, Any]) -> Picture:
    label, best = record["target"], record["best_measurement"]
    figure = Figure(figsize=(7.2, 3.8))
    axes = figure.add_subplot()
    random, rows = np.random.default_rng(0), np.flatnonzero(scored.violations == 0)
    if len(rows) > MAX_POINTS:
        rows = random.choice(rows, MAX_POINTS, replace=False)
    counts = (scored.codes[rows] != scored.constraints.start).sum(1)
    jitter = random.uniform(-0.28, 0.28, len(rows))
    axes.scatter(counts + jitter, scored.mean[rows], s=5, color=GREY, alpha=0.35, linewidths=0, label="scored variants")
    jitter = random.uniform(-0.28, 0.28, len(frame))
    axes.scatter(frame["mutations"] + jitter, frame["prediction"], s=20, color=GREEN, linewidths=0, label="designs")
    axes.axhline(record["start_prediction"], color=OCHRE, linewidth=1.4, linestyle="--", label="start")
    if best is not None:
        axes.axhline(best, color=INK, linewidth=1.0, linestyle=":", label="best measurement")
    axes.set(xlabel="mutations", ylabel=literal(f"predicted {label}"))
    axes.set_xticks(range(1, int(max(counts.max(), frame["mutations"].max())) + 1))
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    tidy(axes)
    caption = (
        "Predictions by number of mutations. The search mostly scores good variants, so the grey points do not "
        "represent all variants. Predictions become less reliable with the distance from the measured variants."
    )
    return picture(figure, caption)


def _mutations(scored: ScoredVariants, frame: pd.DataFrame, start: str) -> Picture | str:
    letters = scored.constraints.letters
    ordered = sorted(letters, key=BY_PROPERTY.find) if len(letters) > 5 else list(letters)
    counts = np.zeros((len(ordered), len(start)))
    for text in frame["sequence"]:
        for position, letter in enumerate(text):
            if letter != start[position]:
                counts[ordered.index(letter), position] += 1
    positions = np.flatnonzero(counts.any(0))
    kept = np.sort(positions[np.argsort(-counts[:, positions].sum(0), kind="stable")][:MAX_POSITIONS])
    shown = 100 * counts[:, kept] / len(frame)
    figure = Figure(figsize=(max(3.2, 0.22 * len(kept) + 1.8), 0.19 * len(ordered) + 1.3))
    axes = figure.add_subplot()
    shown[shown == 0] = np.nan
    image = axes.imshow(shown, cmap="YlGn", vmin=0, aspect="auto", interpolation="nearest")
    own = [(x, ordered.index(start[position])) for x, position in enumerate(kept)]
    axes.scatter(*zip(*own, strict=True), s=5, color=ON_LIGHT, linewidths=0)
    axes.set_yticks(range(len(ordered)), ordered, fontsize=7, family="monospace")
    axes.set_xticks(
        range(len(kept)),
        [f"{start[position]}{position + 1 + scored.constraints.offset}" for position in kept],
        rotation=90,
        fontsize=7,
    )
    axes.tick_params(length=0)
    axes.grid(which="minor", color="#eceef2", linewidth=0.5)
    axes.set_xticks(np.arange(len(kept) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(ordered) + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("% of designs", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    rest = (
        f" Shown are the {len(kept)} most often mutated of {len(positions)} positions."
        if len(kept) < len(positions)
        else ""
    )
    return picture(
        figure, f"Percentage of the designs with each substitution; dots mark the letters of the start sequence.{rest}"
    )


def _plates(plates: pd.DataFrame, settings: Mapping[str, Any], label: str) -> list[str | Picture]:
    blocks: list[str | Picture] = []
    known = plates.loc[~plates["is_control"], "prediction"].to_numpy(dtype=float)
    wells, cmap = int(settings["wells"]), "YlGn_r" if settings["direction"] == "minimize" else "YlGn"
    norm = Normalize(known.min(), known.max() if known.max() > known.min() else known.min() + 1)
    for number, own in list(plates.groupby("plate"))[:4]:
        caption = (
            f"Plate {number}: {len(own)} wells, filled by rows with the best designs first; rings mark controls (start "
            "sequence). Darker wells have better predictions. plates.csv lists all wells."
        )
        blocks.append(picture(_plate(own, PLATE_SHAPES[wells], ScalarMappable(norm, cmap), label), caption))
    more = int(np.max(plates["plate"])) - len(blocks)
    return [*blocks, f"plates.csv lists {more} further plates."] if more > 0 else blocks


def _plate(own: pd.DataFrame, shape: tuple[int, int], colours: ScalarMappable, label: str) -> Figure:
    cell = 0.42 if shape[0] == 8 else 0.27
    figure = Figure(figsize=(shape[1] * cell + 1.6, shape[0] * cell + 0.6))
    axes = figure.add_subplot()
    for row in range(shape[0]):
        for column in range(shape[1]):
            axes.add_patch(Circle((column, row), 0.42, facecolor=BAND, edgecolor="#dfe3ea", linewidth=0.6))
    for well in own.to_dict("records"):
        is_control = well["is_control"]
        edge, width = (OCHRE, 2.2) if is_control else ("#5b6474", 0.5)
        position = (well["column"] - 1, well["row"] - 1)
        face = colours.to_rgba(well["prediction"])
        axes.add_patch(Circle(position, 0.42, facecolor=face, edgecolor=edge, linewidth=width))
    axes.set(xlim=(-0.6, shape[1] - 0.4), ylim=(shape[0] - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(shape[1]), [str(column + 1) for column in range(shape[1])], fontsize=7.5)
    axes.set_yticks(range(shape[0]), [chr(ord("A") + row) for row in range(shape[0])], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colours, ax=axes, pad=0.02, fraction=0.03, extend="both")
    bar.set_label(literal(f"predicted {label}"), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _settings(settings: Mapping[str, Any], record: Mapping[str, Any]) -> Table:
    given = {name: value for name, value in settings.items() if value not in (None, [], "") and name != "start"}
    rows = [[name.replace("_", " "), setting_text(value)] for name, value in given.items()]
    rows += [["beta (used)", show(float(record["beta"]))], ["seed", str(record["subquad"]["seed"])]]
    return Table(["setting", "value"], rows, caption="design.json holds all settings and the start sequence.")


def setting_text(value: Any) -> str:
    """Return the value of a setting as pages write it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
