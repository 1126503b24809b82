"""Opening models by folder or name: which kind of checkpoint it is, and what to do with one that is not linearized."""

import json
import shutil

import pytest
from support.llm_models import tiny_model

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.models.adapter import check_targets
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100]),
        lambda copy: (copy / "tokenizer.json").unlink(),
        lambda copy: (copy / "config.json").write_text(
            (copy / "config.json").read_text().replace('"window": 3', '"window": "abc"')
        ),
    ],
)
def test_a_damaged_model_is_refused(run, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(SubquadError, match=r"copy: .+\.json.* is missing or damaged \(.+\); linearize again"):
        subquad.llm.load(copy)


def test_layers_for_lora_are_checked_before_training():
    model = tiny_model("llama")
    check_targets(model, ("all-linear",))
    check_targets(model, ("q_proj", "self_attn.o_proj", "down_proj"))
    with pytest.raises(SubquadError, match=r"--lora-targets: no layer 'q_pro'; did you mean 'q_proj'\?"):
        check_targets(model, ("v_proj", "q_pro"))
