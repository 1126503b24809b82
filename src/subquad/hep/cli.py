"""`subquad hep`: names and flags of its commands. Everything else is imported when a command runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from subquad.hep.settings import (
    EVALUATION,
    EXPLANATION,
    EXPLANATION_FILE,
    EvaluateSettings,
    ExplainSettings,
    ExportSettings,
    FitSettings,
    PredictSettings,
    SimulateSettings,
)
from subquad.runs.examples import run_folder
from subquad.runs.folder import METRICS, load_config
from subquad.runs.options import Input, Model, Output, OutputOptions, RunOptions, SeededOptions
from subquad.runs.storage import check_output, check_report_folder

app = App(name="hep", help="Tag jets in ROOT files with networks on graphs of particles, such as PCN.")

# flags of several values take them as `--files a.root b.root`
FLAGS = Parameter(name="*", consume_multiple=1)
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=1)]


@app.command
def fit(
    files: list[str],
    /,
    *,
    test: Input[Names] = (),
    settings: Annotated[FitSettings, FLAGS] = FitSettings(),
    options: Annotated[RunOptions, FLAGS],
) -> None:
    """Fit a tagger on labelled jets and compare it with gradient boosting on test jets.

    For example:

        subquad hep fit example:jets --out tagger
        subquad hep fit 'jets/*.root' --card JetClass_kin.yaml --out tagger
        subquad hep fit train.h5 val.h5 test.h5 --out top_tagger

    Args:
        files: ROOT, Parquet, HDF5 or NPZ files in the layout of JetClass or of another public data set (--layout), or
            as --card describes: names, folders, patterns in quotes, URLs such as root://host//jets.root, or
            example:jets for the jets that ship with subquad. A folder with train*, val* and test* folders gives the
            three parts.
        test: Files with the test jets. Default: those that the data set's own split names, or a stratified fraction of
            the jets.
    """
    from subquad.hep.data.fit_files import check_early

    if settings.from_:
        _check_inputs(runs=[settings.from_])
    check_early(files, test, card=settings.card, tree=settings.tree, out=options.out, force=options.force)
    from subquad.hep.commands.fit import fit as run_fit
    from subquad.train.distributed import processes

    metrics = run_fit(files, settings, test=test, **vars(options))
    if not options.quiet and processes().is_main_process:
        _print_fit(metrics, options.out)


@app.command
def predict(
    run: Path,
    files: list[str],
    /,
    settings: Annotated[PredictSettings, FLAGS] = PredictSettings(),
    *,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Score jets with a fitted tagger and write one ROOT file, with one entry per jet in the order of the input.

    Its tree Events holds score_<class>, the observers, and label_<class> if the files have labels. For example:

        subquad hep predict tagger 'more/*.root' --out scores.root

    Args:
        run: Folder that `subquad hep fit` wrote, or example:tagger, a tagger that ships with subquad.
        files: Files with the columns that the tagger was fitted on: names, folders, patterns in quotes, or
            example:jets.
    """
    _check_inputs(files, runs=[run])
    check_output(options.out, suffixes=(".root",), force=options.force)
    from subquad.hep.commands.predict import predict as run_predict

    path = run_predict(run, files, settings, **vars(options))
    if not options.quiet:
        print(f"Wrote {path}. Next: python -c \"import uproot; uproot.open('{path}')['Events'].show()\"")


@app.command
def report(run: Path, /, *others: Path, out: Output[Path | None] = None, force: Output[bool] = False) -> None:
    """Write the HTML report of a fitted tagger, or of a comparison of several fitted taggers.

    A comparison shows the settings in which the runs differ, their metrics, and paired differences on the same test
    jets. To score other jets, and for figures of several taggers, use `subquad hep evaluate`.

    For example:

        subquad hep report tagger --out report.html
        subquad hep report tagger example:tagger --out comparison.html

    Args:
        run: Folder that `subquad hep fit` wrote, or example:tagger, a tagger that ships with subquad.
        others: Further taggers of the same classes, which are compared with the first.
        out: Output file. Default: report.html in the folder, which is written again.
        force: Overwrite an existing output.
    """
    _check_inputs(runs=[run, *others])
    from subquad.reporting.run_comparison import report_file

    report_file([run, *others], run_folder(run), out=out, force=force)
    from subquad.hep.commands.report import report as run_report

    print(f"Wrote {run_report(run, *others, out=out, force=force)}. Next: open it in a browser.")


