"""Checksums of saved folders: a file that changed since it was written is named, and how to accept the change."""

import json
import math

import pytest
import torch

from subquad.errors import SubquadError
from subquad.runs.checksums import check_all, check_if_present, is_checked, write_checksums
from subquad.runs.folder import UNFINISHED, load_config, open_run


@pytest.fixture
def folder(tmp_path):
    run = open_run(tmp_path / "run", kind="llm", settings={"epochs": 3, "fraction": 0.1})
    (run.directory / "tokenizer.json").write_text('{"version": 1}')
    (run.directory / "chat_template.jinja").write_text("{{ messages }}")
    config = {"classes": ["a", "ö"], "scale": 1e-300, "nothing": math.nan, 3: {"b": [True, None]}}
    run.finish(config=config, tensors={"w": torch.ones(3)}, metrics={"test": {"r2": 0.1 + 0.2}, "none": math.inf})
    return run.directory


def change(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}, indent=1))


def forget(folder, name):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["subquad"]["parts"][name]
    path.write_text(json.dumps(config))


def test_a_folder_is_as_it_was_written_however_its_config_is_laid_out(folder):
    change(folder)
    load_config(folder, "llm")
    check_all(folder)
    check_if_present(folder / "metrics.json")


def test_a_changed_config_is_refused_until_its_checksum_is_deleted(folder):
    change(folder, scale=2e-300)
    with pytest.raises(SubquadError) as error:
        load_config(folder, "llm")
    assert str(error.value).startswith(f"{folder}/config.json: changed since it was written (its checksum differs)")
    assert 'delete the entry "config.json" under "parts" in config.json' in str(error.value)
    forget(folder, "config.json")
    assert load_config(folder, "llm")["scale"] == 2e-300


@pytest.fixture
def folder_with_files(tmp_path):
    """A run whose folder has, when it is finished, files that no other run has, records and a fit of another folder."""
    run = open_run(tmp_path / "run", kind="hep", settings={})
    others = ("history.jsonl", "notes.md", "fit.log", ".hidden", "fold-0/ridge.skops", "jets/labels", "own/config.json")
    for name in ("calibration.json", "maps/efficiency.bin", *others, "own/a.json"):
        (run.directory / name).parent.mkdir(exist_ok=True)
        (run.directory / name).write_text("{}")
    run.finish(config={}, tensors={"w": torch.ones(3)}, metrics={})
    return run.directory


def test_each_file_of_a_run_has_a_checksum_unless_it_is_listed(folder_with_files):
    parts = json.loads((folder_with_files / "config.json").read_text())["subquad"]["parts"]
    assert {*parts} == {"config.json", "metrics.json", "calibration.json", "maps/efficiency.bin"}


@pytest.mark.parametrize("name", ["calibration.json", "maps/efficiency.bin"])
def test_a_run_is_not_opened_with_a_file_that_changed_or_is_missing(name, folder_with_files):
    load_config(folder_with_files, "hep")
    (folder_with_files / name).write_text("{ }")
    with pytest.raises(SubquadError, match=rf'/{name}: does not belong to config\.json .* the entry "{name}"'):
        load_config(folder_with_files, "hep")
    (folder_with_files / name).unlink()
    with pytest.raises(SubquadError, match=rf"/{name}: missing, and config\.json has its checksum"):
        load_config(folder_with_files, "hep")
    forget(folder_with_files, name)
    load_config(folder_with_files, "hep")


def test_a_run_that_was_killed_before_its_last_file_is_unfinished_and_not_damaged(folder_with_files):
    (folder_with_files / "metrics.json").unlink()
    with pytest.raises(SubquadError, match="this run is not finished"):
        load_config(folder_with_files, "hep")


def test_files_that_the_end_of_a_run_removes_have_no_checksum():
    for pattern in (*UNFINISHED["hep"], *UNFINISHED["llm"], "checkpoint-*.safetensors"):
        assert not is_checked(pattern.replace("*", "0"))


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_changed_file_is_refused_until_its_checksum_is_deleted(name, folder):
    content = (folder / name).read_text()
    (folder / name).write_text(content.replace("1", "2").replace("m", "n"))
    with pytest.raises(SubquadError, match=rf'/{name}: does not belong to config\.json .* the entry "{name}"'):
        check_all(folder)
    (folder / name).unlink()
    with pytest.raises(SubquadError, match=rf'/{name}: missing, .* delete the entry "{name}"'):
        check_all(folder)
    forget(folder, name)
    check_all(folder)
    # without a change of config.json that is noticed
    load_config(folder, "llm")


def test_changed_metrics_are_refused(folder):
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace("0.30000000000000004", "0.31"))
    with pytest.raises(SubquadError, match=r"metrics\.json: does not belong to config\.json"):
        check_if_present(path)


@pytest.mark.parametrize("parts", [[], "x", {"x" * 5000: "1"}, {"tokenizer.json": 3}, {"a\0b": "1"}])
def test_damaged_checksums_are_named(parts, folder):
    config = json.loads((folder / "config.json").read_text())
    change(folder, subquad={**config["subquad"], "parts": parts})
    with pytest.raises(
        SubquadError,
        match=r"(config\.json: its checksums are|tokenizer\.json: does not belong|missing, and config\.json)",
    ):
        check_all(folder)


def test_a_folder_from_before_checksums_is_read(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["subquad"]["parts"]
    (folder / "config.json").write_text(json.dumps({**config, "classes": ["b"]}))
    (folder / "tokenizer.json").write_text("{}")
    assert load_config(folder, "llm")["classes"] == ["b"]
    check_all(folder)


@pytest.fixture
def merged(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "subquad"}')
    # of another program
    (tmp_path / "checksums.json").write_text('{"config.json": "of another program"}')
    check_all(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100_000)
    write_checksums(tmp_path)
    return tmp_path


def test_a_folder_without_an_entry_of_a_run_has_a_file_of_checksums(merged):
    check_all(merged)
    (merged / "config.json").write_text('{"model_type": "Subquad"}')
    for names in ([], ["config.json"]):
        with pytest.raises(SubquadError, match=r"config\.json: does not belong to subquad_checksums\.json"):
            check_all(merged, *names)
    (merged / "subquad_checksums.json").write_text("[]")
    with pytest.raises(SubquadError, match=r"subquad_checksums\.json: its checksums are damaged"):
        check_all(merged)


@pytest.mark.parametrize("saved", [{"model.safetensors": b"weighty" * 100_000}, {"model-00001.safetensors": b"shard"}])
def test_a_merged_model_that_was_saved_again_is_opened_with_a_warning(saved, merged, capsys):
    (merged / "model.safetensors").unlink()
    for name, content in saved.items():
        (merged / name).write_bytes(content)
    (merged / "config.json").write_text('{"model_type": "subquad", "dtype": "bfloat16"}')
    check_all(merged, "config.json")
    assert capsys.readouterr().err == ""
    check_all(merged)
    expected = f"warning: {merged}/model.safetensors: differs from subquad_checksums.json, as if the model was saved"
    assert capsys.readouterr().err.startswith(expected)
