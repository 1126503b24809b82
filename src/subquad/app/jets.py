"""The tab of jets: files or a simulation, a tagger, its curves, displays of single jets, and scores of files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.jet_results import (
    describe_files,
    display_jets,
    fit_progress,
    fit_result,
    performance,
    score_result,
    signals_of,
    simulate_result,
)
from subquad.app.jobs import Command
from subquad.app.markup import notice
from subquad.app.panels import QUIET, Context, Panel, Tab, run_of, session_of
from subquad.app.reading import Busy, call_in_process
from subquad.app.runs import label_of_run, run_list, update_runs
from subquad.app.sessions import Session
from subquad.errors import SubquadError
from subquad.hep.data.examples import EXAMPLES, example_path
from subquad.hep.settings import CLASSES
from subquad.runs.folder import load_config

__all__ = ["build_jets"]

ENDINGS = (".root", ".h5", ".hdf5", ".parquet", ".npz")
SECONDS_TO_SHOW = 120.0
"""Time for the display of a jet, most of which is taken by opening the tagger."""
ANY_CLASS = "any class"
NO_CURVES = Markup('<p class="sq-hint">Train a tagger above, or choose one.</p>')
NO_JET = Markup('<p class="sq-hint">{}</p>').format(
    "Shows a labelled jet of the files chosen above: its particles, its graph, and what the tagger looked at."
)
PRESETS = [("auto: the default", "auto"), ("standard: faster", "standard"), ("paper: PCN as published", "paper"),
           ("epcn: after E-PCN", "epcn")]  # fmt: skip


def build_jets(context: Context) -> Tab:
    """Build the tab."""
    gr.HTML('<p class="sq-lead">Tag jets by a network on the graph of their particles, beside gradient boosting.</p>')
    with gr.Row(elem_classes="sq-steps"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>1. Jets</h2>")
            source, seen, simulation, fill, uploaded = _files(context)
        with gr.Column(scale=4, min_width=320):
            gr.HTML("<h2>2. Tagger</h2>")
            panel = _training(context, source)
    uploaded.success(panel.look, [source], panel.look_outputs, **QUIET)
    panel.view.render()
    gr.HTML("<h2>3. Use a tagger</h2>")
    run = run_list(context, "Tagger", "subquad hep fit")
    refreshed = update_runs(context, "hep", panel, run)
    with gr.Tabs(elem_classes="sq-tabs"):
        with gr.Tab("Curves"):
            signal = _performance(context, run)
        with gr.Tab("Single jets"):
            _displays(context, run, source)
        with gr.Tab("Score files"):
            scores = _scores(context, run, source, signal)
    shown = [
        (fill, ([source], [source, seen])),
        (panel.look, ([source], panel.look_outputs)),
        (refreshed, ([run], [run])),
        (scores.look, ([run], scores.look_outputs)),
        *([(simulation.look, ([source], simulation.look_outputs))] if simulation is not None else []),
    ]
    return Tab(opened=shown, deleted=shown)


def _choices(session: Session) -> list[tuple[str, str]]:
    """Return label and value of all jets: uploads, simulations, and those that ship with subquad."""
    uploads = [(path.name, str(path)) for path in session.files(*ENDINGS)]
    simulated = [job for job in session.jobs if job.kind == "hep simulate" and job.state == "finished"]
    return [*uploads, *((job.record["title"], job.name) for job in simulated), *((name, name) for name in EXAMPLES)]


def _paths(session: Session, values: list[str] | None) -> list[Path]:
    """Return the files of entries of the list; nothing else on this computer is opened."""
    found: list[Path] = []
    for value in values or []:
        job = session.job(value)
        if value in EXAMPLES:
            found.append(example_path(value))
        elif job is not None:
            found += sorted(job.out.glob("*.root"))
        elif session.owns(value):
            found.append(Path(value))
        else:
            raise SubquadError("one of these files is no longer here; upload it again")
    if not found:
        raise SubquadError("no files of jets are chosen")
    return found


def _files(context: Context) -> tuple[gr.Dropdown, gr.HTML, Panel | None, Any, Any]:
    file = gr.File(
        label="Drop ROOT files here, or click to choose some",
        file_types=list(ENDINGS),
        file_count="multiple",
        height=150,
    )
    source = gr.Dropdown(
        [(name, name) for name in EXAMPLES], value=list(EXAMPLES)[:1], multiselect=True, label="Files of jets",
        info="ROOT, HDF5, Parquet or NPZ in the layout of JetClass or another public data set.",
    )  # fmt: skip
    view = gr.HTML(elem_classes="sq-view")

    def shown(session: Session, values: list[str] | None) -> Any:
        try:
            return call_in_process(describe_files, _paths(session, values), session=session) if values else Markup("")
        except SubquadError as error:
            return notice(session.readable(str(error)), "error")

    def on_upload(paths: list[str], request: gr.Request) -> Any:
        session = session_of(context, request)
        taken: list[Path] = []
        try:
            with session.trying(paths) as taken:
                call_in_process(describe_files, taken, session=session)
        except Busy as error:
            values = [str(path) for path in taken]
            return None, gr.update(choices=_choices(session), value=values), notice(f"The files are kept: {error}.")
        except SubquadError as error:
            refused = notice(f"The files were not taken. {session.readable(str(error))}", "error")
            return None, gr.update(), refused
        values = [str(path) for path in taken]
        return None, gr.update(choices=_choices(session), value=values), shown(session, values)

    def on_source(values: list[str] | None, request: gr.Request) -> Any:
        return shown(session_of(context, request), values)

    def on_load(values: list[str] | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        choices = _choices(session)
        kept = [value for value in values or [] if value in [own for _, own in choices]] or list(EXAMPLES)[:1]
        return gr.update(choices=choices, value=kept), shown(session, kept)

    uploaded = file.upload(on_upload, [file], [file, source, view], **QUIET)
    # not at each change: see `Panel.build`
    source.input(on_source, [source], [view], **QUIET)
    return source, view, _simulation(context, source, view, on_source), on_load, uploaded


def _simulation(context: Context, source: gr.Dropdown, view: gr.HTML, on_source: Any) -> Panel | None:
    with gr.Accordion("Simulate jets with Pythia", open=False):
        if find_spec("pythia8mc") is None:
            gr.HTML(notice("Pythia is not installed; install it with: pip install --only-binary pythia8mc pythia8mc"))
            return None
        count = gr.Slider(20, 1000, value=100, step=10, label="Jets of each class")
        classes = gr.CheckboxGroup(list(CLASSES), value=["ZJetsToNuNu", "HToBB", "TTBar"], label="Classes")

        def command(session: Session, own: Any, jets: float, names: list[str]) -> Command:
            if len(names) < 2:
                raise SubquadError("choose at least two classes")
            return Command(
                words=["hep", "simulate"],
                settings={"jets_per_class": int(jets), "classes": list(names), "workers": 1},
                title=f"{int(jets)} simulated jets of {len(names)} classes",
            )

        panel = Panel(
            context=context, kind="hep simulate", action="Simulate", command=command, result=simulate_result,
            needs_run=False, keeps_going=True,
        )  # fmt: skip
        panel.build([count, classes], source)

    def on_finished(name: str, values: list[str], request: gr.Request) -> Any:
        session = session_of(context, request)
        is_new = bool(name) and list(values or []) == list(EXAMPLES)[:1]
        return gr.update(choices=_choices(session), value=[name] if is_new else values)

    chosen = panel.finished.change(on_finished, [panel.finished, source], [source], **QUIET)
    chosen.success(on_source, [source], [view], **QUIET)
    return panel


def _training(context: Context, source: gr.Dropdown) -> Panel:
    preset = gr.Dropdown(PRESETS, value="standard", label="Preset", info="Inputs, graph and size of the network.")
    epochs = gr.Slider(1, 50, value=8, step=1, label="Epochs", info="Passes over the training jets.")
    boosting = gr.Checkbox(True, label="Gradient boosting beside it", info="On jet-level features, as a baseline.")
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)

    def command(session: Session, own: Any, values: list[str], kind: str, passes: float, *rest: Any) -> Command:
        has_boosting, number = rest
        paths = _paths(session, values)
        return Command(
            words=["hep", "fit", *map(str, paths)],
            settings={
                "preset": kind, "epochs": int(passes), "no_boosting": not has_boosting, "seed": int(number or 0)
            },
            title=f"Tagger on {paths[0].name}{' …' * (len(paths) > 1)}",
        )  # fmt: skip

    panel = Panel(
        context=context, kind="hep fit", action="Train", command=command, result=fit_result, progress=fit_progress,
        needs_run=False, keeps_going=True,
        waiting="The 1,500 jets that ship with subquad train in a minute; they are too few for a good network.",
    )  # fmt: skip
    panel.build([source, preset, epochs, boosting, seed], source, is_view_elsewhere=True)
    return panel


def _performance(context: Context, run: gr.Dropdown) -> gr.Dropdown:
    signal = gr.Dropdown([], label="Signal", info="The background is that of the fit.", interactive=True)
    view = gr.HTML(NO_CURVES, elem_classes="sq-view", elem_id="sq-curves")

    def drawn(session: Session, own: str | None, name: str | None) -> Any:
        try:
            return _named(session, own, performance(run_of(context, session, own, "hep fit"), name))
        except SubquadError as error:
            return notice(session.readable(str(error)), "error")

    def on_run(own: str | None, name: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        if not own:
            return gr.update(choices=[], value=None), NO_CURVES
        try:
            names, _ = signals_of(run_of(context, session, own, "hep fit"))
        except SubquadError as error:
            return gr.update(choices=[], value=None), notice(session.readable(str(error)), "error")
        name = name if name in names else names[0]
        return gr.update(choices=names, value=name), drawn(session, own, name)

    def on_signal(own: str | None, name: str | None, request: gr.Request) -> Any:
        return drawn(session_of(context, request), own, name)

    run.change(on_run, [run, signal], [signal, view], **QUIET)
    signal.input(on_signal, [run, signal], [view], **QUIET)
    return signal


def _named(session: Session, own: str | None, shown: str) -> str:
    """Return what is shown of a tagger below its name."""
    head = Markup("<p>Tagger: {}</p>").format(label_of_run(session, own or ""))
    return f"{head}\n{shown}"


def _displays(context: Context, run: gr.Dropdown, source: gr.Dropdown) -> None:
    with gr.Row():
        label = gr.Dropdown([], label="True class", interactive=True, min_width=200)
        number = gr.Number(1, label="Which of its jets", precision=0, minimum=1, min_width=140)
    show = gr.Button("Show the jet", variant="primary", size="md")
    view = gr.HTML(NO_JET, elem_classes="sq-view", elem_id="sq-jet")

    def on_run(own: str | None, request: gr.Request) -> Any:
        session = session_of(context, request)
        try:
            _, names = signals_of(run_of(context, session, own, "hep fit"))
        except SubquadError:
            names = []
        # the jet that is shown is that of another tagger
        # the files may have no jets of some class
        choices = [ANY_CLASS, *names] if names else []
        return gr.update(choices=choices, value=choices[0] if choices else None), NO_JET

    def on_show(request: gr.Request, own: str | None, values: list[str], name: str | None, which: float) -> Any:
        session = session_of(context, request)
        try:
            folder = run_of(context, session, own, "hep fit")
            paths = _paths(session, values)
            label_of_jet = None if name == ANY_CLASS else name
            wanted = (folder, paths, label_of_jet, int(which or 1))
            shown = call_in_process(display_jets, *wanted, session=session, seconds=SECONDS_TO_SHOW)
            return _named(session, own, shown)
        except SubquadError as error:
            return notice(session.readable(str(error)), "error")

    run.change(on_run, [run], [label, view], **QUIET)
    inputs: list[Any] = [run, source, label, number]
    show.click(on_show, inputs, [view], api_visibility="private")
    number.submit(on_show, inputs, [view], api_visibility="private")


def _scores(context: Context, run: gr.Dropdown, source: gr.Dropdown, signal: gr.Dropdown) -> Panel:
    def command(session: Session, own: str | None, values: list[str], name: str | None) -> Command:
        folder, paths = run_of(context, session, own, "hep fit"), _paths(session, values)
        return Command(
            words=["hep", "predict", str(folder), *map(str, paths)], settings={}, title=f"Scores of {paths[0].name}",
            output="scores.root", about={"background": load_config(folder, "hep")["background"], "signal": name},
        )  # fmt: skip

    panel = Panel(
        context=context, kind="hep predict", action="Score the files", command=command, result=score_result,
        waiting="Scores the files chosen above; the scores are written as a ROOT file with one entry per jet.",
    )  # fmt: skip
    panel.build([source, signal], run)
    return panel
