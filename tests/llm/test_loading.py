"""Opening models by folder or name: which kind of checkpoint it is, and what to do with one that is not linearized."""

import json

import pytest

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import checkpoint_kind, locate
from subquad.runs.loading import load_run


def write_config(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"model_type": "llama"}, "softmax"),
        ({"model_type": "subquad", "base_model_type": "llama"}, "linearized"),
        ({"model_type": "subquad_adapter", "subquad": {}}, "adapter"),
        ({"subquad": {"kind": "llm"}}, "unfinished"),
    ],
)
def test_the_kind_of_a_checkpoint_is_read_from_its_config(tmp_path, content, kind):
    assert checkpoint_kind(write_config(tmp_path / "model", **content)) == kind


def test_a_gguf_file_and_smollm2_are_softmax_checkpoints_and_an_empty_folder_is_none(tmp_path):
    assert checkpoint_kind(tmp_path / "model.gguf") == checkpoint_kind("smollm2") == "softmax"
    assert checkpoint_kind(tmp_path) is None


@pytest.mark.parametrize("model", ["smollm2", "checkpoint"])
def test_a_checkpoint_that_is_not_linearized_is_rejected_with_the_next_command(tmp_path, model):
    name = model if model == "smollm2" else str(write_config(tmp_path / model, model_type="llama"))
    with pytest.raises(SubquadError, match=f"not linearized yet(?s:.)*subquad llm linearize {name} --text TEXT"):
        subquad.llm.load(name)


def test_a_folder_that_subquad_wrote_cannot_be_linearized_again(tmp_path):
    with pytest.raises(SubquadError, match="subquad wrote this model"):
        locate(write_config(tmp_path / "model", model_type="subquad"))


def test_an_unfinished_run_is_rejected(tmp_path):
    folder = write_config(tmp_path / "run", subquad={"format": 1, "kind": "llm"})
    with pytest.raises(SubquadError, match="not finished"):
        subquad.llm.load(folder)


@pytest.mark.slow
def test_the_loader_of_all_runs_opens_a_linearized_model(run):
    model, tokenizer = load_run(run)
    assert attention_layers(model)
    assert tokenizer("the green bird")["input_ids"]
