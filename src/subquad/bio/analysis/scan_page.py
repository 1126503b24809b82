"""Page and figures of a scan: heat map and logo of all single mutants, or a profile along the sequence.

Axes: L positions, A letters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.models.scorer import Scorer
from subquad.bio.models.support import (
    count_of,
    describe_direction,
    describe_prediction,
    describe_quality,
    interval_text,
    measured_range,
    range_warning,
    sign_of,
)
from subquad.bio.plots.maps import base_pair_figure, correlation_text, heat_map, logo, profile, scatter
from subquad.bio.settings import Direction
from subquad.reporting.page import Picture, Section, Table, page, picture, show

__all__ = ["grid_of", "information", "profile_page", "scan_page", "support_warnings"]

HEAT_MAP_CAPTION = (
    "Columns are positions, with the wild-type letter above and a dot in its cell; rows are the substituted letters. "
    "Blue: predicted above the wild type; red: below; white: unchanged; grey: positions that did not vary in training, "
    "about which the model has no information. The strip above is the mean of each position. Colours saturate at the "
    "1st and 99th percentile. heatmap.pdf holds this figure for publication."
)
HATCH_CAPTION = " Hatched: no training sequence had the letter at the position, so that its effect is an extrapolation."
LOGO_CAPTION = (
    "Sequence logo of the predicted preferences: {} predictions are preferred. The height of a column is the "
    "information content of the position, in bits; the height of a letter is its part of it. Letter frequencies are "
    "the softmax of the effects above{}, in units of their mean absolute value."
)


def grid_of(
    frame: pd.DataFrame, length: int, letters: str, column: str = "difference", *, offset: int = 0
) -> np.ndarray:
    """Return a column of a scan as `(A, L)`, NaN where it has no value; positions start at 1 + `offset`."""
    values = frame[column].to_numpy()
    grid = np.full((len(letters), length), np.nan, dtype=float if values.dtype.kind == "f" else object)
    row = [letters.index(letter) for letter in frame["to"]]
    grid[row, frame["position"].to_numpy() - 1 - offset] = values
    return grid


def information(grid: np.ndarray) -> np.ndarray:
    """Return the letter heights of a sequence logo, `(L, A)` in bits.

    Letter frequencies at each position are the softmax of the effects in units of their mean absolute value (the wild
    type has effect 0); a letter's height is its frequency times log2(A) less the entropy (Schneider and Stephens 1990).

    Args:
        grid: `(A, L)` effects.
    """
    effects = np.nan_to_num(grid, nan=0.0).T
    scale = float(np.nanmean(np.abs(grid))) or 1.0
    weight = np.exp((effects - effects.max(1, keepdims=True)) / scale)
    frequency = weight / weight.sum(1, keepdims=True)
    entropy = -(frequency * np.log2(np.maximum(frequency, 1e-12))).sum(1, keepdims=True)
    return frequency * (np.log2(len(grid)) - entropy)


def scan_page(
    frame: pd.DataFrame,
    wild_type: str,
    *,
    scorer: Scorer,
    source: str,
    direction: Direction | None = None,
    cautions: Sequence[str] = (),
) -> tuple[dict[str, Any], str]:
    """Return the figures, by the names of their files, and the page of a scan of all single mutants.

    Args:
        frame: The table that `scan_table` returns.
        wild_type: The sequence that was mutated.
        scorer: Model and output.
        source: Name of the run.
        direction: Which direction of the target is better.
        cautions: Warnings shown above the heat map.
    """
    offset, letters = scorer.offset, scorer.letters
    grid = grid_of(frame, len(wild_type), letters, offset=offset)
    label = f"{scorer.title}: difference to the wild type"
    unobserved = grid_of(frame, len(wild_type), letters, "observed", offset=offset) == "no"
    notes = grid_of(frame.assign(note=_notes(frame)), len(wild_type), letters, "note", offset=offset)
    effects = heat_map(grid, wild_type, letters, label=label, offset=offset, unobserved=unobserved, notes=notes)
    preferred = logo(information(sign_of(direction) * grid), letters, label="bits", offset=offset)
    preference = LOGO_CAPTION.format(*(("low", " with the opposite sign") if sign_of(direction) < 0 else ("high", "")))
    measured = _measured_blocks(frame, wild_type, letters, name=scorer.name, offset=offset)
    caption = HEAT_MAP_CAPTION + (HATCH_CAPTION if unobserved.any() else "")
    sections = [
        Section("All single mutants", [*cautions, picture(effects, caption), *measured]),
        Section("Preferred letters", [picture(preferred, preference)]),
        Section("Positions and mutants", [_positions(frame), *_extremes(frame, direction)]),
    ]
    lead = (
        f"In silico deep mutational scan: {len(frame):,} single mutants of a wild type of {len(wild_type)} letters, "
        f"predicted by the model in {source}. The wild type is predicted at {describe_prediction(scorer, wild_type)}. "
        f"{describe_direction(direction, scorer.title)} {describe_quality(scorer)} Predictions are not measurements; "
        "verify the mutants that you rely on."
    )
    if scorer.partner is not None:
        lead += f" The partner sequence ({len(scorer.partner)} letters) is the same in all of them."
    if offset:
        lead += f" Positions are numbered as in the table of the fit: the first letter is position {1 + offset}."
    figures = {"heatmap": effects, "logo": preferred}
    return figures, page(f"All single mutants: {scorer.title}", lead=lead, sections=sections)


def support_warnings(frame: pd.DataFrame, scorer: Scorer, direction: Direction | None) -> list[str]:
    """Return warnings about the mutants of a scan that training does not support.

    Args:
        frame: The table that `scan_table` returns.
        scorer: Model and output.
        direction: Which direction of the target is better.
    """
    texts = []
    unobserved = count_of(frame["observed"], "no")
    if unobserved:
        texts.append(
            f"Warning: {unobserved:,} of {len(frame):,} single mutants have a letter that no training sequence had at "
            "the position; they are hatched in the heat map and marked in the column `observed` of scan.csv."
        )
    ordered = frame.sort_values("prediction", ascending=direction == "minimize")
    is_beyond = (ordered["beyond_measured"] == "yes").to_numpy()
    names = ordered["mutant"].tolist()
    warning = range_warning(names, is_beyond, measured_range(scorer), direction, what="single mutants")
    return [*texts, *([warning] if warning else [])]


def profile_page(frame: pd.DataFrame, label: str, caption: str, *, sequence: str) -> tuple[dict[str, Any], str]:
    """Return the figure and the page of the prediction along a sequence, of residues or base pairs."""
    if "first" in frame:
        figure = base_pair_figure(frame[["first", "second", "probability"]].to_numpy(), len(sequence))
    else:
        names = list(frame.columns[2:])
        figure = profile(frame[names].to_numpy(dtype=float), sequence, names=names, label=label)
    lead = f"{_profile_result(frame, sequence)} Predictions are not measurements; verify those that you rely on."
    sections = [Section("Prediction", [picture(figure, caption)])]
    return {"profile": figure}, page("Prediction along the sequence", lead=lead, sections=sections)


def _profile_result(frame: pd.DataFrame, sequence: str) -> str:
    """Return what is predicted along a sequence, in a sentence: base pairs, or the extremes of each column."""
    where = f"the {len(sequence)} letters of the sequence"
    if "first" in frame:
        if frame.empty:
            return f"No base pair is likely among {where}."
        best = frame.loc[frame["probability"].idxmax()]
        return (
            f"{len(frame):,} likely base pair{'s' * (len(frame) > 1)} among {where}; the most probable one is "
            f"{int(best['first'])}–{int(best['second'])} ({show(float(best['probability']))})."
        )
    texts = []
    for name in frame.columns[2:]:
        ends = [frame.loc[place] for place in (frame[name].idxmin(), frame[name].idxmax())]
        low, high = (f"{show(float(row[name]))} at {row['letter']}{row['position']}" for row in ends)
        texts.append(f"{name} from {low} to {high}")
    return f"Predicted along {where}: {'; '.join(texts)}."


def _notes(frame: pd.DataFrame) -> list[str]:
    """Return what the cells of the heat map show under the pointer below the effect."""
    notes = []
    for row in frame.to_dict("records"):
        lines = [f"predicted {show(row['prediction'])}"]
        if np.isfinite(row.get("prediction_low", np.nan)):
            lines[0] += f" ({show(row['prediction_low'])} to {show(row['prediction_high'])})"
        if pd.notna(row["measured"]):
            lines.append(f"measured {show(row['measured'])}")
        if row["observed"] == "no":
            lines.append("letter not observed here in training")
        notes.append("\n".join(lines))
    return notes


def _measured_blocks(
    frame: pd.DataFrame, wild_type: str, letters: str, *, name: str, offset: int
) -> list[str | Picture]:
    known: Any = frame[frame["measured"].notna()]
    if len(known) < 3:
        return ["Fewer than three single mutants have a measurement; --table adds the measurements of a table."]
    blocks: list[str | Picture] = []
    if len(known) >= len(frame) / 5:
        grid = grid_of(frame, len(wild_type), letters, "measured", offset=offset)
        label = f"{name}: measured, relative to the median"
        figure = heat_map(grid - float(known["measured"].median()), wild_type, letters, label=label, offset=offset)
        blocks.append(picture(figure, f"The {len(known):,} measured single mutants; grey: not measured."))
    x, y = known["measured"].to_numpy(), known["prediction"].to_numpy()
    caption = (
        f"Predictions against measurements of {len(known):,} single mutants ({correlation_text(x, y)}). If training "
        "variants are among them, as with --table, this is no estimate of the accuracy on new variants."
    )
    return [*blocks, picture(scatter(x, y, labels=(f"measured {name}", "predicted")), caption)]


def _positions(frame: pd.DataFrame) -> Table:
    by_position: Any = frame.groupby(["position", "from"])["difference"].agg(["mean", "min", "max"]).reset_index()
    strongest = by_position.reindex(by_position["mean"].abs().sort_values(ascending=False).index).head(12)
    rows = [
        [f"{row['from']}{row['position']}", float(row["mean"]), float(row["min"]), float(row["max"])]
        for row in strongest.to_dict("records")
    ]
    header = ["position", "mean difference", "lowest", "highest"]
    return Table(header, rows, caption="The twelve positions with the largest mean effect of a substitution.")


def _extremes(frame: pd.DataFrame, direction: Direction | None) -> list[Table]:
    ordered = frame.sort_values("difference", ascending=direction == "minimize")
    ends = {"best": ordered.head(10), "worst": ordered.tail(10)}
    return [_mutants(own, f"The ten {which} predicted single mutants.") for which, own in ends.items()]


def _mutants(frame: pd.DataFrame, caption: str) -> Table:
    optional = {"difference_std": "± (ensemble)", "observed": "letter observed", "beyond_measured": "beyond measured"}
    shown = [name for name in optional if bool(frame[name].notna().any())]
    rows = []
    for row in frame.to_dict("records"):
        measured = None if pd.isna(row["measured"]) else float(row["measured"])
        interval = interval_text(row["prediction_low"], row["prediction_high"])
        rows.append(
            [row["mutant"], float(row["prediction"]), interval, float(row["difference"])]
            + [row[name] for name in shown]
            + [measured]
        )
    header = ["mutant", "prediction", "90 % interval", "difference", *(optional[name] for name in shown), "measured"]
    return Table(header, rows, caption=caption)
