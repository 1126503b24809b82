"""From a fitted model to a batch of variants: what was measured, constraints, search, choice and plates.

Axes: n variants, L positions, m members.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data import examples
from subquad.bio.data.alphabet import GAP
from subquad.bio.data.names import file_of
from subquad.bio.design_search.acquisition import draws_of_members, make_acquisition
from subquad.bio.design_search.batch import choose_batch, plate_map
from subquad.bio.design_search.constraints import Constraints, read_constraints
from subquad.bio.design_search.search import ScoredVariants, search
from subquad.bio.design_search.settings import AcquisitionKind, SearchSettings
from subquad.bio.models.finished_run import TEST_ROWS, read_test_rows
from subquad.bio.models.scorer import SEPARATOR, Scorer, input_sequence
from subquad.bio.models.support import (
    beyond_measured,
    count_of,
    describe_direction,
    measured_range,
    observed_letters,
    prediction_interval,
    range_warning,
    sign_of,
    yes_no,
)
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.examples import run_folder
from subquad.runs.storage import fingerprint

__all__ = ["COLUMNS", "MeasuredSequences", "Proposal", "measured_sequences", "propose", "table_of_fit"]

RANKED_BY: dict[AcquisitionKind, str] = {"ucb": "ucb", "ei": "expected_improvement", "thompson": "draw"}
"""Name of the column by which a batch is ranked."""
COLUMNS = (
    "name",
    "mutants",
    "sequence",
    "mutations",
    "prediction",
    "prediction_std",
    "prediction_low",
    "prediction_high",
    "ucb",
    "distance",
    "observed",
    "beyond_measured",
    "plate",
    "well",
)
"""Columns of designs.csv: `prediction_low` and `prediction_high` are the 90 % interval, `distance` the number of
substitutions to the nearest measured variant, `observed` whether training sequences had each new letter at its
position, and `beyond_measured` whether the prediction is better than any measurement."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSequences:
    """Sequences that were measured already."""

    sequences: list[str]
    """Each once, as the model writes them."""
    is_complete: bool
    """They are all of the table of the fit, and not its test rows only."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A batch of variants, and how it was found."""

    scored: ScoredVariants
    designs: pd.DataFrame
    """One row per variant, best first; see `COLUMNS`."""
    plates: pd.DataFrame
    """One row per filled well."""
    direction: str
    """Which direction is better, as a sentence."""
    warnings: list[str]
    """What training does not support, for page and terminal."""
    record: dict[str, Any]
    """Entries of the JSON file beside the tables."""
    ranked_by: str
    """Column by which the variants are ranked."""
    file: str
    """Name of the table of the variants."""

    @property
    def fasta(self) -> str:
        """The variants as FASTA."""
        rows = self.designs[["name", "mutants", "sequence"]].itertuples(index=False)
        # a variant is ordered without the gaps of its alignment
        return "".join(f">{name} {mutants}\n{sequence.replace(GAP, '')}\n" for name, mutants, sequence in rows)


def measured_sequences(run: Any, scorer: Scorer, table: str | None, *, quiet: bool) -> MeasuredSequences:
    """Return the sequences that were measured already.

    Args:
        run: Folder that `fit` wrote, or a `BioModel`.
        scorer: Its model.
        table: Table of the measured sequences. Default: the table of the fit, or else the test rows of the run.
        quiet: Print no remarks.
    """
    folder = run_folder(run) if isinstance(run, str | Path) else None
    path = table_of_fit(folder, scorer.model) if table is None else Path(table)
    if path is not None:
        from subquad.bio.data.files import column_of
        from subquad.bio.data.numbers import is_missing
        from subquad.bio.data.table import read_like

        read = read_like(path, scorer.schema)
        names = [name for name in scorer.model.names if name in read.frame.columns]
        # a table may list variants that wait for their measurement
        is_missing_all = np.all([is_missing(column_of(read.frame, name)) for name in names], axis=0) if names else None
        sequences = [
            sequence for row, sequence in enumerate(read.sequences) if is_missing_all is None or not is_missing_all[row]
        ]
        return MeasuredSequences(sequences=_with_partner(scorer, sequences), is_complete=True)
    say(
        "the table of the fit was not found, so designs may include variants that were measured; name it with --table",
        quiet=quiet,
    )
    if folder is None or not (folder / TEST_ROWS).is_file():
        return MeasuredSequences(sequences=[], is_complete=False)
    rows = read_test_rows(folder, scorer.model.task_type)
    return MeasuredSequences(sequences=_with_partner(scorer, rows["sequence"]), is_complete=False)


def _with_partner(scorer: Scorer, sequences: Iterable[str]) -> list[str]:
    """Return the different sequences; of pairs the first sequences of those with the partner of the scorer."""
    if scorer.partner is not None:
        pairs = (text.rpartition(SEPARATOR) for text in sequences)
        sequences = [sequence for partner, _, sequence in pairs if partner == scorer.partner]
    return list(dict.fromkeys(map(scorer.normalized, sequences)))


