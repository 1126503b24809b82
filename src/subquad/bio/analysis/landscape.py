"""Epistasis of a fitness landscape, measured or predicted: double-mutant cycles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.analysis.cycles import (
    Cycles,
    DoubleMutant,
    by_pair,
    letters_of,
    measured_cycles,
    predicted_cycles,
    specific_epistasis,
)
from subquad.bio.models.scorer import Scorer
from subquad.bio.models.support import describe_quality, double_mutants_of_fit, measured_range
from subquad.errors import SubquadError

__all__ = [
    "MEASURED",
    "PREDICTED",
    "Landscape",
    "measured_landscape",
    "pair_tables",
    "predicted_landscape",
]

MEASURED, PREDICTED = "measured", "predicted"
MIN_FOR_CURVE = 500
"""Double mutants below which a monotonic curve would overfit."""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Epistasis by source: measured, predicted or both."""

    wild_type: str
    offset: int
    """Positions are numbered from 1 + `offset`."""
    cycles: Mapping[str, Cycles]
    at_minimum: float
    """Fraction of the measurements that equal the lowest one."""
    name: str
    """Target column or class."""
    has_log_odds: bool = False
    """Predictions are log odds of a class, and measurements 0 or 1."""
    measured_range: tuple[float, float] | None = None
    """Lowest and highest measurement of the table of the fit, to which predictions are compared; None if unknown."""
    doubles_of_fit: int | None = None
    """Number of rows of the table of the fit that are double mutants of the wild type; None if unknown."""
    quality: str = ""
    """How good the model is on test rows, as a sentence; empty without predictions."""


def measured_landscape(
    sequences: list[str],
    values: np.ndarray,
    wild_type: str | None,
    *,
    name: str = "target",
    offset: int = 0,
) -> tuple[Landscape, list[str]]:
    """Return the epistasis of measurements, and remarks for the user.

    Args:
        sequences: Variants; those whose length differs from the wild type's are skipped.
        values: Measurements; rows without one are skipped.
        wild_type: Wild-type sequence; by default the most frequent letter at each position.
        name: Target column.
        offset: Positions are numbered from 1 + `offset`.

    Raises:
        SubquadError: No row has the length of the wild type, or there are no double mutants.
    """
    remarks = []
    length = len(wild_type) if wild_type else int(np.bincount([len(s) for s in sequences]).argmax())
    kept = np.array([len(s) == length for s in sequences], dtype=bool) & np.isfinite(values)
    if not kept.any():
        raise SubquadError(f"no measured row of the table has {length:,} letters, as the wild type has")
    if not kept.all():
        remarks.append(f"skipped {(~kept).sum():,} rows of another length or without a measurement")
    letters = letters_of([s for s, keep in zip(sequences, kept, strict=True) if keep])
    values = values[kept]
    if wild_type is None:
        wild_type = "".join(chr(np.bincount(column).argmax()) for column in letters.T)
        remarks.append("wild type: inferred as the most frequent letter at each position; override it with --wild-type")
    own = np.frombuffer(wild_type.encode(), dtype=np.uint8)
    cycles = {MEASURED: measured_cycles(letters, own, values, offset=offset)}
    is_class = set(np.unique(values)) <= {0.0, 1.0}
    landscape = Landscape(
        wild_type=wild_type,
        offset=offset,
        cycles=cycles,
        # the negative class is no detection limit
        at_minimum=0.0 if is_class else float((values == values.min()).mean()),
        name=name,
    )
    return landscape, remarks


def predicted_landscape(
    scorer: Scorer,
    wild_type: str,
    *,
    measured: Landscape | None,
    max_double_mutants: int,
    seed: int,
    quiet: bool,
) -> Landscape:
    """Return the epistasis predicted by a model, beside the measured one of the same variants.

    Args:
        scorer: Model and output.
        wild_type: Wild-type sequence.
        measured: Measured epistasis, or None; its double mutants are predicted.
        max_double_mutants: Number of double mutants to predict.
        seed: Seed of random subsamples.
        quiet: Show no progress.
    """
    doubles = None if measured is None else _double_mutants(measured.cycles[MEASURED].frame, scorer.offset)
    cycles = {} if measured is None else dict(measured.cycles)
    cycles[PREDICTED] = predicted_cycles(
        scorer, wild_type, doubles=doubles, max_double_mutants=max_double_mutants, seed=seed, quiet=quiet
    )
    return Landscape(
        wild_type=wild_type,
        offset=scorer.offset,
        cycles=cycles,
        at_minimum=0.0 if measured is None else measured.at_minimum,
        name=scorer.name,
        has_log_odds=scorer.is_probability,
        measured_range=measured_range(scorer),
        doubles_of_fit=double_mutants_of_fit(scorer, wild_type),
        quality=describe_quality(scorer),
    )


def _double_mutants(frame: pd.DataFrame, offset: int) -> list[DoubleMutant]:
    first, second = (frame[name].astype(str).str[-1] for name in ("first", "second"))
    i, j = (frame[side] - 1 - offset for side in ("i", "j"))
    return list(zip(zip(i, first, strict=True), zip(j, second, strict=True), strict=True))


def pair_tables(landscape: Landscape) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per pair of positions and one per double mutant, all sources side by side.

    Pairs are sorted by the root mean square of their specific epistasis, or of all epistasis if no curve was fitted.
    Columns of pairs: `i`, `j`, `rms`, `max`, `mean`, `double_mutants`, `rms_specific`, `mean_specific`; of double
    mutants: `first`, `second`, `i`, `j`, `f_ij`, `expected`, `epistasis`, `specific`. Predictions beside measurements
    have the prefix `predicted_`. Predictions also have `observed` (of double mutants) and `observed_double_mutants` (of
    pairs); see `Cycles` and `by_pair`.
    """
    pairs, cycles = None, None
    for name, own in landscape.cycles.items():
        frame = own.frame.copy()
        frame["specific"] = specific_epistasis(frame)[0] if len(frame) >= MIN_FOR_CURVE else np.nan
        specific: Any = by_pair(frame, "specific")[["i", "j", "rms", "mean"]]
        table = by_pair(frame).merge(
            specific.rename(columns={"rms": "rms_specific", "mean": "mean_specific"}), on=["i", "j"]
        )
        if pairs is None or cycles is None:
            pairs, cycles = table, frame
            continue
        renamed = {column: f"{name}_{column}" for column in table.columns if column not in ("i", "j")}
        pairs = pairs.merge(table.rename(columns=renamed), on=["i", "j"], how="outer")
        keys = ["first", "second", "i", "j"]
        renamed = {column: f"{name}_{column}" for column in ("f_ij", "expected", "epistasis", "specific")}
        text = {"first": str, "second": str}
        cycles = cycles.astype(text).merge(frame.astype(text).rename(columns=renamed), on=keys, how="left")
    assert pairs is not None
    assert cycles is not None
    order = "rms_specific" if bool(pairs["rms_specific"].notna().any()) else "rms"
    pairs = pairs.sort_values(order, ascending=False, ignore_index=True)
    return pairs, cycles
