"""`generate --save-state` and `--state`: a text is read once, and the state goes with one model only."""

import io
import shutil
import sys

import pytest
import torch
from support.llm_models import SMALL

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.serving.settings import GenerateSettings
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

TEXT, QUESTION = "the old bird in the house by the river", " and the old house"
GREEDY = GenerateSettings(temperature=0.0, max_new_tokens=7)
ONE = GenerateSettings(temperature=0.0, max_new_tokens=1)


@pytest.fixture(scope="module")
def state(run, tmp_path_factory):
    """Return the file of the state after `TEXT`."""
    path = tmp_path_factory.mktemp("state") / "text.state"
    subquad.llm.generate(run, TEXT, ONE, save_state=path)
    return path


def test_a_prompt_after_a_saved_state_continues_as_after_the_whole_text(run, state):
    whole = subquad.llm.generate(run, TEXT + QUESTION, GREEDY)
    assert subquad.llm.generate(run, QUESTION, GREEDY, state=state) == whole
    # the file was not changed by its use
    assert subquad.llm.generate(run, QUESTION, GREEDY, state=state) == whole


def test_the_state_matters_for_what_follows(run, state):
    tensors, metadata = read_tensors_and_metadata(state)
    other = state.with_name("other.state")
    write_tensors(other, {name: tensor if "length" in name or name == "tokens" else torch.zeros_like(tensor)
                          for name, tensor in tensors.items()}, metadata)  # fmt: skip
    settings = GenerateSettings(temperature=0.0, max_new_tokens=9)
    texts = {subquad.llm.generate(run, QUESTION, settings, state=path) for path in (state, other)}
    assert len(texts) == 2


def test_a_state_can_be_continued_and_saved_again(run, state, tmp_path):
    subquad.llm.generate(run, QUESTION, ONE, state=state, save_state=tmp_path / "longer")
    whole = subquad.llm.generate(run, TEXT + QUESTION + QUESTION, GREEDY)
    assert subquad.llm.generate(run, QUESTION, GREEDY, state=tmp_path / "longer") == whole


def test_a_state_has_the_same_size_for_any_length_of_text(run, state, tmp_path):
    subquad.llm.generate(run, TEXT + " and" + TEXT, ONE, save_state=tmp_path / "long")
    sizes = [
        sum(tensor.numel() for name, tensor in read_tensors_and_metadata(path)[0].items() if name != "tokens")
        for path in (state, tmp_path / "long")
    ]
    assert sizes[0] == sizes[1]


def test_the_command_reads_a_prompt_from_standard_input(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    command = ["llm", "generate", str(run), "--max-new-tokens", "1"]
    assert main([*command, "--save-state", str(tmp_path / "state")]) == 0
    # a text that is only read is not repeated
    assert TEXT not in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(TEXT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT * 99))
    assert main(command) == 2
    found = capsys.readouterr()
    assert not found.out
    assert "the prompt has" in found.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("half of \udce9"))
    assert main(command) == 2
    assert "standard input: the byte at character 8 is not UTF-8; give the text as UTF-8" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    assert main([*command, "--save-state", str(tmp_path / "state")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_the_text_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.commands.generate.load_for_generation", lambda *_: pytest.fail("it was opened"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(SubquadError, match="--save-state must be a file, and this is a folder"):
        subquad.llm.generate(run, TEXT, ONE, save_state=tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(SubquadError, match="exists already; choose another --save-state, or overwrite it with --force"):
        subquad.llm.generate(run, TEXT, ONE, save_state=tmp_path / "file")
    with pytest.raises(SubquadError, match="no such file"):
        subquad.llm.generate(run, TEXT, ONE, state=tmp_path / "missing")


@pytest.mark.long
def test_a_state_of_another_model_is_refused(run, state, folder, text, tmp_path):
    subquad.llm.linearize(folder, text, SMALL, out=tmp_path / "other", seed=1, quiet=True)
    with pytest.raises(SubquadError, match="the state of another model than"):
        subquad.llm.generate(tmp_path / "other", QUESTION, state=state)
    # a copy is the same model
    shutil.copytree(run, tmp_path / "copy")
    assert subquad.llm.generate(tmp_path / "copy", QUESTION, GREEDY, state=state)


def test_a_state_in_another_type_is_refused(run, state):
    with pytest.raises(SubquadError, match="saved with --dtype float32; use that here too"):
        subquad.llm.generate(run, QUESTION, GenerateSettings(dtype="bfloat16"), state=state)


def test_other_files_are_refused(run, state, tmp_path):
    with pytest.raises(SubquadError, match="no such file"):
        subquad.llm.generate(run, QUESTION, state=tmp_path / "missing")
    with pytest.raises(SubquadError, match="not a state"):
        subquad.llm.generate(run, QUESTION, state=run / "model.safetensors")
    tensors, metadata = read_tensors_and_metadata(state)
    tensors.pop("layers.0.total")
    write_tensors(tmp_path / "cut", tensors, metadata)
    with pytest.raises(SubquadError, match=r"1 tensors are missing, such as layers.0.total"):
        subquad.llm.generate(run, QUESTION, state=tmp_path / "cut")
    tensors, metadata = read_tensors_and_metadata(state)
    tensors["layers.1.values"] = tensors["layers.1.values"][..., :1].contiguous()
    write_tensors(tmp_path / "small", tensors, metadata)
    with pytest.raises(SubquadError, match=r"layers.1.values does not fit the model"):
        subquad.llm.generate(run, QUESTION, state=tmp_path / "small")
    (tmp_path / "short").write_bytes(state.read_bytes()[:5000])
    with pytest.raises(SubquadError, match="cut short"):
        subquad.llm.generate(run, QUESTION, state=tmp_path / "short")


def test_a_model_with_softmax_layers_has_no_state_to_save(folder, text, tmp_path):
    from dataclasses import replace

    settings = replace(SMALL, attention=replace(SMALL.attention, softmax_layers=(0,)))
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "run", quiet=True)
    with pytest.raises(SubquadError, match="kept their own attention and its key-value cache"):
        subquad.llm.generate(tmp_path / "run", TEXT, ONE, save_state=tmp_path / "state")
