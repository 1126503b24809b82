"""The budget of a run that is resumed, `budget.json`: damage is an error with its file."""

import json

import pytest

from subquad.errors import SubquadError
from subquad.llm.training.budget import TokenBudget, _read, _save

BUDGET = TokenBudget(
    precision="float32",
    evaluation_sequences=7,
    transfer_tokens=0,
    lora_tokens=31,
    seconds_per_sequence={"evaluate": 0.5, "lora": 2},
)


def test_a_budget_is_read_again(tmp_path):
    assert _read(tmp_path) is None
    _save(BUDGET, tmp_path)
    assert _read(tmp_path) == BUDGET


@pytest.mark.parametrize("damaged", [{}, [], {"precision": "float32"}])
def test_a_damaged_budget_is_refused(tmp_path, damaged):
    (tmp_path / "budget.json").write_text(json.dumps(damaged))
    with pytest.raises(SubquadError, match=r"budget.json: cannot be read as a budget"):
        _read(tmp_path)
