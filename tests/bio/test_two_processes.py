"""`bio fit` by two processes: they divide the rows, and train the weights of one process with both batches."""

import json
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.bio_recorded_fit import no_dropout
from support.bio_tables import table
from support.launched import kill_second_process, torchrun

from subquad.bio import FitSettings, fit
from subquad.bio.models import training
from subquad.runs.folder import WORK
from subquad.train.loop import LoopSettings

pytestmark = pytest.mark.long

WORDS = ["--sequence", "sequence", "--target", "score", "--ensemble-size", "1", "--stack-folds", "2"]
MODELS = ("ridge", "mlp", "cnn", "lyra", "lyra-alone")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return a table of sequences with measurements."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    table(path)
    return path


def history(folder):
    """Return the losses and validations of all networks of a fit."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def predictions(folder):
    return pd.read_csv(folder / "test.csv")


def even(batches):
    """Return a function from the epoch to as many batches as two processes take of it."""
    return lambda epoch: batches(epoch)[: len(batches(epoch)) // 2 * 2]


def test_two_processes_train_the_weights_of_one_with_both_batches(rows, tmp_path, monkeypatch):
    words = [*WORDS, "--models", *MODELS, "--epochs", "3", "--batch-size", "11", "--quiet"]
    out = tmp_path / "two"
    done = torchrun("support.bio_recorded_fit", tmp_path, out, "bio", "fit", rows, *words, "--out", out)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(training, "processes", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr(training, "LoopSettings", partial(LoopSettings, accumulation=2))
    monkeypatch.setattr(torch.nn.Dropout, "__init__", no_dropout)
    for name in ("epoch_batches", "shuffled_batches"):
        real = getattr(training, name)
        monkeypatch.setattr(training, name, lambda *given, real=real, **options: even(real(*given, **options)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = {"sequence": "sequence", "target": ("score",), "ensemble_size": 1, "stack_folds": 2, "models": MODELS}
    fit(rows, FitSettings(**settings, epochs=3.0, batch_size=11), out=tmp_path / "one", quiet=True)
    torch.set_num_threads(threads)
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    # the ensemble has no lyra-alone
    parts = {"mlp 1", "mlp 2", "mlp 3", "mlp 4", "cnn", "lyra-additive", "lyra"}
    assert parts <= {line["part"] for line in one} <= {*parts, "lyra-alone"}
    for expected, given in zip(one, two, strict=True):
        assert given.pop("part") == expected.pop("part")
        assert given == pytest.approx(expected, rel=1e-5, abs=1e-6)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], atol=1e-5, rtol=1e-4)
    one, two = (predictions(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, atol=1e-4, rtol=1e-4)


def test_a_fit_of_which_one_process_is_killed_ends_at_once_and_is_resumed(rows, tmp_path):
    # with dropout
    words = ["--models", "ridge", "lyra", "--epochs", "9", "--batch-size", "11", "--quiet", "--out"]
    words = ["subquad", "bio", "fit", rows, *WORDS, *words]
    folds = tmp_path / "killed" / WORK / "fold-0" / "history.jsonl"
    kill_second_process([*words, tmp_path / "killed"], lambda: folds.exists() and folds.read_text().count("loss") > 3)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    for name in ("killed", "whole"):
        done = torchrun(*words, tmp_path / name)
        assert done.returncode == 0, done.stderr
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(weights, killed[name]) for name, weights in whole.items())
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert predictions(tmp_path / "killed").equals(predictions(tmp_path / "whole"))
