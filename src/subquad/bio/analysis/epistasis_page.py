"""Page and figures of epistasis: maps of pairs of positions, and specific epistasis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subquad.bio.analysis.landscape import MEASURED, PREDICTED, Landscape
from subquad.bio.models.support import count_of
from subquad.bio.plots.maps import correlation_text, scatter
from subquad.bio.plots.pair_maps import pair_map, pair_stems
from subquad.reporting.page import Block, Picture, Section, Table, page, picture

__all__ = ["describe_source", "page_and_figures", "support_warnings"]

Part = tuple[list[Block], dict[str, Figure]]
"""Blocks of a section, and figures by the name of their file."""
AXIS = "position, with the wild-type letter"


def page_and_figures(
    landscape: Landscape, pairs: pd.DataFrame, cycles: Any, *, source: str
) -> tuple[str, dict[str, Figure]]:
    """Return the page as HTML, and its figures by the name of their file.

    Args:
        landscape: What was found.
        pairs: Pairs of positions, from `pair_tables`.
        cycles: Double mutants, from `pair_tables`.
        source: Name of the table or run.
    """
    blocks, figures = _pairs(landscape, pairs)
    parts: dict[str, Part] = {"Pairs of positions": ([*support_warnings(landscape), *blocks], figures)}
    if cycles["specific"].notna().any():
        parts["Specific epistasis"] = _specific(landscape, pairs, cycles)
    if f"{PREDICTED}_epistasis" in cycles:
        parts["Measured and predicted"] = [_compared(landscape, cycles)], {}
    tables = [_strongest_pairs(landscape, pairs), _strongest_cycles(landscape, cycles)]
    parts["Strongest epistasis"] = [*describe_source(landscape), *tables], {}
    parts["How to read this page"] = [*_explanation(landscape)], {}
    sections = [Section(title, blocks) for title, (blocks, _) in parts.items()]
    figures = {name: figure for _, own in parts.values() for name, figure in own.items()}
    return page(f"Epistasis: {landscape.name}", lead=_lead(landscape, source), sections=sections), figures


def describe_source(landscape: Landscape) -> list[str]:
    """Return in a sentence that epistasis is predicted, and how much of it is extrapolated; nothing if measured."""
    if PREDICTED not in landscape.cycles:
        return []
    frame, known = landscape.cycles[PREDICTED].frame, landscape.doubles_of_fit
    is_alone = len(landscape.cycles) == 1
    text = "This epistasis is predicted by the model, not measured" if is_alone else "Predicted values are the model's"
    least = max(0 if known is None else len(frame) - known, count_of(frame["observed"], "no"))
    if not least:
        return [f"{text}; double mutants that are in no row of the table of the fit are extrapolations."]
    which = "all" if least == len(frame) else f"at least {least:,}"
    return [
        f"{text}; {which} of the {len(frame):,} double mutants are in no row of the table of the fit, so that their "
        "values are extrapolations."
    ]


def support_warnings(landscape: Landscape) -> list[str]:
    """Return warnings about predicted double mutants that training does not support."""
    if PREDICTED not in landscape.cycles:
        return []
    frame, texts = landscape.cycles[PREDICTED].frame, []
    unobserved = count_of(frame["observed"], "no")
    if unobserved:
        texts.append(
            f"Warning: {unobserved:,} of {len(frame):,} predicted double mutants have a letter that no training "
            "sequence had at its position (column `observed` of cycles.csv.gz); they are extrapolations. Pairs of "
            "positions without any other double mutant are hatched in the map."
        )
    if landscape.measured_range is not None:
        low, high = landscape.measured_range
        values = frame["f_ij"].to_numpy()
        beyond = int(((values < low) | (values > high)).sum())
        if beyond:
            texts.append(
                f"Warning: {beyond:,} of {len(frame):,} double mutants are predicted outside the measured range, "
                f"{low:.4g} to {high:.4g}; no measurement supports such values."
            )
    return texts


def _lead(landscape: Landscape, source: str) -> str:
    found = [f"{len(own.frame):,} {name} double mutants" for name, own in landscape.cycles.items()]
    return (
        f"{source}: {', '.join(found)}. The epistasis of a double mutant is its value less that expected from the sum "
        "of both single-mutant effects; zero means that the two mutations act independently."
        + (f" {landscape.quality}" if landscape.quality else "")
    )


def _pairs(landscape: Landscape, pairs: pd.DataFrame) -> Part:
    sources = [f"Single-mutant effects ({name}): {own.single_effects}." for name, own in landscape.cycles.items()]
    if _is_sparse(pairs):
        figure, caption = _stems(landscape, pairs)
        return [picture(figure, caption), *sources], {"pairs": figure}
    panels = _panels(landscape, pairs, {"root mean square": "rms", "largest absolute value": "max"})
    unobserved = _unobserved(landscape, pairs, panels)
    figure = pair_map(panels, labels=_labels(landscape, pairs), axis=AXIS, unobserved=unobserved)
    caption = f"Epistasis of {landscape.name} between positions, over all substitutions; grey: no double mutant."
    if any(cells.any() for cells in unobserved.values()):
        caption += " Hatched: all double mutants of the pair have a letter that was not observed in training."
    if len(landscape.cycles) > 1:
        caption += " Each map has its own colour scale: compare the pattern, not the magnitude."
    caption += _unit(landscape)
    return [picture(figure, caption), *sources], {"pairs": figure}


def _unit(landscape: Landscape) -> str:
    """Return the unit of predictions of a class as a sentence for captions; empty for measurements."""
    if not landscape.has_log_odds:
        return ""
    return " Predictions are in log odds" + ("; measurements are 0 or 1." if MEASURED in landscape.cycles else ".")


def _is_sparse(pairs: pd.DataFrame) -> bool:
    count = len({*pairs["i"], *pairs["j"]})
    return count > 40 and len(pairs) < 0.05 * count**2


def _stems(landscape: Landscape, pairs: pd.DataFrame) -> tuple[Figure, str]:
    """Return the pairs along the sequence, for tables with too few pairs to fill a map."""
    values = {name: pairs["rms" if k == 0 else f"{name}_rms"].to_numpy() for k, name in enumerate(landscape.cycles)}
    middle = (pairs["i"].to_numpy() + pairs["j"].to_numpy()) / 2
    length, offset = len(landscape.wild_type), landscape.offset
    figure = pair_stems(middle, values, length=length, label="epistasis, root mean square", offset=offset)
    apart = np.unique(pairs["j"] - pairs["i"])
    span = f"{apart[0]:,}" if len(apart) == 1 else f"{apart[0]:,} to {apart[-1]:,}"
    caption = (
        f"Epistasis of {landscape.name} of the {len(pairs):,} pairs of positions with double mutants, {span} residues "
        "apart; each is drawn at the midpoint of its positions."
    )
    return figure, caption + _unit(landscape)


def _positions(pairs: pd.DataFrame) -> list[int]:
    return sorted({*pairs["i"].astype(int), *pairs["j"].astype(int)})


def _labels(landscape: Landscape, pairs: pd.DataFrame) -> list[str]:
    return [_site(landscape, position) for position in _positions(pairs)]


def _site(landscape: Landscape, position: int) -> str:
    return f"{landscape.wild_type[position - 1 - landscape.offset]}{position}"


def _panels(landscape: Landscape, pairs: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return two maps: two columns of a single source, or the first column of both sources."""
    first, *others = landscape.cycles
    if not others:
        return {title: _square(pairs, column) for title, column in columns.items()}
    title, column = next(iter(columns.items()))
    return {
        f"{first}, {title}": _square(pairs, column),
        f"{others[0]}, {title}": _square(pairs, f"{others[0]}_{column}"),
    }


