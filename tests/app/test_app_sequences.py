"""The tab of sequences without a browser: tables that outlive their uploads, rounds, epistasis, and what is chosen."""

import io
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
from subquad.app.reading import Busy
from subquad.app.sequence_data import Choices
from subquad.app.sequences import _fit, build_sequences
from subquad.bio.data.examples import resolve_table
from subquad.errors import SubquadError
from subquad.runs.storage import read_json, write_json

TABLE = b"sequence,other,activity,error,batch\n" + b"".join(
    f"ACDE{a}{b},{k},{k / 7},{1 + k % 3},{k % 4}\n".encode()
    for k, (a, b) in enumerate((a, b) for a in "ACDEFG" for b in "HIKL")
)
ALONE = Choices()
CHOSEN = Choices(target=["activity"], sequence="sequence", error="error", split_by="group", group="batch")
WILD_TYPE = "MKVLAGTREW"
VARIANTS = b"variant,fitness,se\n" + b"".join(
    f"{WILD_TYPE[k]}{k + 21}{new},{k / 7 - j / 3},{0.1 + j / 9}\n".encode()
    for k in range(10)
    for j, new in enumerate("ACD")
    if new != WILD_TYPE[k]
)
NOTES = {"read me": ["by", "on"], "of": ["the lab", "a Monday"]}
GIVEN = Choices(wild_type=WILD_TYPE, first_position=21, lengths="auto", error="se")


@pytest.fixture
def opened(context, session, monkeypatch):
    """Functions of the page by their name, for one session."""
    for module in ("sequences", "sequence_uses", "deletion"):
        monkeypatch.setattr(f"subquad.app.{module}.session_of", lambda *_: session)
    monkeypatch.setattr("subquad.app.sequences.call_in_process", lambda function, *values, session: function(*values))
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
    return _fit(session, str(table), None, *columns, ["ridge"], "Quick look", 0, 0)


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


@pytest.mark.long
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
        (CHOSEN, {"target": "activity", "sequence": "sequence", "mutant": None, "wild_type": None, "offset": None}),
        (ALONE, dict.fromkeys(("target", "sequence", "mutant", "wild_type", "offset"))),
        (
            GIVEN._replace(mutant="sequence"),
            {"target": None, "sequence": None, "mutant": "sequence", "wild_type": WILD_TYPE, "offset": 20},
        ),
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


@pytest.mark.parametrize(
    ("text", "count"),
    [("ACDE\n" * 201, "201 lines with 1,005 letters"), ("A" * 100_001, "1 line with 100,001 letters")],
)
def test_too_many_pasted_sequences_are_refused_and_the_table_is_named(opened, session, monkeypatch, text, count):
    monkeypatch.setattr(sequence_uses, "run_of", lambda *_: session.folder)
    monkeypatch.setattr(sequence_uses, "call_in_process", lambda *_, **__: "predicted")
    html = opened["on_predict"]("run", text, None)
    assert f"{count}, and up to 200 lines with 100,000 letters can be pasted; drop a table under" in html
    assert opened["on_predict"]("run", "ACDE\n\n" * 200, None) == "<p>Fitted model: run</p>\npredicted"


def shown(update):
    return update["value"] if isinstance(update, dict) else update


def first_sight(opened):
    """Return the table and what is chosen for it when the page is opened."""
    source, *values, view, problem = map(shown, opened["on_load"](None))
    assert 'role="alert"' not in view
    assert problem is None
    return source, Choices(*values)


@pytest.mark.long
def test_the_page_opens_with_the_table_and_columns_of_the_newest_fit(opened, context, session, workspace, monkeypatch):
    nothing = Choices(target=[], wild_type="", lengths="auto", split_by="random")
    chosen = CHOSEN._replace(wild_type="", lengths="auto")
    assert first_sight(opened) == ("example:tdp43", nothing)
    mine, later = (session.take(dropped(workspace, name)) for name in ("mine.csv", "later.csv"))
    os.utime(mine.parent, (0, 0))
    assert first_sight(opened) == (str(later), nothing)
    fitted = recorded(context, session, monkeypatch, "bio fit", fit_command(session, mine, CHOSEN))
    assert first_sight(opened) == (str(mine), chosen)
    # as after a new start of the server
    session.clear_uploads()
    assert first_sight(opened) == (str(fitted.inputs[0]), chosen)
    assert ("mine.csv (kept with its fit)", str(fitted.inputs[0])) in opened["on_load"](None)[0]["choices"]
    recorded(context, session, monkeypatch, "bio fit", fit_command(session, "example:tdp43"), created=time.time() + 9)
    assert first_sight(opened) == ("example:tdp43", nothing)
    # whoever chooses the table again finds its columns
    assert Choices(*[*map(shown, opened["on_source"](str(fitted.inputs[0]), None))][:-2]) == chosen


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


