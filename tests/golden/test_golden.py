"""Runs that were saved by earlier versions load and answer as they did when they were saved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from golden.answers import ANSWERS
from subquad.errors import SubquadError

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_answers_as_when_it_was_saved(kind):
    expected = json.loads((HERE / kind / "expected.json").read_text())
    answers = ANSWERS[kind](HERE / kind)
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        if isinstance(values, str):
            assert answers[name] == values
        else:
            np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_has_a_format_number_and_holds_no_code(kind):
    config = json.loads((HERE / kind / "config.json").read_text())
    assert "format" in json.dumps(config)
    assert not {path.suffix for path in (HERE / kind).iterdir()} & {".pkl", ".pt", ".bin", ".joblib", ".py"}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("damage", ["weights with another bit", "no weights", "half a config"])
def test_a_damaged_run_is_refused_by_its_name(kind, damage, tmp_path):
    copy = shutil.copytree(HERE / kind, tmp_path / "copy")
    weights, config = copy / "model.safetensors", copy / "config.json"
    if damage == "half a config":
        config.write_bytes(config.read_bytes()[:99])
    else:
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.unlink() if damage == "no weights" else weights.write_bytes(content)
    with pytest.raises(SubquadError, match="copy"):
        ANSWERS[kind](copy)
