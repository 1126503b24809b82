"""What a fitted model of sequences is used for: predictions, maps, designs, rounds of measurement, epistasis."""

import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.job_records import Command, Job
from subquad.app.markup import heading, join, notice
from subquad.app.panels import Context, Panel, run_of, script_of_hint, session_of
from subquad.app.reading import call_in_process
from subquad.app.runs import label_of_run
from subquad.app.sequence_data import ENDINGS, Choices, example_names, in_page_words, letters, table_in, with_sheet
from subquad.app.sequence_results import (
    design_result,
    epistasis_result,
    predict_result,
    predict_sequences,
    rounds_result,
    scan_result,
)
from subquad.app.sessions import Session
from subquad.errors import SubquadError, counted
from subquad.runs.folder import CONFIG
from subquad.runs.storage import read_json

__all__ = ["build_uses"]

QUIET: dict[str, Any] = {"api_visibility": "private"}
ROUNDS = "bio rounds"
DIRECTIONS = [("higher is better", "maximize"), ("lower is better", "minimize")]
NO_MODEL = "Train a model above, or choose one."
MOST_LINES, MOST_LETTERS = 200, 100_000
"""Of pasted sequences, which are predicted at once; tables are predicted by jobs."""
SECONDS_TO_PREDICT = 120.0


def build_uses(context: Context, run: gr.Dropdown) -> list[Panel]:
    """Build one tab for each use of the chosen model; return their panels."""
    panels = []
    with gr.Tabs(elem_classes="sq-tabs"):
        with gr.Tab("Predict"):
            panels.append(_predict(context, run))
        with gr.Tab("Single mutants"):
            panels.append(_scan(context, run))
        with gr.Tab("Designs"):
            panels.append(_design(context, run))
        with gr.Tab("Next round"):
            panels.append(_rounds(context, run))
        with gr.Tab("Epistasis"):
            panels.append(_epistasis(context, run))
    return panels


def _predict(context: Context, run: gr.Dropdown) -> Panel:
    text = gr.Textbox(
        label="Sequences", lines=3, max_lines=12, placeholder="One sequence or variant (A24G:K30R) per line, or FASTA",
        info="Each gets a prediction with its 90 % interval, where the fit calibrated one.",
    )  # fmt: skip
    predict = gr.Button("Predict", variant="primary", size="md")
    view = gr.HTML(elem_classes="sq-view", elem_id="sq-prediction")

    def on_predict(own: str | None, pasted: str, request: gr.Request) -> str:
        session = session_of(context, request)
        try:
            _check_pasted(pasted)
            model, folder = run_of(context, session, own, "bio fit"), session.folder / "pasted"
            folder.mkdir(parents=True, exist_ok=True)
            # here, since the process may be killed; each request has a folder of its own
            with TemporaryDirectory(dir=folder) as own_folder:
                path = Path(own_folder) / "pasted.txt"
                wanted = (model, pasted, path)
                shown = call_in_process(predict_sequences, *wanted, session=session, seconds=SECONDS_TO_PREDICT)
            head = Markup("<p>Fitted model: {}</p>").format(label_of_run(session, own or ""))
            return f"{head}\n{shown}"
        except SubquadError as error:
            text = re.sub(r"/pasted/\w+/pasted\.txt: ", "", session.readable(str(error)))
            # the text has no columns that its user could name
            lines = [line for line in text.split("\n") if "with --sequence" not in line]
            return notice(in_page_words("\n".join(lines) or text), "error")

    predict.click(on_predict, [run, text], [view], **QUIET)
    text.submit(on_predict, [run, text], [view], **QUIET)
    # predictions of another model do not stay
    run.change(lambda: "", None, [view], **QUIET)
    with gr.Accordion("Predict a whole table", open=False):
        file = gr.File(label="Table with sequences or variants", file_types=list(ENDINGS), height=150)
        refused = gr.HTML()

        def command(session: Session, own: str | None, path: str | None) -> Command:
            folder = run_of(context, session, own, "bio fit")
            if not path:
                raise SubquadError("no table is chosen; drop one first")
            table = _taken(session, path)
            return Command(
                words=["bio", "predict", str(folder), str(table)], settings={}, title=f"Predictions of {table.name}",
                output="predictions.csv",
            )  # fmt: skip

        def on_table(path: str, request: gr.Request) -> Any:
            session = session_of(context, request)
            try:
                _taken(session, path)
            except SubquadError as error:
                return None, notice(in_page_words(session.readable(f"The file was not taken. {error}")), "error")
            return gr.skip(), ""

        file.upload(None, None, [refused], js=script_of_hint("Reading the file …"), **QUIET)
        # at once, since another user may delete the same file where it arrived
        file.upload(on_table, [file], [file, refused], **QUIET)
        panel = Panel(
            context=context, kind="bio predict", action="Predict the table", command=command, result=predict_result,
            wording=in_page_words,
        )  # fmt: skip
        panel.build([file], run)
    return panel


