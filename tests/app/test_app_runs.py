"""Runs that a tab uses: which one is chosen when jobs finish or are deleted, its files, and what is shown of it."""

import os
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio")

from subquad.app import jets, language
from subquad.app.jets import build_jets
from subquad.app.language import build_language
from subquad.app.panels import Panel
from subquad.app.reading import Busy
from subquad.app.runs import run_list, update_runs
from subquad.errors import SubquadError
from subquad.runs.storage import write_json


@pytest.fixture(autouse=True)
def _of_one_browser(monkeypatch, session):
    for module in ("jets", "language", "panels", "runs"):
        monkeypatch.setattr(f"subquad.app.{module}.session_of", lambda *_: session)


def job_of(session, kind="hep fit", *, created=0.0, title="Tagger on a.root"):
    folder = session.new_job_folder()
    about = {"kind": kind, "title": title, "words": [], "output": "out", "server": os.getpid(), "created": created}
    write_json(folder / "job.json", about)
    write_json(folder / "status.json", {"state": "finished", "began": 0.0, "ended": 1.0})
    (folder / "out").mkdir()
    return session.job(folder.name)


def functions_of(page, name):
    return [own.fn for own in page.fns.values() if getattr(own.fn, "__name__", "") == name]


def list_of(context, **options):
    """Return the page with a list of runs, and the function that fills it."""
    panel = Panel(context=context, kind="hep fit", action="Train", command=None, result=None, needs_run=False)
    with gr.Blocks() as page:
        panel.build([], gr.State(None))
        refreshed = update_runs(context, "hep", panel, run_list(context, "Tagger", "subquad hep fit"), **options)
    return page, refreshed


def test_the_choice_changes_only_when_a_job_finishes(context, session):
    first, second = (job_of(session, created=float(k)) for k in range(2))
    page, refreshed = list_of(context)
    (on_finished,) = functions_of(page, "on_finished")
    assert refreshed(None, None)["value"] == second.name
    assert refreshed(first.name, None)["value"] == first.name
    third = job_of(session, created=2.0)
    assert refreshed(first.name, None)["value"] == first.name
    assert on_finished(first.name, "", None)["value"] == first.name
    assert on_finished(first.name, third.name, None)["value"] == third.name
    context.runner.delete(third)
    assert refreshed(third.name, None)["value"] == second.name
    assert refreshed("example:tagger", None)["value"] == "example:tagger"


def test_a_run_in_use_stays_chosen_when_another_one_is_trained(context, session):
    first, second = (job_of(session, created=float(k)) for k in range(2))
    page, refreshed = list_of(context, used=lambda _: first.name)
    (on_finished,) = functions_of(page, "on_finished")
    assert on_finished(first.name, second.name, None)["value"] == first.name
    assert on_finished(second.name, "", None)["value"] == second.name
    assert on_finished(None, second.name, None)["value"] == first.name
    # as after a reload of the page
    assert refreshed(None, None)["value"] == first.name


def test_the_files_of_the_chosen_run_are_offered(context, session):
    page, _ = list_of(context)
    (on_chosen,) = functions_of(page, "on_chosen")
    older, _ = (job_of(session, created=float(k)) for k in range(2))
    assert f"/archives/{older.name}.zip" in on_chosen(older.name, None)
    assert "Report" not in on_chosen(older.name, None)
    for name in ("report.html", "README.md"):
        (older.out / name).touch()
    assert f'href="/files/{older.name}/out/report.html"' in on_chosen(older.name, None)
    assert f"/files/{older.name}/out/README.md?download=1" in on_chosen(older.name, None)
    for value in (None, "example:tagger", "0" * 16):
        assert on_chosen(value, None) == ""


