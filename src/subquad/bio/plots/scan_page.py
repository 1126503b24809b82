"""The pages of a scan: heat map and logo of all single mutants, or a profile of the sequence. Draws and writes only."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subquad.bio.plots import maps as pictures
from subquad.bio.plots.maps import save
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.runs.storage import atomic

__all__ = ["agreement", "grid_of", "preferences", "write_profile", "write_scan"]


def grid_of(
    frame: pd.DataFrame, length: int, letters: str, column: str = "difference", *, offset: int = 0
) -> np.ndarray:
    """Return a column of a scan as `(A, L)`; NaN where it has no value. Positions are numbered from 1 + `offset`."""
    grid = np.full((len(letters), length), np.nan)
    row = frame["to"].map({letter: k for k, letter in enumerate(letters)})
    grid[row.to_numpy(dtype=int), frame["position"].to_numpy() - 1 - offset] = frame[column]
    return grid


def preferences(grid: np.ndarray) -> np.ndarray:
    """Return `(L, A)` heights of the letters of a logo, in bits.

    At each position the letters' shares are the softmax of their effects, in units of their mean size (the
    wild type's own is 0); a letter is as high as its share of the position's information, the logarithm of A less the
    entropy, as in Schneider and Stephens (1990).
    """
    filled = np.nan_to_num(grid, nan=0.0).T
    scale = float(np.nanmean(np.abs(grid))) or 1.0
    weight = np.exp((filled - filled.max(1, keepdims=True)) / scale)
    share = weight / weight.sum(1, keepdims=True)
    entropy = -(share * np.log2(np.maximum(share, 1e-12))).sum(1, keepdims=True)
    return share * (np.log2(len(grid)) - entropy)


def agreement(x: pd.Series, y: pd.Series) -> str:
    """Return the rank correlation in words; of a constant there is none."""
    first, second = x.rank(), y.rank()
    if first.nunique() < 2 or second.nunique() < 2:
        return "no correlation: one of both is the same for all"
    return f"Spearman {np.corrcoef(first, second)[0, 1]:.3f}"


def write_scan(
    frame: pd.DataFrame,
    sequence: str,
    out: Path,
    *,
    letters: str,
    name: str,
    run: Path,
    kind: str,
    offset: int = 0,
    caution: str | None = None,
) -> None:
    """Write table, pictures and page of all single mutants.

    Args:
        frame: a row for each mutant; see `explain.scan_table`.
        sequence: the wild type.
        out: the folder.
        letters: of the alphabet.
        name: of the target or class.
        run: whose model it is.
        kind: of the target.
        offset: positions are numbered from 1 and this.
        caution: what to say above the map, where the model knows little of the wild type.
    """
    out.mkdir(parents=True, exist_ok=True)
    what = f"{name}: difference to the wild type" if kind == "regression" else f"probability of {name}, difference"
    grid = grid_of(frame, len(sequence), letters, offset=offset)
    predicted = pictures.heat_map(grid, sequence, letters, label=what, offset=offset)
    logo = pictures.logo(preferences(grid), letters, label="bits", offset=offset)
    for stem, figure in (("heatmap", predicted), ("logo", logo)):
        save(figure, out / stem)
    with atomic(out / "scan.csv") as temporary:
        frame.to_csv(temporary, index=False)
    sections = [
        Section(
            "All single mutants",
            [
                *([caution] if caution else []),
                picture(predicted, _HEAT),
                *_measured_blocks(frame, sequence, letters, name=name, offset=offset),
            ],
        ),
        Section("Letters that the model prefers", [picture(logo, _LOGO)]),
        Section("Positions and mutants", [_positions(frame), _extremes(frame)]),
    ]
    title = f"All single mutants: {name}"
    lead = (
        f"{len(frame):,} single mutants of {len(sequence)} letters, predicted by the model in {run.name}; "
        "a prediction is no measurement: check those you build on."
    )
    if offset:
        lead += f" Positions are numbered as in its table: the first letter is {1 + offset}."
    with atomic(out / "scan.html") as temporary:
        temporary.write_text(page(title, lead=lead, sections=sections), encoding="utf-8")


def write_profile(frame: pd.DataFrame, figure: Figure, out: Path, *, caption: str, length: int) -> None:
    """Write table, picture and page of the prediction along a sequence, by a model of residues or base pairs."""
    out.mkdir(parents=True, exist_ok=True)
    save(figure, out / "profile")
    with atomic(out / "scan.csv") as temporary:
        frame.to_csv(temporary, index=False)
    lead = f"A sequence of {length} letters. A prediction is no measurement: check those you build on."
    html = page(
        "Prediction along the sequence", lead=lead, sections=[Section("Prediction", [picture(figure, caption)])]
    )
    with atomic(out / "scan.html") as temporary:
        temporary.write_text(html, encoding="utf-8")


_HEAT = (
    "Columns are positions, with the wild type's letter on top and as a dot in its cell; rows are the new letters. "
    "Blue: predicted above the wild type; red: below; white: as the wild type; grey: a position that never varied in "
    "training, of which the model knows nothing. The strip is the mean of each position. "
    "Colours end at the outermost hundredth of the values. heatmap.pdf holds this picture for a paper."
)
_LOGO = (
    "The higher a column, the more it matters which letter stands there; the higher a letter, the more the model "
    "prefers it. Shares are the softmax of the effects above, in units of their mean size."
)


def _measured_blocks(
    frame: pd.DataFrame, sequence: str, letters: str, *, name: str, offset: int
) -> list[str | Picture]:
    known = frame[frame["measured"].notna()]
    if len(known) < 3:
        return ["No single mutant has a measurement to stand beside; --table names a table that has them."]
    blocks: list[str | Picture] = []
    if len(known) >= len(frame) / 5:
        grid = grid_of(frame, len(sequence), letters, "measured", offset=offset)
        centre = float(known["measured"].median())
        label = f"{name}: measured, less its median"
        shown = pictures.heat_map(grid - centre, sequence, letters, label=label, offset=offset)
        blocks.append(
            picture(shown, f"The same map of the {len(known):,} mutants that were measured; grey: not measured.")
        )
    figure = pictures.scatter(
        known["measured"].to_numpy(), known["prediction"].to_numpy(), labels=(f"measured {name}", "predicted")
    )
    said = f"Predictions against measurements of {len(known):,} single mutants "
    said += f"({agreement(known['prediction'], known['measured'])})"
    return [*blocks, picture(figure, f"{said}; the model may have learned from some of them.")]


def _positions(frame: pd.DataFrame) -> Table:
    by = frame.groupby(["position", "from"])["difference"]
    summary = pd.DataFrame({"mean": by.mean(), "low": by.min(), "high": by.max()}).reset_index()
    ordered = summary.reindex(summary["mean"].abs().sort_values(ascending=False).index)
    rows = [
        [f"{row['from']}{row['position']}", float(row["mean"]), float(row["low"]), float(row["high"])]
        for _, row in ordered.head(12).iterrows()
    ]
    header = ["position", "mean difference", "lowest", "highest"]
    return Table(header, rows, caption="The twelve positions where a change is predicted to matter most.")


def _extremes(frame: pd.DataFrame) -> Table:
    ordered = frame.sort_values("difference", ascending=False)
    has_spread = bool(frame["spread"].notna().any())

    def cells(row: pd.Series) -> list[Any]:
        measured = None if pd.isna(row["measured"]) else float(row["measured"])
        spread = [float(row["spread"])] if has_spread else []
        return [row["mutant"], float(row["prediction"]), float(row["difference"]), *spread, measured]

    rows = [cells(row) for _, row in pd.concat([ordered.head(10), ordered.tail(10)]).iterrows()]
    header = ["mutant", "prediction", "difference", *(["spread"] if has_spread else []), "measured"]
    return Table(header, rows, caption="The ten mutants predicted highest and the ten predicted lowest.")
