"""The tab of sequences: a table, its fit, and what a fitted model is used for."""

import re
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.job_records import Command, Job
from subquad.app.markup import notice
from subquad.app.panels import QUIET, Context, Panel, Tab, script_of_hint, session_of
from subquad.app.reading import Busy, call_in_process
from subquad.app.runs import run_list, table_files, update_runs
from subquad.app.sequence_data import (
    ENDINGS,
    LENGTHS,
    SPLITS,
    Choices,
    description,
    example_names,
    in_page_words,
    table_in,
    with_sheet,
)
from subquad.app.sequence_results import fit_progress, fit_result
from subquad.app.sequence_uses import build_uses
from subquad.app.sessions import Session
from subquad.bio.compared_models import COMPARED_MODELS, label_of
from subquad.errors import SubquadError

__all__ = ["build_sequences"]

FIT = "bio fit"
SCRIPT = """
for (const kind of ["change", "drop"])
  document.addEventListener(kind, (event) => { if (event.target.closest?.("#sq-table")) trigger("clear"); }, true);
let timer;
document.addEventListener("input", (event) => {
  if (!event.target.closest?.("#sq-wild-type")) return;
  clearTimeout(timer);
  timer = setTimeout(() => trigger("input"), 300);
}, true);
"""
"""Script that says when a file is chosen or dropped, before it is uploaded, and when a wild type is typed or pasted, of
which gradio says the latter only together with changes that the page itself makes."""
BUDGETS = {
    "Quick look": {"tokens": 200_000, "boosting_iterations": 100, "ensemble_size": 1},
    "Standard": {},
    "Thorough": {"tokens": 20_000_000},
}
"""Budgets of training; the command's own defaults are the standard."""
ROWS = (0, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
MODELS = [name for name, model in COMPARED_MODELS.items() if model.role in ("baseline", "lyra", "variant")]
DEFAULT_MODELS = ["ridge", "boosting", "mlp", "lyra"]


def build_sequences(context: Context) -> Tab:
    """Build the tab."""
    gr.HTML(
        '<p class="sq-lead">Predict measurements, classes or structure from protein, DNA or RNA sequences, compared on '
        "rows that no model was trained on.</p>"
    )
    with gr.Row(elem_classes="sq-steps"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>1. Data</h2>")
            source, opening = _data(context)
        with gr.Column(scale=4, min_width=320):
            gr.HTML("<h2>2. Models</h2>")
            inputs = _models()
            panel = _training(context)
            panel.build([opening.problem, *opening.choices, *inputs], source, is_view_elsewhere=True)
            # a refusal does not stay when its reason has gone
            opening.problem.change(panel.look, [source], panel.look_outputs, **QUIET)
    panel.view.render()
    gr.HTML("<h2>3. Use a fitted model</h2>")
    run = run_list(context, "Fitted model", "subquad bio fit")
    refreshed = update_runs(context, "bio", panel, run)
    uses = build_uses(context, run)

    def on_deleted(path: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        tables = _tables(session)
        own = path if path in [value for _, value in tables] else _first_table(session)
        return gr.update(choices=tables, value=own)

    shown = [
        (panel.look, ([source], panel.look_outputs)),
        (refreshed, ([run], [run])),
        *((use.look, ([run], use.look_outputs)) for use in uses),
    ]
    return Tab(
        opened=[(opening.fill, (None, opening.outputs)), *shown], deleted=[(on_deleted, ([source], [source])), *shown]
    )


def _training(context: Context) -> Panel:
    return Panel(
        context=context,
        kind=FIT,
        action="Train",
        command=_fit,
        progress=fit_progress,
        result=fit_result,
        wording=in_page_words,
        waiting="Choose a table and press Train. A quick look at 1,000 rows takes about two minutes on two cores.",
        needs_run=False,
        keeps_going=True,
    )


class _Opening:
    """Components of the table, and what fills them when the page is opened."""

    choices: list[Any]
    """Those of `Choices`, in its order."""
    problem: gr.State
    """Why the table cannot be fitted, if it cannot, with what was described: see `_key`."""
    outputs: list[Any]
    fill: Any


def _data(context: Context) -> tuple[gr.Dropdown, _Opening]:
    """Build the choice of the table and of its columns, and show what was read."""
    found = _Opening()
    file = gr.File(
        label="Drop a table here, or click to choose one", file_types=list(ENDINGS), height=150, elem_id="sq-table"
    )
    refused = gr.HTML(elem_classes="sq-view", elem_id="sq-refused", js_on_load=SCRIPT)
    source = gr.Dropdown(
        [(name, name) for name in example_names()], value=example_names()[0], label="Table", interactive=True,
        info="CSV, TSV, Excel, Parquet or FASTA, with sequences or variants and measurements.",
    )  # fmt: skip
    found.choices = _columns()
    sheet, *others = found.choices
    view, found.problem = gr.HTML(elem_classes="sq-view", elem_id="sq-data"), gr.State(None)

    def shown(session: Session, path: str | None, chosen: Choices) -> tuple[str, Any]:
        """Return the description of a table, and why it cannot be fitted."""
        if not path:
            return Markup(""), None
        try:
            table = with_sheet(_table(session, path), chosen.sheet)
            html, problem = call_in_process(description, table, chosen.settings(), session=session)
        except SubquadError as error:
            return _error(session, error), None
        return (_error(session, problem), (_key(path, chosen), problem)) if problem else (html, None)

    def opened(session: Session, path: str | None, wanted: Choices) -> Any:
        """Return what a table has of the choices that are wanted, its description, and why it cannot be fitted."""
        busy = None
        try:
            table = _table(session, path) if path else None
            read = call_in_process(table_in, table, wanted.sheet, session=session) if table else ([], None, [])
            sheets, own, names = read
        except Busy as error:
            # what is chosen stays, since the table may well have it
            busy, own = error, wanted.sheet
            sheets, names = [own] if own else [], _columns_of(wanted)
        except SubquadError:
            sheets, own, names = [], None, []
        chosen = _among(wanted._replace(sheet=own), names)
        columns = [
            gr.update(choices=sheets, value=own, visible=bool(sheets)),
            *(gr.update(choices=names, value=value) for value in (chosen.target, chosen.sequence, chosen.mutant)),
            chosen.wild_type or "",
            chosen.first_position,
            chosen.lengths,
            gr.update(choices=names, value=chosen.error),
            chosen.split_by,
            gr.update(choices=names, value=chosen.group),
        ]
        return *columns, *((_error(session, busy), None) if busy is not None else shown(session, path, chosen))

    def on_columns(request: gr.Request, path: str | None, *values: Any) -> Any:
        return shown(session_of(context, request), path, Choices(*values))

    def on_source(path: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        return opened(session, path, _choices_of_fit(session, path))

    def on_sheet(request: gr.Request, path: str | None, *values: Any) -> Any:
        return opened(session_of(context, request), path, Choices(*values))

    def on_upload(path: str, request: gr.Request) -> Any:
        session, taken = session_of(context, request), None
        try:
            with session.trying([path]) as (taken,):
                call_in_process(table_in, taken, session=session)
        except Busy:
            # it is described when there is a place, or says then that there is none
            return None, gr.update(choices=_tables(session), value=str(taken)), ""
        except SubquadError as error:
            return None, gr.update(), _error(session, f"The file was not taken. {error}")
        return None, gr.update(choices=_tables(session), value=str(taken)), ""

    def on_load(request: gr.Request) -> Any:
        session = session_of(context, request)
        path = _first_table(session)
        return gr.update(choices=_tables(session), value=path), *opened(session, path, _choices_of_fit(session, path))

    described = [*found.choices, view, found.problem]
    file.upload(None, None, [refused], js=script_of_hint("Reading the file …"), **QUIET)
    file.upload(on_upload, [file], [file, source, refused], **QUIET)
    # by the script, as a file that is too large is not uploaded
    refused.clear(None, None, [refused], js="() => ''", **QUIET)
    # what is shown of the table before does not stay while this one is read
    source.change(None, None, [view], js=script_of_hint("Reading the table …"), **QUIET)
    source.change(on_source, [source], described, **QUIET)
    sheet.input(on_sheet, [source, *found.choices], described, **QUIET)
    gr.on(
        [refused.input, *(component.input for component in others if not isinstance(component, gr.Textbox))],
        on_columns, [source, *found.choices], [view, found.problem], trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    found.fill, found.outputs = on_load, [source, *described]
    return source, found


def _columns() -> list[Any]:
    """Build the fields of `Choices`, in its order."""
    inferred = "Nothing chosen: inferred."
    with gr.Accordion("Columns and split", open=False):
        sheet = gr.Dropdown([], label="Sheet", visible=False, interactive=True)
        target = gr.Dropdown([], multiselect=True, label="Target columns", info=inferred)
        with gr.Row():
            sequence = gr.Dropdown([], label="Column of the sequences", info=inferred, min_width=220)
            mutant = gr.Dropdown([], label="Column of the variants", info=inferred, min_width=220)
        wild_type = gr.Textbox(
            label="Wild type", lines=2, max_lines=6, max_length=100_000, elem_id="sq-wild-type",
            info="For a table of variants only: letters of the protein, or of its DNA.",
        )  # fmt: skip
        with gr.Row():
            first = gr.Number(
                None, label="First position of the wild type", precision=0, min_width=220,
                info="As the variants count. Empty: inferred.",
            )  # fmt: skip
            lengths = gr.Dropdown(
                list(LENGTHS.items()), value="auto", label="Lengths of the sequences", min_width=220,
                info="A few others are usually mistakes, and keep models from using positions.",
            )  # fmt: skip
        error = gr.Dropdown([], label="Column of the standard errors", info="Nothing chosen: all rows weigh the same.")
        with gr.Row():
            split_by = gr.Dropdown(
                list(SPLITS.items()), value="random", label="How test rows are held out", min_width=220
            )
            group = gr.Dropdown([], label="Column of the groups", info="For whole groups as test rows.", min_width=220)
    return [sheet, target, sequence, mutant, wild_type, first, lengths, error, split_by, group]


def _error(session: Session, error: SubquadError | str) -> str:
    return notice(in_page_words(session.readable(str(error))), "error")


def _models() -> list[Any]:
    models = gr.CheckboxGroup(
        [(label_of(name), name) for name in MODELS], value=DEFAULT_MODELS, label="Models",
        info="Two or more also form an ensemble. Models that do not suit the table are refused by name.",
    )  # fmt: skip
    budget = gr.Radio(
        list(BUDGETS), value="Quick look", label="Budget",
        info="Standard: the defaults of the command, some minutes. Thorough: four times as long.",
    )  # fmt: skip
    rows = gr.Dropdown(
        [("all", 0), *((f"{count:,}", count) for count in ROWS[1:])], value=1000, label="Training rows, at most",
        info="Drawn at random; the test rows stay the same.",
    )  # fmt: skip
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
    return [models, budget, rows, seed]


def _tables(session: Session) -> list[tuple[str, str]]:
    """Return label and value of all tables: uploads, those that fits keep although the upload is gone, and examples."""
    found = table_files(session, ENDINGS)
    seen = {_identity(Path(value)) for _, value in found}
    for path in (path for job in _fits(session) for path in job.inputs):
        if _identity(path) not in seen:
            seen.add(_identity(path))
            found.append((f"{path.name} (kept with its fit)", str(path)))
    return [*found, *((name, name) for name in example_names())]


def _identity(path: Path) -> tuple[int, int]:
    """Return what two names of the same file have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _fits(session: Session) -> list[Job]:
    return [job for job in session.jobs if job.kind == FIT]


def _first_table(session: Session) -> str:
    """Return the table to show when the page is opened: that of the newest fit, or else the newest upload."""
    values = [value for _, value in _tables(session)]
    newest = [path for job in _fits(session)[:1] for path in (job.about.get("table"), *map(str, job.inputs))]
    return next((path for path in newest if path in values), values[0])


def _choices_of_fit(session: Session, path: str | None) -> Choices:
    """Return what was chosen for the newest fit to a table."""
    jobs = (job for job in _fits(session) if path in (job.about.get("table"), *map(str, job.inputs)))
    about = next((job.about for job in jobs), {})
    return Choices(**{name: about.get(name) for name in Choices._fields})


def _columns_of(chosen: Choices) -> list[str]:
    """Return the names of all columns that are chosen."""
    others = (chosen.sequence, chosen.mutant, chosen.error, chosen.group)
    return list(dict.fromkeys([*(chosen.target or ()), *(name for name in others if name)]))


def _among(chosen: Choices, names: list[str]) -> Choices:
    """Return choices without columns that a table does not have."""
    columns = {name: getattr(chosen, name) for name in ("sequence", "mutant", "error", "group")}
    there = {name: value if value in names else None for name, value in columns.items()}
    split_by = chosen.split_by if chosen.split_by in SPLITS.values() else "random"
    return chosen._replace(
        **there,
        lengths=chosen.lengths or "auto",
        target=[name for name in chosen.target or () if name in names],
        split_by="random" if split_by == "group" and there["group"] is None else split_by,
    )


def _key(path: str, chosen: Choices) -> Any:
    """Return what a table is read with."""
    return path, chosen.sheet or None, chosen.settings()


def _table(session: Session, path: str) -> Path | str:
    """Return a table of the list; nothing else on this computer is opened."""
    if path in example_names():
        return path
    if not session.owns(path):
        raise SubquadError("this table is no longer here; upload it again")
    return Path(path)


def _fit(session: Session, source: str | None, problem: Any, *values: Any) -> Command:
    """Return the command of a fit.

    Args:
        session: The session.
        source: The table.
        problem: Why the table that was described last cannot be fitted; see `_Opening`.
        values: The fields of `Choices`, models, budget, rows and seed.

    Raises:
        SubquadError: No table is chosen, or it cannot be fitted.
    """
    *columns, models, budget, rows, seed = values
    if not source:
        raise SubquadError("no table is chosen")
    table, chosen = _table(session, source), Choices(*columns)
    own = {**BUDGETS[budget], "train_rows": rows or None, "models": list(models)}
    # what cannot work is refused here, and not by a job
    chosen.settings(**own)
    if problem is not None and problem[0] == _key(source, chosen):
        raise SubquadError(problem[1])
    is_example = table in example_names()
    # a job reads its own copy of the table, and works in its own folder
    read = with_sheet(Path("inputs", Path(table).name), chosen.sheet) if chosen.sheet and not is_example else table
    name = re.sub(r"^example:", "", Path(source).name)
    return Command(
        words=["bio", "fit", str(read)],
        settings={**own, **chosen.flags(), "seed": int(seed or 0)},
        title=f"Fit of {name}",
        about={"table": source, **chosen._asdict()},
        inputs=() if is_example else (Path(table),),
    )
