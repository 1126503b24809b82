"""The page without a browser: what its parts make of files, jobs and mistakes."""

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pandas as pd
import pytest

gr = pytest.importorskip("gradio")

from subquad.app import page as page_module
from subquad.app import reading, sequence_uses
from subquad.app.jet_results import performance
from subquad.app.language_texts import help_topics
from subquad.app.page import TABS, build_page, look
from subquad.app.panels import Context, Panel, run_of
from subquad.app.runs import runs_of
from subquad.app.sequence_data import Choices, columns_of, describe
from subquad.app.sequence_results import fit_progress, fit_result, predict_sequences, scan_result
from subquad.app.sequences import _fit, _table
from subquad.bio.data.examples import resolve_table
from subquad.errors import SubquadError
from subquad.runs.examples import EXAMPLE_RUNS, run_folder

NOTHING = Choices()


def upload(workspace, session, name, content):
    folder = workspace.received / name.replace(".", "-")
    folder.mkdir()
    (folder / name).write_bytes(content)
    return session.take(folder / name)


def some_rows(count):
    frame = pd.read_csv(resolve_table("example:tdp43"), usecols=["sequence", "toxicity"])
    return frame.sample(count, random_state=0)


def test_nothing_on_the_page_comes_from_another_host():
    style = look()
    assert "http" not in style["head"]
    assert not style["theme"]._stylesheets
    assert "url(" not in style["head"]


def test_the_page_has_a_tab_for_each_field(context):
    page = build_page(context)
    labels = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert {"Sequences", "Language", "Jets", "Single mutants", "Chat side by side", "Single jets"} <= set(labels)
    assert not page.analytics_enabled
    assert all(function.api_visibility == "private" for function in page.fns.values() if function.fn is not None)


def test_events_that_wait_are_limited(context):
    page = build_page(context)
    assert page._queue.max_size == page_module.MOST_EVENTS
    # all that may wait for readers leave room for others, of events and of threads
    assert page._queue.default_concurrency_limit > reading.MOST_OF_ALL
    assert page.max_threads > 2 * reading.MOST_OF_ALL


def test_a_field_that_is_not_installed_says_how_to_install_it(monkeypatch, context):
    monkeypatch.setattr(page_module, "find_spec", lambda name: None if name == "gguf" else True)
    assert TABS["bio"].missing is None
    assert TABS["llm"].missing == "gguf is not installed; install it with: pip install 'subquad[llm]'"
    page = build_page(context)
    labels = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert "Language" in labels
    assert "Chat side by side" not in labels


def test_a_tab_may_need_an_extra_that_is_named_otherwise(monkeypatch, context):
    tab = TABS["bio"]._replace(extra="rna", packages=("no_such_package",))
    monkeypatch.setattr(page_module, "TABS", {"folding": tab})
    page = build_page(context)
    ids = [block.elem_id for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert ids == ["sq-folding"]
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert any("no_such_package is not installed" in text and "subquad[rna]" in text for text in map(str, texts))


def test_a_table_is_described_with_its_split_and_leakage(workspace, session):
    path = upload(workspace, session, "t.csv.gz", gzip.compress(some_rows(300).to_csv(index=False).encode()))
    html = describe(path, NOTHING.settings())
    for text in ("toxicity", "column &#39;sequence&#39; (inferred)", "measurements", "Split and leakage", "train rows"):
        assert text in html, text
    assert "--" not in html
    assert columns_of(path) == ["sequence", "toxicity"]


def test_wrong_rows_are_listed_by_number(workspace, session):
    frame = some_rows(60).astype(str)
    frame.iloc[4, 1], frame.iloc[9, 0] = "high", "NOT A SEQUENCE 7"
    path = upload(workspace, session, "t.csv", frame.to_csv(index=False).encode())
    with pytest.raises(SubquadError) as error:
        describe(path, NOTHING.settings())
    assert "row 5: 'high'" in str(error.value)
    assert "row 10" in str(error.value)


@pytest.mark.parametrize("content", [bytes(range(256)) * 400, b"\x80\x04\x95pickle" * 99, b"PK\x03\x04" + b"\0" * 999])
def test_nonsense_is_refused_with_a_sentence(workspace, session, content):
    path = upload(workspace, session, "t.csv", content)
    with pytest.raises(SubquadError, match=r"t\.csv: .*not a"):
        columns_of(path)


def test_only_uploads_and_examples_are_opened(workspace, session, tmp_path):
    (tmp_path / "secret.csv").write_text("sequence,y\nACD,1\n")
    with pytest.raises(SubquadError, match="no longer here"):
        _table(session, str(tmp_path / "secret.csv"))
    assert _table(session, "example:tdp43") == "example:tdp43"


def test_a_page_for_other_computers_opens_shared_folders_only(context, session, tmp_path):
    with pytest.raises(SubquadError, match="opens folders named by --runs only"):
        run_of(context, session, str(tmp_path), "bio fit")
    with pytest.raises(SubquadError, match="no run is chosen"):
        run_of(context, session, None, "bio fit")
    shared = Context(workspace=context.workspace, runner=context.runner, shared=(tmp_path,), is_private=False)
    assert run_of(shared, session, str(tmp_path), "bio fit") == tmp_path


def test_what_ships_with_the_package_is_offered(context, session):
    folders = {name: run_folder(name) for name in EXAMPLE_RUNS}
    offered = Context(workspace=context.workspace, runner=context.runner, shared=[*folders.values()], is_private=False)
    for field, name in (("bio", "example:tdp43-model"), ("llm", "example:linear-smollm2"), ("hep", "example:tagger")):
        assert runs_of(offered, session, field, f"{field} fit") == [(name, str(folders[name]))]
    folder = folders["example:tagger"]
    assert "rejection" in performance(folder, "Hbb").lower()


def test_settings_that_cannot_work_are_refused_before_a_job_is_started(session):
    with pytest.raises(SubquadError, match="needs a group column"):
        _fit(session, "example:tdp43", None, *Choices(split_by="group"), ["ridge"], "Standard", 0, 0)


def test_the_lengths_of_the_sequences_reach_the_command(session):
    more = (["ridge"], "Standard", 0, 0)
    for chosen, wanted in ((NOTHING, "auto"), (Choices(lengths="vary"), "vary")):
        assert _fit(session, "example:tdp43", None, *chosen, *more).settings["lengths"] == wanted


def test_the_held_out_text_is_the_end_of_thehelp_topics(session):
    whole, end = help_topics(session).read_text(), help_topics(session, is_held_out=True).read_text()
    assert whole.endswith(end)
    assert 0.09 < len(end) / len(whole) < 0.11


def finished(context, session, kind, command):
    job = context.runner.start(session.new_job_folder(), kind, command)
    while job.is_active:
        time.sleep(0.2)
    assert job.state == "finished", job.log
    return job


@pytest.fixture
def predict(context, session, monkeypatch):
    """Return a function that returns the page's handler of pasted text, with a function in place of the prediction."""
    monkeypatch.setattr(sequence_uses, "run_of", lambda *_: session.folder)
    monkeypatch.setattr(sequence_uses, "session_of", lambda *_: session)
    page = build_page(context)

    def made(in_place):
        monkeypatch.setattr(sequence_uses, "call_in_process", in_place)
        return next(own.fn for own in page.fns.values() if getattr(own.fn, "__name__", "") == "on_predict")

    return made


def test_predictions_of_one_page_at_the_same_time_do_not_share_a_file(session, predict):
    both = Barrier(2, timeout=30)

    def read(function, run, text, path, *, session, seconds):
        assert function is predict_sequences
        assert seconds == 120
        path.write_text(text)
        both.wait()
        found = path.read_text()
        both.wait()
        return found

    on_predict = predict(read)
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda text: on_predict("run", text, None), ("ACDE", "FGHI"))
    assert "ACDE" in first
    assert "FGHI" in second
    assert not list((session.folder / "pasted").iterdir())


