"""`epistasis`: which pairs of positions do not add up, and how much of a landscape each order of interaction explains.

Read from measurements, from a fitted model, or from both beside each other. The arithmetic is in `cycles` and `orders`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.analysis.cycles import Double, letters_of, measured_cycles, predicted_cycles
from subquad.bio.analysis.orders import Library, find_library, variance_by_order
from subquad.bio.commands.scan import Model, chosen_output, fitted, measurements, offset_of, outputs, values_of
from subquad.bio.data.dataset import ROW_KINDS
from subquad.bio.plots.epistasis_page import MEASURED, PREDICTED, Found, lead, pairs_of, sections
from subquad.bio.plots.maps import save
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.reporting.page import page
from subquad.runs.storage import as_folder, atomic

__all__ = ["epistasis", "find_measured", "find_predicted"]


def epistasis(
    source: Path | str,
    *,
    out: Path | str,
    table: Path | str | None = None,
    settings: FitSettings | None = None,
    of: str | None = None,
    most: int = 50_000,
    seed: int = 0,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write a map of pairs of positions by double-mutant cycles and the variance by order; return the pairs.

    The epistasis of a double mutant is its value less what its two changes, added up, would give: in units of the
    target, or in log odds of a predicted class.

    Args:
        source: a folder that `fit` wrote, or a table of variants with measurements.
        out: the folder to write: `pairs.csv`, `cycles.csv.gz`, `orders.csv`, `epistasis.html`, pictures as PNG and PDF.
        table: measurements to compare a fitted model with, with the columns of the fit.
        settings: which columns of a table to read, and its wild type; as for `fit`.
        of: which target or class of a model, where there are several.
        most: double mutants that a model predicts at most.
        seed: of what is drawn at random.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the source cannot be read, or has neither double mutants nor combinations of letters at few sites;
            nothing has been written then.
    """
    source, out = Path(source), as_folder(out)
    if source.is_dir():
        found = _of_run(source, table, of=of, most=most, seed=seed, quiet=quiet)
    else:
        found = _of_table(source, settings or FitSettings(), seed=seed, quiet=quiet)
    return _write(found, out, source)


def find_measured(
    sequences: list[str],
    values: np.ndarray,
    wild_type: str | None,
    *,
    name: str = "target",
    offset: int = 0,
    seed: int = 0,
) -> tuple[Found, list[str]]:
    """Return what measurements tell, and remarks.

    Args:
        sequences: of the rows; those of another length than the wild type are left out.
        values: measurements.
        wild_type: letters; the commonest letter of each position by default.
        name: of the target.
        offset: positions are numbered from 1 and this.
        seed: of rows drawn at random.

    Raises:
        SubquadError: there are neither double mutants nor combinations of letters at few sites.
    """
    remarks = []
    length = len(wild_type) if wild_type else int(np.bincount([len(s) for s in sequences]).argmax())
    kept = np.array([len(s) == length for s in sequences]) & np.isfinite(values)
    if not kept.all():
        remarks.append(f"{(~kept).sum():,} rows of another length, or without a measurement, are left out")
    letters = letters_of([s for s, keep in zip(sequences, kept, strict=True) if keep])
    values = values[kept]
    if wild_type is None:
        wild_type = "".join(chr(np.bincount(column).argmax()) for column in letters.T)
        remarks.append("wild type: the commonest letter at each position (--wild-type names another)")
    own = np.frombuffer(wild_type.encode(), dtype=np.uint8)
    cycles = {}
    if ((letters != own).sum(1) == 2).any():
        cycles[MEASURED] = measured_cycles(letters, own, values, offset=offset)
    library = find_library(letters, own, values, offset=offset)
    orders = {} if library is None else {MEASURED: variance_by_order(library, seed=seed)}
    if not cycles and not orders:
        raise SubquadError(
            "there is no row with exactly two changes from the wild type, and no combinations of letters at few sites; "
            "epistasis is seen in those only"
        )
    floor = float((values == values.min()).mean())
    found = Found(
        wild_type=wild_type, offset=offset, cycles=cycles, orders=orders, library=library, floor=floor, name=name
    )
    return found, remarks


