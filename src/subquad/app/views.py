"""What the page shows of a job: its state and progress, the report or table that it wrote, and its files."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from subquad.app.jobs import Job

STATES = {
    "waiting": "waits for another job",
    "running": "is running",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "was interrupted; Resume runs the same command again",
}
MOST_ROWS, MOST_FILES = 200, 60
FRAME = Markup(
    '<p class="sq-links"><a href="{0}" target="_blank">Open the report in a tab of its own</a></p>'
    # a sandbox without an origin: a report cannot act as the page does
    '<iframe class="sq-report" title="Report" src="{0}" sandbox="allow-scripts allow-popups allow-downloads"></iframe>'
)


def steps_view(steps: Sequence[str], example: str) -> str:
    """Return what to do in a tab that has no jobs; `example` is the text of its first button, if there is one."""
    items = Markup("").join(Markup("<li>{}</li>").format(step) for step in steps)
    first = Markup("The button <b>{}</b> shows one at once. With your data:").format(example) if example else ""
    return str(Markup('<div class="sq-steps"><p>Results appear here. {}</p><ol>{}</ol></div>').format(first, items))


def status_view(job: Job) -> str:
    """Return the state of a job, its progress and what it said last."""
    state, seconds = job.state, job.seconds
    time = "" if state == "waiting" or not seconds else f" ({_duration(seconds)})"
    parts = [Markup('<p class="sq-state sq-{}">{} {}{}</p>').format(state, job.record["title"], STATES[state], time)]
    progress, lines = job.progress, [line for line in job.log.splitlines() if line.strip()]
    if progress is not None and progress.done < progress.total and state in ("running", "interrupted"):
        parts.append(
            Markup(
                '<label class="sq-progress">{}: {:,} of {:,}<progress value="{}" max="{}"></progress>{}</label>'
            ).format(progress.title, progress.done, progress.total, progress.done, progress.total, progress.rest)
        )
    elif state == "running" and lines:
        parts.append(Markup('<p class="sq-hint">{}</p>').format(lines[-1][:300]))
    if state == "failed" and lines:
        parts.append(Markup('<p class="sq-error" role="alert">{}</p>').format(_error(lines)))
    return str(Markup("").join(parts))


def result_view(job: Job) -> str:
    """Return the report of a job, or else its table, and links to all files that it wrote."""
    out = job.out.parent if job.out.suffix else job.out
    # without those of an unfinished run
    files = [path for path in out.rglob("*") if path.is_file() and "/." not in str(path.relative_to(out.parent))]
    files.sort(key=lambda path: (len(path.parts), path.name))
    pages = sorted((path for path in files if path.suffix == ".html"), key=lambda path: path.stat().st_mtime)
    parts = []
    if pages:
        parts.append(FRAME.format(_address(pages[-1])))
    elif job.state == "finished" and job.out.suffix == ".csv" and job.out.is_file():
        parts.append(table_view(pd.read_csv(job.out, nrows=MOST_ROWS)))
    links = [
        Markup('<li><a href="{}" download="{}">{}</a> {}</li>').format(
            _address(path), path.name, path.relative_to(out), _size(path)
        )
        for path in files[:MOST_FILES]
    ]
    if links:
        is_open = Markup(" open") if job.state == "finished" and not pages else Markup("")
        parts.append(
            Markup(
                '<details class="sq-files"{}><summary>Files ({})</summary><ul>{}</ul><p>They are in {}</p></details>'
            ).format(is_open, len(files), Markup("").join(links), out)
        )
    return str(Markup("").join(parts))


def table_view(frame: pd.DataFrame) -> Markup:
    """Return a table that scrolls in both directions."""
    return Markup('<div class="sq-table" tabindex="0">{}</div>').format(
        Markup(frame.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="", max_cols=30))
    )


def _error(lines: list[str]) -> str:
    """Return the message with which a command ended, which has several lines if several values are wrong."""
    starts = [number for number, line in enumerate(lines) if line.startswith("subquad: ")]
    return "\n".join(lines[starts[-1] :] if starts else lines[-1:]).removeprefix("subquad: ")


def _address(path: Path) -> str:
    """Return the address of a file; gradio serves those in the folder of the jobs only."""
    return f"gradio_api/file={quote(str(path))}?{path.stat().st_mtime_ns}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    text = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
    return text.removeprefix("0 min ").replace(" ", "\u00a0")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 1024:.0f} kB"
