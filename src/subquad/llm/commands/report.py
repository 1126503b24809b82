"""`subquad llm report`: the HTML report of a finished run, or a comparison of several, from their folders."""

from pathlib import Path

from subquad.errors import SubquadError, reading
from subquad.llm.plots.comparison_page import LinearizedRun, compare
from subquad.llm.plots.linearize_page import NOTES, linearize_page
from subquad.reporting.run_comparison import report_file, run_names
from subquad.runs.examples import name_of_run, run_folder
from subquad.runs.folder import METRICS, load_config
from subquad.runs.history import read_history
from subquad.runs.storage import read_json, write_text


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
    first = runs[names[0]]
    with reading(folders[0], "a run of subquad llm"):
        if others:
            html = compare(runs)
        elif first.notes is None:
            raise SubquadError(f"{name_of_run(folders[0])}: no {NOTES} in it; it can only be compared with another run")
        else:
            html = linearize_page(first.metrics, first.notes, read_history(folders[0]))
    write_text(out, html)
    return out


def _read(folder: Path) -> LinearizedRun:
    config = load_config(folder, "llm")
    # a model that was copied without its notes has no losses of single sequences
    notes = read_json(folder / NOTES) if (folder / NOTES).is_file() else None
    return LinearizedRun(settings=config["subquad"]["settings"], metrics=read_json(folder / METRICS), notes=notes)
