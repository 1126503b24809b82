"""The batch to order: a diverse choice of the best variants, laid out on plates."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from subquad.bio.design_search.search import ScoredVariants
from subquad.bio.design_search.settings import SearchSettings
from subquad.errors import SubquadError

__all__ = ["PLATE_SHAPES", "choose_batch", "pick_batch", "plate_map"]

MAX_CANDIDATES = 5000
"""Candidates of a batch: the best of all scored variants; more for large batches."""
MAX_DRAWN = 2000
"""Candidates of Thompson sampling, of which a Gaussian process has a joint distribution."""
PLATE_SHAPES = {96: (8, 12), 384: (16, 24)}
"""Rows and columns of a plate, by its number of wells."""


def choose_batch(
    scored: ScoredVariants,
    rows: np.ndarray,
    settings: SearchSettings,
    *,
    number: int,
    start: float,
    draws: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return the rows of a diverse batch, best first.

    Args:
        scored: Variants and their scores.
        rows: Candidates.
        settings: Diversity and minimum distance.
        number: Size of the batch.
        start: Acquisition function of the start sequence.
        draws: For Thompson sampling: function from candidates to the values by which each choice ranks them,
            `(number, candidates)`; the batch is then in the order of the choices.
    """
    most = max(MAX_CANDIDATES, 50 * number) if draws is None else MAX_DRAWN
    rows = rows[np.argsort(-scored.value[rows], kind="stable")][:most]
    values, codes = scored.value[rows] if draws is None else draws(rows), scored.codes[rows]
    # if nothing improves on the start, the range of the candidates sets the scale
    gain = values.max() - start if values.max() > start else np.ptp(values)
    scale = settings.diversity * float(gain)
    chosen = pick_batch(
        values, codes, scored.constraints.start, number=number, scale=scale, min_distance=settings.min_distance
    )
    picked = rows[chosen]
    return picked if draws is not None else picked[np.argsort(-scored.value[picked], kind="stable")]


def pick_batch(
    values: np.ndarray,
    codes: np.ndarray | None,
    reference: np.ndarray | None,
    *,
    number: int,
    scale: float,
    min_distance: int = 1,
) -> np.ndarray:
    """Return the indices of a diverse batch, chosen greedily.

    The similarity of two variants is the Jaccard index of their mutations. Each candidate loses its largest plus its
    mean similarity to the variants chosen so far, times `scale`.

    Args:
        values: `(n,)` values of the candidates, higher is better; or `(number, n)`, one row per choice.
        codes: `(n, L)` codes of their letters; None for sequences that are not aligned, of which the best are chosen.
        reference: `(L,)` codes of the sequence that they mutate.
        number: Size of the batch; it is smaller if there are too few candidates.
        scale: Penalty of full similarity, in units of the values.
        min_distance: Minimum number of substitutions between two choices.
    """
    count = values.shape[-1]
    values = np.broadcast_to(values, (number, count))
    is_mutated = None if codes is None or reference is None else codes != reference
    mutations = np.zeros(count) if is_mutated is None else is_mutated.sum(1)
    largest, total, chosen = np.zeros(count), np.zeros(count), []
    is_left = np.ones(count, dtype=bool)
    for choice in range(number):
        if not is_left.any():
            break
        loss = scale * (largest + total / max(len(chosen), 1))
        pick = int(np.where(is_left, values[choice] - loss, -np.inf).argmax())
        chosen.append(pick)
        is_left[pick] = False
        if is_mutated is None or codes is None:
            continue
        is_same = codes == codes[pick]
        is_left &= (~is_same).sum(1) >= min_distance
        shared = (is_same & is_mutated & is_mutated[pick]).sum(1)
        similarity = shared / np.maximum(mutations + mutations[pick] - shared, 1)
        largest, total = np.maximum(largest, similarity), total + similarity
    return np.array(chosen, dtype=np.int64)


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
    if wells not in PLATE_SHAPES or not 0 <= controls < wells:
        raise SubquadError(f"plates have 96 or 384 wells and fewer controls, got {wells} wells and {controls} controls")
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
