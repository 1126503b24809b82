"""`generate --save-state` and `--state`: a text is read once, and the state goes with one model only."""

import io
import sys

import pytest
import torch
from support.llm_models import byte_tokenizer, linear_model

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.serving.settings import GenerateSettings
from subquad.runs.storage import read_tensors, read_tensors_and_metadata, write_tensors

TEXT, QUESTION = "the old bird in the house by the river", " and the old house"
GREEDY = GenerateSettings(temperature=0.0, max_new_tokens=7)
ONE = GenerateSettings(temperature=0.0, max_new_tokens=1)


def saved(folder, tokenizer, **model):
    linear_model(**model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """Return the folder of a linearized model."""
    return saved(tmp_path_factory.mktemp("model") / "linear", tokenizer, cache=5)


@pytest.fixture(scope="module")
def state(model, tmp_path_factory):
    """Return the file of the state after `TEXT`."""
    path = tmp_path_factory.mktemp("state") / "text.state"
    subquad.llm.generate(model, TEXT, ONE, save_state=path)
    return path


def test_a_prompt_after_a_saved_state_continues_as_after_the_whole_text(model, state, tmp_path):
    whole = subquad.llm.generate(model, TEXT + QUESTION, GREEDY)
    assert subquad.llm.generate(model, QUESTION, GREEDY, state=state) == whole
    # the file was not changed by its use; the state can be continued and saved again
    assert subquad.llm.generate(model, QUESTION, GREEDY, state=state, save_state=tmp_path / "longer") == whole
    whole = subquad.llm.generate(model, TEXT + QUESTION + QUESTION, GREEDY)
    assert subquad.llm.generate(model, QUESTION, GREEDY, state=tmp_path / "longer") == whole
    sizes = [
        sum(tensor.numel() for name, tensor in read_tensors(path).items() if name != "tokens")
        for path in (state, tmp_path / "longer")
    ]
    assert sizes[0] == sizes[1]


def test_the_state_matters_for_what_follows(model, state, tmp_path):
    tensors, metadata = read_tensors_and_metadata(state)
    changed = {
        name: tensor if "length" in name or name == "tokens" else torch.zeros_like(tensor)
        for name, tensor in tensors.items()
    }
    write_tensors(tmp_path / "zero", changed, metadata)
    texts = {subquad.llm.generate(model, QUESTION, GREEDY, state=path) for path in (state, tmp_path / "zero")}
    assert len(texts) == 2


def test_the_command_reads_a_prompt_from_standard_input(model, tmp_path, capsys, monkeypatch):
    command = ["llm", "generate", str(model), "--max-new-tokens", "1"]

    def run(text, *flags):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return main([*command, *flags]), *capsys.readouterr()

    status, shown, _ = run(TEXT, "--save-state", str(tmp_path / "state"))
    # a text that is only read is not repeated
    assert (status, TEXT in shown) == (0, False)
    status, shown, _ = run(TEXT)
    assert (status, shown.startswith(TEXT)) == (0, True)
    status, shown, message = run("the bird " * 60_000)
    assert (status, shown, "exceeds the model's 100,003" in message) == (2, "", True)
    status, _, message = run(TEXT, "--save-state", str(tmp_path / "state"))
    assert (status, "exists already" in message) == (2, True)
    assert run(TEXT, "--save-state", str(tmp_path / "state"), "--force")[0] == 0
    status, _, message = run(TEXT, "--state", str(tmp_path / "missing"))
    assert (status, "missing: no such file" in message) == (2, True)


def test_a_state_of_another_model_or_type_is_refused(model, state, tokenizer, tmp_path):
    other = saved(tmp_path / "other", tokenizer, cache=5, seed=1)
    with pytest.raises(SubquadError, match=r"not a state of the model .*other"):
        subquad.llm.generate(other, QUESTION, state=state)
    with pytest.raises(SubquadError, match=r"float32.*bfloat16"):
        subquad.llm.generate(model, QUESTION, GenerateSettings(dtype="bfloat16"), state=state)
    with pytest.raises(SubquadError, match="not a state"):
        subquad.llm.generate(model, QUESTION, state=model / "model.safetensors")
    mixed = saved(tmp_path / "mixed", tokenizer, softmax_layers=(0,))
    with pytest.raises(SubquadError, match="keep softmax attention"):
        subquad.llm.generate(mixed, TEXT, ONE, save_state=tmp_path / "state")


def test_a_damaged_state_is_refused(model, state, tmp_path):
    (tmp_path / "short").write_bytes(state.read_bytes()[:5000])
    tensors, metadata = read_tensors_and_metadata(state)
    values = tensors["layers.1.values"][..., :1].contiguous()
    write_tensors(tmp_path / "small", {**tensors, "layers.1.values": values}, metadata)
    del tensors["layers.0.total"]
    write_tensors(tmp_path / "cut", tensors, metadata)
    for name in ("short", "cut", "small"):
        with pytest.raises(SubquadError, match=f"{name}: cannot be read"):
            subquad.llm.generate(model, QUESTION, state=tmp_path / name)
