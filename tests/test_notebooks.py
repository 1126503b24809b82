"""The notebooks run from top to bottom as scripts, with small settings; a tiny checkpoint stands in for SmolLM2."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.llm_models import word_tokenizer, write_checkpoint, write_text

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

pytestmark = pytest.mark.long
pytest.importorskip("marimo")


def run(name, *arguments):
    """Run a notebook as a script; a cell that fails ends it with an error."""
    command = [sys.executable, NOTEBOOKS / name, "--small", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["sequences.py", "jets.py"])
def test_a_notebook_on_shipped_data_runs(name):
    run(name)


def test_the_notebook_about_language_models_runs(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", word_tokenizer(write_text(tmp_path / "words.txt")))
    run("language_models.py", "--model", str(folder))


def test_every_notebook_is_tested():
    assert {path.name for path in NOTEBOOKS.glob("*.py")} == {"sequences.py", "jets.py", "language_models.py"}
