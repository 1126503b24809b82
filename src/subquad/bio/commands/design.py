"""Variants worth making: the best that a fitted model knows under constraints, as a batch and on plates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.commands.scan import offset_of
from subquad.bio.data.fasta import read_sequence
from subquad.bio.design_search.constraints import Rules, read_rules
from subquad.bio.design_search.plates import plate_map
from subquad.bio.design_search.search import Tried, choose, search
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.scorer import Scorer, open_scorer
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.storage import as_folder, atomic, fingerprint, plain, write_json

__all__ = ["COLUMNS", "design"]

COLUMNS = (
    "name",
    "mutants",
    "sequence",
    "mutations",
    "prediction",
    "spread",
    "ucb",
    "distance",
    "plate",
    "well",
)
"""Of designs.csv; distance is the number of letters to the nearest measured variant."""

RECORD = "design.json"
"""Written last: without it the folder is unfinished."""
FILES = ("designs.csv", "plates.csv", "designs.fasta", "design.html", RECORD)


def design(
    run: Any,
    *,
    out: Path | str,
    settings: DesignSettings | None = None,
    table: Path | str | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the best variants under constraints, their plates and a page about them; return the variants, best first.

    Variants are ranked by `ucb`, the mean of the model's members and `beta` times their spread (upper confidence bound;
    where low values are looked for, the mean less the spread).

    Args:
        run: the folder that `fit` wrote, or a `BioModel`.
        out: the folder to write: `designs.csv`, `designs.fasta`, `plates.csv`, `design.html`, `design.json`.
        settings: constraints, number, plates.
        table: the measured variants, with the columns of the fit; by default the table of the fit, where it still lies
            where it was or beside the run.
        seed: of the search; the same one gives the same designs.
        force: replace earlier designs in the folder.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: constraints that contradict each other or that nothing satisfies, a model that has no one value a
            sequence, a folder that is taken; nothing has been written then.
    """
    settings, out = settings or DesignSettings(), as_folder(out)
    _check_folder(out, force)
    judge = open_scorer(run, target=settings.of)
    start = _start(judge, settings)
    measured = _measured(run, judge, table, quiet=quiet)
    seen = _seen(measured, judge, start)
    _say_unseen(seen, judge, settings, quiet=quiet)
    rules = read_rules(
        start,
        judge.model.alphabet,
        settings,
        seen=seen,
        is_nucleotide=judge.is_nucleotide,
        offset=offset_of(judge.model),
    )
    tried = search(rules, judge, settings, seed=seed, quiet=quiet)
    rows = _candidates(tried, set(measured.sequences), settings)
    own = judge.scores([start])
    picked = choose(tried, rows, settings, start=float(tried.merit(*own)[0]))
    if len(picked) < settings.number:
        say(f"only {len(picked):,} variants satisfy the constraints; {settings.number:,} were asked for", quiet=quiet)
    frame = _frame(tried, picked, measured)
    plates = plate_map(frame["name"].tolist(), wells=int(settings.wells), controls=settings.controls)
    frame = frame.merge(plates[["name", "plate", "well"]], on="name", how="left")[list(COLUMNS)]
    plates = _fill(plates, frame, start, own)
    record = {
        "settings": plain(settings),
        "seed": seed,
        "run": str(run) if isinstance(run, str | Path) else None,
        "output": judge.title,
        "start": start,
        "start_prediction": float(own[0][0]),
        "tried": len(tried),
        "measured": len(measured.sequences),
        "designs": len(frame),
    }
    _write(out, frame, plates, record, tried)
    return frame


@dataclass(frozen=True)
class _Measured:
    sequences: Sequence[str]
    is_whole: bool
    """All that the model learned from, and not the test rows alone."""


def _check_folder(out: Path, force: bool) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / RECORD).is_file():
        # a file is written beside its place, in a hidden folder that has its name
        if all(own.name.removeprefix(".").startswith(FILES) for own in out.iterdir()):
            return
        raise SubquadError(f"{out}: not empty, and no designs of subquad; name another folder with --out")
    if not force:
        raise SubquadError(f"{out}: holds designs; name another folder with --out, or replace them with --force")


def _start(judge: Scorer, settings: DesignSettings) -> str:
    model = judge.model
    if model.about.get("partner"):
        raise SubquadError("the model reads pairs of sequences; guides for a target come from `subquad bio guides`")
    start = settings.start
    if start is None:
        start = model.wild_type
        if start is None:
            raise SubquadError(
                "the model knows no wild type; say what to start from with --start LETTERS or a FASTA file"
            )
    else:
        start = read_sequence(start, "--start")
    start = judge.normalized(start)
    length = model.about.get("length")
    if length is not None and len(start) != length:
        raise SubquadError(f"the start has {len(start)} letters, and the model was fitted on sequences of {length}")
    return start


