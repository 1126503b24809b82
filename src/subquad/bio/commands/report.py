"""`report`: the HTML report of a finished run, from the files in its folder."""

from pathlib import Path

from subquad.bio.models.finished_run import read_finished_run
from subquad.bio.plots.fit_page import render
from subquad.runs.folder import REPORT
from subquad.runs.storage import as_file, atomic, check_output

__all__ = ["report"]


def report(run: Path | str, *, out: Path | str | None = None, force: bool = False) -> Path:
    """Write the report of a finished run, and return its path.

    Args:
        run: Folder that `fit` wrote.
        out: Output file; by default `report.html` in the folder.
        force: Overwrite an existing report.

    Raises:
        SubquadError: There is no finished run, or the output exists.
    """
    out = check_output(Path(run) / REPORT if out is None else as_file(out), force=force)
    html = render(read_finished_run(run))
    with atomic(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out
