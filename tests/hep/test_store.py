"""The store of a fit: the same jets as in memory, made again where it was not finished, shared by processes."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.hep_jets import dataset_in_memory

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit
from subquad.hep.commands import fit as fit_command
from subquad.hep.data import file_chunks, preparation
from subquad.hep.data.batches import Prefetch, WaitingTime, collate
from subquad.hep.data.fit_files import FitFiles
from subquad.hep.data.jets import read
from subquad.hep.data.preparation import JETS, move_store, source_of, temporary_store
from subquad.hep.data.splits import stratified_split, with_present_classes
from subquad.hep.models.presets import PRESETS, net_settings
from subquad.runs.folder import WORK
from subquad.runs.lock import LOCK

SETTINGS = FitSettings(epochs=1, batch_size=11, no_boosting=True)
NET = PRESETS["standard"].net
CARDS = Path(__file__).parent / "cards"


def split_store(source, folder, net, settings):
    """The parts of a store, as the command splits it."""
    dataset = with_present_classes(source.open(folder), "files")
    return fit_command._split(dataset, source, net=net, settings=settings, seed=1)


@pytest.mark.parametrize("preset", ["standard", "paper"])
def test_a_network_gets_the_same_inputs_from_the_store_as_from_memory(preset, jets, tmp_path, monkeypatch):
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", 13)
    settings, net = replace(SETTINGS, preset=preset), PRESETS[preset].net
    source = source_of(FitFiles(train=jets), net, settings)
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        parts = split_store(source, folder, net, settings)
        part = parts["test"]
        whole = dataset_in_memory(read(jets), net, part.layout.jet_standardizer)
        some = torch.tensor([3, 0, 7])
        found, expected = collate(part, some), collate(whole, part.rows[some])
        for name in ("x", "points", "mask", "vectors", "jet_features", "labels"):
            one, other = getattr(found, name), getattr(expected, name)
            assert (one is None and other is None) or torch.equal(one, other), name
        rows = torch.cat([one.rows for one in parts.values()])
        assert rows.sort().values.tolist() == list(range(141))
    assert not any(tmp_path.iterdir())


def test_momenta_are_in_gev_and_padded_with_0(jets):
    found = read(jets)
    batch = collate(dataset_in_memory(found, PRESETS["paper"].net), torch.arange(5))
    for j, length in enumerate(found.lengths[:5]):
        expected = found.particles[found.first[j] : found.first[j + 1], :4]
        assert np.array_equal(batch.vectors[j, :length], expected)
        assert not batch.vectors[j, length:].any()


def test_a_store_of_other_files_or_settings_is_none(jets, tmp_path):
    source = source_of(FitFiles(train=jets), NET, SETTINGS)
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        assert source.open(folder) is not None
        assert source_of(FitFiles(train=jets[:2]), NET, SETTINGS).open(folder) is None
        assert source_of(FitFiles(train=jets), PRESETS["paper"].net, SETTINGS).open(folder) is None
        others = {"validation": jets[2:]}, {"test": jets[2:]}
        for parts in ({"train": jets}, *({"train": jets[:2], **other} for other in others)):
            for tree in ("tree", "events"):
                other = source_of(FitFiles(**parts), NET, replace(SETTINGS, tree=tree))
                assert (other.open(folder) is None) == ((len(parts), tree) != (1, "tree")), (parts, tree)
        content = (folder / "particles").read_bytes()
        (folder / "particles").write_bytes(content[:-400])
        assert source.open(folder) is None
        assert (folder / "particles").stat().st_size == len(content) - 400
        (folder / "particles").write_bytes(content)
        assert source.open(folder) is not None
        (folder / "index.json").unlink()
        assert source.open(folder) is None


@pytest.mark.long
def test_a_fit_that_is_killed_while_it_reads_starts_reading_again(jets, tmp_path):
    files = [str(path) for path in jets]
    flags = ["--epochs", "1", "--batch-size", "11", "--no-boosting", "--quiet"]
    arguments = [
        sys.executable,
        "-m",
        "support.hep_killed_fit",
        "hep",
        "fit",
        *files,
        "--out",
        str(tmp_path / "run"),
        *flags,
    ]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 9, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".subquad-run.jets", "run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    metrics = fit(jets, SETTINGS, out=tmp_path / "run", quiet=True)
    assert metrics["test"] == fit(jets, SETTINGS, out=tmp_path / "whole", quiet=True)["test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]
    assert not (tmp_path / "run" / WORK).exists()


@pytest.mark.long
def test_a_fit_that_is_interrupted_while_it_trains_does_not_read_again(jets, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_command, "predict_outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(jets, SETTINGS, out=tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / JETS / "index.json").is_file()
    # --force removes what is in the folder, so that the jets are read again and kept
    with monkeypatch.context() as patch:
        patch.setattr(fit_command, "predict_outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(jets, SETTINGS, out=tmp_path / "run", force=True, quiet=True)
    assert (tmp_path / "run" / JETS / "index.json").is_file()
    monkeypatch.setattr(preparation, "write_store", stop)
    # nor because the disk was full while the results were written
    with monkeypatch.context() as patch:
        patch.setattr("subquad.runs.folder.write_text", full)
        with pytest.raises(OSError, match="No space left"):
            fit(jets, SETTINGS, out=tmp_path / "run", quiet=True)
    # of a copy to another file system after which the process was killed
    (tmp_path / ".subquad-run.jets").mkdir()
    assert fit(jets, SETTINGS, out=tmp_path / "run", quiet=True)["steps"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / WORK).exists()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("is_link", [True, False])
def test_an_interrupted_fit_is_resumed_in_a_linked_or_in_the_current_folder(is_link, jets, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    folder = tmp_path / "data" / "run"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(fit_command, "fit_network", stop)
    files = [path.resolve() for path in jets]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(files, SETTINGS, out=tmp_path / "link" if is_link else ".", quiet=True)
        assert (folder / JETS / "index.json").is_file()
        # the second time, nothing is read
        monkeypatch.setattr(preparation, "write_store", None)


def test_a_store_is_moved_to_another_file_system(tmp_path, monkeypatch):
    rename = Path.rename

    def across(path, target):
        if path.name == ".subquad-run.jets":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across)
    for content in ("old", "new"):
        (tmp_path / ".subquad-run.jets").mkdir(exist_ok=True)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / ".subquad-run.jets" / "index.json").write_text(content)
        move_store(tmp_path / ".subquad-run.jets", tmp_path / "run" / JETS)
        assert (tmp_path / "run" / JETS / "index.json").read_text() == content
    assert [path.name for path in (tmp_path / "run" / WORK).iterdir()] == ["jets"]


def test_what_cannot_be_used_leaves_nothing_behind(jets, tables, tmp_path):
    columns, write = tables
    table = columns("QCD")
    table["jet_tau1"][3] = np.nan
    bad = write(tmp_path / "bad.root", table)
    with pytest.raises(SubquadError, match=r"bad\.root: entry 3: jet_tau1 is nan"):
        fit([*jets, bad], SETTINGS, out=tmp_path / "run", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.root"]


def test_an_unusable_folder_is_refused_before_jets_are_read(jets, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("mine")
    monkeypatch.setattr(preparation, "write_store", None)
    for force in (False, True):
        with pytest.raises(SubquadError, match="not empty and not written by subquad"):
            fit(jets, SETTINGS, out=tmp_path, force=force, quiet=True)


def test_settings_that_do_not_fit_the_jets_are_refused_before_these_are_read(jets, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "write_store", None)
    options = yaml.safe_load((CARDS / "JetClass_kin.yaml").read_text())
    options["labels"] = {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbqq"]}
    for group in options["inputs"].values():
        group["length"] = 7
    cards = {name: str(tmp_path / f"{name}.yaml") for name in ("short", "bare")}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(options))
    options["inputs"].pop("pf_vectors")
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(options))
    for given in (
        {"background": "QCd"},
        {"background": "qcd", "card": cards["short"]},
        {"card": cards["bare"]},
        {"k": 7, "card": cards["short"]},
        {"k": 128},
    ):
        with pytest.raises(SubquadError):
            fit(jets, FitSettings(**given), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    # a card may have more particles than a preset
    assert net_settings(FitSettings(k=150)).k == 150


@pytest.mark.long
def test_weights_enter_the_loss(jets, tmp_path):
    settings = replace(SETTINGS, reweight="class", reweight_vars=("jet_sdmass", "0", "100", "140", "300"))
    source = source_of(FitFiles(train=jets[:2]), NET, settings)
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        parts = split_store(source, folder, NET, settings)
        part = parts["train"]
        both = torch.cat([part.weights, parts["validation"].weights])
        labels = torch.cat([part.labels, parts["validation"].labels])
        assert part.weights.mean().item() == pytest.approx(1, abs=1e-5)
        assert part.weights.std() > 0.05
        assert both[labels == 0].sum().item() == pytest.approx(both[labels == 1].sum().item(), rel=1e-4)
        assert torch.equal(collate(part, torch.tensor([5, 2])).weights, part.weights[[5, 2]])
    metrics = fit(jets, settings, out=tmp_path / "run", quiet=True)
    assert metrics["jets"]["train"] == 99


def test_items_are_prefetched_in_their_order_once_each():
    from concurrent.futures import ThreadPoolExecutor

    made = []
    with ThreadPoolExecutor(1) as pool:
        plan = Prefetch(list(range(10)), lambda item: made.append(item) or 10 * item, pool, WaitingTime())[1::2]
        assert [plan[i] for i in range(len(plan))] == [10, 30, 50, 70, 90]
        assert plan[0] == 10
    assert made[:5] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("jets", [5, 6, 1000])
def test_every_class_keeps_a_jet_to_train_on(jets):
    labels = np.repeat([0, 1], [jets, 1000])
    found = stratified_split(labels, validation_fraction=0.49, test_fraction=0.49, seed=3)
    counts = {name: np.bincount(labels[rows], minlength=2).tolist() for name, rows in found.items()}
    assert min(*counts["train"], *counts["validation"], *counts["test"]) > 0
    assert sum(map(sum, counts.values())) == jets + 1000
