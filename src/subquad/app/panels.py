"""A panel of the page: inputs, a button that starts a job, its progress while it runs, and its result.

All panels of a tab work on one run, such as a fitted model. What a panel shows is read from the folders of jobs, so
that it is the same after a reload of the page.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from subquad.app.files import file_url
from subquad.app.job_records import DAMAGE
from subquad.app.jobs import Command, Job, JobRunner
from subquad.app.markup import details, hint, join, links, notice
from subquad.app.sessions import Session, Workspace
from subquad.errors import SubquadError
from subquad.runs.examples import run_folder
from subquad.runs.folder import METRICS

__all__ = ["QUIET", "Context", "Panel", "Tab", "run_of", "script_of_hint", "session_of"]

SECONDS_BETWEEN_LOOKS = 1.5
LOG_LINES = 12
MOST_KEPT = 50
"""Results that each panel keeps in memory."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of events that show no progress of their own."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the parts of the page share."""

    workspace: Workspace
    runner: JobRunner
    shared: Sequence[Path] = ()
    """Folders of runs that all users may open."""
    is_private: bool = True
    """Only this computer reaches the page, so that folders on it may be named."""


class Tab(NamedTuple):
    """Functions by which a tab follows what happens outside it, each with its inputs and outputs."""

    opened: Sequence[tuple[Any, Any]]
    """To call when the page is opened or loaded again."""
    deleted: Sequence[tuple[Any, Any]]
    """To call one after another when uploads or results were deleted, which lists may offer."""


def session_of(context: Context, request: gr.Request) -> Session:
    """Return the session of the browser that sent an event."""
    from subquad.app.access import SESSION_COOKIE

    token = request.cookies.get(SESSION_COOKIE)
    if not token:
        raise gr.Error(
            "This browser refuses the cookie by which it would be recognized again; allow it.", duration=None
        )
    session = context.workspace.session(token)
    session.touch()
    return session


def run_of(context: Context, session: Session, name: str | None, kind: str) -> Path:
    """Return the folder of a run by its entry in a list: a job of the session, or a folder on this computer.

    Raises:
        SubquadError: There is no such run, or the user may not open it.
    """
    # what a browser sends can be of any type
    if not isinstance(name, str) or not name:
        raise SubquadError(f"no run is chosen; train one first, or choose a folder that `subquad {kind}` wrote")
    job = session.job(name)
    if job is not None:
        return job.out
    # jobs run in folders of their own
    path = run_folder(name).resolve()
    if not (context.is_private or path in context.shared):
        raise SubquadError(f"{name}: this page opens folders named by --runs only, since other computers can reach it")
    return path


@dataclass(kw_only=True)
class Panel:
    """A panel; see the module."""

    context: Context
    kind: str
    """Kind of its jobs."""
    action: str
    """Text of the button."""
    command: Callable[..., Command]
    """Function from the session, the run and the values of the inputs to what is run."""
    result: Callable[[Job], str]
    """HTML of a finished job."""
    progress: Callable[[Job], str] = lambda job: ""
    """HTML of a running job."""
    waiting: str = ""
    """What stands here before anything was started."""
    needs_run: bool = True
    """Jobs belong to a run, which is chosen elsewhere in the tab."""
    keeps_going: bool = False
    """A stopped job can be resumed, and so can one that failed after it had begun to write its results."""
    wording: Callable[[str], str] = lambda text: text
    """Function from a message of the command to the same with names of the page."""
    view: Any = field(init=False)
    _drawn: dict[Path, Markup] = field(init=False, default_factory=dict)
    finished: Any = field(init=False)
    """State that changes to the name of a job when it finishes; not when the page finds one that had finished."""

    def build(self, inputs: Sequence[Any], run: Any, *, is_view_elsewhere: bool = False) -> None:
        """Add buttons, view and events to the page.

        Args:
            inputs: Components whose values the command takes.
            run: Component with the run.
            is_view_elsewhere: The caller renders `view` at another place.
        """
        with gr.Row(elem_classes="sq-actions"):
            start = gr.Button(self.action, variant="primary", size="md", min_width=160)
            stop = gr.Button("Stop", variant="stop", size="md", interactive=False, min_width=90, scale=0)
            resume = gr.Button("Resume", size="md", visible=False, min_width=90, scale=0)
        name = f"sq-{self.kind.replace(' ', '-')}"
        self.view = gr.HTML(_hint(self.waiting), elem_classes="sq-view", elem_id=name, render=not is_view_elsewhere)
        self.finished, timer = gr.State(""), gr.Timer(SECONDS_BETWEEN_LOOKS, active=False)
        # the job that is waited for
        awaited = gr.State("")
        outputs = [self.view, start, stop, resume, timer, awaited, self.finished]

        def on_start(request: gr.Request, own: str | None, *values: Any) -> Any:
            session = session_of(self.context, request)
            if (job := self.job(session, own)) is not None and job.is_active:
                gr.Warning(f"{job.record['title']} has not ended; press Stop before you start another one.")
                return self._look(session, own)
            try:
                command = self.command(session, own, *values)
                about = {**(command.about or {}), "run": own if self.needs_run else None}
                self.context.runner.start(session.new_job_folder(), self.kind, self._recorded(command, about))
            except SubquadError as error:
                return refused(session, error)
            return self._look(session, own)

        def refused(session: Session, error: SubquadError) -> Any:
            return self._error(session, str(error)), *(gr.skip() for _ in outputs[1:])

        def on_tick(own: str | None, before: str, request: gr.Request) -> Any:
            *seen, now, done = self._look(session_of(self.context, request), own)
            # a job of another run, which is chosen now, had finished before
            return *seen, now, done if done == before else gr.skip()

        def on_look(own: str | None, request: gr.Request) -> Any:
            # the page was opened, something was deleted, or another run chosen: no job finishes by that, and the timer
            # goes on until it has seen that one has
            *seen, watch, now, _ = self._look(session_of(self.context, request), own)
            return *seen, *((watch, now) if now else (gr.skip(), gr.skip())), gr.skip()

        def on_stop(own: str | None, request: gr.Request) -> Any:
            session = session_of(self.context, request)
            if (job := self.job(session, own)) is not None:
                self.context.runner.stop(job)
            return self._look(session, own)

        def on_resume(own: str | None, request: gr.Request) -> Any:
            session = session_of(self.context, request)
            try:
                if (job := self.job(session, own)) is not None:
                    self.context.runner.resume(job)
            except SubquadError as error:
                return refused(session, error)
            return self._look(session, own)

        started = start.click(on_start, [run, *inputs], outputs, **QUIET)
        started.success(None, js=f"() => document.getElementById('{name}')?.scrollIntoView({{block: 'nearest'}})")
        stop.click(on_stop, [run], outputs, **QUIET)
        resume.click(on_resume, [run], outputs, **QUIET)
        timer.tick(on_tick, [run, awaited], outputs, **QUIET)
        # what was refused of the run before does not stay; a list of several values changes at each update of the page,
        # without an end, if an update follows
        (run.input if getattr(run, "multiselect", False) else run.change)(on_look, [run], outputs, **QUIET)
        self.look, self.look_outputs = on_look, outputs

    def job(self, session: Session, run: str | None) -> Job | None:
        """Return the newest job of the panel, of the chosen run."""
        jobs = (job for job in session.jobs if job.kind == self.kind)
        return next((job for job in jobs if not self.needs_run or job.about.get("run") == run), None)

    def _look(self, session: Session, run: str | None) -> Any:
        """Return what the panel shows now."""
        job = self.job(session, run)
        if job is None:
            return _hint(self.waiting), gr.update(), *_buttons(can_stop=False, can_resume=False), "", ""
        state = job.state
        is_active = state in ("waiting", "running")
        html = Markup(self.html(session, job, state))
        done = job.name if state == "finished" else ""
        # what cannot be read fails again
        can_resume = self.keeps_going and (state == "stopped" or (state == "failed" and _has_begun(job)))
        awaited = job.name if is_active else ""
        return html, gr.update(), *_buttons(can_stop=is_active, can_resume=can_resume), awaited, done

    def html(self, session: Session, job: Job, state: str) -> str:
        """Return the HTML of a job in a state."""
        log = links({"Log": file_url(job, job.folder / "log.txt")})
        match state:
            case "waiting":
                return join(_status(f"{job.record['title']} waits until another job has ended", is_busy=True))
            case "running":
                head = _status(f"{job.record['title']}: running", f"for {job.seconds:,.0f} s", is_busy=True)
                return join(head, self._shown(self.progress, job), _tail(session, job))
            case "stopped":
                text = f"{job.record['title']} was stopped after {job.seconds:,.0f} s."
                more = " Resume goes on where it was." if self.keeps_going else ""
                return join(notice(text + more), self._shown(self.progress, job), log)
            case "failed":
                return join(self._error(session, job.message), log)
        head = _status(f"{job.record['title']}: finished", f"in {job.seconds:,.0f} s", is_busy=False)
        if job.is_whole:
            return join(head, self._result(job))
        early = notice("The results are complete, but the command was ended before it exited, or failed at its end.")
        return join(head, early, self._result(job), log)

    def _error(self, session: Session, text: str) -> Markup:
        return notice(self.wording(session.readable(text)), "error")

    def _result(self, job: Job) -> Markup:
        """Return what a finished job found; it is drawn once."""
        drawn = self._drawn.get(job.folder)
        if drawn is None:
            if len(self._drawn) > MOST_KEPT:
                self._drawn.clear()
            drawn = self._drawn[job.folder] = self._shown(self.result, job)
        return drawn

    def _shown(self, draw: Callable[[Job], str], job: Job) -> Markup:
        try:
            return Markup(draw(job))
        except SubquadError as error:
            return notice(self.wording(str(error)), "error")
        except DAMAGE as error:
            what = f"{type(error).__name__}: {error}"
            return notice(f"What this job wrote is damaged or incomplete; start it again ({what}).", "error")

    def _recorded(self, command: Command, about: dict[str, Any]) -> Command:
        return replace(command, about=about, can_resume=self.keeps_going)


def _has_begun(job: Job) -> bool:
    """Return whether a job wrote anything with which it can go on, and not all of it.

    That is every file but locks and temporary files, whose names begin with a dot. A command whose output is one file
    keeps what it has in a folder beside it.
    """
    if (job.out / METRICS).is_file():
        return False
    folders = [job.out, job.out.with_name(f"{job.out.name}.partial")]
    return any(folder.is_dir() and any(folder.glob("[!.]*")) for folder in folders)


def _buttons(*, can_stop: bool, can_resume: bool) -> tuple[Any, Any, Any]:
    return gr.update(interactive=can_stop), gr.update(visible=can_resume), gr.Timer(active=can_stop)


def script_of_hint(text: str) -> str:
    """Return a script that shows a sentence in a view, such as until the server has answered."""
    return f"() => {json.dumps(hint(text))}"


def _hint(text: str) -> Markup:
    return Markup('<p class="sq-hint">{}</p>').format(text) if text else Markup("")


def _status(state: str, seconds: str = "", *, is_busy: bool) -> Markup:
    """Return a line with the state of a job; screen readers announce it when it changes, and not each second."""
    mark = Markup('<span class="sq-spinner" aria-hidden="true"></span>') if is_busy else Markup("<span>✓</span>")
    return Markup('<p class="sq-status">{}<span><span role="status">{}</span> {}</span></p>').format(
        mark, state, seconds
    )


def _tail(session: Session, job: Job) -> Markup:
    lines = session.readable(job.log).strip().split("\n")[-LOG_LINES:]
    log = Markup('<pre class="sq-log" tabindex="0">{}</pre>').format("\n".join(lines))
    return details("Messages of the command", log, name="messages") if lines and lines[-1] else Markup("")