def test_an_error_in_pasted_sequences_names_no_file_and_leaves_none(session, predict):
    def refuse(_function, _run, _text, path, *, session, seconds):
        path.write_text("A!")
        raise SubquadError(f"{path}: row 1: '!' is no letter")

    shown = predict(refuse)("run", "A!", None)
    assert "Row 1" in shown
    assert "pasted" not in shown
    assert not list((session.folder / "pasted").iterdir())


def test_the_columns_of_pasted_text_are_no_matter_of_its_user(predict):
    def refuse(_function, _run, _text, path, *, session, seconds):
        raise SubquadError(
            f"{path}: the model was trained on column 'a', and this table has 'mutant'; give the table with that "
            f"column, or name the column of the sequences with --sequence\n{path}: row 1: 'A2G' is no sequence"
        )

    shown = predict(refuse)("run", "A2G", None)
    assert "Row 1" in shown
    assert "column" not in shown


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_table_becomes_a_model_with_maps_and_predictions(context, session):
    from subquad.app.jobs import Command

    models = ["ridge", "lyra-additive"]
    command = _fit(session, "example:tdp43", None, *NOTHING, models, "Quick look", 500, 0)
    job = finished(context, session, "bio fit", command)
    (label, name), *others = runs_of(context, session, "bio", "bio fit")
    assert (name, others) == (job.name, [])
    assert label.startswith("Fit of tdp43")
    progress = fit_progress(job)
    assert "ridge" in progress
    assert "validation Spearman" in progress
    assert 'role="img"' in progress
    panel = Panel(context=context, kind="bio fit", action="", command=_fit, result=fit_result, needs_run=False)
    html = panel.html(session, job, "finished")
    assert "Spearman" in html
    assert f"/files/{job.name}/out/report.html" in html
    assert f"/archives/{job.name}.zip" in html
    # a floor of quality, so that a broken model cannot pass
    metrics = pd.read_json(job.out / "metrics.json", typ="series")
    assert metrics["test"]["ridge"]["spearman"] > 0.7
    pasted = session.folder / "pasted.txt"
    shown = predict_sequences(job.out, "M33K\nN30D:M33K", pasted)
    assert "prediction" in shown
    assert "90 % from" in shown
    with pytest.raises(SubquadError, match="expected"):
        predict_sequences(job.out, "A33K", pasted)
    words = ["bio", "scan", str(run_of(context, session, job.name, "bio fit"))]
    scan = finished(context, session, "bio scan", Command(words=words, settings={}, title="Scan"))
    cells = scan_result(scan)
    positions = pd.read_csv(scan.out / "scan.csv")["position"].nunique()
    assert "Difference of toxicity to the wild type:" in cells
    assert cells.count("<rect") == 21 * positions > 21 * 40
    assert "M33K: predicted" in cells
    assert "; measured" in cells
    assert "; not measured" in cells


@pytest.mark.long
def test_a_job_that_fails_shows_a_sentence(workspace, context, session):
    path = upload(workspace, session, "t.csv", b"sequence,y\n" + b"ACDEF,1\n" * 20)
    command = _fit(session, str(path), None, *NOTHING, ["ridge"], "Quick look", 0, 0)
    job = context.runner.start(session.new_job_folder(), "bio fit", command)
    while job.is_active:
        time.sleep(0.2)
    panel = Panel(context=context, kind="bio fit", action="", command=_fit, result=fit_result, needs_run=False)
    html = panel.html(session, job, job.state)
    assert job.state == "failed"
    assert 'role="alert"' in html
    assert "Traceback" not in html
    assert str(workspace.root) not in html
