"""In silico deep mutational scan: all single mutants of a sequence, scored by a fitted model. One prediction each.

Axes: L positions, A letters.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.models.finished_run import TEST_ROWS, read_test_rows
from subquad.bio.models.measured import read_measured
from subquad.bio.models.members import deviation
from subquad.bio.models.scorer import SEPARATOR, Scorer
from subquad.bio.models.support import (
    beyond_measured,
    measured_range,
    observed_letters,
    prediction_interval,
    yes_no,
)
from subquad.bio.settings import Direction
from subquad.errors import SubquadError

__all__ = ["measured_values", "scan_table", "single_mutants"]


def single_mutants(sequence: str, letters: str, positions: Sequence[int] | None = None) -> list[tuple[int, str]]:
    """Return position (from 0) and new letter of all single mutants, at some positions or at all of them."""
    return [
        (position, letter)
        for position, own in enumerate(sequence)
        if positions is None or position in positions
        for letter in letters
        if letter != own
    ]


def scan_table(
    scorer: Scorer,
    wild_type: str,
    *,
    measured: Mapping[str, float] | None = None,
    direction: Direction | None = None,
    quiet: bool = True,
) -> pd.DataFrame:
    """Return one row per single mutant, ordered by position.

    Args:
        scorer: Model and output.
        wild_type: Sequence to mutate.
        measured: Measurement by sequence, where known.
        direction: Which direction of the target is better.
        quiet: Show no progress.

    Returns:
        Columns `mutant` (A24G, numbered as in the table of the fit), `position`, `from`, `to`, `prediction`,
        `prediction_low` and `prediction_high` (90 % interval; empty if the fit calibrated none), `difference`
        (prediction less that of the wild type), `difference_std` (its standard deviation over the ensemble members,
        where a Gaussian process counts with that of its posterior; empty for a single member without one), `measured`
        (empty where not measured), `observed` (whether the letter was observed at its position in training) and
        `beyond_measured` (whether the prediction is better than any measurement): `yes`, `no` or empty where unknown.

    Raises:
        SubquadError: The first chain of all training pairs was the same.
    """
    mutants = single_mutants(wild_type, scorer.letters, scorer.positions)
    if not mutants:
        raise SubquadError("no position of the sequence varied in training; the model cannot tell its mutants apart")
    sequences = [wild_type, *(wild_type[:p] + letter + wild_type[p + 1 :] for p, letter in mutants)]
    members = scorer.members(sequences, title="single mutants", to_first=True, quiet=quiet)
    prediction, spread = members.mean, deviation(members.each, members.weights)
    low, high = prediction_interval(scorer, prediction, spread)
    observed = observed_letters(scorer, len(wild_type))
    is_beyond = beyond_measured(prediction[1:], measured_range(scorer), direction)
    known, first = measured or {}, 1 + scorer.offset
    return pd.DataFrame(
        {
            "mutant": [f"{wild_type[p]}{p + first}{letter}" for p, letter in mutants],
            "position": [p + first for p, _ in mutants],
            "from": [wild_type[p] for p, _ in mutants],
            "to": [letter for _, letter in mutants],
            "prediction": prediction[1:],
            "prediction_low": low[1:],
            "prediction_high": high[1:],
            "difference": prediction[1:] - prediction[0],
            "difference_std": members.std_to_first()[1:],
            "measured": [known.get(sequence, np.nan) for sequence in sequences[1:]],
            "observed": yes_no(None if observed is None else [letter in observed[p] for p, letter in mutants]),
            "beyond_measured": yes_no(is_beyond),
        }
    )


def measured_values(scorer: Scorer, table: Path | str | None) -> dict[str, float]:
    """Return the mean measurement of each measured sequence, of pairs only with the partner of the scorer.

    Args:
        scorer: Model and output.
        table: Table with the columns of the fit; None: the test rows of the model's run folder.

    Raises:
        SubquadError: The table cannot be read, lacks the target column, or has measurements that the fit would refuse.
    """
    found = _test_rows(scorer) if table is None else _table_rows(scorer, table)
    if found is None:
        return {}
    sequences, values = found
    frame = pd.DataFrame({"value": values, "sequence": sequences}).dropna()
    known = {str(sequence): float(np.mean(own["value"])) for sequence, own in frame.groupby("sequence")}
    if scorer.partner is None:
        return known
    prefix = f"{scorer.partner}{SEPARATOR}"
    return {pair.removeprefix(prefix): value for pair, value in known.items() if pair.startswith(prefix)}


def _test_rows(scorer: Scorer) -> tuple[Sequence[str], np.ndarray] | None:
    model = scorer.model
    # a saved estimator keeps no rows
    if not (model.directory / TEST_ROWS).is_file():
        return None
    frame = read_test_rows(model.directory, model.task_type)
    if model.task_type in ("binary", "multiclass"):
        values = frame["measured"] == scorer.name
    else:
        values = frame["measured" if "measured" in frame.columns else f"measured:{scorer.name}"]
    return frame["sequence"].tolist(), values.to_numpy(dtype=np.float64)


def _table_rows(scorer: Scorer, table: Path | str) -> tuple[Sequence[str], np.ndarray]:
    model = scorer.model
    if model.task_type in ("binary", "multiclass"):
        read = read_measured(table, model)
        values = np.where(read.has, read.y == model.classes.index(scorer.name), np.nan)
    else:
        read = read_measured(table, model, column=scorer.name)
        values = read.y[:, 0]
    return read.table.sequences, values