def table_of_fit(folder: Path | None, model: Any) -> Path | None:
    """Return the table of the fit, if its file is in this folder, in or beside the run, or ships with subquad."""
    name = model.config.get("file")
    expected = model.config.get("subquad", {}).get("settings", {}).get("fingerprint")
    if folder is None or name is None or expected is None:
        return None
    candidates = [Path(name), folder.parent / name, folder / name, Path(examples.__file__).parent / name]
    found = (path for path in candidates if file_of(path).is_file())
    return next((path for path in found if fingerprint(file_of(path)) == expected), None)


def propose(
    scorer: Scorer,
    settings: SearchSettings,
    *,
    number: int,
    measured: MeasuredSequences,
    allow_measured: bool = False,
    kind: AcquisitionKind = "ucb",
    file: str = "designs.csv",
    seed: int,
    quiet: bool,
) -> Proposal:
    """Return a diverse batch of the best variants under constraints, laid out on plates.

    Args:
        scorer: Model and output.
        settings: Objective and constraints.
        number: Size of the batch.
        measured: Sequences that were measured already.
        allow_measured: Also propose those.
        kind: Acquisition function by which variants are ranked.
        file: Name of the table of the variants, for texts.
        seed: Seed of the search and of draws.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The constraints contradict each other, or nothing satisfies them; or the acquisition needs a
            standard deviation and the model has a single member.
    """
    start = input_sequence(scorer.model, settings.start, "--start")
    direction = describe_direction(settings.direction, scorer.title)
    say(direction, quiet=quiet)
    limits, own = measured_range(scorer), scorer.members([start])
    best = None if limits is None else limits[0 if sign_of(settings.direction) < 0 else 1]
    acquisition, remark = make_acquisition(
        kind, settings.direction, beta=settings.beta, members=len(own.each), best=best
    )
    constraints = _constraints(scorer, start, settings, measured, quiet=quiet)
    scored = search(constraints, scorer, acquisition, settings, number=number, seed=seed, quiet=quiet)
    rows = _candidates(scored, set() if allow_measured else set(measured.sequences))
    mean, std = scorer.scores([start])
    drawn = _Draws(scored, number, seed) if kind == "thompson" else None
    at_start = float(acquisition.value(mean, std)[0])
    chosen = choose_batch(scored, rows, settings, number=number, start=at_start, draws=drawn)
    designs = _table(scored, chosen, measured.sequences, drawn, settings)
    plates = plate_map(designs["name"].tolist(), wells=int(settings.wells), controls=settings.controls)
    designs = pd.DataFrame(designs.merge(plates[["name", "plate", "well"]], on="name", how="left"))
    warnings = [remark] if remark else []
    if len(chosen) < number:
        reason = "satisfy the constraints"
        if len(chosen) < len(rows):
            reason = f"of {len(rows):,} that satisfy the constraints differ from each other by --min-distance "
            reason += f"{settings.min_distance}"
        warnings.append(f"Of {number:,} requested variants there are only {len(chosen):,}: no more {reason}.")
    warnings += _support_warnings(designs, limits, settings)
    for text in warnings:
        say(text, quiet=quiet)
    return Proposal(
        scored=scored,
        designs=designs,
        plates=_filled(plates, designs, start, float(mean[0]), float(std[0])),
        direction=direction,
        warnings=warnings,
        record={
            "target": scorer.title,
            "start": start,
            "start_prediction": float(mean[0]),
            "best_measurement": best,
            "beta": acquisition.beta,
            "scored": len(scored),
            "measured": len(measured.sequences),
            "designs": len(designs),
        },
        ranked_by=RANKED_BY[kind],
        file=file,
    )


