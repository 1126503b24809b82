"""`subquad bio`: names and flags of its commands. Everything else is imported when a command runs."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from subquad.bio.analysis.settings import EpistasisSettings, ScanSettings
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.names import TABLES, folder_and_config
from subquad.bio.design_search.settings import DesignSettings, RoundsSettings
from subquad.bio.guide_search.settings import GuideSettings
from subquad.bio.language_models.settings import EmbedSettings
from subquad.bio.settings import FitSettings
from subquad.errors import flag_name
from subquad.runs.examples import EXAMPLE_RUNS
from subquad.runs.folder import check_free
from subquad.runs.options import Input, Model, Output, OutputOptions, RunOptions, SeededOptions
from subquad.runs.storage import check_output, check_present, check_report_folder

__all__ = ["app"]

app = App(name="bio", help="Fit and use models of biological sequences with measurements: Lyra and its baselines.")

# flags of several values take them as `--target a b`, and at least one
FLAGS = Parameter(name="*", consume_multiple=1)


@dataclass(frozen=True, kw_only=True)
class TableOptions(OutputOptions):
    """Options of a command that writes a table."""

    out: Output[Path]
    """Output file: .csv or .tsv, alone or with .gz."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions(OutputOptions):
    """Options of the command that writes embeddings."""

    out: Output[Path]
    """Output file, which ends in .safetensors."""


@app.command
def fit(
    table: str,
    /,
    settings: Annotated[FitSettings, FLAGS] = FitSettings(),
    *,
    options: Annotated[RunOptions, FLAGS],
) -> None:
    """Fit baselines, Lyra and their ensemble on one split, and compare them on held-out rows.

    For example:

        subquad bio fit example:tdp43 --out run

    Args:
        table: CSV, TSV, Excel (of several sheets FILE.xlsx#SHEET), Parquet or FASTA, plain or gzipped, with sequences
            or variants and measurements; or example:NAME for a table that ships with subquad.
    """
    _check_table(table, settings)
    check_free(options.out, force=options.force)
    from subquad.bio.commands.fit import fit as run_fit
    from subquad.bio.commands.printing import print_models
    from subquad.train.distributed import processes

    metrics = run_fit(table, settings, **vars(options))
    if not options.quiet and processes().is_main_process:
        print_models(metrics, options.out)


@app.command
def cross_validate(
    table: str,
    /,
    settings: Annotated[FitSettings, FLAGS] = FitSettings(),
    *,
    options: Annotated[RunOptions, FLAGS],
) -> None:
    """Fit all models on each fold in turn, so that every row is predicted out-of-fold.

    With as many folds as groups, each group is predicted from all others.

    For example:

        subquad bio cross-validate guides.csv --split-by group --group gene --folds 17 --out genes

    Args:
        table: CSV, TSV, Excel (of several sheets FILE.xlsx#SHEET), Parquet or FASTA, plain or gzipped, with sequences
            or variants and measurements; or example:NAME for a table that ships with subquad.
    """
    _check_table(table, settings)
    check_free(options.out, force=options.force)
    from subquad.bio.commands.cross_validate import cross_validate as run_cross_validate
    from subquad.bio.commands.printing import print_folds

    metrics = run_cross_validate(table, settings, **vars(options))
    if not options.quiet:
        print_folds(metrics, options.out)


@app.command
def predict(
    run: Path,
    table: str,
    /,
    *,
    sequence: Input[str | None] = None,
    embeddings: Input[Path | None] = None,
    model: Model[str | None] = None,
    options: Annotated[TableOptions, FLAGS],
) -> None:
    """Predict the sequences of a table with a fitted model; all columns of the table are kept.

    For example:

        subquad bio predict run new.csv --out predictions.csv

    Args:
        run: Folder that `subquad bio fit` wrote, or example:tdp43-model, which ships with subquad.
        table: CSV, TSV, Excel (of several sheets FILE.xlsx#SHEET), Parquet or FASTA, plain or gzipped, with sequences
            or variants.
        sequence: Column of the sequences, or of variants of the run's wild type. Default: the one of the fit, or
            inferred.
        embeddings: File with embeddings of the rows, if the model was fitted with some; see `subquad bio embed`.
        model: Name of one of the models of the run, such as lyra or ridge; its report compares them. Default: the
            ensemble, or of a run without one the last model of the report's table.
    """
    _check_inputs(table, embeddings, run=run)
    check_output(options.out, suffixes=TABLES, force=options.force)
    from subquad.bio.commands.predict import predict as run_predict
    from subquad.bio.commands.printing import print_rows, with_intervals, with_short_names

    frame = run_predict(run, table, model=model, sequence=sequence, embeddings=embeddings, **vars(options))
    if not options.quiet:
        names = [name for name in frame.columns if name.startswith(("prediction", "probability_"))][:6]
        first = [name for name in frame.columns[:1] if name and name not in names]
        shown, note = with_short_names(frame), ""
        if {"prediction_low", "prediction_high"} <= set(names):
            shown = with_intervals(shown)
            names = [*(name for name in names if name not in ("prediction_low", "prediction_high")), "90 % interval"]
            if "prediction_std" in names:
                note = "prediction_std is the spread of the models; the interval says how far measurements may be off."
        print_rows(shown, [*first, *names], "predictions", most=5)
        print(f"{note}\nWrote {options.out}.".lstrip())


