"""`subquad hep report`: the HTML report of a fitted tagger, or a comparison of several, from their folders."""

from pathlib import Path

from subquad.errors import SubquadError, reading
from subquad.hep.metrics.predictions import TEST_SCORES
from subquad.hep.plots.comparison_page import FittedRun, compare
from subquad.hep.plots.fit_page import fit_page
from subquad.reporting.run_comparison import report_file, run_names
from subquad.runs.examples import run_folder
from subquad.runs.folder import METRICS, load_config
from subquad.runs.storage import read_json, read_tensors, write_text


def report(run: Path | str, *others: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Write the report of a fitted tagger, or the comparison of several, and return its path.

    Args:
        run: Folder that `fit` wrote.
        others: Folders of further taggers of the same classes, to be compared with the first.
        out: Output file; by default `report.html` in the folder. A comparison needs one, and so does an example run.
        force: Overwrite an existing report.

    Raises:
        SubquadError: There is no finished run, the output exists, or taggers of different classes are to be compared.
    """
    folders = [run_folder(folder) for folder in (run, *others)]
    runs = {name: _read(folder) for name, folder in zip(run_names(folders), folders, strict=True)}
    out = report_file((run, *others), folders[0], out=out, force=force)
    if not others and not (folders[0] / TEST_SCORES).is_file():
        raise SubquadError(f"{folders[0]}: no {TEST_SCORES} in it, from which its report is written")
    with reading(", ".join(map(str, folders)), "a finished run"):
        html = compare(runs) if others else fit_page(folders[0])
    write_text(out, html)
    return out


def _read(folder: Path) -> FittedRun:
    config, path = load_config(folder, "hep"), folder / TEST_SCORES
    if "estimator" in config:
        raise SubquadError(f"{folder}: a tagger that was trained on jets in memory has no test jets to report on")
    scores = {name: tensor.numpy() for name, tensor in read_tensors(path).items()} if path.is_file() else None
    return FittedRun(config=config, metrics=read_json(folder / METRICS), scores=scores)
