"""The page of epistasis: maps of pairs, what a curve explains of them, the strongest, and variance by order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subquad.bio.analysis.cycles import Cycles, beyond_curve, summary
from subquad.bio.analysis.orders import Library, Orders
from subquad.bio.plots import maps as pictures
from subquad.bio.plots.scan_page import agreement
from subquad.reporting.page import Picture, Section, Table, picture

__all__ = ["MEASURED", "PREDICTED", "Found", "lead", "pairs_of", "sections"]

Block = str | Table | Picture
AXIS = "position, with the wild type's letter"
LEAST_FOR_CURVE = 500
MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a landscape, by where it is from: measured, predicted."""

    wild_type: str
    offset: int
    """Positions are numbered from 1 and this."""
    cycles: Mapping[str, Cycles]
    orders: Mapping[str, Orders]
    library: Library | None
    floor: float
    """Share of the measured rows that stand at the very lowest value."""
    name: str
    """Of the target."""


def lead(found: Found, source: Path) -> str:
    """Return the page's first sentences."""
    parts = [f"{len(own.frame):,} double mutants {name}" for name, own in found.cycles.items()]
    if found.library is not None:
        parts.append(f"{len(found.library.values):,} of {found.library.combinations:,} combinations at few sites")
    return (
        f"From {source.name}: {', '.join(parts)}. Epistasis is the value of a double mutant less what its two changes, "
        "added up, would give; nought means that they do not know of each other."
    )


def pairs_of(found: Found) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return a row for each pair of positions, and one for each double mutant, with what is known of them side by side.

    Columns of pairs: `i`, `j`, `rms`, `max`, `mean`, `cycles`, `rms_beyond` and `mean_beyond` (a curve); of double
    mutants: `first`, `second`, `i`, `j`, `f_ij`, `expected`, `epistasis`, `beyond`. What is predicted beside
    measurements has `predicted_` before its names.
    """
    pairs, cycles = None, None
    for name, own in found.cycles.items():
        frame = own.frame.copy()
        # a curve through few points goes through all of them
        frame["beyond"] = beyond_curve(frame)[0] if len(frame) >= LEAST_FOR_CURVE else np.nan
        table = summary(frame).merge(
            summary(frame, "beyond")[["i", "j", "rms", "mean"]].rename(
                columns={"rms": "rms_beyond", "mean": "mean_beyond"}
            ),
            on=["i", "j"],
        )
        if pairs is None:
            pairs, cycles = table, frame
            continue
        before = f"{name}_"
        renamed = {c: before + c for c in table.columns if c not in ("i", "j")}
        pairs = pairs.merge(table.rename(columns=renamed), on=["i", "j"], how="outer").sort_values(
            "rms", ascending=False, ignore_index=True
        )
        keys = ["first", "second", "i", "j"]
        renamed = {c: before + c for c in ("f_ij", "expected", "epistasis", "beyond")}
        plain = {"first": str, "second": str}
        cycles = cycles.astype(plain).merge(frame.astype(plain).rename(columns=renamed), on=keys, how="left")
    if pairs is None:
        columns = ["i", "j", "rms", "max", "mean", "cycles", "rms_beyond", "mean_beyond"]
        pairs = pd.DataFrame(columns=columns)
    return pairs, cycles


def sections(found: Found, pairs: pd.DataFrame, cycles: pd.DataFrame | None) -> tuple[list[Section], dict[str, Figure]]:
    """Return the page's sections, and its figures by the name of their file."""
    parts: list[Section] = []
    figures: dict[str, Figure] = {}
    if cycles is not None:
        blocks, own = _maps(found, pairs)
        parts.append(Section("Pairs of positions", blocks))
        figures |= own
        if cycles["beyond"].notna().any():
            blocks, own = _beyond(found, pairs, cycles)
            parts.append(Section("Beyond the curve", blocks))
            figures |= own
        if f"{PREDICTED}_epistasis" in cycles:
            parts.append(Section("Measured and predicted", [_compared(cycles)]))
        parts.append(Section("The strongest", [_strongest_pairs(found, pairs), _strongest_cycles(cycles)]))
    if found.orders:
        blocks, own = _orders(found)
        parts.append(Section("Variance by order of interaction", blocks))
        figures |= own
    return [*parts, Section("How to read this page", _reading(found))], figures


def _places(found: Found, pairs: pd.DataFrame) -> tuple[list[int], list[str]]:
    known = sorted({*pairs["i"].astype(int), *pairs["j"].astype(int)})
    return known, [_site(found, position) for position in known]


def _site(found: Found, position: int) -> str:
    return f"{found.wild_type[position - 1 - found.offset]}{position}"


