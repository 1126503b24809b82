"""Panels without a browser: what they show of a job that runs, and what is not done in the process of the page."""

import os
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

gr = pytest.importorskip("gradio")

from markupsafe import Markup

from subquad.app import jets, panels
from subquad.app.charts import DRAWING
from subquad.app.jet_results import display_jets
from subquad.app.jobs import Command, Job
from subquad.app.language_results import perplexity_result
from subquad.app.page import build_page
from subquad.app.panels import Panel
from subquad.app.sequence_results import fit_progress, rounds_result, scan_result
from subquad.hep.data.examples import example_path
from subquad.runs.storage import write_json


@pytest.fixture
def running(session):
    """A fit that runs, as far as its folder says."""
    folder = session.new_job_folder()
    about = {"title": "Fit of t.csv", "kind": "bio fit", "words": [], "output": "out", "created": 1.0, "about": {}}
    write_json(folder / "job.json", about)
    write_json(folder / "status.json", {"state": "running", "pid": os.getpid(), "began": time.time() - 100})
    (folder / "log.txt").write_text("reading\n")
    return Job(folder)


def fit_panel(context, progress=lambda job: ""):
    return Panel(
        context=context, kind="bio fit", action="Train", command=None, progress=progress, result=None, needs_run=False
    )  # fmt: skip


def function_of(page, name):
    return next(own.fn for own in page.fns.values() if getattr(own.fn, "__name__", "") == name)