def _unobserved(landscape: Landscape, pairs: pd.DataFrame, panels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pairs without observed double mutants, `(L, L)` bool, in the maps of predictions."""
    prefix = f"{PREDICTED}_" if len(landscape.cycles) > 1 else ""
    column = f"{prefix}observed_double_mutants"
    if PREDICTED not in landscape.cycles or column not in pairs:
        return {}
    cells = _square(pairs, column) == 0
    return {title: cells for title in panels if not prefix or title.startswith(PREDICTED)}


def _square(pairs: pd.DataFrame, column: str) -> np.ndarray:
    index = {position: k for k, position in enumerate(_positions(pairs))}
    i, j = ([index[position] for position in pairs[side]] for side in ("i", "j"))
    grid = np.full((len(index), len(index)), np.nan)
    grid[i, j] = grid[j, i] = pairs[column]
    return grid


def _specific(landscape: Landscape, pairs: pd.DataFrame, cycles: Any) -> Part:
    first = next(iter(landscape.cycles))
    expected, f_ij = cycles["expected"].to_numpy(), cycles["f_ij"].to_numpy()
    curve = f_ij - cycles["specific"].to_numpy()
    order = np.argsort(expected)
    # a few hundred points draw the same curve as half a million
    order = order[np.unique(np.linspace(0, len(order) - 1, 400).astype(int))]
    unit = " (log odds)" if landscape.has_log_odds and first == PREDICTED else ""
    labels = (f"{landscape.name} expected without epistasis{unit}", f"{landscape.name}, {first}{unit}")
    bent = scatter(expected, f_ij, labels=labels, curve=(expected[order], curve[order]))
    total = float((cycles["epistasis"] ** 2).sum()) or 1.0
    explained = 1 - float((cycles["specific"] ** 2).sum()) / total
    blocks: list[Block] = [
        "A detection limit, saturation or a logarithmic scale bends all sums of effects alike (global epistasis). Here "
        f"a monotonic curve explains {100 * explained:.0f} % of the squared epistasis. The remainder is specific to "
        "the pair of positions, for example residues in contact.",
        picture(bent, "Value of the double mutants against the sum of both effects. Dashed line: no epistasis."),
    ]
    if _is_sparse(pairs):
        return blocks, {"curve": bent}
    panels = _panels(
        landscape, pairs, {"mean, specific": "mean_specific", "root mean square, specific": "rms_specific"}
    )
    signed = [title for title in panels if title.endswith("mean, specific")]
    figure = pair_map(panels, labels=_labels(landscape, pairs), axis=AXIS, signed=signed)
    caption = "Specific epistasis only. The mean is more reliable, because measurement noise averages out."
    return [*blocks, picture(figure, caption)], {"curve": bent, "pairs_specific": figure}


def _compared(landscape: Landscape, cycles: pd.DataFrame) -> Picture:
    both = cycles.dropna(subset=["epistasis", f"{PREDICTED}_epistasis"])
    x, y = both["epistasis"].to_numpy(), both[f"{PREDICTED}_epistasis"].to_numpy()
    labels = ("measured epistasis", "predicted epistasis" + (" (log odds)" if landscape.has_log_odds else ""))
    # there is no line of agreement between different units
    figure = scatter(x, y, labels=labels, has_line=not landscape.has_log_odds)
    caption = f"Measured and predicted epistasis of {len(both):,} double mutants ({correlation_text(x, y)})."
    return picture(figure, caption + _unit(landscape))


def _strongest_pairs(landscape: Landscape, pairs: Any) -> Table:
    titles = {
        "rms_specific": "specific, root mean square",
        "mean_specific": "specific, mean",
        "rms": "root mean square",
        "max": "largest",
        "mean": "mean",
        "double_mutants": "double mutants",
        "observed_double_mutants": "with observed letters",
        f"{PREDICTED}_rms": "predicted, root mean square",
    }
    columns = [column for column in titles if column in pairs and pairs[column].notna().any()]
    rows = []
    for row in pairs.dropna(subset=["rms"]).head(15).to_dict("records"):
        cells = [int(row[name]) if name.endswith("double_mutants") else _number(row[name]) for name in columns]
        rows.append([f"{_site(landscape, int(row['i']))} – {_site(landscape, int(row['j']))}", *cells])
    first = titles[columns[0]]
    caption = f"Pairs of positions with the largest epistasis ({first}). pairs.csv lists all pairs.{_unit(landscape)}"
    return Table(["positions", *(titles[name] for name in columns)], rows, caption=caption)


def _strongest_cycles(landscape: Landscape, cycles: Any) -> Table:
    is_specific = bool(cycles["specific"].notna().any())
    column = "specific" if is_specific else "epistasis"
    titles = {"f_ij": "value", "expected": "expected without epistasis", "epistasis": "epistasis"}
    titles |= {"specific": "specific epistasis"} if is_specific else {}
    titles |= (
        {"observed": "letters observed"} if "observed" in cycles and bool(cycles["observed"].notna().any()) else {}
    )
    titles |= {f"{PREDICTED}_epistasis": "predicted"} if f"{PREDICTED}_epistasis" in cycles else {}
    strongest = cycles.loc[cycles[column].abs().sort_values(ascending=False).head(20).index]
    rows = [
        [f"{row['first']} + {row['second']}", *(_cell(row[name]) for name in titles)]
        for row in strongest.to_dict("records")
    ]
    caption = (
        f"Double mutants with the largest {titles[column]}. A single double mutant may be a measurement error. "
        f"cycles.csv.gz lists all double mutants.{_unit(landscape)}"
    )
    return Table(["double mutant", *titles.values()], rows, caption=caption)


def _explanation(landscape: Landscape) -> list[str]:
    texts = [
        "Pairs of positions with large values have mutations that do not act independently. Epistasis is positive "
        "where a double mutant is above what its two mutations alone would give, and negative where it is below. "
        "Whether that is better or worse depends on the assay."
    ]
    if MEASURED in landscape.cycles:
        texts.append(
            "Measured cycles contain measurement noise, so values are not 0 even without epistasis. The mean over "
            "many substitutions is more reliable than a single double mutant."
        )
    if PREDICTED in landscape.cycles:
        text = "Predicted epistasis describes the fitted model; it is a hypothesis and not a measurement."
        if landscape.has_log_odds:
            text += (
                " That of a class is in log odds, the natural logarithm of p / (1 − p), on which effects of mutations "
                "add up; so are its predicted values."
            )
        texts.append(text)
    if landscape.at_minimum > 0.05:
        texts.append(
            f"{100 * landscape.at_minimum:.0f} % of the measurements equal the lowest value, probably the detection "
            "limit of the assay; epistasis among them reflects that limit."
        )
    return texts


def _cell(value: Any) -> float | str | None:
    return value if isinstance(value, str) else _number(value)


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