def _check_pasted(text: str) -> None:
    """Check that sequences were pasted, and not too many."""
    if not text.strip():
        raise SubquadError("no sequence is given; paste at least one")
    lines = sum(bool(line.strip()) for line in text.split("\n"))
    if lines > MOST_LINES or len(text) > MOST_LETTERS:
        raise SubquadError(
            f"{counted(lines, 'line')} with {len(text):,} letters, and up to {MOST_LINES} lines with {MOST_LETTERS:,} "
            'letters can be pasted; drop a table under "Predict a whole table" below'
        )


def _taken(session: Session, path: str) -> Path:
    """Return the upload of a table that is read within the limits for uploads, with its sheet; another one is not kept.

    Raises:
        SubquadError: The file is no table, or reading it takes too much time or memory.
    """
    with session.trying([path]) as (table,):
        _, sheet, _ = call_in_process(table_in, table, session=session)
    return Path(with_sheet(table, sheet))


def _table_of(session: Session, own: str | None) -> str | None:
    """Return the table of a fit of this session: the copy that its job keeps, or else the upload or example."""
    job = session.job(own)
    if job is None:
        return None
    if job.inputs:
        return str(with_sheet(job.inputs[0], job.about.get("sheet")))
    source = job.about.get("table")
    return source if source in example_names() or (source and session.owns(source)) else None


def _measured(session: Session, own: str | None) -> str | None:
    """Return the table with what was measured before a fit of this session, for designs and rounds.

    Their commands find the tables that ship with subquad themselves.
    """
    table = _table_of(session, own)
    return None if table in example_names() else table


def _scan(context: Context, run: gr.Dropdown) -> Panel:
    direction = gr.Radio(DIRECTIONS, value="maximize", label="Direction of the target")
    sequence = gr.Textbox(label="Sequence to mutate", info="Nothing given: the wild type of the model.", max_lines=3)

    def command(session: Session, own: str | None, better: str, pasted: str) -> Command:
        return Command(
            words=["bio", "scan", str(run_of(context, session, own, "bio fit"))],
            settings={"direction": better, "sequence": letters(pasted)},
            title="Scan of all single mutants",
        )

    panel = Panel(
        context=context, kind="bio scan", action="Scan all single mutants", command=command, result=scan_result,
        wording=partial(in_page_words, sequence="Sequence to mutate"),
        waiting=f"{NO_MODEL} The heat map shows residue, prediction, interval, and what was measured.",
    )  # fmt: skip
    panel.build([direction, sequence], run)
    return panel


def _design(context: Context, run: gr.Dropdown) -> Panel:
    with gr.Row():
        direction = gr.Radio(DIRECTIONS, value="maximize", label="Direction of the target", min_width=220)
        number = gr.Number(24, label="Number of designs", precision=0, minimum=1, maximum=2000, min_width=140)
        mutations = gr.Number(3, label="Mutations, at most", precision=0, minimum=1, maximum=40, min_width=140)
    with gr.Row():
        fixed = gr.Textbox(label="Positions that stay", placeholder="1-10 24", min_width=180)
        only = gr.Textbox(label="The only positions that mutate", placeholder="30-60", min_width=180)
    with gr.Row():
        allow = gr.Textbox(label="Substitutions allowed at positions", placeholder="24=AGS 30=KR", min_width=180)
        forbid = gr.Textbox(label="Letters never introduced", placeholder="CM", min_width=180)

    def command(session: Session, own: str | None, *values: Any) -> Command:
        better, count, most, stay, free, allowed, forbidden = values
        return Command(
            words=["bio", "design", str(run_of(context, session, own, "bio fit"))],
            settings={
                "direction": better, "number": int(count or 24), "max_mutations": int(most or 3),
                "fixed": (stay or "").split(), "only": (free or "").split(), "allow": (allowed or "").split(),
                "forbid_letters": (forbidden or "").strip(), "table": _measured(session, own),
            },
            title="Designs",
        )  # fmt: skip

    panel = Panel(
        context=context, kind="bio design", action="Design variants", command=command, result=design_result,
        wording=in_page_words,
        waiting=f"{NO_MODEL} The search takes about half a minute and lays the designs out on plates.",
    )  # fmt: skip
    panel.build([direction, number, mutations, fixed, only, allow, forbid], run)
    return panel


