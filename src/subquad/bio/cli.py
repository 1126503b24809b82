"""`subquad bio`: its commands. The heavy rooms are opened when a command runs."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.guide_search.settings import GuideSettings
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
    presets: tuple[str, ...] = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Fit a net, ridge and gradient boosting on one split, save them with their stack, and say who wins.

    For example:

        subquad bio fit assay.csv --sequence mutated_sequence --target DMS_score --out run

    Args:
        table: CSV, TSV, Excel, Parquet or FASTA, plain or gzipped: full sequences, or variants, and measurements.
        out: The folder to write. An unfinished run in it goes on.
        presets: Further nets to fit for comparison only, such as paper.
        seed: Of the random split, the order of the rows and the start of the net.
        force: Replace what is in the folder.
        quiet: Print nothing.
    """
    from subquad.bio.commands.fit import fit as run

    metrics = run(table, settings, out=out, presets=presets, seed=seed, force=force, quiet=quiet)
    if not quiet:
        _show(metrics, out)


@app.command
def cross_validate(
    table: Path,
    /,
    settings: Annotated[FitSettings, Parameter(name="*")] = FitSettings(),
    *,
    out: Path,
    presets: tuple[str, ...] = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Fit all models on each fold in turn, so that every row is predicted by models that never saw it.

    As many folds as groups predict each group from all others. For example:

        subquad bio cross-validate guides.csv --split-by group --group gene --folds 17 --out genes

    Args:
        table: CSV, TSV, Excel, Parquet or FASTA, plain or gzipped: full sequences, or variants, and measurements.
        out: The folder to write, with one folder for each fold. An unfinished run in it goes on.
        presets: Further nets to fit for comparison only, such as paper.
        seed: Of the folds, the order of the rows and the start of the nets.
        force: Replace what is in the folder.
        quiet: Print nothing.
    """
    from subquad.bio.commands.cross_validate import cross_validate as run

    metrics = run(table, settings, out=out, presets=presets, seed=seed, force=force, quiet=quiet)
    if not quiet:
        _show_folds(metrics, out)


@app.command
def predict(
    directory: Path,
    table: Path,
    /,
    *,
    out: Path,
    model: str = "net",
    sequence: str | None = None,
    quiet: bool = False,
) -> None:
    """Predict the sequences of a table with a fitted model; all columns of the table are kept.

    For example:

        subquad bio predict run new.csv --out predictions.csv

    Args:
        directory: The folder that `subquad bio fit` wrote.
        table: CSV, TSV, Excel, Parquet or FASTA, plain or gzipped, with sequences or variants.
        out: The file to write; .tsv and .gz at its end say how.
        model: The net, a rival (ridge, boosting; of base pairs vienna, vienna_bpp), or the stack of all; the report
            says which was best.
        sequence: Column of the sequences; by default the one of the fit, else guessed.
        quiet: Print nothing.
    """
    from subquad.bio.commands.fit import predict as run

    frame = run(directory, table, out=out, model=model, sequence=sequence, quiet=quiet)
    if not quiet:
        _show_predictions(frame, out)


def _show(metrics: dict, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from subquad.bio.metrics.scores import title
    from subquad.bio.plots.fit_page import WORDS, silence, winner

    test = metrics["test"]
    best = winner(metrics)
    # figures of single columns and classes are in the report
    names = [name for name in test["net"] if ":" not in name][:6]
    table = Table("model", *map(title, names), title=f"{metrics['rows']['test']:,} test rows")
    for name, figures in test.items():
        mark = " ← wins" if name == best else ""
        shown = ("–" if one in metrics["undefined"] else f"{figures[one]:.3f}" for one in names)
        table.add_row(WORDS[name] + mark, *shown)
    console = Console()
    console.print(table)
    if best is None:
        console.print(f"No winner is named, with {silence(metrics)}.", soft_wrap=True)
    console.print(f"Wrote {out}/ (report.html, metrics.json, the test rows, the models).", soft_wrap=True)
    console.print(f"Next: subquad bio predict {out} TABLE.csv --out predictions.csv", soft_wrap=True)


def _show_folds(metrics: dict, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from subquad.bio.metrics.scores import title
    from subquad.bio.plots.fit_page import WORDS

    mean, spread = metrics["mean"], metrics["spread"]
    names = [name for name in mean["net"] if ":" not in name][:6]
    table = Table("model", *map(title, names), "first", title=f"mean and spread of {len(metrics['rows'])} folds")
    for model, own in mean.items():
        cells = [f"{own[name]:.3f} ± {spread[model][name]:.3f}" for name in names]
        table.add_row(WORDS[model], *cells, str(metrics["first"][model]))
    console = Console()
    console.print(table)
    console.print(f"Wrote {out}/ (report.html, metrics.json, predictions.csv, a folder for each fold).", soft_wrap=True)
    console.print(f"Next: subquad bio predict {out}/fold-0 TABLE.csv --out predictions.csv", soft_wrap=True)


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


@app.command
def design(
    run: Path,
    /,
    settings: Annotated[DesignSettings, Parameter(name="*")] = DesignSettings(),
    *,
    out: Path,
    table: Path | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Design the best variants under constraints, as a batch that differs, laid out on plates.

    For example:

        subquad bio design run --out designs --max-mutations 4 --fixed 1-10 --allow 24=AGS,30=KR

    Args:
        run: The folder that `subquad bio fit` wrote.
        out: The folder to write: designs.csv, designs.fasta, plates.csv, design.html.
        table: The measured variants, which are not designed again; by default the table of the fit, where it still is.
        seed: Of the search.
        force: Replace earlier designs in the folder.
        quiet: Print nothing.
    """
    from subquad.bio.commands.design import design as make

    frame = make(run, out=out, settings=settings, table=table, seed=seed, force=force, quiet=quiet)
    if not quiet:
        _show_rows(frame, ("name", "mutants", "prediction", "spread", "ucb", "distance", "well"), "designs")
        print(f"Wrote {out}/ (designs.csv, designs.fasta, plates.csv, design.html). Next: open {out}/design.html")


@app.command
def guides(
    genes: Path,
    /,
    settings: Annotated[GuideSettings, Parameter(name="*")] = GuideSettings(),
    *,
    out: Path,
    model: Path | None = None,
    page: Path | None = None,
    quiet: bool = False,
) -> None:
    """List all guides of the genes of a FASTA file, on both strands, scored and ranked by a fitted model.

    For example:

        subquad bio guides genes.fa --model run --out guides.csv --page guides.html

    Args:
        genes: FASTA, plain or gzipped: genes, transcripts (for Cas13) or a genome.
        out: The file to write; .tsv and .gz at its end say how.
        model: The folder that `subquad bio fit` wrote for a table of guides; without one there are no scores.
        page: An HTML file to write, with the best guides of each gene on its map.
        quiet: Print nothing.
    """
    from subquad.bio.commands.guides import guides as find

    frame = find(genes, out=out, model=model, settings=settings, page=page, quiet=quiet)
    if not quiet:
        _show_rows(frame, ("gene", "strand", "start", "guide", "pam", "off_targets", "score"), "best guides")
        print(f"Wrote {out}{f' and {page}' if page else ''}. Next: sort {out} by gene and rank.")


def _show_rows(frame, names: tuple[str, ...], title: str, most: int = 10) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*names, title=f"first of {len(frame):,} {title}")
    for values in frame[list(names)].head(most).itertuples(index=False):
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(*("" if cell in ("nan", "<NA>") else cell for cell in cells))
    Console().print(table)