def test_the_same_file_dropped_again_stays_chosen_and_its_refusal_goes(opened, session, workspace):
    file = dropped(workspace, "mine.csv")
    _, source, _ = opened["on_upload"](str(file), None)
    _, again, refused = opened["on_upload"](str(file), None)
    assert again["value"] == source["value"]
    assert refused == ""


def test_a_file_that_is_not_taken_leaves_nothing(opened, session, workspace):
    _, source, refused = opened["on_upload"](str(dropped(workspace, "t.csv", bytes(range(256)) * 99)), None)
    assert "The file was not taken. t.csv: " in refused
    assert "value" not in source
    assert not list(workspace.received.iterdir())
    assert not session.files("")


def test_a_table_that_is_dropped_again_and_cannot_be_read_stays(opened, session, workspace, monkeypatch):
    def refuse(*_, session):
        raise SubquadError("this took more than 60 seconds")

    file = dropped(workspace, "mine.csv")
    opened["on_upload"](str(file), None)
    monkeypatch.setattr("subquad.app.sequences.call_in_process", refuse)
    _, _, refused = opened["on_upload"](str(file), None)
    assert "The file was not taken. this took more than 60 seconds" in refused
    assert [path.name for path in session.files("")] == ["mine.csv"]


def test_a_busy_page_keeps_the_table_that_is_dropped_and_what_is_chosen(opened, session, workspace, monkeypatch):
    def refuse(*_, session):
        raise Busy("the page reads files of many users now; try again in a minute")

    monkeypatch.setattr("subquad.app.sequences.call_in_process", refuse)
    _, source, refused = opened["on_upload"](str(dropped(workspace, "mine.csv")), None)
    assert (source["value"], refused) == (str(session.files("")[0]), "")
    chosen = Choices(sheet="Sheet1", target=["y", "z"], mutant="variant", error="se", split_by="group", group="kin")
    *columns, view, problem = opened["on_sheet"](None, source["value"], *chosen)
    assert "reads files of many users now; try again in a minute" in view
    assert problem is None
    assert Choices(*map(shown, columns)) == chosen._replace(wild_type="", lengths="auto")
    assert set(columns[1]["choices"]) == {"y", "z", "variant", "se", "kin"}


def test_variants_are_described_and_fitted_with_the_wild_type_that_is_pasted(opened, session, workspace):
    table = session.take(dropped(workspace, "scan.csv", VARIANTS))
    *_, view, (_, problem) = map(shown, opened["on_source"](str(table), None))
    assert "column &#39;variant&#39; holds variants; paste their wild type under &#34;Columns and split&#34;" in view
    assert "--" not in view
    # what pasted text looks like
    for text in (WILD_TYPE, " mkvla\ngtrew ", f">sp|P1|X\n{WILD_TYPE}"):
        view, problem = opened["on_columns"](None, str(table), *GIVEN._replace(wild_type=text, target=["fitness"]))
        assert problem is None, view
        assert "<dd>29</dd>" in view
    command = fit_command(session, table, GIVEN)
    assert {name: command.settings[name] for name in ("wild_type", "offset", "error")} == {
        "wild_type": WILD_TYPE, "offset": 20, "error": "se",
    }  # fmt: skip
    assert command.about["first_position"] == 21


