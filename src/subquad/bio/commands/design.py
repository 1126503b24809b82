"""`design`: the best variants that a fitted model predicts under constraints, as a diverse batch laid out on plates."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad import __version__
from subquad.bio.data import examples
from subquad.bio.data.alphabet import GAP
from subquad.bio.design_search.batch import choose_batch, plate_map
from subquad.bio.design_search.constraints import Constraints, read_constraints
from subquad.bio.design_search.search import ScoredVariants, search
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.scorer import SEPARATOR, Scorer, input_sequence, open_model, open_scorer, partner_sequence
from subquad.bio.plots.finished_run import TEST_ROWS
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.reports import check_report_folder, write_report_folder
from subquad.runs.storage import fingerprint, plain, write_json

__all__ = ["COLUMNS", "design"]

KIND, RECORD = "bio design", "design.json"

COLUMNS = (
    "name",
    "mutants",
    "sequence",
    "mutations",
    "prediction",
    "prediction_std",
    "ucb",
    "distance",
    "plate",
    "well",
)
"""Columns of designs.csv; `distance` is the number of substitutions to the nearest measured variant."""


def design(
    run: Any,
    settings: DesignSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the best variants under constraints, their plates and a page; return the variants, best first.

    Variants are ranked by their upper confidence bound `ucb`: the mean prediction plus `beta` standard deviations of
    the ensemble members; minus, if the goal is a low value.

    Args:
        run: Folder that `fit` wrote, or a `BioModel`.
        settings: Objective, constraints, number of designs and plates.
        out: Output folder: `designs.csv`, `designs.fasta`, `plates.csv`, `design.html` and `design.json`.
        seed: Seed of the search.
        force: Overwrite earlier designs.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The constraints contradict each other or nothing satisfies them, the model does not predict one
            value per sequence, or the output exists; nothing has been written then.
    """
    settings = settings or DesignSettings()
    out = check_report_folder(out, kind=KIND, file=RECORD, force=force)
    model = open_model(run)
    if model.schema.partner and model.schema.partner_chain is None:
        raise SubquadError("the model reads pairs of sequences; guides for a target come from `subquad bio guides`")
    partner = partner_sequence(model, settings.partner)
    scorer = open_scorer(model, target=settings.target, partner=partner)
    start = input_sequence(scorer.model, settings.start, "--start")
    measured, is_complete = _measured(run, scorer, settings, quiet=quiet)
    constraints = _constraints(scorer, start, settings, measured if is_complete else [], quiet=quiet)
    scored = search(constraints, scorer, settings, seed=seed, quiet=quiet)
    rows = _candidates(scored, set(measured), settings)
    mean, std = scorer.scores([start])
    chosen = choose_batch(scored, rows, settings, start=float(scored.ucb(mean, std)[0]))
    if len(chosen) < settings.number:
        say(f"only {len(chosen):,} variants satisfy the constraints, of {settings.number:,} requested", quiet=quiet)
    designs = _table(scored, chosen, measured)
    plates = plate_map(designs["name"].tolist(), wells=int(settings.wells), controls=settings.controls)
    designs = designs.merge(plates[["name", "plate", "well"]], on="name", how="left").filter(COLUMNS)
    plates = _filled(plates, designs, start, float(mean[0]), float(std[0]))
    record = {
        "subquad": {"kind": KIND, "version": __version__, "settings": plain(settings), "seed": seed},
        "run": str(run) if isinstance(run, str | Path) else None,
        "target": scorer.title,
        "start": start,
        "partner": partner,
        "start_prediction": float(mean[0]),
        "scored": len(scored),
        "measured": len(measured),
        "designs": len(designs),
    }
    _write(out, designs, plates, record, scored)
    return designs


def _measured(run: Any, scorer: Scorer, settings: DesignSettings, *, quiet: bool) -> tuple[list[str], bool]:
    """Return the measured sequences, and whether they are all of the table of the fit or its test rows only."""
    folder = Path(run) if isinstance(run, str | Path) else None
    table = _table_of_fit(folder, scorer.model) if settings.table is None else Path(settings.table)
    if table is not None:
        from subquad.bio.data.table import read_like

        return _with_partner(scorer, read_like(table, scorer.schema).sequences), True
    say(
        "the table of the fit was not found, so designs may include variants that were measured; name it with --table",
        quiet=quiet,
    )
    if folder is None or not (folder / TEST_ROWS).is_file():
        return [], False
    rows = pd.read_csv(folder / TEST_ROWS, dtype=str)["sequence"].dropna()
    return _with_partner(scorer, rows), False


