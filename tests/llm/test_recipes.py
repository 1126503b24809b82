"""Shipped recipes: `linearize` and `plan` take each by its name, and the documentation has the figures of `plan`."""

import json
import re
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import save_file

from subquad.cli import main
from subquad.llm.planning.cost_estimate import GB
from subquad.llm.planning.tables import digits
from subquad.llm.settings import LinearizeSettings

RECIPES = Path(__file__).parents[2] / "src" / "subquad" / "llm" / "recipes"
PAGE = Path(__file__).parents[2] / "docs" / "llm-large.md"
MODELS = {
    "135m": ("smollm2-135m", 1), "0.5b": ("qwen2.5-0.5b", 1), "1.5b": ("qwen2.5-1.5b", 1), "8b": ("llama-3.1-8b", 1),
    "70b": ("llama-3.1-70b", 8), "paper": ("llama-3.1-8b", 1),
}  # fmt: skip
"""A model of each recipe's size, and the number of GPUs."""


def content(name):
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def test_every_recipe_is_tested():
    assert {file.stem for file in RECIPES.glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_linearize_takes_each_recipe_by_its_name(name, monkeypatch, tmp_path):
    from subquad.llm.commands import linearize as module

    found = []
    monkeypatch.setattr(module, "linearize", lambda model, text, settings, **_: found.append(settings))
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    model = Path("model")
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    save_file({}, model / "model.safetensors")
    command = ["llm", "linearize", "model", "--text", "a.txt", "--out", "out", "--quiet"]
    assert main([*command, "--config", name, "--seed", "3"]) == 0
    (settings,) = found
    assert isinstance(settings, LinearizeSettings)
    for key, value in content(name).items():
        own = getattr(settings, key.replace("-", "_"))
        if key == "attention":
            assert {part: getattr(own, part.replace("-", "_")) for part in value} == value
        else:
            assert (list(own) if isinstance(own, tuple) else own) == value
    # steps of as many sequences as were measured or published
    if name not in ("135m", "paper"):
        assert settings.batch_size * settings.gradient_accumulation * MODELS[name][1] == 8
    assert main([*command, "--config", name, "--sequence-length", "777"]) == 0
    assert found[-1].sequence_length == 777


def planned(name, capsys):
    model, gpus = MODELS[name]
    assert main(["llm", "plan", model, "--config", name, "--gpus", str(gpus), "--json"]) == 0
    return json.loads(capsys.readouterr().out)[model]


@pytest.mark.parametrize("name", MODELS)
def test_plan_takes_each_recipe_and_the_model_fits(name, capsys):
    found, own = planned(name, capsys), content(name)
    if "transfer-tokens" in own:
        assert [found["time"][stage]["tokens"] for stage in ("transfer", "lora")] == [
            own["transfer-tokens"], own["lora-tokens"],
        ]  # fmt: skip
    assert all(memory["fits"] for memory in found["memory"].values())


def test_the_documentation_has_the_figures_of_plan(capsys):
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    rows = [(name, [cell.strip() for cell in cells.split("|")]) for name, cells in rows if name in MODELS]
    assert [name for name, _ in rows] == [name for name in MODELS if name != "paper"]
    for name, cells in rows:
        memory = planned(name, capsys)["memory"]
        stages = [memory[stage] for stage in ("transfer", "lora")]
        expected = [digits(own[key] / GB) for key in ("total", "host") for own in stages]
        assert cells[-4:] == expected, name


def test_plan_leaves_out_what_only_linearize_has(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("text: [a.txt]\nout: linear\nseed: 3\npatience: 4\nvalidate-every: 9\nbatch-size: 3\n")
    assert main(["llm", "plan", "smollm2-135m", "--config", str(settings), "--json"]) == 0
    capsys.readouterr()
    assert main(["llm", "plan", "smollm2-135m", "--config", "9b"]) == 2
    assert "no file or recipe '9b'" in capsys.readouterr().err


def test_host_memory_is_the_opened_model_or_what_each_process_holds(capsys):
    one, many = (planned(name, capsys)["memory"] for name in ("8b", "70b"))
    text, runtime = 6 * 20_000_000, 2 * GB
    assert one["transfer"]["host"] == one["lora"]["host"] == 2 * 8_030_261_248 + text + runtime
    # the embeddings and the output head of each process; an adapter is saved
    outer = 2 * (2 * 128_256 * 8192 + 8192)
    assert many["transfer"]["host"] == many["lora"]["host"] == 8 * (outer + text + runtime)
    assert many["transfer_in_blocks"]["host"] == 9 * 2 * 855_654_400 + text + runtime