def test_a_wrong_first_position_is_corrected_in_words_of_the_page(opened, session, workspace):
    table = session.take(dropped(workspace, "scan.csv", VARIANTS))
    view, (_, problem) = opened["on_columns"](None, str(table), *GIVEN._replace(first_position=1))
    assert "--offset 20 fits 29 of 29\n" in problem
    assert "first position 21 fits 29 of 29; set it under &#34;Columns and split&#34;" in view
    view, _ = opened["on_columns"](None, str(table), *GIVEN._replace(first_position=None))
    assert "first position 21 fits all 29 rows" in view


def test_a_wild_type_is_no_path(opened, session):
    view, _ = opened["on_columns"](None, "example:tdp43", *Choices(wild_type="/etc/passwd"))
    assert "is not a sequence; give letters only" in view
    with pytest.raises(SubquadError, match="is not a sequence; give letters only"):
        fit_command(session, "example:tdp43", Choices(wild_type="/etc/passwd"))


def test_a_table_whose_description_failed_is_not_fitted_until_something_changes(opened, session, workspace):
    table = session.take(dropped(workspace, "few.csv", b"sequence,y\nACDEF,1\nACDEG,2\n"))
    *chosen, view, problem = map(shown, opened["on_source"](str(table), None))
    assert "at least 10 are needed" in view
    more = (["ridge"], "Quick look", 0, 0)
    with pytest.raises(SubquadError, match="at least 10 are needed"):
        _fit(session, str(table), problem, *chosen, *more)
    assert _fit(session, "example:tdp43", problem, *chosen, *more).title == "Fit of tdp43"
    assert _fit(session, str(table), problem, *CHOSEN, *more).title == "Fit of few.csv"


def test_a_table_that_takes_too_long_to_describe_can_be_fitted(opened, session, monkeypatch):
    def refuse(*_, session):
        raise SubquadError("this took more than 60 seconds")

    monkeypatch.setattr("subquad.app.sequences.call_in_process", refuse)
    view, problem = opened["on_columns"](None, "example:tdp43", *ALONE)
    assert "This took more than 60 seconds" in view
    assert problem is None


def workbook(**sheets):
    content = io.BytesIO()
    with pd.ExcelWriter(content) as file:
        for name, rows in sheets.items():
            pd.DataFrame(rows).to_excel(file, sheet_name=name, index=False)
    return content.getvalue()


@pytest.mark.long
def test_the_sheet_with_the_variants_is_found_and_another_can_be_chosen(
    opened, context, session, workspace, monkeypatch
):
    rows = pd.read_csv(io.BytesIO(VARIANTS))
    construct = [{"name": "construct", "sequence": WILD_TYPE}]
    content = workbook(Notes=NOTES, Construct=construct, Data=rows, Later=rows.assign(fitness=1.0))
    _, source, refused = opened["on_upload"](str(dropped(workspace, "dms.xlsx", content)), None)
    assert refused == ""
    sheet, target, *_ = opened["on_source"](source["value"], None)
    assert (sheet["value"], sheet["visible"]) == ("Data", True)
    assert sheet["choices"] == ["Notes", "Construct", "Data", "Later"]
    assert target["choices"] == ["variant", "fitness", "se"]
    *others, view, _ = map(shown, opened["on_sheet"](None, source["value"], *GIVEN._replace(sheet="Notes")))
    # columns of another sheet are not chosen, and what is pasted stays
    assert Choices(*others) == GIVEN._replace(sheet="Notes", target=[], error=None, split_by="random")
    assert "dms.xlsx, sheet &#39;Notes&#39;: no column looks like sequences or variants (read me, of)" in view
    assert "choose the column in &#34;Column of the sequences&#34; or &#34;Column of the variants&#34;" in view
    assert "--" not in view
    fitted = recorded(
        context, session, monkeypatch, "bio fit", fit_command(session, source["value"], GIVEN._replace(sheet="Data"))
    )
    # the job reads its own copy, in its own folder
    assert fitted.record["words"][2] == "inputs/dms.xlsx#Data"
    assert (fitted.folder / "inputs" / "dms.xlsx").read_bytes() == content
    for builder, values in ((sequence_uses._design, DESIGN), (sequence_uses._rounds, (*ROUND, None))):
        command = panel_of(builder, context).command(session, fitted.name, *values)
        assert command.settings["table"] == f"{fitted.inputs[0]}#Data"
    command = panel_of(sequence_uses._epistasis, context).command(session, fitted.name, "table")
    assert command.words[2] == f"{fitted.inputs[0]}#Data"
    # opened again, the page shows the sheet of the fit
    sheet, *_ = opened["on_source"](str(fitted.inputs[0]), None)
    assert sheet["value"] == "Data"


