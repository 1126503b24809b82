"""The guides docs/hep-*.md: all commands of a page run in order in one folder, on jets that ship with subquad."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from subquad.cli import main
from subquad.hep.commands import evaluate as evaluate_command

pytest.importorskip("uproot")

DOCS = Path(__file__).parents[2] / "docs"
CARDS = Path(__file__).parent / "cards"
SHORT = {
    "fit": {"--epochs": "1", "--preset": "standard"},
    "explain": {"--jets": "40", "--repeats": "1", "--displays": "1"},
    "simulate": {"--jets-per-class": "2", "--classes": "HToBB"},
}
"""Flags that make a command short."""

HAS_PYTHIA = importlib.util.find_spec("pythia8mc") is not None
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))

pytestmark = pytest.mark.slow


def commands_of(page):
    """Return the commands of `subquad hep` in the shell blocks of a page, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(re.match(r"subquad hep |pip install |SUBQUAD_DATA=", line) for line in lines), lines
    return [shlex.split(line)[1:] for line in lines if line.startswith("subquad hep ")]


def shortened(words):
    """Return a command with the flags of `SHORT` in place of its own."""
    flags = SHORT.get(words[1], {})
    kept, is_value = [], False
    for word in words:
        if word not in flags and not is_value:
            kept.append(word)
        is_value = word in flags
    return [*kept, *(word for flag in flags.items() for word in flag)]


@pytest.fixture
def folder(jetclass, tmp_path, monkeypatch):
    """A folder with the files that the pages name beside the shipped jets."""
    for name in ("jets", "more", "test"):
        (tmp_path / name).mkdir()
        for path in jetclass:
            shutil.copy(path, tmp_path / name)
    shutil.copy(CARDS / "JetClass_kin.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    assert main([*words, "--quiet"]) == 0, " ".join(words)


def run_page(page):
    for words in commands_of(page):
        run(shortened(words))


def test_the_commands_about_files_and_cards_run(folder):
    run_page("hep-data.md")
    assert (folder / "scores.root").is_file()
    assert (folder / "kin_scores.root").is_file()


def test_the_commands_about_comparisons_run(folder, monkeypatch):
    # figures take most of the time, and are tested elsewhere
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models: ([], {model.name: {} for model in models}))
    for seed in (1, 2, 3):
        run(shortened(["hep", "fit", "jets", "--no-boosting", "--seed", str(seed), "--out", f"seed_{seed}"]))
    run(["hep", "fit", "jets", "--no-boosting", "--epochs", "1", "--preset", "paper", "--out", "paper"])
    run(["hep", "predict", "seed_1", "test", "--out", "part.root"])
    run_page("hep-evaluate.md")
    for name in ("evaluation", "comparison"):
        assert {path.name for path in (folder / name).iterdir()} == {
            *("figures", "metrics.json", "report.html", "report.pdf")
        }


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_the_commands_about_explanation_and_export_run(folder):
    run_page("hep-explain.md")
    assert (folder / "explained" / "report.html").is_file()
    assert (folder / "preprocess.json").is_file()


@pytest.mark.skipif(not HAS_PYTHIA, reason="pythia8mc is not installed")
def test_the_commands_about_simulation_run(folder):
    shutil.rmtree("jets")
    run_page("hep-simulation.md")
    assert (folder / "jets" / "HToBB_000.root").is_file()
    assert (folder / "hbb" / "HToBB_000.root").is_file()