@app.command
def evaluate(
    *runs: str,
    files: Input[Names] = (),
    scores: Input[Names] = (),
    settings: Annotated[EvaluateSettings, FLAGS] = EvaluateSettings(),
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Compare taggers on the same jets: metrics with intervals, ROC curves, pT dependence, mass sculpting, calibration.

    Runs that differ only in their seed are trainings of one model. For example:

        subquad hep evaluate tagger --out evaluation
        subquad hep evaluate seed_1 seed_2 --files 'test/*.root' --scores ParT=part.root --out evaluation

    Args:
        runs: Folders that `subquad hep fit` wrote, or example:tagger, a tagger that ships with subquad; name=FOLDER
            names its model in tables and figures.
        files: Files of labelled jets to score. Default: each run is evaluated on its own test jets.
        scores: Scores of other programs' taggers, as name=scores.root; the file holds score_<class> and label_<class>
            for every class.
    """
    named = [text if Path(text).exists() else text.partition("=")[2] or text for text in runs]
    _check_inputs([*files, *(text.partition("=")[2] or text for text in scores)], runs=named)
    check_report_folder(options.out, kind=EVALUATION, file=METRICS, force=options.force)
    from subquad.hep.commands.evaluate import evaluate as run_evaluate

    evaluation = run_evaluate(runs, settings, files=files, scores=scores, **vars(options))
    if not options.quiet:
        _print_evaluation(evaluation, options.out)


@app.command
def explain(
    run: Path,
    /,
    *,
    files: Input[Names],
    only: Annotated[Input[str | None], Parameter(name="--class")] = None,
    settings: Annotated[ExplainSettings, FLAGS] = ExplainSettings(),
    seed: Model[int] = 0,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Explain a tagger: attributions and permutation importance of its inputs and graphs, and displays of single jets.

    For example:

        subquad hep explain tagger --files example:jets --out explained

    Args:
        run: Folder that `subquad hep fit` wrote, or example:tagger, a tagger that ships with subquad.
        files: Files of labelled jets, preferably not the training jets.
        only: Explain the logit of this class, for its jets only. Default: the logit of each jet's true class.
        seed: Seed of the permutations.
    """
    _check_inputs(files, runs=[run])
    check_report_folder(options.out, kind=EXPLANATION, file=EXPLANATION_FILE, force=options.force)
    from subquad.hep.commands.explain import explain as run_explain
    from subquad.hep.plots.explain_page import summary

    explanation = run_explain(run, settings, files=files, only=only, seed=seed, **vars(options))
    if not options.quiet:
        print(summary(explanation), f"Wrote {options.out}. Next: open {options.out / 'report.html'}", sep="\n")


@app.command
def export(
    run: Path,
    /,
    *,
    files: Input[Names] = (),
    settings: Annotated[ExportSettings, FLAGS] = ExportSettings(),
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Export a tagger as ONNX that takes the branches of files and needs neither subquad nor torch.

    The probabilities of onnxruntime are compared with those of subquad first.

    For example:

        subquad hep export tagger --out tagger.onnx
        subquad hep export tagger --inputs weaver --out network.onnx

    Args:
        run: Folder that `subquad hep fit` wrote, or example:tagger, a tagger that ships with subquad.
        files: Jets for the comparison. Default: example:jets if it has the branches, else the training files.
    """
    _check_inputs(files, runs=[run])
    check_output(options.out, suffixes=(".onnx",), force=options.force)
    from subquad.hep.commands.export import PREPROCESS
    from subquad.hep.commands.export import export as run_export

    found = run_export(run, settings, files=files or None, **vars(options))
    if options.quiet:
        return
    beside = f" and {options.out.parent / PREPROCESS}" if settings.inputs == "weaver" else ""
    print(
        f"Wrote {options.out}{beside}. Inputs: {', '.join(found['input_names'])}; output: softmax, the "
        f"probabilities of {', '.join(found['output_names'])}."
    )
    checks = found["checked"]
    if settings.inputs == "weaver":
        compared = f"{len(checks['sizes'])} sizes, with up to {max(size['particles'] for size in checks['sizes'])}"
    else:
        compared = f"{checks['jets']:,} jets of {checks['file']}, with up to {checks['particles']}"
    print(
        f"The probabilities of onnxruntime and subquad differ by at most {checks['largest_difference']:.1g} on "
        f"{compared} particles."
    )


@app.command
def simulate(
    *,
    settings: Annotated[SimulateSettings, FLAGS] = SimulateSettings(),
    options: Annotated[SeededOptions, FLAGS],
) -> None:
    """Simulate labelled jets of JetClass's ten classes with Pythia 8 and FastJet, in JetClass's branch layout.

    For example:

        subquad hep simulate --out jets --jets-per-class 1000
    """
    from subquad.hep.commands.simulate import simulate as run_simulate

    files = run_simulate(settings, **vars(options))
    if not options.quiet:
        what = f"{len(files)} file{'s' * (len(files) > 1)}"
        # some may be those of an interrupted simulation, or all
        print(f"{options.out} holds {what} of jets. Next: subquad hep fit '{options.out}/*.root' --out tagger")


def _check_inputs(files: Sequence[str] = (), *, runs: Sequence[Path | str] = ()) -> None:
    """Check that runs and local files are there, before libraries are imported for seconds."""
    for run in runs:
        load_config(run_folder(run), "hep")
    # remote files would be listed twice
    if local := [name for name in files if "://" not in name]:
        from subquad.hep.data.formats import expand_files

        expand_files(local)


def _print_fit(metrics: dict[str, Any], out: Path) -> None:
    from subquad.hep.plots.fit_page import comparison_table, verdict
    from subquad.reporting.tables import print_table

    table = comparison_table(metrics)
    title = f"{metrics['jets']['test']:,} test jets, with 68 % intervals"
    print_table(table.header, table.rows, title=title, best=table.winner, transposed=True)
    print(
        verdict(metrics),
        f"Training took {metrics['seconds']['training']:.0f} s. Wrote {out}; open {out / 'report.html'}.",
        f"Next: subquad hep predict {out} more.root --out scores.root",
        sep="\n",
    )


def _print_evaluation(evaluation: dict[str, Any], out: Path) -> None:
    from subquad.hep.plots.evaluation_page import evaluation_tables
    from subquad.reporting.tables import print_table

    metrics, rejections = evaluation_tables(evaluation)
    print_table(metrics.header, metrics.rows, title="With 68 % intervals", best=metrics.winner, transposed=True)
    print_table(rejections.header, rejections.rows, title=f"Rejection of {evaluation['background']}")
    print(*evaluation["notes"], f"Wrote {out}. Next: open {out / 'report.html'}", sep="\n")
