"""The budget of a run that is resumed, `budget.json`: damage is an error with file, entry and remedy."""

import json
import re

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: {}, "precision is missing"),
        (lambda own: [], "must be an object with precision"),
        (lambda own: {**own, "precision": "float16"}, 'must be "float32" or "bfloat16", got "float16"'),
        (lambda own: {**own, "lora_tokens": None}, "lora_tokens must be an integer, got null"),
        (lambda own: {**own, "seconds_per_sequence": {"lora": "x"}}, 'per_sequence: lora must be a number, got "x"'),
    ],
)
def test_a_damaged_budget_is_refused(tmp_path, change, message):
    _save(BUDGET, tmp_path)
    path = tmp_path / "budget.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SubquadError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}") as error:
        _read(tmp_path)
    assert str(error.value).endswith("start the run again with --force")
