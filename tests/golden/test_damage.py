"""A saved run with a file that is truncated, changed or swapped is refused with the name of its folder and file."""

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from subquad import bio, llm
from subquad.errors import SubquadError
from subquad.runs.loading import load_run
from subquad.runs.storage import CHECKSUM, read_tensors_and_metadata, write_tensors

HERE = Path(__file__).parent
FILES = {
    "bio_model": ("config.json", "model.safetensors", "ridge.skops", "gp.skops", "boosting.skops"),
    "bio_estimator": ("config.json", "model.safetensors"),
    "hep_tagger": ("config.json", "model.safetensors"),
    "llm_model": ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
}
DAMAGE = {
    "truncated": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "empty": lambda path: b"",
    "changed at its start": lambda path: bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:],
    "swapped with another": lambda path: path.with_name("README.md").read_bytes(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "file", "damage"),
    [
        (kind, file, damage)
        for kind, files in FILES.items()
        for file in files
        for damage in DAMAGE
        # baselines have one reader, so that one of them shows what short files do
        if damage not in ("truncated", "empty") or file not in ("gp.skops", "boosting.skops")
    ],
)
def test_a_damaged_file_of_a_saved_run_is_refused(kind, file, damage, tmp_path):
    folder = shutil.copytree(HERE / kind, tmp_path / "copy")
    content = DAMAGE[damage](folder / file)
    (folder / file).write_bytes(content)
    with pytest.raises(SubquadError) as error:
        opened(folder, file, tmp_path / "out.csv")
    assert str(folder) in str(error.value)
    assert file in str(error.value)


def opened(folder, file, out):
    load_run(folder)
    if file.endswith(".skops"):
        # baselines are opened when they predict
        bio.predict(folder, folder / "input.csv", out=out, model=file.removesuffix(".skops"), quiet=True)


def test_baselines_that_are_exchanged_or_of_another_run_are_refused(tmp_path):
    # an earlier version opens no boosting model that a later one saved
    pytest.importorskip("sklearn", minversion="1.9")
    table = HERE / "bio_model" / "input.csv"
    folder = shutil.copytree(HERE / "bio_model", tmp_path / "copy")
    ridge, boosting = folder / "ridge.skops", folder / "boosting.skops"
    content = ridge.read_bytes(), boosting.read_bytes()
    ridge.write_bytes(content[1]), boosting.write_bytes(content[0])
    with pytest.raises(SubquadError, match=r"ridge\.skops: holds the baseline boosting; copy the whole folder again"):
        bio.predict(folder, table, out=tmp_path / "out.csv", model="ridge", quiet=True)
    ridge.write_bytes(content[0]), boosting.write_bytes(content[1])
    config = json.loads((folder / "config.json").read_text())
    config["subquad"]["parts"] = {"ridge.skops": f"{zlib.crc32(content[0]):08x}"}
    (folder / "config.json").write_text(json.dumps(config))
    bio.predict(folder, table, out=tmp_path / "out.csv", model="ridge", quiet=True)
    # one that another fit wrote
    from subquad.bio.models.baselines import Baseline

    replace(Baseline.load(ridge), selected={"by": "another fit"}).save(ridge)
    with pytest.raises(SubquadError, match=r"ridge\.skops: does not belong to config\.json"):
        bio.predict(folder, table, out=tmp_path / "out2.csv", model="ridge", quiet=True)


def test_a_damaged_part_of_a_fitted_baseline_is_refused(tmp_path):
    from subquad.bio.models.baselines import Baseline

    data = (HERE / "bio_model" / "ridge.skops").read_bytes()
    for place in range(40, len(data), len(data) // 23):
        (tmp_path / "ridge.skops").write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
        with pytest.raises(SubquadError, match=r"ridge\.skops: (damaged|written by another version|contains)"):
            Baseline.load(tmp_path / "ridge.skops")


@pytest.mark.parametrize("kind", ["bio_model", "hep_tagger", "llm_model", "llm_adapter"])
def test_saved_weights_that_are_not_finite_are_refused_whatever_their_checksum(kind, tmp_path):
    folder = shutil.copytree(HERE / kind, tmp_path / "copy")
    tensors, header = read_tensors_and_metadata(folder / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim == 2)
    tensors[name][-1, -1] = float("nan")
    config = json.loads((folder / "config.json").read_text())
    config["subquad"][CHECKSUM] = write_tensors(folder / "model.safetensors", tensors, header)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match=rf"copy/model\.safetensors: {name} holds values that are not finite"):
        llm.load(folder, base=folder / "base") if kind == "llm_adapter" else load_run(folder)


@pytest.mark.parametrize("kind", [[], {}, None, "physics"])
def test_a_config_of_an_unknown_kind_is_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"subquad": {"kind": kind, "format": 1}}))
    with pytest.raises(SubquadError, match="no kind of run"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", [[], {}, None, "LyraForest"])
def test_a_config_of_an_unknown_estimator_is_refused(name, tmp_path):
    folder = shutil.copytree(HERE / "bio_estimator", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["estimator"]["class"] = name
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match=r"copy: its config\.json is damaged \(no estimator"):
        load_run(folder)
