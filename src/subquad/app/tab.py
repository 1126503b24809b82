"""A tab of the page: forms of commands beside the jobs that they started and what those wrote."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from subquad.app.forms import OFFERED, QUIET, BuiltForm, Form
from subquad.app.inputs import Inputs, Source
from subquad.app.jobs import Job, Jobs
from subquad.app.views import result_view, status_view, steps_view
from subquad.errors import SubquadError

SCROLL = "() => document.getElementById('sq-results-{}').scrollIntoView({{behavior: 'smooth', block: 'nearest'}})"


class Context(NamedTuple):
    """What the tabs share."""

    jobs: Jobs
    inputs: Inputs


class Example(NamedTuple):
    """A command on what ships with subquad, one click away."""

    action: str
    """Text of the button."""
    title: str
    words: tuple[str, ...]
    file: str = ""
    """Name of the file that the command writes; empty for a folder."""


class Extra(NamedTuple):
    """A part of a tab that is no form."""

    title: str
    build: Callable[[], Any]
    """Adds the part, and returns its list of what can be chosen."""
    source: Source


@dataclass(frozen=True)
class FieldTab:
    """The components of a tab whose contents change."""

    context: Context
    field: str
    """Name of the field, such as `bio`."""
    view: dict[str, Any]
    """Components of the chosen job."""
    forms: dict[str, BuiltForm]
    """Forms by the name of their command."""
    extra: Extra | None
    guide: str
    """What is shown as long as there are no jobs."""

    @classmethod
    def build(
        cls,
        context: Context,
        field: str,
        *,
        lead: str,
        steps: Sequence[str],
        forms: Sequence[tuple[str, Form]],
        example: Example | None = None,
        extra: Extra | None = None,
    ) -> "FieldTab":
        """Add a tab to the page.

        Args:
            context: What the tabs share.
            field: Name of the field.
            lead: What the tab is for, in a sentence.
            steps: What its users do with their own data.
            forms: Titles and forms, in the order in which they are used.
            example: Command of the first button; without one, `extra` shows something at once.
            extra: What is no form; it comes first.
        """
        tab = cls(context, field, {}, {}, extra, steps_view(steps, example.action if example else ""))
        with gr.Row(elem_classes="sq-lead"):
            gr.Markdown(lead)
            upload = gr.UploadButton("Upload files", file_count="multiple", size="md")
            shown = gr.Button(example.action, variant="primary", size="md") if example is not None else None
        names = [*([extra.title] if extra is not None else []), *(title for title, _ in forms)]
        with gr.Row(elem_classes="sq-columns"):
            with gr.Column(scale=2, min_width=320):
                task = gr.Radio(names, value=names[0], show_label=False, container=False, elem_classes="sq-tasks")
                buttons, groups = [], {}
                if extra is not None:
                    with gr.Column() as groups[extra.title]:
                        tab.view["extra"] = extra.build()
                for title, form in forms:
                    with gr.Column(visible=title == names[0]) as groups[title]:
                        built = tab.forms[form.command] = BuiltForm(form=form, inputs=context.inputs)
                        built.build()
                        buttons.append((gr.Button(form.action, variant="primary"), built))
            with gr.Column(scale=3, min_width=320, elem_id=f"sq-results-{field}"):
                tab._build_view()
        task.change(
            lambda chosen: [gr.update(visible=title == chosen) for title in groups], [task], [*groups.values()], **QUIET
        )
        upload.upload(tab._on_upload, [upload], [chosen for chosen, _ in tab.sources], **QUIET)
        started = [
            button.click(tab._starter(built), [*built.fields.values()], [tab.view["job"]], **QUIET)
            for button, built in buttons
        ]
        if shown is not None and example is not None:
            started.append(shown.click(tab._example(example), None, [tab.view["job"]], **QUIET))
        for event in started:
            # on a narrow screen the results are below the forms
            event.success(None, js=SCROLL.format(field), **QUIET)
        return tab

    def _build_view(self) -> None:
        view, jobs = self.view, self.context.jobs
        choices = self._choices()
        view["job"] = gr.Dropdown(choices, value=None, label="Jobs", visible=bool(choices), **OFFERED)
        view["status"] = gr.HTML(self.guide)
        with gr.Row(elem_classes="sq-actions"):
            view["stop"] = gr.Button("Stop", size="sm", visible=False, min_width=90)
            view["resume"] = gr.Button("Resume", size="sm", visible=False, min_width=90)
            view["delete"] = gr.Button("Delete", size="sm", visible=False, min_width=90)
        view["result"] = gr.HTML()
        with gr.Accordion("Log", open=False, visible=False) as view["accordion"]:
            view["log"] = gr.Textbox(show_label=False, label="Log", lines=12, max_lines=24, elem_classes="sq-log")
        for name, action in (("stop", jobs.stop), ("resume", jobs.run), ("delete", jobs.delete)):
            ask = "name => confirm('Delete this job and its files?') ? name : null" if name == "delete" else None
            view[name].click(self._on_job(action), [view["job"]], [view["job"]], js=ask, **QUIET)

    def _on_job(self, action: Callable[[Job], None]) -> Callable[[str | None], Any]:
        def on_click(name: str | None) -> Any:
            if (job := self.context.jobs.find(name)) is not None:
                action(job)
            return gr.update(choices=self._choices())

        return on_click

    def _on_upload(self, paths: list[str]) -> Any:
        """Choose uploaded files wherever such files are needed."""
        updates, is_taken = [], False
        for _, source in self.sources:
            choices = self.context.inputs.choices(source)
            # a sheet of an Excel file has its name after `#`
            values = [value for _, value in choices if value.partition("#")[0] in map(str, paths)]
            is_taken = is_taken or bool(values)
            updates.append(gr.update(choices=choices))
            if values and not source.is_optional:
                updates[-1]["value"] = values if source.is_several else values[0]
        if not is_taken:
            gr.Warning(f"No command of this tab reads {Path(paths[0]).suffix or 'such'} files.")
        return updates

    def _starter(self, built: BuiltForm) -> Callable[..., Any]:
        def on_start(*values: Any) -> Any:
            folder = self.context.jobs.new()
            try:
                words, title = built.command_words(values, folder)
            except SubquadError as error:
                shutil.rmtree(folder)
                raise gr.Error(str(error), print_exception=False) from error
            job = self.context.jobs.start(folder, words, title=title, file=built.form.file)
            return gr.update(choices=self._choices(), value=job.name, visible=True)

        return on_start

    def _example(self, example: Example) -> Callable[[], Any]:
        def on_example() -> Any:
            jobs = self.context.jobs
            earlier = [job for job in jobs.list(self.field) if job.record["words"] == [*example.words]]
            job = next((job for job in earlier if job.state in ("waiting", "running", "finished")), None)
            if job is None:
                job = jobs.start(jobs.new(), example.words, title=example.title, file=example.file)
            return gr.update(choices=self._choices(), value=job.name, visible=True)

        return on_example

    def _choices(self) -> list[tuple[str, str]]:
        return [
            (f"{job.record['title']}, {job.time} ({job.state})", job.name) for job in self.context.jobs.list(self.field)
        ]

    @property
    def sources(self) -> list[tuple[Any, Source]]:
        """All lists of what can be chosen."""
        extra = [] if self.extra is None else [(self.view["extra"], self.extra.source)]
        return [*extra, *(entry for built in self.forms.values() for entry in built.sources)]

    @property
    def watched(self) -> list[Any]:
        """Components whose values `look` takes."""
        return [self.view["job"], *(chosen for chosen, _ in self.sources)]

    @property
    def outputs(self) -> list[Any]:
        """Components that `look` updates."""
        names = ("job", "status", "stop", "resume", "delete", "result", "accordion", "log")
        return [*(self.view[name] for name in names), *(chosen for chosen, _ in self.sources)]

    def look(
        self,
        name: str | None,
        chosen: Sequence[Any],
        before: Sequence[dict[str, Any]] | None,
        offered_by: Callable[[Source], list[tuple[str, str]]],
    ) -> list[Any]:
        """Return the properties of all outputs.

        Args:
            name: The chosen job.
            chosen: Values of the lists of `sources`.
            before: What this function returned last for the same browser; None when the page was opened.
            offered_by: Returns what a source offers.
        """
        choices, job = self._choices(), self.context.jobs.find(name)
        # a deleted job, or a page that was just opened
        moved = {} if job is not None else {"value": choices[0][1] if choices else None}
        job = job or self.context.jobs.find(moved["value"])
        state, log, result = "", "", ""
        if job is not None:
            state, log = job.state, job.log
            if job.shown is None or job.shown[0] != state:
                job.shown = state, result_view(job)
            result = job.shown[1]
        values = [
            {"choices": choices, "visible": bool(choices), **moved},
            {"value": self.guide if job is None else status_view(job)},
            {"visible": state in ("running", "waiting")},
            {"visible": state in ("interrupted", "failed")},
            {"visible": job is not None},
            {"value": result},
            {"visible": bool(log)},
            {"value": log},
        ]
        lists = [None] * len(chosen) if before is None else [entry.get("choices") for entry in before[len(values) :]]
        for (_, source), value, known in zip(self.sources, chosen, lists, strict=True):
            offered = offered_by(source)
            # the newest is chosen until its user chooses another one
            follows = not source.is_optional and (known is None or not value or value in (known[0][1], [known[0][1]]))
            newest = ([offered[0][1]] if source.is_several else offered[0][1]) if offered and follows else value
            values.append({"choices": offered, **({"value": newest} if newest != value else {})})
        return values
