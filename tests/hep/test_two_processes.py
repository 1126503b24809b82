"""`hep fit` by two processes: they divide the jets, and train the weights of one process with both batches."""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from subquad.hep import FitSettings, fit
from subquad.hep.models import training
from subquad.train.distributed import processes
from subquad.train.loop import LoopSettings

pytestmark = pytest.mark.long


def torchrun(*words):
    """Run a module by two processes, and return the process that has ended."""
    start = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
    return subprocess.run(
        [*start, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_divide_all_jets(jets, tmp_path):
    flags = ["--epochs", "1", "--batch-size", "11", "--no-boosting", "--out", str(tmp_path / "two")]
    done = torchrun("support.hep_recorded_fit", tmp_path, "hep", "fit", *jets[:2], *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ top-1 accuracy") == done.stdout.count("more.root --out scores.root") == 1
    mine, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # 66 jets in 6 batches
    assert [len(mine), len(other)] == [3, 3]
    rows = [row for batch in mine + other for row in batch]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert len(rows) == len(set(rows)) == metrics["jets"]["train"] == 66
    assert metrics["steps"] == 3
    assert not (tmp_path / "two" / "jets").exists()


def test_two_processes_train_the_weights_of_one_with_both_batches(jetclass, tmp_path, monkeypatch):
    flags = ["--inputs", "particles", "--epochs", "2", "--batch-size", "11", "--no-boosting", "--quiet"]
    done = torchrun("subquad", "hep", "fit", *jetclass[:2], *flags, "--out", tmp_path / "two")
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
