"""Runs that were saved by earlier versions load and answer as they did when they were saved."""

import json
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from golden.answers import ANSWERS

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_answers_as_when_it_was_saved(kind):
    for file in (HERE / kind).glob("*.skops"):
        # scikit-learn reads models of its own version and of earlier ones
        schema = ZipFile(file).read("schema.json").decode()
        for version in set(re.findall(r'"_sklearn_version": {[^}]*"content": "\\"([\d.]+)', schema)):
            pytest.importorskip("sklearn", minversion=version)
    expected = json.loads((HERE / kind / "expected.json").read_text())
    answers = ANSWERS[kind](HERE / kind)
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_has_a_format_number_and_holds_no_code(kind):
    config = json.loads((HERE / kind / "config.json").read_text())
    assert "format" in json.dumps(config)
    assert not {path.suffix for path in (HERE / kind).iterdir()} & {".pkl", ".pt", ".bin", ".joblib", ".py"}
