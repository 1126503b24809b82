"""`subquad hep`: its commands. The heavy rooms are opened when a command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from subquad.hep.settings import EvaluateSettings, ExplainSettings, FitSettings, PredictSettings, SimulateSettings

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from subquad.reporting.page import Table

__all__ = ["app"]

app = App(name="hep", help="Tag jets in ROOT files with a particle Chebyshev network (PCN).")


@app.command
def fit(
    files: list[str],
    /,
    settings: Annotated[FitSettings, Parameter(name="*")] = FitSettings(),
    *,
    test: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Fit a tagger on labelled jets and measure it on others, beside gradient boosting.

    For example:

        subquad hep fit 'jets/*.root' --out tagger
        subquad hep fit 'jets/*.root' --card JetClass_kin.yaml --out tagger

    Args:
        files: ROOT, Parquet, HDF5 or NPZ files in JetClass's layout, or as --card says: names, or patterns in quotes.
        test: Files to measure on; without it a part of the jets, of each class alike, drawn by the seed.
        out: The folder to write. An unfinished run in it goes on.
        seed: Of the split, the first weights and the order of the jets.
        force: Replace what is in the folder.
        quiet: Print nothing.
    """
    from subquad.hep.commands.fit import fit as run
    from subquad.train.distributed import processes

    metrics = run(files, settings, test=test or (), out=out, seed=seed, force=force, quiet=quiet)
    if not quiet and processes().is_main_process:
        _show(metrics, out)


