"""Adapters: the trained tensors in a folder of their own, opened and merged into their checkpoint."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support.llm_models import SMALL, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.training import lora
from subquad.llm.training.lora import fine_tune_step
from subquad.runs.storage import read_tensors

pytestmark = pytest.mark.slow

IDS = torch.arange(2 * 23).reshape(2, 23) % 97


@pytest.fixture(scope="module")
def adapter(folder, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "out"
    settings = replace(SMALL, save="adapter", lora_targets=("q_proj", "down_proj"), lora_rank=3)
    subquad.llm.linearize(folder, text, settings, out=out, quiet=True)
    return out


def test_an_opened_adapter_equals_the_whole_model(adapter, folder, text, tmp_path):
    settings = replace(SMALL, lora_targets=("q_proj", "down_proj"), lora_rank=3)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "whole", quiet=True)
    (given, tokenizer), (expected, _) = subquad.llm.load(adapter), subquad.llm.load(tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(given(IDS).logits, expected(IDS).logits)
    assert tokenizer("the green bird")["input_ids"]


def test_an_adapter_has_the_trained_tensors_only(adapter):
    names = read_tensors(adapter / "model.safetensors")
    assert names
    assert all(".lora_" in name or ".hybrid." in name for name in names)
    assert json.loads((adapter / "config.json").read_text())["model_type"] == "subquad_adapter"


def continued(adapter, **changes):
    """Return the settings of a run that goes on from an adapter."""
    return replace(SMALL, **{"transfer_tokens": None, "lora_tokens": 31 * 4, "from_": adapter, **changes})


def test_an_adapter_is_trained_further(adapter, folder, text, tmp_path):
    settings = continued(adapter, save="adapter", sequence_length=29)
    metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / "further", quiet=True)
    assert metrics["tokens"] == {"lora": 29 * 5}
    assert [*metrics["test"]] == ["teacher", "window", "cache", "earlier", "fine_tuned_without_linear", "fine_tuned"]
    config = json.loads((tmp_path / "further" / "config.json").read_text())
    assert config["trained_length"] == 29
    assert config["lora"] == json.loads((adapter / "config.json").read_text())["lora"]
    before, after = (read_tensors(path / "model.safetensors") for path in (adapter, tmp_path / "further"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if ".lora_" in name)
    page = (tmp_path / "further" / "report.html").read_text()
    assert f"after the run {adapter}, " in page
    assert "attention transfer" not in page


@pytest.mark.long
def test_a_run_that_goes_on_starts_where_the_earlier_one_ended(adapter, folder, text, tmp_path):
    ended = json.loads((adapter / "metrics.json").read_text())["test"]["fine_tuned"]["perplexity"]
    settings = continued(adapter)
    metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / "further", quiet=True)
    assert metrics["test"]["earlier"]["perplexity"] == pytest.approx(ended, rel=1e-5)
    # what was trained is in the saved model, which opens
    model, _ = subquad.llm.load(tmp_path / "further")
    with torch.no_grad():
        assert not torch.equal(model(IDS).logits, subquad.llm.load(adapter)[0](IDS).logits)


def test_an_adapter_is_not_overwritten_by_the_run_that_continues_it(adapter, folder, text):
    for out in (adapter, adapter.parent):
        with pytest.raises(SubquadError, match="which would be overwritten; choose another output"):
            subquad.llm.linearize(folder, text, continued(adapter), out=out, force=True, quiet=True)
    assert (adapter / "model.safetensors").is_file()


@pytest.mark.long
def test_an_interrupted_run_that_goes_on_ends_with_the_same_weights(adapter, folder, text, tmp_path, monkeypatch):
    settings, done = continued(adapter), []

    def stop(*arguments, **how):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return fine_tune_step(*arguments, **how)

    subquad.llm.linearize(folder, text, settings, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(lora, "fine_tune_step", stop)
        with pytest.raises(KeyboardInterrupt):
            subquad.llm.linearize(folder, text, settings, out=tmp_path / "stopped", quiet=True)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "stopped", quiet=True)
    whole, stopped = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    for name, tensor in whole.items():
        torch.testing.assert_close(stopped[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_time_is_spent_on_fine_tuning_alone(adapter, folder, text, tmp_path):
    settings = continued(adapter, lora_tokens=None, minutes=0.01)
    metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / "further", quiet=True)
    assert [*metrics["tokens"]] == ["lora"]
    budget = json.loads((tmp_path / "further" / "budget.json").read_text())
    assert budget["transfer_tokens"] == 0 < budget["lora_tokens"]


def test_what_cannot_be_trained_further_is_named(adapter, folder, text, run, tmp_path):
    def fails(message, model=folder, **changes):
        settings = continued(adapter, **changes)
        with pytest.raises(SubquadError, match=message):
            subquad.llm.linearize(model, text, settings, out=tmp_path / "out", quiet=True)
        assert not (tmp_path / "out").exists()

    fails("cannot be read as an adapter .*base", from_=run)
    fails("missing: no such folder", from_=tmp_path / "missing")
    fails("not written by subquad", from_=folder)
    fails("lora_rank is 3 in .*; omit it", lora_rank=5)
    fails("window is 3 in .*; omit it", attention=replace(SMALL.attention, window=5))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tensors = read_tensors(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    fails("is another checkpoint", model=other)


@torch.no_grad()
def test_merge_writes_a_model_that_transformers_opens(adapter, tmp_path, capsys):
    assert main(["llm", "merge", str(adapter), "--out", str(tmp_path / "whole")]) in (0, None)
    printed = capsys.readouterr()
    # no bar of transformers
    assert printed.err == ""
    assert printed.out.startswith(f"Wrote {tmp_path / 'whole'}.\nNext: subquad llm generate {tmp_path / 'whole'} ")
    for name in ("README.md", "report.html"):
        assert (tmp_path / "whole" / name).read_bytes() == (adapter / name).read_bytes()
    opened, expected = AutoModelForCausalLM.from_pretrained(tmp_path / "whole"), subquad.llm.load(adapter)[0]
    assert torch.equal(opened(IDS).logits, expected(IDS).logits)
    assert opened.config.trained_length == expected.config.trained_length == SMALL.sequence_length
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(SubquadError, match="exists already"):
        subquad.llm.merge(adapter, out=tmp_path / "whole", quiet=True)


def test_a_merged_adapter_keeps_its_controls_and_is_not_written_over_itself(adapter, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    (copy / "controls" / "window_fine_tuned").mkdir(parents=True)
    (copy / "controls" / "window_fine_tuned" / "metrics.json").write_text("{}")
    with pytest.raises(SubquadError, match=r"copy lies in the output .*copy, which would be"):
        subquad.llm.merge(copy, out=copy, force=True, quiet=True)
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    subquad.llm.merge(copy, out=".", quiet=True)
    assert (tmp_path / "whole" / "controls" / "window_fine_tuned" / "metrics.json").is_file()
    (tmp_path / "whole" / "base").mkdir()
    with pytest.raises(SubquadError, match=r"base lies in the output .*whole, which would be"):
        subquad.llm.merge(copy, base=tmp_path / "whole" / "base", out=tmp_path / "whole", force=True, quiet=True)
    assert (tmp_path / "whole" / "model.safetensors").is_file()


def test_a_merge_that_is_interrupted_leaves_the_earlier_model(adapter, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    out = tmp_path / "whole"
    subquad.llm.merge(adapter, out=out, quiet=True)
    before = (out / "model.safetensors").read_bytes()
    model = SimpleNamespace(save_pretrained=interrupted)
    monkeypatch.setattr("subquad.llm.commands.merge.load", lambda *_, **__: (model, None))
    with pytest.raises(KeyboardInterrupt):
        subquad.llm.merge(adapter, out=out, force=True, quiet=True)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.long
def test_an_adapter_is_evaluated_like_the_merged_model(adapter, folder, text, tmp_path):
    settings, found = EvaluateSettings(sequence_length=31, evaluation_tokens=62, speed=(), resamples=100), []
    subquad.llm.merge(adapter, out=tmp_path / "merged", quiet=True)
    for run, teacher in ((adapter, None), (tmp_path / "merged", folder)):
        out = tmp_path / f"evaluation of {run.name}"
        (model,) = subquad.llm.evaluate(run, settings, text=[text], teacher=teacher, out=out, quiet=True)["models"]
        found.append(model["perplexity"]["words.txt"]["models"])
    for role, own in found[0].items():
        assert own["value"] == pytest.approx(found[1][role]["value"], rel=1e-5)
    assert found[0]["fine_tuned"]["value"] != found[0]["window"]["value"]


def test_an_adapter_is_not_evaluated_with_another_teacher(adapter, folder, text, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    tensors = read_tensors(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(SubquadError, match=r"other: not the checkpoint"):
        subquad.llm.evaluate(adapter, text=[text], teacher=tmp_path / "other", out=tmp_path / "out", quiet=True)


def test_transformers_refuses_an_adapter_as_a_model_and_opens_its_tokenizer(adapter):
    message = "this folder holds an adapter"
    with pytest.raises(SubquadError, match=message):
        AutoModelForCausalLM.from_pretrained(adapter)
    assert AutoTokenizer.from_pretrained(adapter)("the green bird")["input_ids"]


def test_merge_does_not_replace_other_folders(adapter, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SubquadError, match="contains something other than a linearized model"):
        subquad.llm.merge(adapter, out=tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_fine_tune_with_the_same_config_is_another_checkpoint(adapter, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tuned")
    path = tmp_path / "tuned" / "model.safetensors"
    tensors = read_tensors(path)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    assert path.stat().st_size == (folder / "model.safetensors").stat().st_size
    with pytest.raises(SubquadError, match="is another checkpoint"):
        subquad.llm.load(adapter, base=tmp_path / "tuned")


def test_an_adapter_of_another_checkpoint_is_rejected(adapter, folder, tmp_path, tokenizer):
    tiny_model("llama", vocab_size=len(tokenizer), num_hidden_layers=3).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SubquadError, match="is another checkpoint"):
        subquad.llm.load(adapter, base=tmp_path)


def test_a_moved_checkpoint_is_opened_with_base(adapter, folder, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    path = adapter / "config.json"
    config = path.read_text()
    try:
        path.write_text(config.replace(str(folder), str(tmp_path / "gone")))
        expected = "the checkpoint of this adapter is not found: .*gone: no checkpoint"
        with pytest.raises(SubquadError, match=expected):
            subquad.llm.load(adapter)
        assert subquad.llm.load(adapter, base=moved)
    finally:
        path.write_text(config)
