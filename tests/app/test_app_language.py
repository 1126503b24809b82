"""The tab of language models without a browser: which model is linearized, and on what."""

import os
import re

import pytest

gr = pytest.importorskip("gradio")

from subquad.app.jobs import JobRunner
from subquad.app.language import _linearization
from subquad.app.panels import Context
from subquad.errors import SubquadError


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
