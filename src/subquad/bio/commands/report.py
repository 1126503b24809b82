"""`report`: the HTML report of a finished run, or a comparison of several, from the files in their folders."""

from pathlib import Path

from subquad.bio.models.finished_run import read_bootstrap, read_finished_run
from subquad.bio.plots.comparison_page import compare
from subquad.bio.plots.fit_page import render
from subquad.errors import reading
from subquad.reporting.run_comparison import report_file, run_names
from subquad.runs.examples import run_folder
from subquad.runs.storage import write_text

__all__ = ["report"]


def report(run: Path | str, *others: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Write the report of a finished run, or the comparison of several runs, and return its path.

    Args:
        run: Folder that `fit` wrote.
        others: Folders of further runs of the same target, to be compared with the first.
        out: Output file; by default `report.html` in the folder. A comparison needs one, and so does an example run.
        force: Overwrite an existing report.

    Raises:
        SubquadError: There is no finished run, the output exists, or runs of different targets are to be compared.
    """
    folders = [run_folder(folder) for folder in (run, *others)]
    names = run_names(folders)
    out = report_file((run, *others), folders[0], out=out, force=force)
    runs = {name: read_finished_run(folder) for name, folder in zip(names, folders, strict=True)}
    with reading(folders[0], "a finished run"):
        if others:
            by_name = zip(names, folders, strict=True)
            html = compare(runs, {name: read_bootstrap(folder, runs[name].models) for name, folder in by_name})
        else:
            html = render(runs[names[0]])
    write_text(out, html)
    return out