@app.command
def embed(
    table: str,
    /,
    settings: Annotated[EmbedSettings, FLAGS],
    *,
    options: Annotated[EmbeddingOptions, FLAGS],
) -> None:
    """Write embeddings of the sequences of a table by a language model, as inputs of `fit` and `predict`.

    For example:

        subquad bio embed example:tdp43 --model facebook/esm2_t12_35M_UR50D --out tdp43.safetensors

    Args:
        table: CSV, TSV, Excel, Parquet or FASTA, plain or gzipped, with sequences or variants; or example:NAME.
    """
    _check_inputs(table)
    check_output(options.out, suffixes=(".safetensors",), force=options.force)
    from subquad.bio.commands.embed import embed as run_embed

    found = run_embed(table, settings, **vars(options))
    if not options.quiet:
        rows, numbers = found.mean.shape
        print(f"Wrote {options.out} ({rows:,} rows, {numbers:,} numbers each).")
        names = ("sequence", "mutant", "wild_type", "offset")
        given = [(name, getattr(settings, name)) for name in names if getattr(settings, name) is not None]
        flags = "".join(f" {flag_name(name)} {shlex.quote(str(value))}" for name, value in given)
        print(f"Next: subquad bio fit {table}{flags} --embeddings {options.out} --out run")


@app.command
def report(run: Path, /, *others: Path, out: Output[Path | None] = None, force: Output[bool] = False) -> None:
    """Write the HTML report of a fitted model, or of a comparison of several fitted models.

    The report shows data, split, models, calibration and errors; a comparison shows the settings in which the runs
    differ, their metrics, and paired differences on the same test rows.

    For example:

        subquad bio report run --out report.html
        subquad bio report run another_run --out comparison.html

    Args:
        run: Folder that `subquad bio fit` wrote, or example:tdp43-model, which ships with subquad.
        others: Further runs of the same target, which are compared with the first.
        out: Output file. Default: report.html in the folder, which is written again.
        force: Overwrite an existing output.
    """
    for folder in (run, *others):
        _check_inputs(run=folder)
    from subquad.bio.commands.report import report as run_report

    print(f"Wrote {run_report(run, *others, out=out, force=force)}. Next: open it in a browser.")


