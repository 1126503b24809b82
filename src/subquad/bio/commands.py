"""`subquad bio`: its commands. The heavy rooms are opened when a command runs."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from subquad.bio.settings import FitSettings

__all__ = ["app"]

app = App(name="bio", help="Learn from biological sequences with measurements (Lyra), beside ridge and boosting.")


@app.command
def fit(
    table: Path,
    /,
    settings: Annotated[FitSettings, Parameter(name="*")] = FitSettings(),
    *,
    out: Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Fit a net, ridge and gradient boosting on one split, save the net and say who wins.

    For example:

        subquad bio fit assay.csv --sequence mutated_sequence --target DMS_score --out run

    Args:
        table: CSV or TSV, plain or gzipped: full sequences and measurements, one row each.
        out: The folder to write. An unfinished run in it goes on.
        seed: Of the random split, the order of the rows and the start of the net.
        force: Replace what is in the folder.
        quiet: Print nothing.
    """
    from subquad.bio.tasks import fit as run

    metrics = run(table, settings, out=out, seed=seed, force=force, quiet=quiet)
    if not quiet:
        _show(metrics, out)


@app.command
def predict(
    directory: Path,
    table: Path,
    /,
    *,
    out: Path,
    sequence: str | None = None,
    quiet: bool = False,
) -> None:
    """Predict the sequences of a table with a fitted net; all columns of the table are kept.

    For example:

        subquad bio predict run new.csv --out predictions.csv

    Args:
        directory: The folder that `subquad bio fit` wrote.
        table: CSV or TSV, plain or gzipped, with sequences.
        out: The file to write; .tsv and .gz at its end say how.
        sequence: Column of the sequences; by default the one of the fit, else guessed.
        quiet: Print nothing.
    """
    from subquad.bio.tasks import predict as run

    frame = run(directory, table, out=out, sequence=sequence, quiet=quiet)
    if not quiet:
        _show_predictions(frame, out)


def _show(metrics: dict, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from subquad.bio.report import WORDS, winner

    test = metrics["test"]
    best = winner(metrics)
    table = Table("model", *test["net"], title=f"{metrics['rows']['test']:,} test rows")
    for name, figures in test.items():
        mark = " ← wins" if name == best else ""
        table.add_row(WORDS[name] + mark, *(f"{value:.3f}" for value in figures.values()))
    console = Console()
    console.print(table)
    console.print(f"Wrote {out}/ (report.html, metrics.json, test.csv, the net).", soft_wrap=True)
    console.print(f"Next: subquad bio predict {out} TABLE.csv --out predictions.csv", soft_wrap=True)


def _show_predictions(frame, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [name for name in frame.columns if name.startswith(("prediction", "probability_"))][:6]
    table = Table("row", *names, title=f"first of {len(frame):,} predictions")
    for row, values in enumerate(frame[names].head(5).itertuples(index=False), start=1):
        table.add_row(str(row), *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values))
    console = Console()
    console.print(table)
    console.print(f"Wrote {out}. Next: sort it by the column prediction.", soft_wrap=True)
