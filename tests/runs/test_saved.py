"""The comparison of outputs that tests of killed commands use: it notices what a resumed run would lose."""

import pytest
import torch
from support.saved import differences

from subquad.runs.folder import open_run
from subquad.runs.storage import write_tensors


@pytest.fixture
def outputs(tmp_path):
    """Two equal outputs with a finished run each, one level down."""
    for name in ("first", "second"):
        run = open_run(tmp_path / name / "run", kind="hep", settings={})
        (run.directory / "calibration.json").write_text("[1]")
        run.finish(config={"scale": 3}, tensors={"w": torch.ones(3)}, metrics={"seconds": 1.5 * len(name)})
    return tmp_path / "first", tmp_path / "second"


def test_equal_outputs_have_no_differences_but_times(outputs):
    assert differences(*outputs) == []


def test_other_content_and_a_missing_file_are_differences(outputs):
    path = outputs[1] / "run" / "calibration.json"
    path.write_text("[2]")
    assert differences(*outputs) == ["run/calibration.json differs"]
    path.unlink()
    assert differences(*outputs) == [f"only in {outputs[0]}: run/calibration.json"]


def test_weights_of_another_run_are_a_difference_although_both_outputs_have_them(outputs):
    for output in outputs:
        write_tensors(output / "run" / "model.safetensors", {"w": torch.zeros(3)}, {"format": "pt"})
    first, second = differences(*outputs)
    assert first.startswith(f"{outputs[0]}/run/model.safetensors: damaged, or of another model")
    assert second.startswith(f"{outputs[1]}/run/model.safetensors: damaged, or of another model")