def find_predicted(
    model: Model,
    wild_type: str,
    *,
    column: int = 0,
    places: list[int] | None = None,
    measured: Found | None = None,
    most: int = 50_000,
    seed: int = 0,
    quiet: bool = True,
) -> Found:
    """Return what a model tells, beside what was measured: of the same double mutants and the same combinations."""
    offset = offset_of(model)
    doubles = None if measured is None or not measured.cycles else _doubles(measured.cycles[MEASURED].frame, offset)
    own = predicted_cycles(
        model, wild_type, column=column, places=places, doubles=doubles, most=most, seed=seed, quiet=quiet
    )
    orders = {} if measured is None else dict(measured.orders)
    library = None if measured is None else measured.library
    if library is not None:
        values, _ = values_of(model, _sequences(library, wild_type), column=column, title="combinations", quiet=quiet)
        same = Library(choices=library.choices, values=values, sites=library.sites, letters=library.letters)
        orders[PREDICTED] = variance_by_order(same, seed=seed)
    return Found(
        wild_type=wild_type,
        offset=offset,
        cycles={**({} if measured is None else measured.cycles), PREDICTED: own},
        orders=orders,
        library=library,
        floor=0.0 if measured is None else measured.floor,
        name=outputs(model)[column],
    )


def _of_table(path: Path, settings: FitSettings, *, seed: int, quiet: bool) -> Found:
    from subquad.bio.data.table import read_table

    table = read_table(path, settings)
    if table.target is None or table.target.kind not in ("regression", "binary"):
        kind = "no target" if table.target is None else f"a target of the kind {table.target.kind}"
        raise SubquadError(
            f"{path}: epistasis is that of measurements, and this table has {kind}; name one with --target"
        )
    y = np.asarray(table.target.y, dtype=np.float64).reshape(len(table.sequences), -1)[:, 0]
    for remark in table.remarks:
        say(remark, quiet=quiet)
    rows = np.flatnonzero(table.has_target & np.isfinite(y))
    found, remarks = find_measured(
        [table.sequences[row] for row in rows],
        y[rows],
        table.wild_type,
        name=table.target.names[0],
        offset=table.about["offset"] or 0,
        seed=seed,
    )
    for remark in remarks:
        say(remark, quiet=quiet)
    return found


def _of_run(run: Path, table: Path | str | None, *, of: str | None, most: int, seed: int, quiet: bool) -> Found:
    model, places = fitted(run)
    if model.kind not in ROW_KINDS:
        raise SubquadError(f"{run}: epistasis needs one value a sequence, and this model predicts {model.kind}")
    if model.wild_type is None:
        raise SubquadError(
            f"{run}: this run knows no wild type, and epistasis is seen around one; fit with --wild-type"
        )
    column = outputs(model).index(chosen_output(model, of, model.wild_type))
    measured = None
    if table is not None:
        name = outputs(model)[column]
        known = measurements(run, table, model, name)
        measured, remarks = find_measured(
            list(known),
            np.array(list(known.values())),
            model.wild_type,
            name=name,
            offset=offset_of(model),
            seed=seed,
        )
        for remark in remarks:
            say(remark, quiet=quiet)
    return find_predicted(
        model,
        model.wild_type,
        column=column,
        places=places,
        measured=measured,
        most=most,
        seed=seed,
        quiet=quiet,
    )


def _doubles(frame: pd.DataFrame, offset: int) -> list[Double]:
    first, second = frame["first"].astype(str).str[-1], frame["second"].astype(str).str[-1]
    i, j = (frame[side] - 1 - offset for side in ("i", "j"))
    return list(zip(zip(i, first, strict=True), zip(j, second, strict=True), strict=True))


def _sequences(library: Library, wild_type: str) -> list[str]:
    out = np.repeat(np.frombuffer(wild_type.encode(), dtype=np.uint8)[None], len(library.choices), axis=0)
    for place, site, known in library.places:
        out[:, place] = np.frombuffer(known.encode(), dtype=np.uint8)[library.choices[:, site]]
    return [row.tobytes().decode() for row in out]


def _write(found: Found, out: Path, source: Path) -> pd.DataFrame:
    pairs, cycles = pairs_of(found)
    parts, figures = sections(found, pairs, cycles)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "pairs.csv") as temporary:
        pairs.to_csv(temporary, index=False)
    if cycles is not None:
        with atomic(out / "cycles.csv.gz") as temporary:
            cycles.to_csv(
                temporary, index=False, compression={"method": "gzip", "compresslevel": 3}, float_format="%.6g"
            )
    if found.orders:
        frames = [
            pd.DataFrame({"from": name, "order": np.arange(1, len(own.share) + 1), "share": own.share}).assign(
                held_out_r2=pd.Series(own.held_out)
            )
            for name, own in found.orders.items()
        ]
        with atomic(out / "orders.csv") as temporary:
            pd.concat(frames).to_csv(temporary, index=False)
    for stem, figure in figures.items():
        save(figure, out / stem)
    html = page(f"Epistasis: {found.name}", lead=lead(found, source), sections=parts)
    with atomic(out / "epistasis.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return pairs
