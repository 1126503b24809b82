"""`scan`: an in silico deep mutational scan of a sequence, or the prediction along it for residues and base pairs."""

from pathlib import Path

import numpy as np
import pandas as pd

from subquad import __version__
from subquad.bio.analysis.scan_page import profile_page, scan_page, support_warnings
from subquad.bio.analysis.settings import ScanSettings, check_unused
from subquad.bio.analysis.single_mutants import measured_values, scan_table
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.scorer import (
    SEPARATOR,
    folder_of,
    input_sequence,
    open_model,
    open_scorer,
    output_names,
    partner_sequence,
)
from subquad.bio.models.support import describe_direction
from subquad.bio.plots.maps import save
from subquad.progress import say
from subquad.reporting.run_comparison import run_name
from subquad.runs.folder import METRICS
from subquad.runs.storage import (
    check_files_not_inside,
    check_not_inside,
    check_report_folder,
    plain,
    read_json,
    write_json,
    write_report_folder,
)

__all__ = ["scan"]

KIND, RECORD = "bio scan", "scan.json"

MIN_PAIR_PROBABILITY = 0.1
"""Base pairs below this probability are left out of table and picture."""


def scan(
    run: BioModel | Path | str,
    settings: ScanSettings | None = None,
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the predictions of all single mutants of a sequence as table, heat map, logo and page; return the table.

    Of a pair the first sequence is mutated, and the partner sequence stays the same. Differences are those to the wild
    type, in units of the target; for classes, in probability. Positions are numbered as in the table of the fit. A
    model of residues or base pairs shows its prediction along the sequence instead.

    Args:
        run: Folder that `fit` wrote, or a `BioModel`.
        settings: Sequence, target, and measurements to compare with.
        out: Output folder: `scan.csv`, `scan.html`, `scan.json`, and the figures as PNG and PDF.
        force: Overwrite an earlier scan.
        quiet: Show no progress.

    Raises:
        SubquadError: There is no such run, sequence or target, or the output exists; nothing has been written then.
    """
    settings = settings or ScanSettings()
    out = check_report_folder(out, kind=KIND, file=RECORD, force=force)
    check_not_inside(out, folder_of(run))
    check_files_not_inside(out, settings, "sequence", "partner", "table")
    model = open_model(run)
    wild_type = input_sequence(model, settings.sequence, "--sequence")
    partner = partner_sequence(model, settings.partner)
    if model.task_type not in ROW_TASK_TYPES:
        reason = f"the model predicts {'base pairs' if model.task_type == 'pairs' else 'residues'} along one sequence"
        check_unused(settings, ("target", "table"), reason)
        if settings.direction is not None:
            say(f"--direction has no effect: {reason}", quiet=quiet)
        describe = _base_pairs if model.task_type == "pairs" else _residues
        frame, label, caption = describe(model, wild_type, partner)
        figures, html = profile_page(frame, label, caption, sequence=wild_type)
        target = label
    else:
        scorer = open_scorer(model, target=settings.target, wild_type=wild_type, partner=partner)
        measured = measured_values(scorer, settings.table)
        direction = settings.direction
        say(describe_direction(direction, scorer.title), quiet=quiet)
        frame = scan_table(scorer, wild_type, measured=measured, direction=direction, quiet=quiet)
        cautions = [text for text in (_extrapolation(model), *support_warnings(frame, scorer, direction)) if text]
        for text in cautions:
            say(text, quiet=quiet)
        options = {"source": _name(run), "direction": direction, "cautions": cautions}
        figures, html = scan_page(frame, wild_type, scorer=scorer, **options)
        target = scorer.title
    with write_report_folder(out) as folder:
        frame.to_csv(folder / "scan.csv", index=False)
        for stem, figure in figures.items():
            save(figure, folder / stem)
        (folder / "scan.html").write_text(html, encoding="utf-8")
        record = {"kind": KIND, "version": __version__, "settings": plain(settings)}
        write_json(folder / RECORD, {"subquad": record, "sequence": wild_type, "partner": partner, "target": target})
    return frame


def _name(run: BioModel | Path | str) -> str:
    return run_name(run) if isinstance(run, str | Path) else "this model"


def _extrapolation(model: BioModel) -> str | None:
    """Return a warning where no training variant is close to the wild type."""
    path = model.directory / METRICS
    counts = (read_json(path).get("audit") or {}).get("mutations") if path.is_file() else None
    if not counts or "0" in counts or "1" in counts:
        return None
    return (
        f"The table of the fit holds neither the wild type nor single mutants: all of its variants have "
        f"{min(map(int, counts))} or more mutations. The prediction of the wild type, the zero of the colour scale, is "
        "therefore an extrapolation; compare mutants with each other rather than with the wild type."
    )


def _pair(sequence: str, partner: str | None) -> str:
    return sequence if partner is None else f"{partner}{SEPARATOR}{sequence}"


def _residues(model: BioModel, sequence: str, partner: str | None) -> tuple[pd.DataFrame, str, str]:
    """Return the prediction at each position, the label of its axis, and a caption."""
    names = output_names(model)
    values = np.asarray(model.predict_sequences([_pair(sequence, partner)]))[0][: len(sequence)].reshape(
        len(sequence), -1
    )
    frame = pd.DataFrame({"position": range(1, len(sequence) + 1), "letter": list(sequence)})
    for k, name in enumerate(names):
        frame[name] = values[:, k]
    is_class = model.task_type != "residue_regression"
    what = f"probability of {names[0]}" if is_class and len(names) == 1 else "values"
    return frame, "probability" if is_class else names[0], f"Predicted {what} at each position of the sequence."


def _base_pairs(model: BioModel, sequence: str, partner: str | None) -> tuple[pd.DataFrame, str, str]:
    """Return the likely base pairs, a label and a caption."""
    probability = np.asarray(model.predict_sequences([_pair(sequence, partner)])[0])
    first, second = np.nonzero(np.triu(probability >= MIN_PAIR_PROBABILITY, 1))
    frame = pd.DataFrame({"first": first + 1, "second": second + 1, "probability": probability[first, second]})
    caption = (
        "Predicted base pairs as arcs; darker arcs are more probable. Pairs with a probability below "
        f"{MIN_PAIR_PROBABILITY:g} are not shown."
    )
    return frame, "probability", caption
