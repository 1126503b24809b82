"""Linearized models in transformers: saving, opening, placement on devices, generation."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.llm_models import CONFIGS, small_attention, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.settings import AttentionSettings

KINDS = list(CONFIGS)
IDS = torch.arange(2 * 23).reshape(2, 23) % 151


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_saved_model_opens_with_the_same_logits(kind, tmp_path):
    settings = small_attention(window=5, window_shape="sliding", feature_map="hedgehog")
    model = convert(tiny_model(kind), settings)
    for layer in attention_layers(model):
        torch.nn.init.normal_(layer.hybrid.map_q.weight)
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(opened(IDS).logits, model(IDS).logits)
    assert type(opened) is type(model)
    # and again from the opened model
    opened.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_the_config_describes_the_model(tmp_path):
    convert(tiny_model("qwen3"), small_attention(window=7)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "subquad"
    assert config["base_model_type"] == "qwen3"
    assert config["architectures"] == ["SubquadQwen3ForCausalLM"]
    assert config["hybrid_attention"]["window"] == 7


def test_feature_maps_stay_in_float32_in_a_bfloat16_model(tmp_path):
    convert(tiny_model("llama"), small_attention()).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    (layer, _) = attention_layers(model)
    assert layer.q_proj.weight.dtype == torch.bfloat16
    assert layer.hybrid.map_k.weight.dtype == layer.hybrid.mix.dtype == torch.float32
    assert model(IDS).logits.dtype == torch.bfloat16


@pytest.mark.slow
@torch.no_grad()
def test_what_linearize_wrote_opens_with_transformers(run):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    ours, own_tokenizer = subquad.llm.load(run)
    ids = tokenizer("the green bird", return_tensors="pt")["input_ids"]
    assert ids.tolist() == own_tokenizer("the green bird", return_tensors="pt")["input_ids"].tolist()
    assert torch.equal(model(ids).logits, ours(ids).logits)


@pytest.mark.slow
def test_a_model_that_was_trained_further_can_be_saved_and_opened(run, tmp_path):
    model, tokenizer = subquad.llm.load(run)
    model.train()
    # the older name warns where there is the newer one
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()
    model(IDS % 97, labels=IDS % 97).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    opened, _ = subquad.llm.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(opened(IDS % 97).logits, model.eval()(IDS % 97).logits)


@pytest.mark.slow
@torch.no_grad()
def test_layers_can_be_offloaded_to_disk(run, tmp_path):
    whole = AutoModelForCausalLM.from_pretrained(run)
    ids = IDS[:1] % 97
    expected = whole.generate(ids, max_new_tokens=19, do_sample=False, pad_token_id=1)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    spread = AutoModelForCausalLM.from_pretrained(run, device_map=places, offload_folder=tmp_path)
    assert spread.hf_device_map["model.layers.1"] == "disk"
    assert next(spread.model.layers[1].parameters()).device.type == "meta"
    assert torch.equal(spread.generate(ids, max_new_tokens=19, do_sample=False, pad_token_id=1), expected)
    # the whole model where accelerate puts it
    placed = AutoModelForCausalLM.from_pretrained(run, device_map="auto")
    assert torch.equal(placed.generate(ids, max_new_tokens=19, do_sample=False, pad_token_id=1), expected)


@pytest.mark.slow
@torch.no_grad()
def test_a_streamer_gets_single_tokens(run):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    ids = IDS[:1] % 97
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    made = model.generate(ids, max_new_tokens=19, do_sample=False, pad_token_id=1, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(made[0, 23:])


def test_a_missing_feature_map_is_an_error(tmp_path):
    convert(tiny_model("llama"), small_attention()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.self_attn.hybrid.map_q.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubquadError, match=r"1 weights are missing .* such as model\.layers\.1\.self_attn"):
        subquad.llm.load(tmp_path)


def test_an_unknown_attention_setting_is_an_error(tmp_path):
    convert(tiny_model("llama"), AttentionSettings()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"window":', '"windows":'))
    with pytest.raises(SubquadError, match="no setting of hybrid_attention 'windows'; did you mean 'window'"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_an_unknown_base_model_is_an_error(tmp_path):
    convert(tiny_model("llama"), AttentionSettings()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"base_model_type": "llama"', '"base_model_type": "lama"'))
    with pytest.raises(SubquadError, match=r"cannot be read as a checkpoint .*'lama'"):
        subquad.llm.load(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("order", ["subquad.llm, transformers", "transformers, subquad.llm"])
def test_transformers_knows_the_models_whichever_is_imported_first(order, tmp_path):
    convert(tiny_model("llama"), AttentionSettings()).save_pretrained(tmp_path)
    code = f"import {order}; print(type(transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SubquadLlamaForCausalLM"


@pytest.mark.long
@pytest.mark.slow
@torch.no_grad()
def test_a_model_from_gguf_is_saved_as_plain_weights(smollm2, tmp_path):
    # the fixture saved what was read from the GGUF file
    assert "quantization_config" not in json.loads((smollm2 / "config.json").read_text())
    model, tokenizer = open_checkpoint(smollm2), open_tokenizer(smollm2)
    convert(model, AttentionSettings(), check=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    opened, again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = again("The capital of France is", return_tensors="pt")["input_ids"]
    assert torch.equal(opened(ids).logits, model(ids).logits)