class _Draws:
    """Values by which each choice of Thompson sampling ranks the candidates, and those of the chosen ones."""

    def __init__(self, scored: ScoredVariants, number: int, seed: int) -> None:
        self.scored, self.number, self.seed = scored, number, seed
        self.rows, self.values = np.empty(0, dtype=np.int64), np.empty((number, 0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        scored, random = self.scored, np.random.default_rng(self.seed)
        sequences = scored.constraints.sequences(scored.codes[rows])
        values = scored.scorer.posterior_draws(sequences, self.number, seed=self.seed)
        if values is None:
            values = draws_of_members(scored.each[:, rows], scored.weights, self.number, random)
        self.rows, self.values = rows, scored.acquisition.sign * values
        return self.values

    def of_chosen(self, chosen: np.ndarray) -> np.ndarray:
        """Return the value by which each of the chosen rows was chosen, in units of the target."""
        place = {int(row): k for k, row in enumerate(self.rows)}
        own = [self.values[choice, place[int(row)]] for choice, row in enumerate(chosen)]
        return self.scored.acquisition.sign * np.array(own)


def _constraints(
    scorer: Scorer, start: str, settings: SearchSettings, measured: MeasuredSequences, *, quiet: bool
) -> Constraints:
    observed = _observed_letters(scorer, start, measured.sequences if measured.is_complete else [])
    if settings.allow_unobserved:
        say("letters that were not observed in training are allowed; their effects are extrapolations", quiet=quiet)
    elif observed is None and scorer.schema.length is not None:
        say("the letters observed in training are unknown, so designs may contain unobserved ones", quiet=quiet)
    return read_constraints(
        start,
        scorer.letters,
        settings,
        observed=observed,
        is_nucleotide=scorer.is_nucleotide,
        offset=scorer.offset,
    )


def _observed_letters(scorer: Scorer, start: str, measured: Sequence[str]) -> list[str] | None:
    """Return the letters observed at each position in training, or else in the table; None if they are unknown."""
    recorded = observed_letters(scorer, len(start))
    if recorded is not None or scorer.schema.length is None:
        return recorded
    own = [sequence for sequence in measured if len(sequence) == len(start)]
    return ["".join(sorted(set(column))) for column in zip(*own, strict=True)] or None


def _candidates(scored: ScoredVariants, excluded: set[str]) -> np.ndarray:
    is_valid = scored.violations == 0
    sequences = scored.constraints.sequences(scored.codes)
    is_new = np.array([sequence not in excluded for sequence in sequences], dtype=bool)
    if not (is_valid & is_new).any():
        raise SubquadError(
            f"no new variant satisfies the constraints: {is_valid.sum():,} of {len(scored):,} satisfy GC content and "
            "sites, and these are measured"
        )
    return np.flatnonzero(is_valid & is_new)


def _table(
    scored: ScoredVariants,
    chosen: np.ndarray,
    measured: Sequence[str],
    drawn: _Draws | None,
    settings: SearchSettings,
) -> pd.DataFrame:
    codes, acquisition = scored.codes[chosen], scored.acquisition
    mutants = scored.constraints.mutants(codes)
    width = len(str(len(chosen)))
    low, high = prediction_interval(scored.scorer, scored.mean[chosen], scored.std[chosen])
    if drawn is not None:
        ranked = drawn.of_chosen(chosen)
    else:
        ranked = scored.value[chosen] * (1 if acquisition.kind == "ei" else acquisition.sign)
    limits = measured_range(scored.scorer)
    return pd.DataFrame(
        {
            "name": [f"D{k:0{width}d}" for k in range(1, len(chosen) + 1)],
            "mutants": [":".join(own) for own in mutants],
            "sequence": scored.constraints.sequences(codes),
            "mutations": [len(own) for own in mutants],
            "prediction": scored.mean[chosen],
            "prediction_std": scored.std[chosen],
            "prediction_low": low,
            "prediction_high": high,
            RANKED_BY[acquisition.kind]: ranked,
            "distance": _distances(codes, scored.constraints.letters, measured),
            "observed": yes_no(scored.constraints.are_observed(codes)),
            "beyond_measured": yes_no(beyond_measured(scored.mean[chosen], limits, settings.direction)),
        }
    )


def _support_warnings(designs: pd.DataFrame, limits: tuple[float, float] | None, settings: SearchSettings) -> list[str]:
    found, unobserved = [], count_of(designs["observed"], "no")
    if unobserved:
        found.append(
            f"Warning: {unobserved:,} of {len(designs):,} designs have a letter that no training sequence "
            "had at the position (column `observed`); their predictions are extrapolations."
        )
    ordered = designs.sort_values("prediction", ascending=settings.direction == "minimize", kind="stable")
    is_beyond = (ordered["beyond_measured"] == "yes").to_numpy()
    warning = range_warning(ordered["name"].tolist(), is_beyond, limits, settings.direction, what="designs")
    return [*found, *([warning] if warning else [])]


def _distances(codes: np.ndarray, letters: str, measured: Sequence[str]) -> pd.Series:
    """Return the substitutions of each design to the nearest measured variant of its length."""
    length = codes.shape[1]
    own = [sequence for sequence in measured if len(sequence) == length]
    nearest = np.full(len(codes), length + 1)
    designs = np.frombuffer(letters.encode("ascii"), dtype=np.uint8)[codes]
    for begin in range(0, len(own), 20_000):
        block = np.frombuffer("".join(own[begin : begin + 20_000]).encode("ascii", "replace"), dtype=np.uint8)
        block = block.reshape(-1, length)
        for row, sequence in enumerate(designs):
            nearest[row] = min(nearest[row], int((block != sequence).sum(1).min()))
    return pd.Series(nearest, dtype="Int64").where(nearest <= length)


def _filled(plates: pd.DataFrame, designs: pd.DataFrame, start: str, mean: float, std: float) -> pd.DataFrame:
    columns = ["name", "mutants", "sequence", "prediction", "prediction_std"]
    filled = plates.merge(designs[columns], on="name", how="left")
    filled.loc[filled["is_control"], columns[1:]] = ["", start, mean, std]
    return filled