@app.command
def scan(
    run: Path,
    /,
    settings: Annotated[ScanSettings, FLAGS] = ScanSettings(),
    *,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Predict all single mutants of a sequence (in silico deep mutational scan): table, heat map and sequence logo.

    For example:

        subquad bio scan run --out scan

    Args:
        run: Folder that `subquad bio fit` wrote, or example:tdp43-model, which ships with subquad.
    """
    _check_inputs(settings.table, run=run)
    _check_report(options, "scan")
    from subquad.bio.commands.printing import print_rows, with_intervals
    from subquad.bio.commands.scan import scan as run_scan

    frame = run_scan(run, settings, **vars(options))
    if options.quiet:
        return
    if "difference" in frame:
        best = frame.sort_values("difference", ascending=settings.direction == "minimize")
        names = ("mutant", "prediction", "90 % interval", "difference", "measured", "observed")
        print_rows(with_intervals(best), names, "single mutants, best first", most=5)
    print(f"Wrote {options.out}/ (scan.html, scan.csv, figures as PNG and PDF). Next: open {options.out}/scan.html")


@app.command
def epistasis(
    source: str,
    /,
    settings: Annotated[EpistasisSettings, FLAGS] = EpistasisSettings(),
    *,
    options: Annotated[SeededOptions, FLAGS],
) -> None:
    """Estimate epistasis: double-mutant cycles of pairs of positions.

    For example:

        subquad bio epistasis example:tdp43 --out epistasis

    Args:
        source: Table of variants with measurements, a folder that `subquad bio fit` wrote, or example:tdp43-model.
    """
    is_run = source in EXAMPLE_RUNS or Path(source).is_dir()
    _check_inputs(settings.table, *([] if is_run else [source]), run=source if is_run else None)
    _check_report(options, "epistasis")
    from subquad.bio.commands.epistasis import epistasis as run_epistasis
    from subquad.bio.commands.printing import print_rows

    pairs = run_epistasis(source, settings, **vars(options))
    if not options.quiet:
        if len(pairs):
            names = ("i", "j", "rms_specific", "rms", "max", "mean", "double_mutants")
            print_rows(pairs, names, "pairs of positions, strongest first", most=5)
        print(f"Wrote {options.out}/ (epistasis.html, tables, figures). Next: open {options.out}/epistasis.html")


@app.command
def design(
    run: Path,
    /,
    settings: Annotated[DesignSettings, FLAGS] = DesignSettings(),
    *,
    options: Annotated[SeededOptions, FLAGS],
) -> None:
    """Design the best variants under constraints, as a diverse batch laid out on plates.

    For example:

        subquad bio design run --max-mutations 4 --fixed 1-10 --allow 24=AGS 30=KR --out designs

    Args:
        run: Folder that `subquad bio fit` wrote, or example:tdp43-model, which ships with subquad.
    """
    _check_inputs(settings.table, run=run)
    _check_report(options, "design")
    from subquad.bio.commands.design import design as run_design
    from subquad.bio.commands.printing import print_rows, with_intervals

    frame = run_design(run, settings, **vars(options))
    if not options.quiet:
        names = ("name", "mutants", "prediction", "90 % interval", "ucb", "distance", "well")
        print_rows(with_intervals(frame), names, "designs")
        files = "designs.csv, designs.fasta, plates.csv, design.html"
        print(f"Wrote {options.out}/ ({files}). Next: open {options.out}/design.html")


@app.command
def rounds(
    source: str,
    /,
    settings: Annotated[RoundsSettings, FLAGS] = RoundsSettings(),
    *,
    options: Annotated[SeededOptions, FLAGS],
) -> None:
    """Propose variants, read their measurements, fit again and propose the next ones.

    For example:

        subquad bio rounds run --propose 24 --direction maximize --out rounds
        subquad bio rounds run --measured rounds/round-1/batch.csv --propose 24 --out rounds

    Args:
        source: Folder that `subquad bio fit` wrote, the same for all rounds.
    """
    _check_inputs(*settings.measured, run=source)
    from subquad.bio.commands.printing import print_round
    from subquad.bio.commands.rounds import rounds as run_rounds

    record = run_rounds(source, settings, **vars(options))
    if not options.quiet:
        print_round(record, options.out)


@app.command
def guides(
    genes: Path,
    /,
    settings: Annotated[GuideSettings, FLAGS] = GuideSettings(),
    *,
    model: Input[Path | None] = None,
    page: Output[Path | None] = None,
    options: Annotated[TableOptions, FLAGS],
) -> None:
    """List all CRISPR guides of the genes of a FASTA file, scored and ranked by a fitted model.

    Guides of Cas9 and Cas12a are searched on both strands, those of Cas13 on the transcripts as they are given.

    For example:

        subquad bio guides genes.fa --model guide_model --page guides.html --out guides.csv

    Args:
        genes: FASTA file, plain or gzipped: genes, transcripts (for Cas13) or a genome.
        model: Folder that `subquad bio fit` wrote for a table of guides. Default: no scores.
        page: HTML page to write, with the best guides of each gene on its map.
    """
    _check_inputs(genes, run=model)
    check_output(options.out, suffixes=TABLES, force=options.force)
    from subquad.bio.commands.guides import guides as run_guides
    from subquad.bio.commands.printing import print_rows

    frame = run_guides(genes, settings, model=model, page=page, **vars(options))
    if not options.quiet:
        print_rows(frame, ("gene", "strand", "start", "guide", "pam", "off_targets", "score"), "best guides")
        print(f"Wrote {options.out}{f' and {page}' if page else ''}.")


@app.command
def bench(
    tasks: Path,
    /,
    settings: Annotated[BenchSettings, FLAGS] = BenchSettings(),
    *,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Fit all models on all tasks of a file and compare them; the same command resumes an interrupted benchmark.

    For example:

        subquad bio bench tasks.json --only 'crispr/*' --jobs 4 --out bench

    Args:
        tasks: JSON list of tasks with id, file and task_type, and optionally settings, metric, published and train_on.
    """
    _check_inputs(tasks)
    from subquad.bio.benchmark.page import summary_lines
    from subquad.bio.commands.bench import bench as run_bench
    from subquad.errors import raise_errors

    out = options.out
    results = run_bench(tasks, settings, **vars(options))
    if not options.quiet:
        print("\n".join(summary_lines(results)))
        print(
            f"Wrote {out}/ (results.html, results.json, results.csv, results.md, runs). Next: open {out}/results.html"
        )
    raise_errors(
        f"{out}: some runs failed; the same command tries them again:",
        [f"{run['id']}, seed {run['seed']}: {run['message']}" for run in results["failed"]],
    )


def _check_inputs(*files: Path | str | None, run: Path | str | None = None) -> None:
    """Check that files and a run are there, before libraries are imported for seconds."""
    if run is not None:
        folder_and_config(run)
    for file in filter(None, files):
        check_present(resolve_table(file))


def _check_table(table: str, settings: FitSettings) -> None:
    """Check a table, which is read again later, before torch is imported, which takes longer."""
    from subquad.bio.data.table import read_table

    _check_inputs(table, settings.embeddings)
    read_table(table, settings)


def _check_report(options: OutputOptions, name: str) -> None:
    check_report_folder(options.out, kind=f"bio {name}", file=f"{name}.json", force=options.force)
