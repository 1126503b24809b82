"""The list of runs of a tab: finished jobs of the session, and folders on this computer."""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.files import file_url, zip_url
from subquad.app.job_records import Job
from subquad.app.markup import join, links, notice
from subquad.app.panels import QUIET, Context, Panel, run_of, session_of
from subquad.app.sessions import Session
from subquad.errors import SubquadError
from subquad.runs.examples import EXAMPLE_RUNS, name_of_run, run_folder
from subquad.runs.folder import CARD, CONFIG, METRICS, REPORT, stamp_of
from subquad.runs.storage import read_json

__all__ = ["label_of_run", "run_list", "runs_of", "update_runs"]


def runs_of(context: Context, session: Session, field: str, kind: str) -> list[tuple[str, str]]:
    """Return label and value of the runs of a field: jobs of a kind, newest first, and shared folders."""
    jobs = [job for job in session.jobs if job.kind == kind and job.state == "finished"]
    shared = [path for path in context.shared if _kind(path) == field]
    return [*((_label(job), job.name) for job in jobs), *((_name(path), str(path)) for path in shared)]


def label_of_run(session: Session, value: str) -> str:
    """Return how the list of runs names an entry, which is a job of the session or a folder.

    Raises:
        SubquadError: There is no such example.
    """
    job = session.job(value)
    return _name(run_folder(value)) if job is None else _label(job)


def _label(job: Job) -> str:
    return f"{job.record['title']}, {time.strftime('%d %b %H:%M', time.localtime(job.created))}"


def _name(folder: Path) -> str:
    name = name_of_run(folder)
    return name if name in EXAMPLE_RUNS else folder.name


def _kind(path: Path) -> str | None:
    if not (path / METRICS).is_file():
        return None
    try:
        return stamp_of(read_json(path / CONFIG), path).get("kind")
    except SubquadError:
        return None


def run_list(context: Context, label: str, command: str) -> gr.Dropdown:
    """Return the component with the runs of a field."""
    more = f" Or type the folder that `{command}` wrote." if context.is_private else ""
    return gr.Dropdown(
        [], value=None, label=label, info=f"What you trained here is listed first.{more}",
        allow_custom_value=context.is_private, interactive=True, filterable=context.is_private,
    )  # fmt: skip


def update_runs(
    context: Context,
    field: str,
    panel: Panel,
    run: gr.Dropdown,
    *,
    used: Callable[[Session], str | None] | None = None,
    facts: Callable[[Path], Markup] | None = None,
    is_example_chosen: bool = False,
) -> Any:
    """Choose a run as soon as it is trained, and show the files of the one that is chosen.

    Args:
        context: What the parts of the page share.
        field: The field.
        panel: The panel that trains.
        run: The list.
        used: Function from the session to the run that is in use, which stays chosen when another one is trained.
        facts: Function from the folder of the chosen run to what is said of it.
        is_example_chosen: Choose the run that ships with subquad if there is no other one.

    Returns:
        The function that fills the list when the page is opened or something was deleted; its input is the list.
    """
    files = gr.HTML(elem_classes="sq-view", elem_id=f"sq-run-{field}")

    def updated(session: Session, *wanted: str | None) -> Any:
        choices = runs_of(context, session, field, panel.kind)
        # what others made is shown when it is asked for
        own = [value for label, value in choices if label not in EXAMPLE_RUNS]
        if is_example_chosen and not own:
            own = [value for _, value in choices]
        # without jobs that were deleted
        there = [value for value in (*wanted, *own) if value and (not _is_job(value) or value in own)]
        return gr.update(choices=choices, value=there[0] if there else None)

    def in_use(session: Session) -> str | None:
        return used(session) if used is not None else None

    def refreshed(current: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        return updated(session, current, in_use(session))

    def on_finished(current: str | None, finished: str, request: gr.Request) -> Any:
        session = session_of(context, request)
        first = in_use(session) and (current or in_use(session))
        return updated(session, first, finished, current)

    def on_chosen(own: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        return join(_facts(session, own), _files(session, own))

    def _facts(session: Session, own: str | None) -> Markup:
        if facts is None or not own:
            return Markup("")
        try:
            return facts(run_of(context, session, own, panel.kind))
        except SubquadError as error:
            return notice(session.readable(str(error)), "error")

    panel.finished.change(on_finished, [run, panel.finished], [run], **QUIET)
    run.change(on_chosen, [run], [files], **QUIET)
    return refreshed


def _is_job(value: Any) -> bool:
    # what a browser sends can be of any type
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value) is not None


def _files(session: Session, value: str | None) -> Markup:
    """Return links to the files of a run; only those of the session's own jobs are served."""
    job = session.job(value)
    if job is None or job.state != "finished":
        return Markup("")
    names = {"Report": REPORT, "Model card": CARD}
    found = {
        text: file_url(job, job.out / name, download=name == CARD)
        for text, name in names.items()
        if (job.out / name).is_file()
    }
    return links({**found, "Folder (zip)": zip_url(job)} if job.out.is_dir() else found)


def table_files(session: Session, endings: Sequence[str]) -> list[tuple[str, str]]:
    """Return label and value of the session's uploads with these endings."""
    return [(path.name, str(path)) for path in session.files(*endings)]
