"""`rounds`: propose variants, read their measurements, fit again, and so on.

A folder holds one folder per round, `round-1`, `round-2` …: what was proposed, and from the second one on usually the
table with all measurements so far and the models fitted to it. An interrupted round is resumed by the same command.
"""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad import __version__
from subquad.bio.commands.fit import fit
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.names import file_of
from subquad.bio.data.table import read_like
from subquad.bio.design_search.measurements import Measurements, batch_table, read_measurements, settings_of_run
from subquad.bio.design_search.proposal import measured_sequences, propose, table_of_fit
from subquad.bio.design_search.settings import RoundsSettings, SearchSettings
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.scorer import open_scorer
from subquad.bio.models.support import prediction_interval, sign_of
from subquad.bio.settings import Direction
from subquad.errors import SubquadError, flag_name, reading
from subquad.progress import say
from subquad.runs.folder import METRICS
from subquad.runs.lock import is_blank, locks_output
from subquad.runs.storage import (
    as_folder,
    atomic,
    check_files_not_inside,
    check_writable,
    fingerprint,
    plain,
    read_json,
    remove_temporaries,
    write_json,
    write_text,
)

KIND, RECORD = "bio rounds", "rounds.json"
Step = dict[str, Any]
"""Entry of a round in `rounds.json`."""
TABLE, RUN, BATCH, MEASURED = "table.csv", "run", "batch.csv", "measured.csv"
PROPOSED = ("plates.csv", "batch.fasta", "batch.html", "batch.json")
OWN = (TABLE, RUN, BATCH, MEASURED, *PROPOSED)
"""What the folder of a round can hold."""
REPLACING = "is_replacing"
"""Entry of a round that has begun while files of an earlier one may be in its folder."""


