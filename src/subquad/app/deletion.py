"""The list of what a browser keeps here, from all tabs, and the button that deletes what is chosen from it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from subquad.app.job_records import Job
from subquad.app.markup import notice
from subquad.app.panels import QUIET, Context, Tab, session_of
from subquad.app.sessions import Session
from subquad.errors import SubquadError, counted

__all__ = ["build_deletion"]

ALL_UPLOADS = "uploads"


def build_deletion(context: Context, tabs: Sequence[Tab]) -> tuple[Any, Any]:
    """Add the list and the button to the page.

    Returns:
        The function to call when the page is opened, and its inputs and outputs.
    """
    gr.HTML('<h2 id="sq-own">Your files and results</h2>')
    chosen = gr.Dropdown(
        [], value=[], multiselect=True, label="Uploads and results of all tabs", elem_id="sq-kept",
        info="A result is deleted with its model and with the table that it keeps; a job that runs is stopped first. "
        "A stopped job whose upload is deleted cannot be resumed.",
    )  # fmt: skip
    button = gr.Button("Delete the chosen uploads and results", variant="stop", size="md")
    view = gr.HTML(elem_classes="sq-view", elem_id="sq-deleted")

    def on_fill(request: gr.Request) -> Any:
        return gr.update(choices=_kept(session_of(context, request)))

    def on_delete(values: list[str] | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        try:
            text = _delete(context, session, values or [])
        except SubquadError as error:
            return gr.update(choices=_kept(session)), notice(session.readable(str(error)), "error")
        return gr.update(choices=_kept(session), value=[]), notice(text)

    chosen.focus(on_fill, None, [chosen], **QUIET)
    step = button.click(on_delete, [chosen], [chosen, view], **QUIET)
    for function, (inputs, outputs) in (follow for tab in tabs for follow in tab.deleted):
        step = step.then(function, inputs, outputs, **QUIET)
    return on_fill, (None, [chosen])


def _kept(session: Session) -> list[tuple[str, str]]:
    """Return label and value of all uploads and jobs."""
    uploads, jobs = session.files(""), session.jobs
    every = [(f"all {len(uploads)} uploads", ALL_UPLOADS)] if len(uploads) > 1 else []
    return [
        *every,
        *((f"upload {path.name} ({_size(path)})", str(path)) for path in uploads),
        *((f"{job.record['title']}, {_day(job)} ({job.state})", job.name) for job in jobs),
    ]


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:,.1f} MB" if size > 2**20 else f"{max(1, size / 1024):,.0f} kB"


def _day(job: Job) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(job.created))


def _delete(context: Context, session: Session, values: list[str]) -> str:
    """Delete uploads and jobs of a session, and return a sentence about it.

    Raises:
        SubquadError: Nothing is chosen, or a job reads some of it that waits or runs, or was stopped and goes on with
            such a result; nothing is deleted then.
    """
    jobs = [job for job in map(session.job, values) if job is not None]
    uploads = [path for path in session.files("") if ALL_UPLOADS in values or str(path) in values]
    if not jobs and not uploads:
        raise SubquadError("nothing is chosen; choose uploads or results from the list")
    gone = {job.name for job in jobs}
    readers = {job: session.readers(job.folder, besides=gone) for job in jobs}
    read = [
        *(path.name for path in uploads if session.is_read(path, besides=gone)),
        *(job.record["title"] for job, own in readers.items() if any(reader.is_active for reader in own)),
    ]
    if read:
        raise SubquadError(f"{_listed(read)}: read by a job that waits or runs; stop the job first")
    stopped = [
        job.record["title"]
        for job, own in readers.items()
        if any(reader.state == "stopped" and reader.can_resume for reader in own)
    ]
    if stopped:
        raise SubquadError(
            f"{_listed(stopped)}: needed by a job that was stopped and can be resumed; choose that job too"
        )
    # what reads the results of others was started after them
    for job in sorted(jobs, key=lambda own: own.created, reverse=True):
        context.runner.delete(job)
    for path in uploads:
        session.discard(path)
    counts = (len(uploads), "upload"), (len(jobs), "result")
    named = [counted(count, name) for count, name in counts if count]
    return f"{' and '.join(named)} deleted."


def _listed(names: Sequence[str]) -> str:
    """Return at most ten names, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more}"
