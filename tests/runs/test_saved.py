"""The comparison of outputs that tests of killed commands use: it notices what a resumed run would lose."""

import json

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


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_equal_outputs_have_no_differences_but_times(outputs):
    assert differences(*outputs) == []


def test_checksums_that_do_not_fit_the_files_of_a_run_are_a_difference(outputs):
    path = outputs[1] / "run" / "config.json"
    parts = json.loads(path.read_text())["subquad"]["parts"]
    change(path, parts["calibration.json"], "0" * 8)
    (line,) = differences(*outputs)
    assert line.startswith(f"{outputs[1]}/run/calibration.json: does not belong to config.json")


def test_a_missing_checksum_of_a_file_is_a_difference(outputs):
    path = outputs[1] / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["subquad"]["parts"]["calibration.json"]
    path.write_text(json.dumps(config))
    assert differences(*outputs) == ["run/config.json differs"]


def test_values_that_do_not_fit_their_checksum_are_a_difference_although_both_outputs_have_them(outputs):
    for output in outputs:
        change(output / "run" / "config.json", '"scale": 3', '"scale": 4')
    lines = differences(*outputs)
    assert [line.partition(": ")[0] for line in lines] == [f"{output}/run/config.json" for output in outputs]


def test_weights_of_another_run_are_a_difference_although_both_outputs_have_them(outputs):
    for output in outputs:
        write_tensors(output / "run" / "model.safetensors", {"w": torch.zeros(3)}, {"format": "pt"})
    first, second = differences(*outputs)
    assert first.startswith(f"{outputs[0]}/run: model.safetensors does not belong to config.json")
    assert second.startswith(f"{outputs[1]}/run: model.safetensors does not belong to config.json")
