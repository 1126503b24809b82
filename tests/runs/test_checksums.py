"""Checksums of saved folders: a file that changed since it was written is named, and how to accept the change."""

import json
import math

import pytest
import torch

from subquad.errors import SubquadError
from subquad.runs.checksums import check_part, check_parts, write_checksums
from subquad.runs.folder import load_config, open_run


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
    check_parts(folder)
    check_part(folder / "metrics.json")


def test_a_changed_config_is_refused_until_its_checksum_is_deleted(folder):
    change(folder, scale=2e-300)
    with pytest.raises(SubquadError) as error:
        load_config(folder, "llm")
    assert str(error.value).startswith(f"{folder}/config.json: changed since it was written (its checksum differs)")
    assert 'delete the entry "config.json" under "parts" in config.json' in str(error.value)
    forget(folder, "config.json")
    assert load_config(folder, "llm")["scale"] == 2e-300


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_changed_file_is_refused_until_its_checksum_is_deleted(name, folder):
    content = (folder / name).read_text()
    (folder / name).write_text(content.replace("1", "2").replace("m", "n"))
    with pytest.raises(SubquadError, match=rf'/{name}: does not belong to config\.json .* the entry "{name}"'):
        check_parts(folder)
    (folder / name).unlink()
    with pytest.raises(SubquadError, match=rf'/{name}: missing, .* delete the entry "{name}"'):
        check_parts(folder)
    forget(folder, name)
    check_parts(folder)
    # without a change of config.json that is noticed
    load_config(folder, "llm")


def test_changed_metrics_are_refused(folder):
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace("0.30000000000000004", "0.31"))
    with pytest.raises(SubquadError, match=r"metrics\.json: does not belong to config\.json"):
        check_part(path)


@pytest.mark.parametrize("parts", [[], "x", {"x" * 5000: "1"}, {"tokenizer.json": 3}, {"a\0b": "1"}])
def test_damaged_checksums_are_named(parts, folder):
    config = json.loads((folder / "config.json").read_text())
    change(folder, subquad={**config["subquad"], "parts": parts})
    with pytest.raises(
        SubquadError,
        match=r"(config\.json: its checksums are|tokenizer\.json: does not belong|missing, and config\.json)",
    ):
        check_parts(folder)


def test_a_folder_from_before_checksums_is_read(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["subquad"]["parts"]
    (folder / "config.json").write_text(json.dumps({**config, "classes": ["b"]}))
    (folder / "tokenizer.json").write_text("{}")
    assert load_config(folder, "llm")["classes"] == ["b"]
    check_parts(folder)


@pytest.fixture
def merged(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "subquad"}')
    # of another program
    (tmp_path / "checksums.json").write_text('{"config.json": "of another program"}')
    check_parts(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100_000)
    write_checksums(tmp_path)
    return tmp_path


def test_a_folder_without_an_entry_of_a_run_has_a_file_of_checksums(merged):
    check_parts(merged)
    (merged / "config.json").write_text('{"model_type": "Subquad"}')
    for names in ([], ["config.json"]):
        with pytest.raises(SubquadError, match=r"config\.json: does not belong to subquad_checksums\.json"):
            check_parts(merged, *names)
    (merged / "subquad_checksums.json").write_text("[]")
    with pytest.raises(SubquadError, match=r"subquad_checksums\.json: its checksums are damaged"):
        check_parts(merged)


@pytest.mark.parametrize("saved", [{"model.safetensors": b"weighty" * 100_000}, {"model-00001.safetensors": b"shard"}])
def test_a_merged_model_that_was_saved_again_is_opened_with_a_warning(saved, merged, capsys):
    (merged / "model.safetensors").unlink()
    for name, content in saved.items():
        (merged / name).write_bytes(content)
    (merged / "config.json").write_text('{"model_type": "subquad", "dtype": "bfloat16"}')
    check_parts(merged, "config.json")
    assert capsys.readouterr().err == ""
    check_parts(merged)
    expected = f"warning: {merged}/model.safetensors: differs from subquad_checksums.json, as if the model was saved"
    assert capsys.readouterr().err.startswith(expected)
