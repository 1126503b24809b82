"""`epistasis`: double-mutant cycles of measurements, a fitted model or both."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from subquad import __version__
from subquad.bio.analysis.epistasis_page import describe_source, page_and_figures, support_warnings
from subquad.bio.analysis.landscape import (
    Landscape,
    measured_landscape,
    pair_tables,
    predicted_landscape,
)
from subquad.bio.analysis.settings import EpistasisSettings, check_unused
from subquad.bio.analysis.single_mutants import measured_values
from subquad.bio.data.names import file_of
from subquad.bio.models.scorer import folder_of, input_sequence, open_scorer
from subquad.bio.plots.maps import save
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.examples import EXAMPLE_RUNS
from subquad.runs.storage import (
    check_files_not_inside,
    check_not_inside,
    check_report_folder,
    plain,
    write_json,
    write_report_folder,
)

if TYPE_CHECKING:
    from subquad.bio.models.fitted import BioModel

__all__ = ["epistasis"]

KIND, RECORD = "bio epistasis", "epistasis.json"


def epistasis(
    source: "BioModel | Path | str",
    settings: EpistasisSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the epistasis of pairs of positions, and return the pairs.

    The epistasis of a double mutant is its value less that expected from the sum of both single-mutant effects: in
    units of the target, or in log odds of a predicted class.

    Args:
        source: Table of variants with measurements, folder that `fit` wrote, or a `BioModel`.
        settings: Columns and wild type of a table; for a fitted model, target and measurements to compare with.
        out: Output folder: `pairs.csv`, `cycles.csv.gz`, `epistasis.html`, `epistasis.json`, figures as PNG and PDF.
        seed: Seed of random subsamples.
        force: Overwrite an earlier analysis.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The source cannot be read or has no double mutants, or the output exists; nothing has been
            written then.
    """
    settings = settings or EpistasisSettings()
    out = check_report_folder(out, kind=KIND, file=RECORD, force=force)
    check_files_not_inside(out, settings, "wild_type", "table")
    if isinstance(source, str | Path) and str(source) not in EXAMPLE_RUNS and not Path(source).is_dir():
        check_not_inside(out, file_of(source))
        landscape = _of_table(source, settings, quiet=quiet)
    else:
        check_not_inside(out, folder_of(source))
        landscape = _of_run(source, settings, seed=seed, quiet=quiet)
    record = {"subquad": {"kind": KIND, "version": __version__, "settings": plain(settings), "seed": seed}}
    name = Path(source).name if isinstance(source, str | Path) else "Fitted model"
    return _write(landscape, record, out, name, quiet=quiet)


def _of_table(path: Path | str, settings: EpistasisSettings, *, quiet: bool) -> Landscape:
    from subquad.bio.data.table import read_table

    reason = f"{path}: a table has measurements and no model that predicts"
    check_unused(settings, ("table", "max_double_mutants"), reason)
    columns = {name: getattr(settings, name) for name in ("sequence", "mutant", "wild_type", "offset")}
    target = () if settings.target is None else (settings.target,)
    # rows of another length are skipped later
    table = read_table(path, FitSettings(**columns, target=target, lengths="vary"))
    if table.target is None or table.target.task_type not in ("regression", "binary"):
        found = "none" if table.target is None else f"a target of the type {table.target.task_type}"
        raise SubquadError(f"{path}: epistasis needs measurements or two classes, and the table has {found}")
    y = np.asarray(table.target.y, dtype=np.float64).reshape(len(table.sequences), -1)[:, 0]
    rows = np.flatnonzero(table.has_target & np.isfinite(y))
    landscape, remarks = measured_landscape(
        [table.sequences[row] for row in rows],
        y[rows],
        table.wild_type,
        name=table.target.names[0],
        offset=table.schema.offset,
    )
    for remark in [*table.remarks, *remarks]:
        say(remark, quiet=quiet)
    return landscape


def _of_run(run: "BioModel | Path | str", settings: EpistasisSettings, *, seed: int, quiet: bool) -> Landscape:
    reason = "a fitted model reads sequences, variants and positions as in the table of its fit"
    check_unused(settings, ("sequence", "mutant", "offset"), reason)
    scorer = open_scorer(run, target=settings.target)
    if scorer.schema.partner is not None:
        raise SubquadError("epistasis needs variants of one sequence, but the model reads pairs of sequences")
    wild_type = input_sequence(scorer.model, settings.wild_type, "--wild-type")
    measured = None
    if settings.table is not None:
        known = measured_values(scorer, settings.table)
        values = np.array(list(known.values()))
        measured, remarks = measured_landscape(list(known), values, wild_type, name=scorer.name, offset=scorer.offset)
        for remark in remarks:
            say(remark, quiet=quiet)
    return predicted_landscape(
        scorer, wild_type, measured=measured, max_double_mutants=settings.max_double_mutants, seed=seed, quiet=quiet
    )


def _write(landscape: Landscape, record: dict[str, Any], out: Path, source: str, *, quiet: bool) -> pd.DataFrame:
    for text in [*describe_source(landscape), *support_warnings(landscape)]:
        say(text, quiet=quiet)
    pairs, cycles = pair_tables(landscape)
    html, figures = page_and_figures(landscape, pairs, cycles, source=source)
    with write_report_folder(out) as folder:
        pairs.to_csv(folder / "pairs.csv", index=False)
        compression = {"method": "gzip", "compresslevel": 3}
        cycles.to_csv(folder / "cycles.csv.gz", index=False, compression=compression, float_format="%.6g")
        for stem, figure in figures.items():
            save(figure, folder / stem)
        (folder / "epistasis.html").write_text(html, encoding="utf-8")
        write_json(folder / RECORD, record)
    return pairs
