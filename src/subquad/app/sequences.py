"""The tab of sequences: a table, its fit, and what a fitted model is used for."""

import re
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.jobs import Command
from subquad.app.markup import notice
from subquad.app.panels import Context, Panel, session_of
from subquad.app.reading import call_in_process
from subquad.app.runs import run_list, table_files, update_runs
from subquad.app.sequence_data import ENDINGS, columns_of, describe, example_names, fit_settings
from subquad.app.sequence_results import fit_progress, fit_result
from subquad.app.sequence_uses import build_uses
from subquad.app.sessions import Session
from subquad.bio.compared_models import COMPARED_MODELS, label_of
from subquad.errors import SubquadError

__all__ = ["build_sequences"]

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SPLITS = {
    "random rows": "random",
    "groups of a column": "group",
    "clusters of similar sequences": "homology",
    "variants with the most mutations": "mutations",
    "mutated positions": "position",
    "whole sequences": "sequence",
}
BUDGETS = {
    "Quick look": {"tokens": 200_000, "boosting_iterations": 100, "ensemble_size": 1},
    "Standard": {},
    "Thorough": {"tokens": 20_000_000},
}
"""Budgets of training; the command's own defaults are the standard."""
ROWS = (0, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
MODELS = [name for name, model in COMPARED_MODELS.items() if model.role in ("baseline", "lyra", "variant")]
DEFAULT_MODELS = ["ridge", "boosting", "mlp", "lyra"]


def build_sequences(context: Context) -> list[tuple[Any, Any]]:
    """Build the tab; return functions to call when the page is opened, with their inputs and outputs."""
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
    return [
        (opening.fill, ([source], opening.outputs)),
        (panel.look, ([source], panel.look_outputs)),
        (refreshed, ([run, panel.finished], [run])),
        *((use.look, ([run], use.look_outputs)) for use in uses),
    ]


def _training(context: Context) -> Panel:
    return Panel(
        context=context,
        kind="bio fit",
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
        forget = gr.Button("Delete my uploaded files", size="sm", variant="secondary")
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
        own = [gr.update(choices=names, value=value) for value in ([], None, None)]
        return *own, shown(session, path, [], None, None, "random")

    def on_upload(path: str, request: gr.Request) -> Any:
        session, refused = session_of(context, request), Markup("")
        value: Any = gr.update()
        taken = None
        try:
            taken = session.take(path)
            call_in_process(columns_of, taken)
            value = gr.update(choices=_tables(session), value=str(taken))
        except SubquadError as error:
            if taken is not None:
                session.discard(taken)
            refused = notice(f"The file was not taken. {session.readable(str(error))}", "error")
        return None, value, refused if refused else gr.update()

    def on_forget(request: gr.Request) -> Any:
        session = session_of(context, request)
        session.clear_uploads()
        return gr.update(choices=_tables(session), value=example_names()[0])

    def on_load(path: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        choices = _tables(session)
        path = path if path in [value for _, value in choices] else choices[0][1]
        return gr.update(choices=choices, value=path), *on_source(path, request)

    file.upload(on_upload, [file], [file, source, view], **QUIET)
    source.change(on_source, [source], [target, sequence, group, view], **QUIET)
    forget.click(on_forget, None, [source], **QUIET)
    for component in found.columns:
        component.input(on_look, [source, *found.columns], [view], **QUIET)
    found.fill, found.outputs = on_load, [source, target, sequence, group, view]
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
    return [*table_files(session, ENDINGS), *((name, name) for name in example_names())]


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
        about={"table": source, "name": name},
    )


def _typed(own: dict[str, Any]) -> dict[str, Any]:
    return {**own, "models": tuple(own["models"])}
