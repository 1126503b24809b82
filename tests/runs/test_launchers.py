"""Commands that torchrun may start in several processes have a test that does so."""

from pathlib import Path

import pytest

from subquad.runs.launchers import SEVERAL_PROCESSES

TESTS = Path(__file__).parents[1]
STARTS = ("torchrun(", "torch.distributed.run")


@pytest.mark.parametrize("command", SEVERAL_PROCESSES)
def test_a_command_of_several_processes_has_a_test_of_two(command):
    words = ", ".join(f'"{word}"' for word in command.split())
    field = command.split()[0]
    texts = {path.name: path.read_text(encoding="utf-8") for path in (TESTS / field).glob("test_*.py")}
    assert [name for name, text in texts.items() if words in text and any(start in text for start in STARTS)] != []
