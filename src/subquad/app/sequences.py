"""The tab of sequences: a table, its fit, and what a fitted model is used for."""

import re
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.job_records import Command, Job
from subquad.app.markup import notice
from subquad.app.panels import QUIET, Context, Panel, Tab, session_of
from subquad.app.reading import call_in_process
from subquad.app.runs import run_list, table_files, update_runs
from subquad.app.sequence_data import ENDINGS, columns_of, describe, example_names, fit_settings
from subquad.app.sequence_results import fit_progress, fit_result
from subquad.app.sequence_uses import build_uses
from subquad.app.sessions import Session
from subquad.bio.compared_models import COMPARED_MODELS, label_of
from subquad.errors import SubquadError

__all__ = ["build_sequences"]

SPLITS = {
    "random rows": "random",
    "groups of a column": "group",
    "clusters of similar sequences": "homology",
    "variants with the most mutations": "mutations",
    "mutated positions": "position",
    "whole sequences": "sequence",
}
FIT = "bio fit"
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
            panel.build([*opening.columns, *inputs], source, is_view_elsewhere=True)
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
        waiting="Choose a table and press Train. A quick look at 1,000 rows takes about two minutes on two cores.",
        needs_run=False,
        keeps_going=True,
    )


class _Opening:
    """Components of the table, and what fills them when the page is opened."""

    columns: list[Any]
    outputs: list[Any]
    fill: Any


def _data(context: Context) -> tuple[gr.Dropdown, _Opening]:
    """Build the choice of the table and of its columns, and show what was read."""
    found = _Opening()
    file = gr.File(
        label="Drop a table here, or click to choose one", file_types=list(ENDINGS), height=150, elem_id="sq-table"
    )
    source = gr.Dropdown(
        [(name, name) for name in example_names()], value=example_names()[0], label="Table", interactive=True,
        info="CSV, TSV, Excel, Parquet or FASTA, with sequences or variants and measurements.",
    )  # fmt: skip
    with gr.Accordion("Columns and split", open=False):
        target = gr.Dropdown([], multiselect=True, label="Target columns", info="Nothing chosen: inferred.")
        sequence = gr.Dropdown([], label="Column of the sequences", info="Nothing chosen: inferred.")
        split_by = gr.Dropdown(list(SPLITS.items()), value="random", label="How test rows are held out")
        group = gr.Dropdown([], label="Column of the groups", info="For whole groups as test rows.")
    view = gr.HTML(elem_classes="sq-view", elem_id="sq-data")
    found.columns = [target, sequence, group, split_by]

    def shown(session: Session, path: str | None, *values: Any) -> str:
        if not path:
            return Markup("")
        try:
            return call_in_process(describe, _table(session, path), _settings(*values))
        except SubquadError as error:
            return notice(session.readable(str(error)), "error")

    def on_look(request: gr.Request, path: str | None, *values: Any) -> str:
        return shown(session_of(context, request), path, *values)

    def on_source(path: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        try:
            names = call_in_process(columns_of, _table(session, path)) if path else []
        except SubquadError:
            names = []
        *chosen, how = own = _columns_of_fit(session, path, names)
        return *(gr.update(choices=names, value=value) for value in chosen), how, shown(session, path, *own)

    def on_upload(request: gr.Request, path: str, current: str | None, *values: Any) -> Any:
        session = session_of(context, request)
        try:
            with session.trying([path]) as (taken,):
                call_in_process(columns_of, taken)
        except SubquadError as error:
            return None, gr.update(), notice(f"The file was not taken. {session.readable(str(error))}", "error")
        # the same file again is no change of the table, which would show it
        view = shown(session, current, *values) if str(taken) == current else gr.update()
        return None, gr.update(choices=_tables(session), value=str(taken)), view

    def on_load(request: gr.Request) -> Any:
        session = session_of(context, request)
        path = _first_table(session)
        return gr.update(choices=_tables(session), value=path), *on_source(path, request)

    file.upload(on_upload, [file, source, *found.columns], [file, source, view], **QUIET)
    source.change(on_source, [source], [*found.columns, view], **QUIET)
    for component in found.columns:
        component.input(on_look, [source, *found.columns], [view], **QUIET)
    found.fill, found.outputs = on_load, [source, *found.columns, view]
    return source, found


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


def _columns_of_fit(session: Session, path: str | None, names: list[str]) -> tuple[Any, Any, Any, str]:
    """Return target columns, sequence column, group column and split that were chosen for the newest fit to a table."""
    jobs = (job for job in _fits(session) if path in (job.about.get("table"), *map(str, job.inputs)))
    about = next((job.about for job in jobs), {})
    target = [name for name in about.get("target") or () if name in names]
    sequence, group = (about[key] if about.get(key) in names else None for key in ("sequence", "group"))
    split_by = about.get("split_by", "random")
    if split_by not in SPLITS.values() or (split_by == "group" and group is None):
        split_by = "random"
    return target, sequence, group, split_by


def _table(session: Session, path: str) -> Path | str:
    """Return a table of the list; nothing else on this computer is opened."""
    if path in example_names():
        return path
    if not session.owns(path):
        raise SubquadError("this table is no longer here; upload it again")
    return Path(path)


def _settings(target: list[str] | None, sequence: str | None, group: str | None, split_by: str) -> Any:
    return fit_settings(target=target, sequence=sequence, group=group, split_by=split_by)


def _fit(session: Session, source: str | None, *values: Any) -> Command:
    """Return the command of a fit."""
    *columns, models, budget, rows, seed = values
    if not source:
        raise SubquadError("no table is chosen")
    table = _table(session, source)
    target, sequence, group, split_by = columns
    own = {**BUDGETS[budget], "train_rows": rows or None, "models": list(models)}
    # what cannot work is refused here, and not by a job
    settings = fit_settings(target=target, sequence=sequence, group=group, split_by=split_by, **_typed(own))
    chosen = {"target": list(target or ()), "sequence": sequence, "group": group, "split_by": settings.split_by}
    name = re.sub(r"^example:", "", Path(source).name)
    return Command(
        words=["bio", "fit", str(table)],
        settings={**own, **chosen, "seed": int(seed or 0)},
        title=f"Fit of {name}",
        about={"table": source, **chosen},
        inputs=() if table in example_names() else (Path(table),),
    )


def _typed(own: dict[str, Any]) -> dict[str, Any]:
    return {**own, "models": tuple(own["models"])}
