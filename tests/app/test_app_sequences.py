"""The tab of sequences without a browser: tables that outlive their uploads, rounds, epistasis, and what is chosen."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

gr = pytest.importorskip("gradio")

from subquad.app import sequence_uses
from subquad.app.jobs import Job
from subquad.app.panels import Context
from subquad.app.sequences import _fit, build_sequences
from subquad.bio.data.examples import resolve_table
from subquad.errors import SubquadError
from subquad.runs.storage import write_json

TABLE = b"sequence,other,activity,batch\n" + b"".join(
    f"ACDE{a}{b},{k},{k / 7},{k % 4}\n".encode() for k, (a, b) in enumerate((a, b) for a in "ACDEFG" for b in "HIKL")
)
ALONE = [None, None, None, "random"]
CHOSEN = [["activity"], "sequence", "batch", "group"]


@pytest.fixture
def opened(context, session, monkeypatch):
    """Functions of the page by their name, for one session."""
    for module in ("sequences", "sequence_uses", "deletion"):
        monkeypatch.setattr(f"subquad.app.{module}.session_of", lambda *_: session)
    monkeypatch.setattr("subquad.app.sequences.call_in_process", lambda function, *values: function(*values))
    with gr.Blocks() as page:
        (fill, _), *_ = build_sequences(context).opened
    found = {getattr(own.fn, "__name__", ""): own.fn for own in page.fns.values() if own.fn is not None}
    return {**found, "on_load": fill}


def dropped(workspace, name, content=TABLE):
    folder = workspace.received / name.replace(".", "-")
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def fit_command(session, table, columns=ALONE):
    return _fit(session, str(table), *columns, ["ridge"], "Quick look", 0, 0)


def recorded(context, session, monkeypatch, kind, command, *, state="finished", created=None, **about):
    """Return a job in a state, without running its command."""
    monkeypatch.setattr(context.runner, "_open", lambda job: None)
    job = context.runner.start(session.new_job_folder(), kind, command)
    for thread in [*context.runner._latest.values()]:
        thread.join(60)
    record = {**job.record, "about": {**job.about, **about}, "created": created or job.created}
    write_json(job.folder / "job.json", record)
    write_json(job.folder / "status.json", {"state": state, "message": "It failed."} | {"began": 0.0, "ended": 1.0})
    return Job(job.folder)


def panel_of(builder, context):
    with gr.Blocks():
        return builder(context, gr.Dropdown([]))


DESIGN = ("maximize", 4, 2, "", "", "", "")
ROUND = ("maximize", 4, 2)


def test_designs_and_rounds_know_the_table_of_a_fit_after_its_upload_is_gone(context, session, workspace, monkeypatch):
    table = session.take(dropped(workspace, "mine.csv"))
    fitted = recorded(context, session, monkeypatch, "bio fit", fit_command(session, table))
    workspace.clear_received()
    session.discard(table)
    session.clear_uploads()
    assert not session.files("")
    design = panel_of(sequence_uses._design, context).command(session, fitted.name, *DESIGN)
    first = panel_of(sequence_uses._rounds, context).command(session, fitted.name, *ROUND, None)
    for command in (design, first):
        assert Path(command.settings["table"]).read_bytes() == TABLE
        assert command.settings["table"].endswith("/mine.csv")
    # the fit itself reads it too, also when it is resumed
    assert fitted.record["words"][2] == first.settings["table"]


def test_the_command_finds_the_table_of_an_example_itself(context, session, monkeypatch):
    fitted = recorded(context, session, monkeypatch, "bio fit", fit_command(session, "example:tdp43"))
    assert not fitted.inputs
    design = panel_of(sequence_uses._design, context).command(session, fitted.name, *DESIGN)
    assert design.settings["table"] is None


def round_of(context, session, monkeypatch, run, state):
    """Return a round from a run as the page starts it."""
    command = panel_of(sequence_uses._rounds, context).command(session, run, *ROUND, None)
    job = recorded(context, session, monkeypatch, "bio rounds", command, state=state, run=run)
    job.out.mkdir()
    return job


def test_a_round_that_failed_is_not_the_end(context, session, workspace, monkeypatch):
    table = session.take(dropped(workspace, "mine.csv"))
    run = recorded(context, session, monkeypatch, "bio fit", fit_command(session, table)).name
    file = dropped(workspace, "batch.csv")
    panel = panel_of(sequence_uses._rounds, context)
    panel.result = lambda job: f"<p>batch of {job.name}</p>"
    round_of(context, session, monkeypatch, run, "failed")
    with pytest.raises(SubquadError, match="no batch was proposed from this model yet"):
        panel.command(session, run, *ROUND, file)
    finished = round_of(context, session, monkeypatch, run, "finished")
    failed, stopped = (round_of(context, session, monkeypatch, run, state) for state in ("failed", "stopped"))
    second = recorded(context, session, monkeypatch, "bio fit", fit_command(session, table)).name
    other = round_of(context, session, monkeypatch, second, "finished")
    assert panel.command(session, run, *ROUND, file).continues == finished.out
    # pressed again with the same file
    assert panel.command(session, run, *ROUND, file).continues == finished.out
    for job in (failed, stopped):
        html = panel.html(session, job, job.state)
        assert html.index("The round before") < html.index(f"batch of {finished.name}")
        assert other.name not in html
    assert "It failed." in panel.html(session, failed, "failed")
    assert "The round before" not in panel.html(session, finished, "finished")


def test_epistasis_of_measurements_is_that_of_the_columns_of_the_fit(context, session, workspace, monkeypatch):
    table = session.take(dropped(workspace, "mine.csv"))
    panel = panel_of(sequence_uses._epistasis, context)
    for columns, settings in (
        (CHOSEN, {"target": "activity", "sequence": "sequence"}),
        (ALONE, {"target": None, "sequence": None}),
    ):
        fitted = recorded(context, session, monkeypatch, "bio fit", fit_command(session, table, columns))
        command = panel.command(session, fitted.name, "table")
        assert command.settings == settings
        assert command.words == ["bio", "epistasis", str(fitted.inputs[0])]


def test_measurements_of_models_that_were_not_fitted_here_are_not_available(context, session, tmp_path):
    own = Context(workspace=context.workspace, runner=context.runner, shared=[tmp_path], is_private=False)
    panel = panel_of(sequence_uses._epistasis, own)
    with pytest.raises(SubquadError, match="available only for models that were fitted on this page") as error:
        panel.command(session, str(tmp_path), "table")
    assert "no longer" not in str(error.value)
    assert panel.command(session, str(tmp_path), "model").words == ["bio", "epistasis", str(tmp_path)]


@pytest.mark.parametrize("text", ["ACDE\n" * 201, "A" * 100_001])
def test_too_many_pasted_sequences_are_refused_and_the_table_is_named(opened, session, monkeypatch, text):
    monkeypatch.setattr(sequence_uses, "run_of", lambda *_: session.folder)
    monkeypatch.setattr(sequence_uses, "call_in_process", lambda *_, **__: "predicted")
    html = opened["on_predict"]("run", text, None)
    assert "up to 200 lines with 100,000 letters can be pasted; drop a table under" in html
    assert opened["on_predict"]("run", "ACDE\n\n" * 200, None) == "predicted"


def shown(update):
    return update["value"] if isinstance(update, dict) else update


def first_sight(opened):
    """Return table, target columns, sequence column, group column and split of the page when it is opened."""
    *values, view = map(shown, opened["on_load"](None))
    assert 'role="alert"' not in view
    return values


def test_the_page_opens_with_the_table_and_columns_of_the_newest_fit(opened, context, session, workspace, monkeypatch):
    assert first_sight(opened) == ["example:tdp43", [], None, None, "random"]
    mine, later = (session.take(dropped(workspace, name)) for name in ("mine.csv", "later.csv"))
    os.utime(mine.parent, (0, 0))
    assert first_sight(opened) == [str(later), [], None, None, "random"]
    fitted = recorded(context, session, monkeypatch, "bio fit", fit_command(session, mine, CHOSEN))
    assert first_sight(opened) == [str(mine), *CHOSEN]
    # as after a new start of the server
    session.clear_uploads()
    assert first_sight(opened) == [str(fitted.inputs[0]), *CHOSEN]
    assert ("mine.csv (kept with its fit)", str(fitted.inputs[0])) in opened["on_load"](None)[0]["choices"]
    recorded(context, session, monkeypatch, "bio fit", fit_command(session, "example:tdp43"), created=time.time() + 9)
    assert first_sight(opened) == ["example:tdp43", [], None, None, "random"]
    # whoever chooses the table again finds its columns
    assert [*map(shown, opened["on_source"](str(fitted.inputs[0]), None))][:4] == CHOSEN


def test_a_kept_table_is_listed_once_and_can_be_fitted_again(opened, context, session, workspace, monkeypatch):
    mine = session.take(dropped(workspace, "mine.csv"))
    first = recorded(context, session, monkeypatch, "bio fit", fit_command(session, mine), created=1.0)
    assert len([name for name, _ in opened["on_load"](None)[0]["choices"] if "mine" in name]) == 1
    session.clear_uploads()
    second = recorded(context, session, monkeypatch, "bio fit", fit_command(session, first.inputs[0]), created=2.0)
    tables = [value for name, value in opened["on_load"](None)[0]["choices"] if "mine" in name]
    assert tables == [str(second.inputs[0])]
    context.runner.delete(first)
    assert second.inputs[0].read_bytes() == TABLE


def test_the_same_file_dropped_again_is_shown_again(opened, session, workspace):
    file = dropped(workspace, "mine.csv")
    _, source, _ = opened["on_upload"](None, str(file), "example:tdp43", *ALONE)
    _, again, view = opened["on_upload"](None, str(file), source["value"], *ALONE)
    assert again["value"] == source["value"]
    assert "activity" in view


def test_a_file_that_is_not_taken_leaves_nothing(opened, session, workspace):
    _, _, view = opened["on_upload"](None, str(dropped(workspace, "t.csv", bytes(range(256)) * 99)), None, *ALONE)
    assert "The file was not taken. t.csv: not a" in view
    assert not list(workspace.received.iterdir())
    assert not session.files("")


def test_a_table_that_is_dropped_again_and_cannot_be_read_stays(opened, session, workspace, monkeypatch):
    def refuse(*_):
        raise SubquadError("this took more than 60 seconds")

    file = dropped(workspace, "mine.csv")
    opened["on_upload"](None, str(file), "example:tdp43", *ALONE)
    monkeypatch.setattr("subquad.app.sequences.call_in_process", refuse)
    _, _, view = opened["on_upload"](None, str(file), "example:tdp43", *ALONE)
    assert "The file was not taken. this took more than 60 seconds" in view
    assert [path.name for path in session.files("")] == ["mine.csv"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_second_round_reads_the_measurements_of_an_uploaded_table(context, session, workspace):
    frame = pd.read_csv(resolve_table("example:tdp43"), usecols=["sequence", "toxicity"]).sample(300, random_state=0)
    table = session.take(dropped(workspace, "assay.csv", frame.to_csv(index=False).encode()))

    def finished(kind, command, **about):
        job = context.runner.start(session.new_job_folder(), kind, command)
        write_json(job.folder / "job.json", {**job.record, "about": {**job.about, **about}})
        while job.is_active:
            time.sleep(0.2)
        assert job.state == "finished", job.log
        return Job(job.folder)

    run = finished("bio fit", fit_command(session, table)).name
    workspace.clear_received()
    session.clear_uploads()
    panel = panel_of(sequence_uses._rounds, context)
    first = finished("bio rounds", panel.command(session, run, *ROUND, None), run=run)
    batch = pd.read_csv(first.out / "round-1" / "batch.csv")
    assert not set(batch["sequence"]) & set(frame["sequence"])
    batch["toxicity"] = np.linspace(-0.1, 0.1, len(batch))
    file = dropped(workspace, "batch.csv", batch.to_csv(index=False).encode())
    second = finished("bio rounds", panel.command(session, run, *ROUND, file), run=run)
    proposed = pd.read_csv(second.out / "round-2" / "batch.csv")
    assert len(pd.read_csv(second.out / "round-2" / "table.csv")) == len(frame) + len(batch)
    assert not set(proposed["sequence"]) & {*frame["sequence"], *batch["sequence"]}
    assert "variants to measure in round 2" in panel.html(session, second, "finished")