@locks_output
def rounds(
    source: Path | str,
    settings: RoundsSettings,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Do the next round: read measurements and fit again, propose variants, or both.

    The folder gets `round-1`, `round-2` …, each with `table.csv` and `run` (if measurements were read) and `batch.csv`,
    `batch.fasta`, `plates.csv` and `batch.html` (if variants were proposed), and `rounds.json` and `rounds.html`.

    Args:
        source: Folder that `fit` wrote, from which the first round starts.
        settings: Measurements to read, number of variants to propose, objective and constraints.
        out: Output folder, the same for all rounds.
        seed: Seed of the search and of draws.
        force: Replace the last round, if it was made from the same measurements.
        quiet: Show no progress and no remarks.

    Returns:
        Contents of `rounds.json`.

    Raises:
        SubquadError: Measurements are missing, invalid or contradictory, nothing satisfies the constraints, or the
            round was done already; nothing has been written then.
    """
    if not (settings.measured or settings.propose):
        raise SubquadError("rounds need measurements to read, a number of variants to propose, or both")
    out, source = as_folder(out), Path(source)
    check_writable(out)
    record = _record(out, source)
    remove_temporaries(out)
    # what an earlier round stated holds for all
    for name in ("direction", "target"):
        before, now = record[name], getattr(settings, name)
        is_fixed = before is not None or (name == "target" and record["rounds"])
        if is_fixed and now not in (None, before):
            raise SubquadError(f"{out}: earlier rounds have the {name} {before or 'by default'}, not {now}")
        record[name] = now or before
    direction, target = record["direction"], record["target"]
    step, number, is_resumed = _step(record, settings, seed=seed), len(record["rounds"]) + 1, False
    done, known = record["rounds"], len(record["rounds"])
    if done and (not done[-1]["is_finished"] or _identity(done[-1]) == _identity(step)):
        number = len(done)
        is_resumed = _check_last(out, done.pop(), step, number, force=force)
    run, table = _current(done, out, source)
    model, folder = BioModel.load(run), out / f"round-{number}"
    if number > known and folder.is_dir() and any(folder.iterdir()):
        raise SubquadError(f"{folder}: not empty, and is the folder of the next round; move it elsewhere")
    check_files_not_inside(folder, settings, "measured", "table", "start")
    if model.schema.partner:
        raise SubquadError(f"{run}: reads pairs of sequences, and rounds propose single ones; use design")
    if table is None:
        table = table_of_fit(run, model) if settings.table is None else resolve_table(settings.table)
    if settings.measured:
        if table is None:
            raise SubquadError(f"{run}: the table of the fit was not found; name it with --table")
        fit_settings, fit_seed = settings_of_run(model)
        found = read_measurements(settings.measured, table, model, fit_settings, seed=fit_seed)
        for remark in [*found.remarks, *_beside_batch(done, out, found, model)]:
            say(remark, quiet=quiet)
        # from here on the round has begun, and the same command resumes it
        if not is_resumed:
            _save(out, record, step | {REPLACING: True})
            # while they exist, the models of the earlier round would count as those of this one
            (folder / RUN / METRICS).unlink(missing_ok=True)
            _remove(folder, OWN)
        _save(out, record, step)
        step |= _compare(model, found, target, direction, folder / MEASURED)
        table = folder / TABLE
        _write_csv(found.table, table)
        run = folder / RUN
        if not (run / METRICS).is_file():
            fit(table, found.settings, out=run, seed=fit_seed, quiet=quiet)
        step |= {"run": f"{folder.name}/{RUN}", "table": f"{folder.name}/{TABLE}"}
        model = BioModel.load(run)
    if settings.propose:
        for remark in _unlike_before(done, settings):
            say(remark, quiet=quiet)
        own = replace(settings, direction=direction, target=target)
        begin = partial(_save, out, record, step)
        step |= _propose(run, model, table, own, folder, begin=begin, seed=seed, quiet=quiet)
        if not settings.measured:
            # of a round that this one replaces
            _remove(folder, (MEASURED, TABLE, RUN))
    _save(out, record, step | {"is_finished": True})
    return record


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    for path in (folder / name for name in names):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _record(out: Path, source: Path) -> dict[str, Any]:
    """Return the record of the rounds in a folder, or a new one."""
    if is_blank(out, RECORD):
        stamp = {"kind": KIND, "version": __version__}
        return {"subquad": stamp, "source": str(source.resolve()), "direction": None, "target": None, "rounds": []}
    path = out / RECORD
    if not path.is_file():
        raise SubquadError(f"{out}: not empty, and has no rounds; choose another folder")
    with reading(path, "the record of rounds"):
        record = read_json(path)
        if record["subquad"]["kind"] != KIND or record["source"] != str(source.resolve()):
            raise SubquadError(
                f"{out}: its rounds started from {record['source']}, not from {source}; choose another folder"
            )
        _ = record["direction"], record["target"]
        for step in record["rounds"]:
            _ = _identity(step), step["is_finished"]
            # a record that someone else made must not choose which files of this machine are read
            for name in {"run", "table"} & {*step}:
                if not (out / step[name]).resolve().is_relative_to(out.resolve()):
                    raise SubquadError(f"{path}: {name} is {step[name]!r}, outside {out}")
    return record


def _step(record: dict[str, Any], settings: RoundsSettings, *, seed: int) -> Step:
    names = [path.name for path in settings.measured]
    files = [file_of(path) for path in settings.measured]
    prints = [fingerprint(file) if file.is_file() else "" for file in files]
    return {
        "measured": names,
        "fingerprints": prints,
        "settings": {
            **plain(settings),
            "measured": names,
            "direction": record["direction"],
            "target": record["target"],
            "seed": seed,
        },
        "is_finished": False,
    }


def _identity(step: Step) -> tuple[Any, ...]:
    """Return what makes two rounds the same: the measurements, and whether there are any."""
    return (tuple(step["fingerprints"]), bool(step["settings"]["propose"]))


def _check_last(out: Path, last: Step, step: Step, number: int, *, force: bool) -> bool:
    """Return whether the last round is resumed, and check that it may be replaced otherwise."""
    folder = out / f"round-{number}"
    is_same = all(last[key] == step[key] for key in ("fingerprints", "settings"))
    if not last["is_finished"] and is_same:
        # else the folder is cleared once more
        return not last.get(REPLACING, False)
    if not force:
        what = (
            f"was made from the same measurements; measure {folder / BATCH}" if last["is_finished"] else "is unfinished"
        )
        raise SubquadError(f"{out}: round {number} {what}, or replace the round with --force")
    return False


def _unlike_before(done: list[Step], settings: RoundsSettings) -> list[str]:
    """Return what a reader of the rounds would not expect: a batch without measurements, and other constraints."""
    before = next((k for k in range(len(done), 0, -1) if "proposed" in done[k - 1]), None)
    if before is None:
        return []
    remarks = []
    if before == len(done) and not settings.measured:
        remarks.append(f"round {before} is not measured yet; this round does not know of its variants")
    given, old = plain(settings), done[before - 1]["settings"]
    names = [field.name for field in fields(SearchSettings) if field.name not in ("direction", "target")]
    changed = [
        f"{flag_name(name)} (round {before}: {old[name]}, now: {given[name]})"
        for name in names
        if name in old and old[name] != given[name]
    ]
    if changed:
        remarks.append(f"settings are not taken over from the round before, and differ: {', '.join(changed)}")
    return remarks


def _beside_batch(done: list[Step], out: Path, found: Measurements, model: BioModel) -> list[str]:
    """Return how many of the measured variants the last batch does not have, and how many of its own are missing."""
    number = next((k for k in range(len(done), 0, -1) if "proposed" in done[k - 1]), None)
    if number is None:
        return []
    batch = set(read_like(out / f"round-{number}" / BATCH, model.schema).sequences)
    other, missing = len(set(found.sequences) - batch), len(batch - set(found.sequences))
    remarks = [f"of these, {other:,} not in the batch of round {number}"] if other else []
    return remarks + ([f"{missing:,} of its {len(batch):,} variants have no new measurement"] if missing else [])


def _current(done: list[Step], out: Path, source: Path) -> tuple[Path, Path | None]:
    """Return the newest run, and its table if a round wrote it."""
    step = next((own for own in reversed(done) if "run" in own), None)
    return (source, None) if step is None else (out / step["run"], out / step["table"])


def _compare(model: BioModel, found: Measurements, target: str | None, direction: Direction | None, path: Path) -> Step:
    """Write the new measurements beside their predictions by the model that had not seen them, and summarize them."""
    scorer = open_scorer(model, target=target)
    summary: Step = {"new_measurements": len(found.sequences)}
    if scorer.model.task_type != "regression":
        return summary
    y = found.y[:, scorer.column]
    mean, std = scorer.scores(found.sequences)
    low, high = prediction_interval(scorer, mean, std)
    columns = {"prediction": mean, "prediction_low": low, "prediction_high": high}
    frame = pd.DataFrame({"sequence": found.sequences, "measured": y, **columns})
    _write_csv(frame, path)
    known = np.isfinite(y)
    sign = sign_of(direction)
    summary["target"] = scorer.title
    if known.any():
        summary["best_new"] = float(sign * (sign * y[known]).max())
    if known.any() and np.isfinite(low).all():
        summary["inside_interval"] = float(((y >= low) & (y <= high))[known].mean())
    return summary


def _propose(
    run: Path,
    model: BioModel,
    table: Path | None,
    settings: RoundsSettings,
    folder: Path,
    *,
    begin: Callable[[], None],
    seed: int,
    quiet: bool,
) -> Step:
    """Write a batch into the folder of a round; `begin` is called before the first file."""
    from subquad.bio.design_search.page import render

    assert settings.propose is not None
    scorer = open_scorer(model, target=settings.target)
    measured = measured_sequences(run, scorer, None if table is None else str(table), quiet=quiet)
    proposal = propose(
        scorer,
        settings,
        number=settings.propose,
        measured=measured,
        kind=settings.acquisition,
        file=BATCH,
        seed=seed,
        quiet=quiet,
    )
    record = {
        "subquad": {"kind": KIND, "version": __version__, "settings": plain(settings), "seed": seed},
        "run": str(run),
        **proposal.record,
    }
    batch, html = batch_table(proposal.designs, scorer.model), render(proposal, record, title="Proposed batch")
    # from here on the round has begun, and the same command resumes it
    begin()
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(batch, folder / BATCH)
    plates, fasta, view, about = (folder / name for name in PROPOSED)
    _write_csv(proposal.plates, plates)
    for path, text in ((fasta, proposal.fasta), (view, html)):
        write_text(path, text)
    write_json(about, record)
    best = proposal.designs["prediction"].iloc[0]
    return {"proposed": len(batch), "best_prediction": float(best), "measured_before": len(measured.sequences)}


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")


def _save(out: Path, record: dict[str, Any], step: Step) -> None:
    """Write the record with a round at its end, and before it the page, as a finished round is not written again."""
    from subquad.bio.design_search.rounds_page import render

    number = len([own for own in record["rounds"] if own["is_finished"]])
    record["rounds"] = [*record["rounds"][:number], step]
    out.mkdir(parents=True, exist_ok=True)
    if step["is_finished"]:
        frames = {}
        for k in range(1, len(record["rounds"]) + 1):
            path = out / f"round-{k}" / MEASURED
            if path.is_file():
                frames[k] = pd.read_csv(path)
        write_text(out / "rounds.html", render(record, frames))
    write_json(out / RECORD, record)