def _with_partner(scorer: Scorer, sequences: Iterable[str]) -> list[str]:
    """Return the different sequences; of pairs the first sequences of those with the partner of the scorer."""
    if scorer.partner is not None:
        pairs = (text.rpartition(SEPARATOR) for text in sequences)
        sequences = [sequence for partner, _, sequence in pairs if partner == scorer.partner]
    return list(dict.fromkeys(map(scorer.normalized, sequences)))


def _table_of_fit(folder: Path | None, model: Any) -> Path | None:
    """Return the table of the fit, if its file is in this folder, in or beside the run, or ships with subquad."""
    name = model.config.get("file")
    expected = model.config.get("subquad", {}).get("settings", {}).get("fingerprint")
    if folder is None or name is None or expected is None:
        return None
    candidates = [Path(name), folder.parent / name, folder / name, Path(examples.__file__).parent / name]
    return next((path for path in candidates if path.is_file() and fingerprint(path) == expected), None)


def _constraints(
    scorer: Scorer, start: str, settings: DesignSettings, measured: Sequence[str], *, quiet: bool
) -> Constraints:
    observed = _observed_letters(scorer, start, measured)
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
    """Return the letters observed at each position in training; None if they are unknown."""
    if scorer.schema.length is None:
        return None
    recorded = scorer.model.config.get("observed_letters")
    if recorded is not None and len(recorded) == len(start):
        # negative codes are ambiguous letters
        return ["".join(scorer.model.alphabet[code] for code in codes if code >= 0) for codes in recorded]
    own = [sequence for sequence in measured if len(sequence) == len(start)]
    return ["".join(sorted(set(column))) for column in zip(*own, strict=True)] or None


def _candidates(scored: ScoredVariants, measured: set[str], settings: DesignSettings) -> np.ndarray:
    is_valid = scored.violations == 0
    sequences = scored.constraints.sequences(scored.codes)
    is_new = np.array([settings.allow_measured or sequence not in measured for sequence in sequences], dtype=bool)
    if not is_valid.any():
        raise SubquadError(
            f"no variant satisfies the constraints: none of {len(scored):,} scored variants satisfies --gc and "
            "--forbid-sites; relax them"
        )
    if not (is_valid & is_new).any():
        raise SubquadError(
            f"no new variant satisfies the constraints: all {int(is_valid.sum()):,} have been measured; relax the "
            "constraints, or allow measured variants with --allow-measured"
        )
    return np.flatnonzero(is_valid & is_new)


def _table(scored: ScoredVariants, chosen: np.ndarray, measured: Sequence[str]) -> pd.DataFrame:
    codes = scored.codes[chosen]
    mutants = scored.constraints.mutants(codes)
    width = len(str(len(chosen)))
    return pd.DataFrame(
        {
            "name": [f"D{k:0{width}d}" for k in range(1, len(chosen) + 1)],
            "mutants": [":".join(own) for own in mutants],
            "sequence": scored.constraints.sequences(codes),
            "mutations": [len(own) for own in mutants],
            "prediction": scored.mean[chosen],
            "prediction_std": scored.std[chosen],
            "ucb": scored.sign * scored.value[chosen],
            "distance": _distances(codes, scored.constraints.letters, measured),
        }
    )


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


def _write(
    out: Path, designs: pd.DataFrame, plates: pd.DataFrame, record: dict[str, Any], scored: ScoredVariants
) -> None:
    from subquad.bio.design_search.page import render

    html = render(designs, plates, record, scored=scored)
    rows = designs[["name", "mutants", "sequence"]].itertuples(index=False)
    # a design is ordered without the gaps of its alignment
    fasta = "".join(f">{name} {mutants}\n{sequence.replace(GAP, '')}\n" for name, mutants, sequence in rows)
    with write_report_folder(out) as folder:
        designs.to_csv(folder / "designs.csv", index=False, float_format="%.6g")
        plates.to_csv(folder / "plates.csv", index=False, float_format="%.6g")
        (folder / "designs.fasta").write_text(fasta, encoding="utf-8")
        (folder / "design.html").write_text(html, encoding="utf-8")
        write_json(folder / RECORD, record)
