"""The batch to order: a diverse choice of the best variants, laid out on plates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from subquad.bio.design_search.search import ScoredVariants
from subquad.bio.design_search.settings import DesignSettings
from subquad.errors import SubquadError

__all__ = ["PLATE_SHAPES", "choose_batch", "plate_map"]

PLATE_SHAPES = {96: (8, 12), 384: (16, 24)}
"""Rows and columns of a plate, by its number of wells."""


def choose_batch(scored: ScoredVariants, rows: np.ndarray, settings: DesignSettings, *, start: float) -> np.ndarray:
    """Return the rows of a diverse batch, best first, chosen greedily.

    The similarity of two variants is the Jaccard index of their mutations. Each candidate loses its largest plus its
    mean similarity to the variants chosen so far, times `diversity`, times the gain of the best variant over the start.

    Args:
        scored: Variants and their scores.
        rows: Candidates.
        settings: Number and diversity.
        start: Upper confidence bound of the start sequence.
    """
    most = max(5000, 50 * settings.number)
    rows = rows[np.argsort(-scored.value[rows], kind="stable")][:most]
    value, codes = scored.value[rows], scored.codes[rows]
    is_mutated = codes != scored.constraints.start
    count = is_mutated.sum(1)
    # if nothing improves on the start, the range of the candidates sets the scale
    gain = value[0] - start if value[0] > start else np.ptp(value)
    largest, total, chosen = np.zeros(len(rows)), np.zeros(len(rows)), []
    is_left = np.ones(len(rows), dtype=bool)
    for _ in range(min(settings.number, len(rows))):
        loss = settings.diversity * gain * (largest + total / max(len(chosen), 1))
        pick = int(np.where(is_left, value - loss, -np.inf).argmax())
        chosen.append(pick)
        is_left[pick] = False
        shared = ((codes == codes[pick]) & is_mutated & is_mutated[pick]).sum(1)
        similarity = shared / np.maximum(count + count[pick] - shared, 1)
        largest, total = np.maximum(largest, similarity), total + similarity
    picked = rows[chosen]
    return picked[np.argsort(-scored.value[picked], kind="stable")]


def plate_map(names: Sequence[str], *, wells: int = 96, controls: int = 4, control: str = "wild type") -> pd.DataFrame:
    """Return the layout of plates, one row per filled well.

    Wells are filled by rows (A1, A2, … B1); controls are spread evenly over the plate, so that they reveal gradients.

    Args:
        names: Names of the designs, in filling order.
        wells: Wells per plate, 96 or 384.
        controls: Wells per plate that hold the control.
        control: Name of the control.

    Returns:
        Columns `plate` (from 1), `well` (A01), `row` and `column` (from 1), `name` and `is_control`.

    Raises:
        SubquadError: There is no such plate, or no well is left for designs.
    """
    if wells not in PLATE_SHAPES:
        raise SubquadError(f"plates have {' or '.join(map(str, PLATE_SHAPES))} wells, got {wells}")
    if not 0 <= controls < wells:
        raise SubquadError(f"controls must be between 0 and {wells - 1} for plates of {wells} wells, got {controls}")
    rows, capacity = [], wells - controls
    for plate, begin in enumerate(range(0, len(names), capacity), start=1):
        own = list(names[begin : begin + capacity])
        used = len(own) + controls
        # a single control goes into the middle
        ends = (0, used - 1) if controls > 1 else (used // 2, used // 2)
        control_wells = set(np.linspace(*ends, controls).round().astype(int).tolist())
        designs = iter(own)
        for index in range(used):
            row, column = divmod(index, PLATE_SHAPES[wells][1])
            is_control = index in control_wells
            rows.append(
                {
                    "plate": plate,
                    "well": f"{chr(ord('A') + row)}{column + 1:02d}",
                    "row": row + 1,
                    "column": column + 1,
                    "name": control if is_control else next(designs),
                    "is_control": is_control,
                }
            )
    columns = ["plate", "well", "row", "column", "name", "is_control"]
    return pd.DataFrame(rows, columns=columns)
