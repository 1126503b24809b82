"""`hep fit` by two processes: they divide the jets, and train the weights of one process with both batches."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.launched import ACCELERATE, kill_second_process, torchrun

from subquad.hep import FitSettings, fit
from subquad.hep.models import training
from subquad.runs.folder import WORK
from subquad.train.distributed import processes
from subquad.train.loop import LoopSettings

pytestmark = pytest.mark.long


def test_two_processes_divide_all_jets(jets, tmp_path):
    flags = ["--epochs", "1", "--batch-size", "11", "--no-boosting", "--out", str(tmp_path / "two")]
    done = torchrun("support.hep_recorded_fit", tmp_path, "hep", "fit", *jets[:2], *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ top-1 accuracy") == done.stdout.count("more.root --out scores.root") == 1
    (mine, seeds), (other, other_seeds) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # each has dropout of its own, at every step another one
    assert len({*seeds, *other_seeds}) == 6
    # 66 jets in 6 batches
    assert [len(mine), len(other)] == [3, 3]
    rows = [row for batch in mine + other for row in batch]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert len(rows) == len(set(rows)) == metrics["jets"]["train"] == 66
    assert metrics["steps"] == 3
    assert not (tmp_path / "two" / WORK).exists()


def test_two_processes_train_the_weights_of_one_with_both_batches(jetclass, tmp_path, monkeypatch):
    flags = ["--inputs", "particles", "--epochs", "2", "--batch-size", "11", "--no-boosting", "--quiet"]
    words = ("subquad", "hep", "fit", *jetclass[:2], *flags, "--out", tmp_path / "two")
    done = torchrun(*words, launcher=ACCELERATE)
    assert done.returncode == 0, done.stderr
    alone = SimpleNamespace(num_processes=2, device=processes().device, is_main_process=True)
    monkeypatch.setattr(training, "processes", lambda: alone)
    monkeypatch.setattr(training, "LoopSettings", partial(LoopSettings, accumulation=2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = FitSettings(inputs="particles", epochs=2, batch_size=11, no_boosting=True)
    fit(jetclass[:2], settings, out=tmp_path / "one", quiet=True)
    torch.set_num_threads(threads)
    losses = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], atol=1e-5, rtol=1e-4)


def test_a_run_of_which_one_process_is_killed_ends_at_once_and_is_resumed(jetclass, tmp_path):
    # with dropout
    flags = ["--inputs", "particles+jet", "--epochs", "12", "--batch-size", "11", "--no-boosting", "--quiet"]
    words = ["subquad", "hep", "fit", *jetclass[:2], *flags, "--out"]
    history = tmp_path / "killed" / "history.jsonl"
    kill_second_process(
        [*words, tmp_path / "killed"],
        lambda: history.exists() and history.read_text().count("validation_loss") >= 3,
    )
    assert not (tmp_path / "killed" / "metrics.json").exists()
    for name in ("killed", "whole"):
        done = torchrun(*words, tmp_path / name)
        assert done.returncode == 0, done.stderr
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(weights, killed[name]) for name, weights in whole.items())
    losses = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert losses[0] == losses[1]