def test_a_second_job_of_a_panel_is_refused_with_a_sentence(context, session, running, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    monkeypatch.setattr(panels, "session_of", lambda *_: session)
    shown, *_ = function_of(build_page(context), "on_start")(None, "example:tdp43")
    assert "Fit of t.csv: running" in Markup(shown).striptags()
    assert told == ["Fit of t.csv has not ended; press Stop before you start another one."]
    assert [job.name for job in session.jobs] == [running.name]


def test_a_screen_reader_is_told_the_state_of_a_job_and_not_its_seconds(context, session, running):
    def shown():
        root = ET.fromstring(f"<div>{fit_panel(context).html(session, running, 'running')}</div>")
        return ["".join(one.itertext()) for one in (root.find("p"), *root.findall(".//*[@role='status']"))]

    before = shown()
    assert before[1:] == ["Fit of t.csv: running"]
    write_json(running.folder / "status.json", {**running.status, "began": time.time() - 500})
    assert shown()[0] != before[0]
    assert shown()[1:] == before[1:]


def test_progress_is_shown_while_others_draw(context, session, running):
    panel = fit_panel(context, progress=lambda job: "curves")
    with ThreadPoolExecutor() as threads, DRAWING:
        assert "curves" in threads.submit(panel.html, session, running, "running").result(20)


def test_a_jet_is_read_and_drawn_in_a_process_of_its_own(context, session, monkeypatch):
    called = []
    monkeypatch.setattr(jets, "session_of", lambda *_: session)
    monkeypatch.setattr(jets, "run_of", lambda *_: session.folder)
    monkeypatch.setattr(jets, "call_in_process", lambda *given, **options: called.append(given) or "a jet")
    show = function_of(build_page(context), "on_show")
    assert show(None, "run", ["example:jets"], "QCD", 2) == "<p>Tagger: run</p>\na jet"
    assert called == [(display_jets, session.folder, [example_path("example:jets")], "QCD", 2)]


@pytest.mark.parametrize("error", [KeyError("models"), FileNotFoundError(2, "No such file"), ValueError("no column")])
def test_damaged_output_is_a_notice_and_ends_the_looks(context, session, running, error):
    def refuse(job):
        raise error

    panel = fit_panel(context, progress=refuse)
    panel.result = refuse
    assert "What this job wrote is damaged or incomplete; start it again" in panel.html(session, running, "running")
    write_json(running.folder / "status.json", {"state": "finished", "began": 0.0, "ended": 1.0})
    html, _, _, _, timer, awaited, done = panel._look(session, None)
    assert 'role="alert"' in html
    assert type(error).__name__ in html
    assert not timer.active
    assert (awaited, done) == ("", running.name)


@pytest.mark.parametrize(
    ("draw", "damage"),
    [
        (rounds_result, {"rounds.json": {"rounds": []}}),
        (rounds_result, {"rounds.json": []}),
        (scan_result, {"scan.json": []}),
        (fit_progress, {"validation.json": []}),
        (fit_progress, {"validation.json": {"ridge": 3}}),
        (perplexity_result, {"evaluation.json": {"models": []}}),
        (perplexity_result, {"evaluation.json": {}}),
    ],
)
def test_damaged_files_of_a_job_are_a_notice(context, session, running, draw, damage):
    ((file, content),) = damage.items()
    running.out.mkdir()
    row = {"mutant": "A2C", "position": 2, "from": "A", "to": "C", "difference": 0.5, "prediction": 1.5}
    row |= {"prediction_low": 1.0, "prediction_high": 2.0, "measured": None, "observed": "no"}
    pd.DataFrame([row]).to_csv(running.out / "scan.csv", index=False)
    write_json(running.out / file, content)
    panel = fit_panel(context, progress=draw)
    assert "What this job wrote is damaged or incomplete; start it again" in panel.html(session, running, "running")


@pytest.mark.parametrize(
    "status",
    [
        {"state": "running"},
        {"state": "running", "pid": "abc"},
        # a signal to this one reaches all processes of the user
        {"state": "running", "pid": -1},
        {"state": "running", "pid": 5, "started": []},
        {"state": "running", "pid": 5, "began": "x"},
        {"state": "asleep"},
        {"state": "finished", "began": 1.0, "ended": "x"},
        [],
    ],
)
def test_a_damaged_status_is_a_failure(session, running, status):
    write_json(running.folder / "status.json", status)
    assert [job.name for job in session.jobs] == [running.name]
    assert running.seconds == 0
    assert running.state == "failed"
    assert running.message == "The status of this job is damaged; start it again."


@pytest.mark.parametrize(
    "change",
    [{"server": "x"}, {"server_started": []}, {"about": 3}, {"reads": [5]}, {"words": [None]}, {"created": "now"}],
)
def test_a_job_with_a_damaged_record_is_not_listed_and_the_others_are(session, running, change):
    other = session.new_job_folder()
    write_json(other / "job.json", {**running.record, **change})
    assert Job(other).is_damaged
    assert [job.name for job in session.jobs] == [running.name]
    assert [job.state for job in session.jobs] == ["running"]


def is_skipped(update):
    return isinstance(update, dict) and update["__type__"] == "update" and "value" not in update


def test_a_job_finishes_for_the_page_only_while_the_page_looks_at_it(context, session, running, monkeypatch):
    monkeypatch.setattr(panels, "session_of", lambda *_: session)
    with gr.Blocks() as page:
        panel = fit_panel(context)
        panel.result = lambda job: "a result"
        panel.build([], gr.State(None))
    tick = function_of(page, "on_tick")
    # while it runs, both start the timer
    for looked in (panel.look(None, None), tick(None, running.name, None)):
        *_, timer, awaited, done = looked
        assert (timer.active, awaited) == (True, running.name)
        assert is_skipped(done)
    write_json(running.folder / "status.json", {"state": "finished", "began": 0.0, "ended": 1.0})
    # a look does not stop it, so that the end is seen
    *_, timer, awaited, done = panel.look(None, None)
    assert all(map(is_skipped, (timer, awaited, done)))
    *_, timer, awaited, done = tick(None, running.name, None)
    assert (timer.active, awaited, done) == (False, "", running.name)
    # one that had finished before another run was chosen
    *_, timer, awaited, done = tick(None, "another job", None)
    assert (timer.active, awaited) == (False, "")
    assert is_skipped(done)


def test_a_panel_notes_whether_its_jobs_can_be_resumed(context, session, monkeypatch):
    monkeypatch.setattr(panels, "session_of", lambda *_: session)
    monkeypatch.setattr(context.runner, "_open", lambda job: None)
    for keeps_going in (True, False):
        with gr.Blocks() as page:
            panel = Panel(
                context=context, kind=f"kind {keeps_going}", action="Train", result=lambda job: "", needs_run=False,
                command=lambda *_: Command(words=[], settings={}, title="A job"), keeps_going=keeps_going,
            )  # fmt: skip
            panel.build([], gr.State(None))
        function_of(page, "on_start")(None, None)
        assert panel.job(session, None).record["can_resume"] == keeps_going


@pytest.mark.parametrize(
    ("files", "can_resume"),
    [
        (["out/history.jsonl"], True),
        (["out/checkpoint-lyra.safetensors"], True),
        (["out/validation.json"], True),
        # an evaluation, a simulation, and a command whose output is a file
        (["out/measurements/softmax-1.perplexity-2.json"], True),
        (["out/simulation.json", "out/QCD_000.root"], True),
        (["out.partial/config.json"], True),
        # nothing was begun
        ([], False),
        (["out/.lock", "out/.config.json.tmp/config.json"], False),
        # everything was done
        (["out/config.json", "out/history.jsonl", "out/metrics.json"], False),
        (["out"], False),
    ],
)
def test_a_job_that_failed_is_resumed_where_its_output_holds_what_it_goes_on_with(
    context, session, running, files, can_resume
):
    write_json(running.folder / "status.json", {"state": "failed", "message": "No.", "began": 0.0, "ended": 1.0})
    for path in (running.folder / file for file in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    panel = fit_panel(context)
    panel.keeps_going = True
    _, _, _, resume, *_ = panel._look(session, None)
    assert resume["visible"] == can_resume


def test_a_job_that_was_stopped_before_it_began_is_resumed(context, session, running):
    write_json(running.folder / "status.json", {"state": "stopped", "began": 0.0, "ended": 1.0})
    panel = fit_panel(context)
    panel.keeps_going = True
    _, _, _, resume, *_ = panel._look(session, None)
    assert resume["visible"]


def test_an_error_of_a_command_is_shown_in_words_of_the_page(context, session, running):
    status = {"state": "failed", "message": "t.csv: name it with --target", "began": 0.0, "ended": 1.0}
    write_json(running.folder / "status.json", status)
    panel = fit_panel(context)
    panel.wording = lambda text: text.replace("name it with --target", "choose the target")
    assert "t.csv: choose the target" in panel.html(session, running, "failed")


def test_lists_of_several_values_are_not_listened_to_for_changes(context):
    # gradio reports one at each update of the page, so that one that follows from it has no end
    page = build_page(context)
    several = {number for number, block in page.blocks.items() if getattr(block, "multiselect", False)}
    assert several
    targets = [target for own in page.fns.values() for target in own.targets]
    assert [target for target in targets if target[0] in several and target[1] == "change"] == []