def test_a_table_to_predict_is_read_from_the_sheet_with_sequences(context, session, workspace):
    panel = panel_of(sequence_uses._predict, Context(workspace=context.workspace, runner=context.runner))
    content = workbook(Notes=NOTES, Data=pd.read_csv(io.BytesIO(TABLE)))
    file = dropped(workspace, "new.xlsx", content)
    command = panel.command(session, "example:tdp43-model", str(file))
    assert command.words[3].endswith("/new.xlsx#Data")


def finished(context, session, kind, command, **about):
    """Return a job whose command has been run."""
    job = context.runner.start(session.new_job_folder(), kind, command)
    write_json(job.folder / "job.json", {**job.record, "about": {**job.about, **about}})
    while job.is_active:
        time.sleep(0.2)
    assert job.state == "finished", job.log
    return Job(job.folder)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_variants_on_a_sheet_are_fitted_and_used_with_the_columns_of_the_fit(context, session, workspace):
    rows = pd.read_csv(io.BytesIO(VARIANTS))
    double = [(f"{WILD_TYPE[k]}{k + 21}H:{WILD_TYPE[j]}{j + 21}I", k * j / 50.0, 0.2) for k in range(5) for j in (7, 9)]
    single = [(f"{WILD_TYPE[k]}{k + 21}{new}", k / 9.0, 0.2) for k in range(10) for new in "HI"]
    rows = pd.concat([rows, pd.DataFrame([*double, *single], columns=rows.columns)])
    table = session.take(dropped(workspace, "dms.xlsx", workbook(Notes=NOTES, Data=rows)))
    fitted = finished(context, session, "bio fit", fit_command(session, table, GIVEN._replace(sheet="Data")))
    session.discard(table)
    settings = read_json(fitted.out / "config.json")["subquad"]["settings"]
    assert (settings["wild_type"], settings["offset"], settings["error"]) == (WILD_TYPE, 20, "se")
    # the column of standard errors would be a second one of measurements
    command = panel_of(sequence_uses._epistasis, context).command(session, fitted.name, "table")
    assert command.settings["target"] == "fitness"
    pairs = pd.read_csv(finished(context, session, "bio epistasis", command).out / "pairs.csv")
    assert {21, 30} <= {*pairs["i"], *pairs["j"]}
    command = panel_of(sequence_uses._design, context).command(session, fitted.name, *DESIGN)
    designs = pd.read_csv(finished(context, session, "bio design", command).out / "designs.csv")
    assert not {*designs["mutants"]} & {*rows["variant"]}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_second_round_reads_the_measurements_of_an_uploaded_table(context, session, workspace):
    frame = pd.read_csv(resolve_table("example:tdp43"), usecols=["sequence", "toxicity"]).sample(300, random_state=0)
    table = session.take(dropped(workspace, "assay.csv", frame.to_csv(index=False).encode()))

    run = finished(context, session, "bio fit", fit_command(session, table)).name
    workspace.clear_received()
    session.clear_uploads()
    panel = panel_of(sequence_uses._rounds, context)
    first = finished(context, session, "bio rounds", panel.command(session, run, *ROUND, None), run=run)
    batch = pd.read_csv(first.out / "round-1" / "batch.csv")
    assert not set(batch["sequence"]) & set(frame["sequence"])
    batch["toxicity"] = np.linspace(-0.1, 0.1, len(batch))
    file = dropped(workspace, "batch.csv", batch.to_csv(index=False).encode())
    second = finished(context, session, "bio rounds", panel.command(session, run, *ROUND, file), run=run)
    proposed = pd.read_csv(second.out / "round-2" / "batch.csv")
    assert len(pd.read_csv(second.out / "round-2" / "table.csv")) == len(frame) + len(batch)
    assert not set(proposed["sequence"]) & {*frame["sequence"], *batch["sequence"]}
    assert "variants to measure in round 2" in panel.html(session, second, "finished")
