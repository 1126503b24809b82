"""Two processes take the steps of one with twice the batch size, also with sharded weights."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.llm_models import SMALL

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.training.controls import MODES, control_folder
from subquad.runs.folder import WORK
from subquad.runs.storage import read_tensors

pytestmark = pytest.mark.long

FLAGS = [
    "--attention.window", "3", "--attention.cache", "5", "--sequence-length", "31", "--evaluation-tokens", "93",
    "--precision", "float32", "--transfer-tokens", str(31 * 8), "--lora-tokens", str(31 * 6), "--validate-every", "2",
    "--distillation-weight", "0.25", "--controls",
]  # fmt: skip


def launch(*command):
    """Run a command of two processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *command],
        check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def command(folder, text):
    return ["llm", "linearize", str(folder), "--text", str(text), *FLAGS]


@pytest.fixture(scope="module")
def one(folder, text, tmp_path_factory):
    """Return the folder of the run in one process."""
    path = tmp_path_factory.mktemp("processes") / "one"
    settings = replace(
        SMALL, batch_size=2, transfer_tokens=31 * 8, lora_tokens=31 * 6, validate_every=2, distillation_weight=0.25,
        controls=True,
    )  # fmt: skip
    subquad.llm.linearize(folder, text, settings, out=path, quiet=True)
    return path


@pytest.fixture(scope="module", params=["each whole", "shared"])
def two(request, command, tmp_path_factory):
    """Return the folder of the same run in two processes and their output; of the sharded one a process was killed."""
    path = tmp_path_factory.mktemp("processes") / "two"
    command = [*command, "--out", str(path)]
    if request.param == "shared":
        command += ["--shard", "--gradient-checkpointing"]
        # in the second step of the student, behind its controls
        steps = str(len(MODES) * 7 + 2)
        killed = launch("-m", "support.llm_killed_run", steps, *command)
        assert killed.returncode == 1
        assert "SIGKILL" in killed.stderr
        assert (path / WORK / "checkpoint-lora.safetensors").is_file()
    done = launch("-m", "subquad", *command)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Return the results of each of two processes with a sharded model."""
    path = tmp_path_factory.mktemp("shards")
    done = launch("-m", "support.llm_sharded", str(path))
    assert done.returncode == 0, done.stderr
    return [json.loads((path / f"{process}.json").read_text()) for process in (0, 1)]


def losses(path):
    return [json.loads(line)["loss"] for line in (path / "history.jsonl").read_text().splitlines() if '"loss"' in line]


def test_losses_equal_those_of_one_process(one, two):
    # steps of both stages, and as many for each control
    assert len(losses(one)) == 4 + 3 + len(MODES) * 7
    torch.testing.assert_close(torch.tensor(losses(two[0])), torch.tensor(losses(one)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [".", *map(control_folder, MODES)])
def test_weights_equal_those_of_one_process(one, two, place):
    expected, given = (read_tensors(path / place / "model.safetensors") for path in (one, two[0]))
    assert expected.keys() == given.keys()
    for name in expected:
        torch.testing.assert_close(given[name], expected[name], rtol=1e-3, atol=1e-4)


def test_only_one_process_prints_and_writes(two):
    path, printed = two
    assert printed.count("Perplexity on held-out text") == 1
    assert json.loads((path / "metrics.json").read_text())["tokens"] == {"transfer": 31 * 8, "lora": 31 * 6}


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_each_of_two_processes_has_half_of_the_frozen_weights(shards, kind):
    for found in (process[kind] for process in shards):
        # what is trained, and a row of each weight that does not divide evenly
        assert found["bytes"] < 0.51 * found["frozen"] + found["trained"]
        assert found["whole"] > found["frozen"] + found["trained"]
        # both stages leave no layer gathered; the sequences came in between
        assert found["bytes_after_both_stages"] - found["bytes"] < 0.01 * found["frozen"]


def test_a_checkpoint_is_read_by_shard_and_never_whole(shards):
    for found in (process["read"] for process in shards):
        # half of the weights, a whole layer, and the embeddings and the head before they are sharded
        outside = found["frozen"] - 8 * found["layer"]
        assert found["most"] < 0.55 * 8 * found["layer"] + found["layer"] + outside < 0.9 * found["frozen"]
    first = shards[0]["read"]
    assert first["names"] == first["expected"]
    assert max(first["errors"]) == 0.0


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_sharded_weights_give_the_same_gradients_and_merged_model(shards, kind):
    for process, found in enumerate(process[kind] for process in shards):
        # losses of both stages, 4 parameters, twice these and 14 pairs of updates, logits, a text
        assert len(found["errors"]) == 2 + 4 + 2 * (4 + 28) + 2 + (not process) * (25 - (kind == "tied"))
        assert max(found["errors"].values()) < 1e-4


def test_autograd_keeps_no_copy_of_a_sharded_weight(shards):
    for found in (process["untied"] for process in shards):
        shared, alone = found["kept"]
        assert shared == 0 < alone


def test_batches_of_two_processes_are_weighted_by_their_sizes(shards):
    assert [process["trained"] < 1e-6 for process in shards] == [True, True]


def test_processes_agree_on_the_token_budget(shards):
    first, second = (process["untied"]["budget"] for process in shards)
    assert first == second
    assert first["seconds_per_sequence"].keys() == {"evaluate", "transfer", "lora"}


def test_sharding_in_one_process_is_rejected(folder, text, tmp_path):
    with pytest.raises(SubquadError, match=r"sharding needs several processes: torchrun --nproc-per-node 2"):
        subquad.llm.linearize(folder, text, replace(SMALL, shard=True), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
