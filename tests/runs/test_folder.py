"""Run folders: files that are written, folders that are refused, and runs that are resumed."""

import json
import shutil

import pytest
import torch

from subquad.errors import SubquadError
from subquad.runs.examples import EXAMPLE_RUNS, run_folder, shipped_file
from subquad.runs.folder import FORMAT, WORK, check_weights, load_config, load_tensors, open_run
from subquad.runs.storage import read_json, write_json, write_tensors
from subquad.runs.termination import Terminated


def finish(out, *, weights=torch.arange(3.0), report=lambda: "<html></html>", **settings):
    run = open_run(out, kind="bio", settings=settings)
    run.finish(
        config={"model": {"width": 7}}, tensors={"w": weights}, metrics={"test": 0.5}, card="# Card", report=report
    )


def test_a_finished_folder_has_its_files_and_loads_again(tmp_path):
    finish(tmp_path / "run", seed=3)
    names = ["README.md", "config.json", "metrics.json", "model.safetensors", "report.html"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    config = load_config(tmp_path / "run", "bio")
    assert config["model"] == {"width": 7}
    assert (config["subquad"]["format"], config["subquad"]["settings"]) == (FORMAT, {"seed": 3})
    assert torch.equal(load_tensors(tmp_path / "run")["w"], torch.arange(3.0))


def test_a_report_that_cannot_be_drawn_costs_no_results(tmp_path):
    def report():
        raise ValueError("no figure")

    with pytest.raises(ValueError, match="no figure"):
        finish(tmp_path, report=report)
    assert load_config(tmp_path, "bio")["model"] == {"width": 7}


def test_a_run_that_is_stopped_before_its_end_is_resumed_with_equal_settings_only(tmp_path):
    open_run(tmp_path, kind="bio", settings={"seed": 3, "inner": {"window": 5}})
    (tmp_path / "checkpoint-fit.safetensors").touch()
    assert open_run(tmp_path, kind="bio", settings={"seed": 3, "inner": {"window": 5}}).is_resumed
    with pytest.raises(SubquadError, match=r"other settings \(inner.window was 5 and is 7\)"):
        open_run(tmp_path, kind="bio", settings={"seed": 3, "inner": {"window": 7}})
    with pytest.raises(SubquadError, match="unfinished bio run"):
        open_run(tmp_path, kind="hep", settings={"seed": 3, "inner": {"window": 5}})
    assert (tmp_path / "checkpoint-fit.safetensors").exists()
    assert not open_run(tmp_path, kind="hep", settings={}, force=True).is_resumed
    assert not (tmp_path / "checkpoint-fit.safetensors").exists()


def test_a_run_that_is_terminated_while_its_report_is_drawn_is_resumed(tmp_path):
    def report():
        raise Terminated

    with pytest.raises(Terminated):
        finish(tmp_path, report=report)
    assert not (tmp_path / "metrics.json").exists()


def test_a_finished_run_and_foreign_files_are_not_overwritten(tmp_path):
    finish(tmp_path / "run")
    with pytest.raises(SubquadError, match="finished run"):
        open_run(tmp_path / "run", kind="bio", settings={})
    assert not open_run(tmp_path / "run", kind="bio", settings={}, force=True).is_resumed
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("x")
    for force in (False, True):
        with pytest.raises(SubquadError, match="not written by subquad"):
            open_run(tmp_path / "own", kind="bio", settings={}, force=force)
    write_json(tmp_path / "own" / "config.json", {"model_type": "llama"})
    with pytest.raises(SubquadError, match="not written by subquad"):
        open_run(tmp_path / "own", kind="bio", settings={}, force=True)
    assert (tmp_path / "own" / "thesis.tex").read_text() == "x"


def test_a_run_is_cleared_with_links_to_folders_but_not_what_they_point_to(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").touch()
    finish(tmp_path / "run")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "data")
    open_run(tmp_path / "run", kind="bio", settings={}, force=True)
    assert (tmp_path / "data" / "table.csv").exists()
    assert not (tmp_path / "run" / "link").exists()


def test_what_a_run_needs_until_it_is_finished_is_removed(tmp_path):
    run = open_run(tmp_path, kind="hep", settings={})
    for name in ("checkpoint-mine.safetensors", "jets/mine.root", f"{WORK}/jets/particles"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    run.finish(config={}, tensors=None, metrics={})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "metrics.json", "checkpoint-mine.safetensors", "jets"}
    # a run that was killed after its last file is not refused, so that it ends in order
    (tmp_path / WORK).mkdir()
    open_run(tmp_path, kind="hep", settings={}).finish(config={}, tensors=None, metrics={})
    with pytest.raises(SubquadError, match="finished run"):
        open_run(tmp_path, kind="hep", settings={})


def change(path, **entries):
    config = read_json(path / "config.json")
    config["subquad"] |= entries
    write_json(path / "config.json", config)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda run: (run / "config.json").unlink(), "has no config.json"),
        (lambda run: (run / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "not written by subquad"),
        (lambda run: change(run, kind="hep"), "is a run of `subquad hep`"),
        (lambda run: change(run, format=99), "format 99"),
        (lambda run: (run / "metrics.json").unlink(), "not finished"),
        (lambda run: (run / "model.safetensors").unlink(), "weights are missing"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
        (lambda run: write_tensors(run / "model.safetensors", {"w": torch.ones(3)}), "of another model"),
    ],
)
def test_a_broken_folder_is_refused_with_its_reason(tmp_path, damage, message):
    finish(tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(SubquadError, match=message):
        load_config(tmp_path / "run", "bio") and load_tensors(tmp_path / "run")


def test_weights_without_a_checksum_are_read(tmp_path):
    finish(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["subquad"]["sha256"]
    write_json(tmp_path / "config.json", config)
    check_weights(tmp_path)


@pytest.mark.parametrize("name", EXAMPLE_RUNS)
def test_the_runs_that_ship_have_the_weights_that_were_saved(name):
    check_weights(run_folder(name))


def test_an_unknown_example_is_refused_with_the_nearest_name():
    with pytest.raises(SubquadError, match="did you mean 'example:tagger'"):
        run_folder("example:tager")


def test_a_shipped_file_with_another_content_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SubquadError, match="has changed"):
        shipped_file(tmp_path / "file", "0" * 64)