def test_files_that_are_dropped_again_with_a_damaged_one_stay(context, workspace, session, monkeypatch):
    def refuse(_, paths, *, session):
        if any(path.name == "broken.root" for path in paths):
            raise SubquadError("broken.root: not a ROOT file")

    monkeypatch.setattr(jets, "call_in_process", refuse)
    arrived = []
    for name in ("a.root", "broken.root"):
        folder = workspace.received / name.removesuffix(".root")
        folder.mkdir()
        (folder / name).write_bytes(b"x" * 10)
        arrived.append(str(folder / name))
    known = session.take(arrived[0])
    with gr.Blocks() as page:
        build_jets(context)
    (on_upload,) = functions_of(page, "on_upload")
    _, _, view = on_upload(arrived, None)
    assert "The files were not taken. broken.root: not a ROOT file" in view
    assert session.files("") == [known]


def test_jets_that_cannot_be_read_yet_stay(context, workspace, session, monkeypatch):
    def refuse(*_, session):
        raise Busy("the page reads files of many users now; try again in a minute")

    monkeypatch.setattr(jets, "call_in_process", refuse)
    folder = workspace.received / "a"
    folder.mkdir()
    (folder / "a.root").write_bytes(b"x" * 10)
    with gr.Blocks() as page:
        build_jets(context)
    (on_upload,) = functions_of(page, "on_upload")
    _, source, view = on_upload([str(folder / "a.root")], None)
    assert "The files are kept: the page reads files of many users now; try again in a minute." in view
    assert source["value"] == [*map(str, session.files(""))] != []


def test_nothing_of_another_tagger_stays_and_what_is_shown_names_its_own(context, session, monkeypatch):
    monkeypatch.setattr(jets, "signals_of", lambda run: (["Hbb"], ["Hbb", "QCD"]))
    monkeypatch.setattr(jets, "performance", lambda run, signal: f"curves of {signal}")
    tagger = job_of(session)
    with gr.Blocks() as page:
        build_jets(context)
    curves, jet = (
        next(fn for fn in functions_of(page, "on_run") if fn.__qualname__.startswith(name))
        for name in ("_performance", "_displays")
    )
    choices, view = curves(tagger.name, None, None)
    assert choices["value"] == "Hbb"
    assert view.startswith("<p>Tagger: Tagger on a.root, ")
    assert view.endswith("curves of Hbb")
    choices, view = curves(None, "Hbb", None)
    assert (choices["choices"], choices["value"], view) == ([], None, jets.NO_CURVES)
    assert jet(tagger.name, None)[1] == jets.NO_JET
    choices, view = jet(None, None)
    assert (choices["choices"], choices["value"], view) == ([], None, jets.NO_JET)


def test_a_chat_names_its_model_and_is_not_ended_by_another_one(context, session, monkeypatch):
    monkeypatch.setattr(language, "chat_view", lambda chat: "no chat" if chat is None else "both sides")
    first, second = (job_of(session, "llm linearize", created=float(k), title=f"Model {k}") for k in range(2))
    opened = {}
    chats = SimpleNamespace(find=opened.get, forget=lambda user: opened.pop(user, None))
    monkeypatch.setattr(language, "Chats", lambda: chats)
    with gr.Blocks() as page:
        tab = build_language(context)
    (on_run,), (on_finished,) = (functions_of(page, name) for name in ("on_run", "on_finished"))
    assert on_run(first.name, None) == "no chat"
    assert on_finished(first.name, second.name, None)["value"] == second.name
    opened[session.folder.name] = SimpleNamespace(folder=first.out)
    assert on_finished(first.name, second.name, None)["value"] == first.name
    view = on_run(first.name, None)
    assert "Chat with Model 0, " in view
    assert "both sides" in view
    assert "Another model" not in view
    for other in (second.name, "0" * 16):
        assert "Another model than that of this chat is chosen. Your next question ends" in on_run(other, None)
    context.runner.delete(first)
    after = [function(first.name, None) for function, _ in tab.deleted[-2:]]
    assert after[0] == "no chat"
    assert after[1]["value"] == second.name
    assert not opened
