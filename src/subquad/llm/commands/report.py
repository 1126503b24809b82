"""`subquad llm report`: the HTML report of a finished run, or a comparison of several, from their folders."""

from pathlib import Path

from subquad.errors import SubquadError
from subquad.llm.plots.comparison_page import LinearizedRun, check_comparable, comparison_page
from subquad.llm.plots.linearize_page import linearize_page
from subquad.reporting.run_comparison import report_file, run_names
from subquad.runs.checksums import check_if_present
from subquad.runs.damage import damage_as_error
from subquad.runs.examples import EXAMPLE_RUNS, name_of_run, run_folder
from subquad.runs.folder import METRICS, load_config
from subquad.runs.history import read_history
from subquad.runs.records import check_record, read_record
from subquad.runs.storage import atomic

__all__ = ["report"]

NOTES = "evaluations.json"
REMEDY = "linearize again, or copy the whole folder again"


def report(run: Path | str, *others: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Write the report of a linearized model, or the comparison of several, and return its path.

    Args:
        run: Folder that `linearize` wrote.
        others: Folders of further runs of the same teacher, to be compared with the first.
        out: Output file; by default `report.html` in the folder. A comparison needs one, and so does an example run.
        force: Overwrite an existing report.

    Raises:
        SubquadError: There is no finished run, the output exists, or runs of different teachers are to be compared.
    """
    folders = [run_folder(own) for own in (run, *others)]
    names = run_names(folders)
    runs = {name: _read(folder) for name, folder in zip(names, folders, strict=True)}
    out = report_file((run, *others), folders[0], out=out, force=force)
    if others:
        check_comparable(runs)
        html = comparison_page(runs)
    else:
        html = _page(folders[0], runs[names[0]])
    with atomic(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out


def _read(folder: Path) -> LinearizedRun:
    config = load_config(folder, "llm")
    metrics = read_record(folder / METRICS, remedy=REMEDY, test=dict, tokens=dict, seconds=dict)
    check_record(metrics["test"].get("fine_tuned"), f"{folder / METRICS}: fine_tuned", remedy=REMEDY, perplexity=float)
    check_if_present(folder / METRICS)
    # a model that was copied without its notes has no losses of single sequences
    notes = folder / NOTES
    read = read_record(notes, remedy=REMEDY, losses=dict, about=dict, samples=dict) if notes.is_file() else None
    return LinearizedRun(settings=config["subquad"]["settings"], metrics=metrics, notes=read)


def _page(folder: Path, run: LinearizedRun) -> str:
    if run.notes is None:
        name = name_of_run(folder)
        # an example is whole, and ships without it
        copy = "" if name in EXAMPLE_RUNS else "copy the whole folder of the run, or "
        raise SubquadError(
            f"{name}: no {NOTES} in it, from which its report is written; {copy}compare it with another run, which "
            "needs only the metrics"
        )
    history = read_history(folder)
    with damage_as_error(f"{folder}: {NOTES} or {METRICS} is damaged; {REMEDY}"):
        return linearize_page(run.metrics, run.notes, history)