def _measured(run: Any, judge: Scorer, table: Path | str | None, *, quiet: bool) -> _Measured:
    folder = Path(run) if isinstance(run, str | Path) else None
    path = _find_table(folder, judge.model) if table is None else Path(table)
    if path is not None:
        from subquad.bio.data.table import read_again

        return _Measured(list(dict.fromkeys(map(judge.normalized, read_again(path, judge.model.about).sequences))), True)
    known: list[str] = []
    if folder is not None and (folder / "test.csv").is_file():
        frame = pd.read_csv(folder / "test.csv", dtype=str)
        known = list(dict.fromkeys(judge.normalized(text) for text in frame.get("sequence", pd.Series(dtype=str)).dropna()))
    say(
        "the table of the fit is not where it was, so variants that were learned from may be designed again; name it "
        "with --table",
        quiet=quiet,
    )
    return _Measured(known, False)


def _find_table(folder: Path | None, model: Any) -> Path | None:
    """Return the table of the fit, if a file of its name and content lies here or beside the run."""
    name = model.config.get("file")
    mark = model.config.get("subquad", {}).get("settings", {}).get("fingerprint")
    if folder is None or name is None or mark is None:
        return None
    places = [Path(name), folder.parent / name, folder / name]
    return next((path for path in places if path.is_file() and fingerprint(path) == mark), None)


def _seen(measured: _Measured, judge: Scorer, start: str) -> list[str] | None:
    """Return the letters of each position among the measured variants; None where they are not all known."""
    if judge.model.about.get("length") is None:
        return None
    said = judge.model.config.get("observed_letters")
    if said is not None and len(said) == len(start):
        # places in the alphabet; below 0 stand letters that mean several
        return ["".join(judge.model.alphabet[code] for code in own if code >= 0) for own in said]
    own = [text for text in measured.sequences if len(text) == len(start)]
    if not measured.is_whole or not own:
        return None
    table = np.array([list(text) for text in own])
    return ["".join(sorted(set(column))) for column in table.T]


def _say_unseen(seen: list[str] | None, judge: Scorer, settings: DesignSettings, *, quiet: bool) -> None:
    if settings.unseen:
        say(
            "letters that training never had at a position are allowed: the model cannot know what they do", quiet=quiet
        )
    elif seen is None and judge.model.about.get("length") is not None:
        say("which letters training had at each position is not known: designs may hold others", quiet=quiet)


def _candidates(tried: Tried, measured: set[str], settings: DesignSettings) -> np.ndarray:
    meets = tried.violations == 0
    is_new = np.array([settings.repeat or text not in measured for text in tried.rules.texts(tried.codes)], dtype=bool)
    if not (meets & is_new).any():
        lines = [f"of {len(tried):,} variants tried, {int(meets.sum()):,} satisfy --gc and --forbid-sites"]
        if meets.any():
            lines.append("all of these have been measured already; --repeat allows them")
        raise SubquadError("\n  ".join(["no variant satisfies the constraints; loosen them", *lines]))
    return np.flatnonzero(meets & is_new)


def _frame(tried: Tried, picked: np.ndarray, measured: _Measured) -> pd.DataFrame:
    codes = tried.codes[picked]
    mutants = tried.rules.mutants(codes)
    width = len(str(len(picked)))
    return pd.DataFrame(
        {
            "name": [f"D{k:0{width}d}" for k in range(1, len(picked) + 1)],
            "mutants": [":".join(each) for each in mutants],
            "sequence": tried.rules.texts(codes),
            "mutations": [len(each) for each in mutants],
            "prediction": tried.mean[picked],
            "spread": tried.spread[picked],
            "ucb": tried.sign * tried.value[picked],
            "distance": _distances(codes, tried.rules, measured.sequences),
        }
    )


def _distances(codes: np.ndarray, rules: Rules, measured: Sequence[str]) -> pd.Series:
    length = codes.shape[1]
    own = [text for text in measured if len(text) == length]
    nearest = np.full(len(codes), length + 1)
    letters = np.frombuffer(rules.letters.encode("ascii"), dtype=np.uint8)[codes]
    for begin in range(0, len(own), 20_000):
        block = np.frombuffer("".join(own[begin : begin + 20_000]).encode("ascii", "replace"), dtype=np.uint8)
        block = block.reshape(-1, length)
        for row, each in enumerate(letters):
            nearest[row] = min(nearest[row], int((block != each).sum(1).min()))
    return pd.Series(nearest, dtype="Int64").where(nearest <= length)


def _fill(plates: pd.DataFrame, frame: pd.DataFrame, start: str, own: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    filled = plates.merge(frame[["name", "mutants", "sequence", "prediction", "spread"]], on="name", how="left")
    control = filled["is_control"]
    filled.loc[control, ["mutants", "sequence"]] = ["", start]
    filled.loc[control, "prediction"], filled.loc[control, "spread"] = own[0][0], own[1][0]
    return filled


def _write(
    out: Path,
    frame: pd.DataFrame,
    plates: pd.DataFrame,
    record: dict[str, Any],
    tried: Tried,
) -> None:
    from subquad.bio.plots.design_page import render

    text = render(frame, plates, record, tried=tried)
    fasta = "".join(
        f">{name} {mutants}\n{sequence}\n"
        for name, mutants, sequence in zip(frame["name"], frame["mutants"], frame["sequence"], strict=True)
    )
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("designs.csv", frame), ("plates.csv", plates)):
        with atomic(out / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    for name, content in (("designs.fasta", fasta), ("design.html", text)):
        with atomic(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    write_json(out / RECORD, record)