@app.command
def predict(
    model: Path,
    files: list[str],
    /,
    settings: Annotated[PredictSettings, Parameter(name="*")] = PredictSettings(),
    *,
    out: Path,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Score jets with a fitted tagger: one ROOT file with a branch per class, in the order of the input.

    For example:

        subquad hep predict tagger 'more/*.root' --out scores.root

    Args:
        model: The folder that `subquad hep fit` wrote.
        files: Files like those that the tagger was fitted on: names, or patterns in quotes.
        out: The ROOT file to write; its tree is `Events`.
        force: Replace it, where it is there.
        quiet: Print nothing.
    """
    from subquad.hep.commands.predict import predict as run

    path = run(model, files, settings, out=out, force=force, quiet=quiet)
    if not quiet:
        print(f"Wrote {path}. Next: python -c \"import uproot; uproot.open('{path}')['Events'].show()\"")


@app.command
def evaluate(
    *runs: Path,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = EvaluateSettings(),
    files: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    scores: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Measure taggers side by side: figures with their intervals and spread, ROC curves, pT, mass, calibration, time.

    Runs that differ in the seed alone are trainings of one model.

    For example:

        subquad hep evaluate tagger --out evaluation
        subquad hep evaluate seed_1 seed_2 --files 'test/*.root' --scores ParT=part.root --out evaluation

    Args:
        runs: Folders that `subquad hep fit` wrote.
        files: ROOT files of labelled jets; without them each run is measured on its own test jets.
        scores: Of taggers that others ran, as name=scores.root with the branches score_<class> and label_<class>.
        out: The folder to write: report.html, report.pdf, metrics.json and figures/.
        force: Replace the evaluation that is there.
        quiet: Print nothing.
    """
    from subquad.hep.commands.evaluate import evaluate as run

    found = run(runs, settings, files=files or (), scores=scores or (), out=out, force=force, quiet=quiet)
    if not quiet:
        _show_models(found, out)


@app.command
def explain(
    run: Path,
    /,
    settings: Annotated[ExplainSettings, Parameter(name="*")] = ExplainSettings(),
    *,
    files: Annotated[list[str], Parameter(consume_multiple=True)],
    only: Annotated[str | None, Parameter(name="--class")] = None,
    out: Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Say what a tagger looks at: graphs, features, particles and edges; with pictures of single jets.

    For example:

        subquad hep explain tagger --files 'jets/*.root' --out explained

    Args:
        run: The folder that `subquad hep fit` wrote.
        files: Labelled jets, best those that the tagger was not fitted on: names, or patterns in quotes.
        only: Explain this class alone; without it each jet's own class.
        out: The folder to write: report.html, explain.json and figures/.
        seed: Of the shuffles.
        force: Replace what an earlier call wrote.
        quiet: Print nothing.
    """
    from subquad.hep.commands.explain import explain as look
    from subquad.hep.plots.explain_page import summary

    found = look(run, settings, files=[*files], out=out, only=only, seed=seed, force=force, quiet=quiet)
    if not quiet:
        print(summary(found), f"Wrote {out}; look at {out / 'report.html'}.", sep="\n")


@app.command
def export(run: Path, /, *, out: Path, force: bool = False, quiet: bool = False) -> None:
    """Write a tagger as ONNX, checked in onnxruntime, with weaver's preprocess.json beside it.

    For example:

        subquad hep export tagger --out tagger.onnx

    Args:
        run: The folder that `subquad hep fit` wrote.
        out: The file to write; preprocess.json is written into its folder.
        force: Replace both, where they are there.
        quiet: Print nothing.
    """
    from subquad.hep.commands.export import export as write

    found = write(run, out=out, force=force, quiet=quiet)
    if not quiet:
        sizes = found["checked"]["sizes"]
        print(
            f"Wrote {out} and {out.parent / 'preprocess.json'}: inputs {', '.join(found['input_names'])}; scores of "
            f"{', '.join(found['output_names'])}.",
            f"onnxruntime and torch differ by at most {found['checked']['largest_difference']:.1g} at "
            f"{len(sizes)} sizes, of 1 to {max(one['particles'] for one in sizes)} particles.",
            sep="\n",
        )


@app.command
def simulate(
    settings: Annotated[SimulateSettings, Parameter(name="*")] = SimulateSettings(),
    *,
    out: Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Make labelled jets of JetClass's ten classes with Pythia 8 and FastJet, in JetClass's branch layout.

    For example:

        subquad hep simulate --out jets --jets-per-class 1000

    Args:
        out: The folder to write. Files that are whole already are kept.
        seed: Of the collisions and of the detector.
        force: Make all files anew.
        quiet: Print nothing.
    """
    from subquad.hep.commands.simulate import simulate as run

    files = run(out, settings, seed=seed, force=force, quiet=quiet)
    if not quiet:
        print(f"Wrote {len(files)} files to {out}. Next: subquad hep fit '{out}/*.root' --out tagger")


def _show_models(evaluation: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from subquad.hep.plots.evaluation_page import evaluation_tables as tables

    console = Console()
    figures, rejections = tables(evaluation)
    console.print(_models_in_columns(figures))
    by_signal = Table(*rejections.header)
    for row in rejections.rows:
        by_signal.add_row(*(str(cell) for cell in row))
    console.print(by_signal)
    console.print(
        *evaluation["notes"], f"Wrote {out}; look at {out / 'report.html'} or {out / 'report.pdf'}.", sep="\n"
    )


def _models_in_columns(shown: "Table", title: str | None = None) -> "Grid":
    """Return the table for a terminal, which is too narrow for a column for each figure."""
    from rich.table import Table as Grid

    names, *lines = zip(shown.header, *shown.rows, strict=True)
    grid = Grid(title=title)
    for i, name in enumerate(names):
        grid.add_column(str(name), style="bold" if i - 1 == shown.winner else None)
    for line in lines:
        grid.add_row(*(str(cell) for cell in line))
    return grid


def _show(metrics: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from subquad.hep.plots.fit_page import comparison_table, verdict

    console = Console()
    console.print(_models_in_columns(comparison_table(metrics), title=f"{metrics['jets']['test']:,} test jets"))
    console.print(
        f"{verdict(metrics)} Training took {metrics['seconds']['training']:.0f} s. "
        f"Wrote {out}; look at {out / 'report.html'}.",
        f"Next: subquad hep predict {out} more.root --out scores.root",
        sep="\n",
        soft_wrap=True,
    )