@app.command
def bench(
    tasks: Path,
    /,
    settings: Annotated[BenchSettings, Parameter(name="*")] = BenchSettings(),
    *,
    out: Path,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Fit all models on all tasks of a file, and count who wins; stopped at any moment, the same command goes on.

    For example:

        subquad bio bench tasks.json --only 'crispr/*' --jobs 4 --out bench

    Args:
        tasks: JSON list of tasks: id, file, kind, and if there settings, metric, published and train_on.
        out: The folder to write. What is finished in it is not done again.
        force: Redo finished runs that were made with other settings or tables.
        quiet: Print nothing.
    """
    from subquad.bio.commands.bench import bench as run
    from subquad.bio.plots.bench_page import summary_lines
    from subquad.errors import raise_errors

    results = run(tasks, settings, out=out, force=force, quiet=quiet)
    if not quiet:
        print("\n".join(summary_lines(results)))
        print(f"Wrote {out}/ (results.html, results.json, results.csv, results.md, runs).")
        print(f"Next: open {out}/results.html")
    raise_errors(
        f"{out}: runs that failed (all others are in the results; the same command tries these again):",
        [f"{run['id']}, seed {run['seed']}: {run['message']}" for run in results["failed"]],
    )


@app.command
def scan(
    run: Path,
    /,
    *,
    out: Path,
    sequence: str | None = None,
    table: Path | None = None,
    of: str | None = None,
    quiet: bool = False,
) -> None:
    """Predict all single mutants of a sequence: table, heat map, sequence logo and one HTML page.

    For example:

        subquad bio scan run --out scan

    Args:
        run: The folder that `subquad bio fit` wrote.
        out: The folder to write: scan.csv, scan.html, and heatmap and logo as PNG and PDF.
        sequence: Letters, or a FASTA file with one sequence; by default the wild type of the run.
        table: Measurements to show beside the predictions; by default the run's test rows.
        of: Which target or class, where the model has several.
        quiet: Print nothing.
    """
    from subquad.bio.commands.scan import scan as make

    frame = make(run, out=out, sequence=sequence, table=table, of=of, quiet=quiet)
    if quiet:
        return
    if "difference" in frame:
        best = frame.sort_values("difference", ascending=False)
        _show_rows(best, ("mutant", "prediction", "difference", "spread", "measured"), "single mutants, best first", 5)
    print(f"Wrote {out}/ (scan.html, scan.csv, pictures as PNG and PDF). Next: open {out}/scan.html")


@app.command
def epistasis(
    source: Path,
    /,
    *,
    out: Path,
    table: Path | None = None,
    sequence: str | None = None,
    mutant: str | None = None,
    target: str | None = None,
    wild_type: str | None = None,
    offset: int | None = None,
    of: str | None = None,
    most: int = 50_000,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Map the pairs of positions that do not add up, and the variance by order of interaction.

    For example:

        subquad bio epistasis doubles.csv --target score --out epistasis

    Args:
        source: A table of variants with measurements, or a folder that `subquad bio fit` wrote.
        out: The folder to write: epistasis.html, pairs.csv, cycles.csv.gz, orders.csv, pictures as PNG and PDF.
        table: Measurements to compare a fitted model with.
        sequence: Column of the sequences of a table; guessed where it is not given.
        mutant: Column of variants (A24G:K30R), where a table has no full sequences.
        target: Column of the measurements of a table; guessed where it is not given.
        wild_type: What variants are of: letters, or a FASTA file; else the commonest letter of each position.
        offset: What to take off a variant's position to get the place in the wild type, from 1.
        of: Which target or class of a model, where it has several.
        most: Double mutants that a model predicts at most.
        seed: Of what is drawn at random.
        quiet: Print nothing.
    """
    from subquad.bio.commands.epistasis import epistasis as make

    targets = () if target is None else (target,)
    settings = FitSettings(sequence=sequence, mutant=mutant, target=targets, wild_type=wild_type, offset=offset)
    pairs = make(source, out=out, table=table, settings=settings, of=of, most=most, seed=seed, quiet=quiet)
    if not quiet:
        if len(pairs):
            _show_rows(pairs, ("i", "j", "rms", "max", "mean", "cycles"), "pairs of positions, strongest first", 5)
        print(f"Wrote {out}/ (epistasis.html, tables, pictures as PNG and PDF). Next: open {out}/epistasis.html")


@app.command
def report(run: Path, /, *, out: Path | None = None, quiet: bool = False) -> None:
    """Write the HTML page about a fitted model again: data, split, figures, rivals, calibration, errors.

    For example:

        subquad bio report run

    Args:
        run: The folder that `subquad bio fit` wrote.
        out: The file to write; by default report.html in the folder.
        quiet: Print nothing.
    """
    from subquad.bio.plots.fit_page import report as make

    path = make(run, out=out)
    if not quiet:
        print(f"Wrote {path}. Next: open it in a browser.")
