"""`--standalone`: the folder of a model opens in transformers where subquad is not installed."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.llm_models import SMALL, tiny_model
from transformers import AutoModelForCausalLM

import subquad.llm
from subquad.cli import main
from subquad.llm.models.convert import convert
from subquad.llm.models.standalone import write_code
from subquad.llm.settings import AttentionSettings

IDS = torch.arange(2 * 23).reshape(2, 23) % 97
# without subquad and what only subquad needs
OPEN = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("subquad", "jaxtyping", "cyclopts"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ids = torch.arange(2 * 23).reshape(2, 23) % 97
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, pad_token_id=1)
    with torch.no_grad():
        save_file({"logits": model(ids).logits, "tokens": tokens}, f"{folder}/given.safetensors")
    model.save_pretrained(f"{folder}/again")
"""


def opened_without_subquad(*folders, cache):
    """Return what the models of these folders give in a process without subquad."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache)}
    command = [sys.executable, "-c", OPEN, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / "given.safetensors") for folder in folders]


@pytest.mark.long
@torch.no_grad()
def test_models_open_without_subquad(tmp_path):
    cases = {"llama": {"window": 4, "cache": 3}, "gemma3": {"window": 5, "window_shape": "sliding"}, "phi3": {}}
    models = {kind: convert(tiny_model(kind), AttentionSettings(**how)) for kind, how in cases.items()}
    for kind, model in models.items():
        (tmp_path / kind).mkdir()
        write_code(tmp_path / kind, model)
        model.save_pretrained(tmp_path / kind)
    found = opened_without_subquad(*(tmp_path / kind for kind in models), cache=tmp_path / "cache")
    for model, given in zip(models.values(), found, strict=True):
        assert torch.equal(given["logits"], model(IDS).logits)
        how = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 1}
        assert torch.equal(given["tokens"], model.generate(IDS, attention_mask=torch.ones_like(IDS), **how))


@pytest.mark.long
def test_linearize_and_merge_write_the_code(folder, text, tmp_path):
    settings = replace(SMALL, standalone=True)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "whole", quiet=True)
    settings = replace(SMALL, save="adapter")
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "adapter", quiet=True)
    command = ["llm", "merge", str(tmp_path / "adapter"), "--standalone", "--out", str(tmp_path / "merged")]
    assert main([*command, "--quiet"]) == 0
    whole, merged = opened_without_subquad(tmp_path / "whole", tmp_path / "merged", cache=tmp_path / "cache")
    torch.testing.assert_close(whole["logits"], merged["logits"])
    # what was opened so and saved again has its code, and is no run
    again = tmp_path / "whole" / "again"
    (found,) = opened_without_subquad(again, cache=tmp_path / "cache")
    assert torch.equal(found["logits"], whole["logits"])
    assert "subquad" not in json.loads((again / "config.json").read_text())
    # where subquad is installed, its own code is used
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert type(model).__module__ == "subquad.llm.models.convert"
    with torch.no_grad():
        torch.testing.assert_close(whole["logits"], model(IDS).logits)
        torch.testing.assert_close(whole["logits"], subquad.llm.load(tmp_path / "merged")[0](IDS).logits)


def test_a_folder_without_the_flag_has_no_code(run):
    assert not list(run.glob("*.py"))
    assert "auto_map" not in json.loads((run / "config.json").read_text())