class _Rounds(Panel):
    """The panel of rounds: below a round that failed or was stopped, the batch to measure stays visible."""

    def html(self, session: Session, job: Job, state: str) -> str:
        """Return the HTML of a job in a state."""
        shown = super().html(session, job, state)
        before = _last_round(session, job.about.get("run")) if state in ("failed", "stopped") else None
        if before is None:
            return shown
        return join(shown, heading("The round before"), super().html(session, before, "finished"))


def _last_round(session: Session, run: str | None) -> Job | None:
    """Return the newest round from a run that has finished."""
    jobs = (job for job in session.jobs if job.kind == ROUNDS and job.about.get("run") == run)
    return next((job for job in jobs if job.state == "finished"), None)


def _rounds(context: Context, run: gr.Dropdown) -> Panel:
    with gr.Row():
        direction = gr.Radio(DIRECTIONS, value="maximize", label="Direction of the target", min_width=220)
        number = gr.Number(24, label="Variants to propose", precision=0, minimum=1, maximum=1000, min_width=140)
        mutations = gr.Number(3, label="Mutations, at most", precision=0, minimum=1, maximum=40, min_width=140)
    file = gr.File(
        label="From the second round on: the batch before, with its measurements", file_types=list(ENDINGS), height=150
    )

    def command(session: Session, own: str | None, *values: Any) -> Command:
        better, count, most, path = values
        folder = run_of(context, session, own, "bio fit")
        settings: dict[str, Any] = {
            "direction": better, "propose": int(count or 24), "max_mutations": int(most or 3),
            "table": _measured(session, own),
        }  # fmt: skip
        before = None
        if path:
            before = _last_round(session, own)
            if before is None:
                raise SubquadError("no batch was proposed from this model yet; propose one without measurements first")
            settings["measured"] = [str(_taken(session, path))]
        name = "Next round of measurements" if path else "First round of measurements"
        return Command(
            words=["bio", "rounds", str(folder)], settings=settings, title=name,
            continues=None if before is None else before.out,
        )  # fmt: skip

    panel = _Rounds(
        context=context, kind=ROUNDS, action="Propose a batch", command=command, result=rounds_result,
        wording=in_page_words,
        waiting=f"{NO_MODEL} A round proposes variants; the next one reads their measurements and fits again.",
    )  # fmt: skip
    panel.build([direction, number, mutations, file], run)
    return panel


def _columns_of_fit(job: Job) -> dict[str, Any]:
    """Return the columns and the wild type that were chosen for a fit, as settings; others are inferred as then."""
    flags = Choices(**{name: job.about.get(name) for name in Choices._fields}).flags()
    targets = flags["target"]
    if not targets and (job.out / CONFIG).is_file():
        # inferred without the columns that were chosen for something else
        targets = read_json(job.out / CONFIG)["target"]["names"]
    own = {name: flags[name] for name in ("sequence", "mutant", "wild_type", "offset")}
    return {"target": next(iter(targets), None), **own}


def _epistasis(context: Context, run: gr.Dropdown) -> Panel:
    sources = [("measurements of the table", "table"), ("predictions of the model", "model")]
    source = gr.Radio(sources, value="table", label="Double mutants from")

    def command(session: Session, own: str | None, which: str) -> Command:
        folder, job = run_of(context, session, own, "bio fit"), session.job(own)
        if which == "model":
            return Command(
                words=["bio", "epistasis", str(folder)], settings={"max_double_mutants": 10_000},
                title="Epistasis of predictions",
            )  # fmt: skip
        if job is None:
            raise SubquadError(
                "measurements are available only for models that were fitted on this page, which keeps their tables; "
                "take the predictions of the model"
            )
        table = _table_of(session, own)
        if table is None:
            raise SubquadError("the table of this model is no longer here; take the predictions of the model")
        return Command(
            words=["bio", "epistasis", table], settings=_columns_of_fit(job), title="Epistasis of measurements"
        )

    panel = Panel(
        context=context, kind="bio epistasis", action="Map epistasis", command=command, result=epistasis_result,
        wording=in_page_words,
        waiting=f"{NO_MODEL} The map shows pairs of positions whose effects do not add up.",
    )  # fmt: skip
    panel.build([source], run)
    return panel