def _panels(
    found: Found, pairs: pd.DataFrame, known: Sequence[int], wanted: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return two maps: of one source by two figures, or of two sources by the first figure."""
    first, *rest = found.cycles
    if not rest:
        return {title: _square(pairs, known, name) for title, name in wanted.items()}
    title, name = next(iter(wanted.items()))
    return {
        f"{first}, {title}": _square(pairs, known, name),
        f"{rest[0]}, {title}": _square(pairs, known, f"{rest[0]}_{name}"),
    }


def _square(pairs: pd.DataFrame, known: Sequence[int], name: str) -> np.ndarray:
    at = {place: k for k, place in enumerate(known)}
    i, j = (pairs[side].map(at).to_numpy() for side in ("i", "j"))
    grid = np.full((len(known), len(known)), np.nan)
    grid[i, j] = grid[j, i] = pairs[name]
    return grid


def _maps(found: Found, pairs: pd.DataFrame) -> tuple[list[Block], dict[str, Figure]]:
    known, labels = _places(found, pairs)
    if _is_sparse(known, pairs):
        return _row(found, pairs)
    figure = pictures.pair_map(
        _panels(found, pairs, known, {"root mean square": "rms", "largest size": "max"}), labels=labels, axis=AXIS
    )
    said = f"Epistasis of {found.name} between positions, over the letters tried at both; grey: no double mutant."
    if len(found.cycles) > 1:
        said += " Measured and predicted have colours of their own: compare where it is, not how much."
    how = [f"Single effects of what was {name}: {own.how}." for name, own in found.cycles.items()]
    return [picture(figure, said), *how], {"pairs": figure}


def _is_sparse(known: Sequence[int], pairs: pd.DataFrame) -> bool:
    return len(known) > 40 and len(pairs) < 0.05 * len(known) ** 2


def _row(found: Found, pairs: pd.DataFrame) -> tuple[list[Block], dict[str, Figure]]:
    """Return the pairs along the sequence, where they are too few for a map."""
    shown = {name: pairs["rms" if k == 0 else f"{name}_rms"].to_numpy() for k, name in enumerate(found.cycles)}
    middle = (pairs["i"].to_numpy() + pairs["j"].to_numpy()) / 2
    label = "epistasis, root mean square"
    figure = pictures.along(middle, shown, length=len(found.wild_type), label=label, offset=found.offset)
    apart = pairs["j"] - pairs["i"]
    far = f"{apart.min():,}" if apart.min() == apart.max() else f"{apart.min():,} to {apart.max():,}"
    said = (
        f"Epistasis of {found.name} of the {len(pairs):,} pairs of positions that have double mutants; these are {far} "
        "apart, so that they are shown along the sequence, at the middle of both."
    )
    how = [f"Single effects of what was {name}: {own.how}." for name, own in found.cycles.items()]
    return [picture(figure, said), *how], {"pairs": figure}


def _beyond(found: Found, pairs: pd.DataFrame, cycles: pd.DataFrame) -> tuple[list[Block], dict[str, Figure]]:
    first = next(iter(found.cycles))
    expected, f_ij = cycles["expected"].to_numpy(), cycles["f_ij"].to_numpy()
    curve = f_ij - cycles["beyond"].to_numpy()
    order = np.argsort(expected)
    # a curve of some hundred points looks the same as one of half a million
    order = order[np.unique(np.linspace(0, len(order) - 1, 400).astype(int))]
    bent = pictures.scatter(
        expected,
        f_ij,
        labels=(f"{found.name} with no interaction", f"{found.name}, {first}"),
        curve=(expected[order], curve[order]),
    )
    known, labels = _places(found, pairs)
    wanted = {"mean beyond the curve": "mean_beyond", "root mean square beyond the curve": "rms_beyond"}
    figure = pictures.pair_map(_panels(found, pairs, known, wanted), labels=labels, axis=AXIS)
    total = float((cycles["epistasis"] ** 2).sum()) or 1.0
    share = 1 - float((cycles["beyond"] ** 2).sum()) / total
    blocks: list[Block] = [
        "A floor, a ceiling or a logarithm bends all sums of effects alike. Such a bend is epistasis by the scale of "
        f"the measurement; here a rising curve takes up {100 * share:.0f} % of the squared epistasis. What it leaves "
        "belongs to the pair of positions: contacts in the structure, or letters that only work together.",
        picture(bent, "Double mutants: their value against the sum of both effects; on the dashed line no epistasis."),
    ]
    if _is_sparse(known, pairs):
        return blocks, {"curve": bent}
    said = (
        "The map again, of what the curve leaves. The mean is the surer one: noise of single rows averages out in it."
    )
    return [*blocks, picture(figure, said)], {"curve": bent, "pairs_beyond": figure}


def _compared(cycles: pd.DataFrame) -> Picture:
    both = cycles.dropna(subset=["epistasis", f"{PREDICTED}_epistasis"])
    x, y = both["epistasis"].to_numpy(), both[f"{PREDICTED}_epistasis"].to_numpy()
    said = agreement(both["epistasis"], both[f"{PREDICTED}_epistasis"])
    figure = pictures.scatter(x, y, labels=("measured epistasis", "predicted epistasis"))
    return picture(figure, f"{len(both):,} double mutants, measured and predicted ({said}).")


def _strongest_pairs(found: Found, pairs: pd.DataFrame) -> Table:
    names = ["rms", "max", "mean", "cycles", "rms_beyond", "mean_beyond", f"{PREDICTED}_rms"]
    names = [name for name in names if name in pairs and pairs[name].notna().any()]
    titles = {
        "rms": "root mean square",
        "max": "largest",
        "mean": "mean",
        "cycles": "double mutants",
        "rms_beyond": "beyond the curve",
        "mean_beyond": "its mean",
        f"{PREDICTED}_rms": "predicted",
    }
    rows = []
    for _, row in pairs.dropna(subset=["rms"]).head(15).iterrows():
        i, j = int(row["i"]), int(row["j"])
        cells = [int(row[name]) if name == "cycles" else _number(row[name]) for name in names]
        rows.append([f"{_site(found, i)} – {_site(found, j)}", *cells])
    return Table(["positions", *(titles[name] for name in names)], rows, caption="All pairs are in pairs.csv.")


def _strongest_cycles(cycles: pd.DataFrame) -> Table:
    by = "beyond" if cycles["beyond"].notna().any() else "epistasis"
    size = cycles[by].abs().sort_values(ascending=False).head(20).index
    titles = {"f_ij": "value", "expected": "with no interaction", "epistasis": "epistasis"}
    titles |= {"beyond": "beyond the curve"} if by == "beyond" else {}
    titles |= {f"{PREDICTED}_epistasis": "predicted"} if f"{PREDICTED}_epistasis" in cycles else {}
    rows = [
        [f"{row['first']} + {row['second']}", *(_number(row[name]) for name in titles)]
        for _, row in cycles.loc[size].iterrows()
    ]
    what = "the curve" if by == "beyond" else "the sum of both effects"
    caption = f"The double mutants furthest from {what}; single rows may be errors of measurement."
    return Table(["double mutant", *titles.values()], rows, caption=f"{caption} All are in cycles.csv.gz.")


def _orders(found: Found) -> tuple[list[Block], dict[str, Figure]]:
    library, first = found.library, next(iter(found.orders.values()))
    assert library is not None
    shares = {name: own.share for name, own in found.orders.items()}
    figure = pictures.order_bars(shares, label="% of the variance")
    if first.is_exact:
        said = (
            "Exact, for all combinations are there. Noise is spread over all terms alike, so that orders with many "
            "terms hold most of it."
        )
    else:
        said = (
            f"What each order adds to the R² of rows left out of the fit ({first.rows:,} rows); noise cannot raise it."
        )
    blocks: list[Block] = [picture(figure, said)]
    rows: list[list[Any]] = []
    for name, own in found.orders.items():
        for k, share in enumerate(own.share):
            held = float(own.held_out[k]) if k < len(own.held_out) and np.isfinite(own.held_out[k]) else None
            rows.append([k + 1, name, float(share), float(own.share[: k + 1].sum()), held])
    header = ["order", "from", "share of the variance", "up to this order", "R² of rows left out"]
    caption = f"{len(library.values):,} of {library.combinations:,} combinations at {len(library.sites)} sites: "
    blocks.append(Table(header, rows, caption=caption + ", ".join(library.sites) + "."))
    if first.terms:
        terms = [[" × ".join(sites), len(sites), effect, share] for sites, effect, share in first.terms[:20]]
        header = ["changes", "order", "effect", "share of the variance"]
        caption = "The largest terms: the mean over all backgrounds of a change, of a double-mutant cycle, and so on."
        blocks.append(Table(header, terms, caption=caption))
    figures = {"orders": figure}
    if first.pairs is not None:
        panels = {f"mean double-mutant cycle, {name}": own.pairs for name, own in found.orders.items()}
        figures["pairs_averaged"] = pictures.pair_map(panels, labels=library.sites, axis="site")
        said = "Epistasis of pairs of sites, averaged over all backgrounds: blue, more than the sum of both; red, less."
        blocks.insert(1, picture(figures["pairs_averaged"], said))
    return blocks, figures


def _reading(found: Found) -> list[str]:
    said = [
        "A dark cell is a pair of positions whose changes do more, or less, together than the sum of both. Two harmful "
        "changes that together harm less than their sum have positive epistasis; those that harm more, negative."
    ]
    if MEASURED in found.cycles:
        said.append(
            "A cycle holds the noise of its measurements, so that even without any interaction no cell is quite white; "
            "the mean over many letters is surer than a single double mutant."
        )
    if PREDICTED in found.cycles:
        said.append("What a model predicts is what it learned to believe, not what was measured.")
    if found.floor > 0.05:
        said.append(
            f"{100 * found.floor:.0f} % of the rows stand at the very lowest value: below what the assay tells apart, "
            "so that epistasis, and high orders, there are those of the floor."
        )
    return said


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
