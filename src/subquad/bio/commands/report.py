"""`report`: the HTML report of a finished run, or a comparison of several, from the files in their folders."""

from pathlib import Path

from subquad.bio.models.finished_run import read_bootstrap, read_finished_run
from subquad.bio.plots.comparison_page import check_comparable, comparison_page
from subquad.bio.plots.fit_page import render
from subquad.errors import SubquadError
from subquad.runs.examples import EXAMPLE_RUNS, run_folder
from subquad.runs.folder import REPORT
from subquad.runs.storage import as_file, atomic, check_output

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
    folders = [run_folder(own) for own in (run, *others)]
    if out is None and (others or str(run) in EXAMPLE_RUNS):
        what = "a comparison of several runs" if others else f"{run}, which is a part of the package,"
        raise SubquadError(f"{what} needs an output file: name it with --out")
    out = check_output(folders[0] / REPORT if out is None else as_file(out), force=force)
    html = _comparison(folders) if others else render(read_finished_run(folders[0]))
    with atomic(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out


def _comparison(folders: list[Path]) -> str:
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SubquadError(f"{', '.join(map(str, folders))}: a run cannot be compared with itself")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = {name: read_finished_run(folder) for name, folder in zip(names, folders, strict=True)}
    check_comparable(runs)
    bootstraps = zip(names, folders, strict=True)
    return comparison_page(runs, {name: read_bootstrap(folder, runs[name].models) for name, folder in bootstraps})
