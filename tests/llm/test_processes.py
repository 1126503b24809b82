"""Two processes learn what one learns from twice as many sequences a step."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import SMALL

import subquad.llm
from subquad.train.artifact import read_tensors

FLAGS = [
    "--attention.window", "3", "--length", "31", "--evaluation-tokens", "93", "--precision", "no",
    "--transfer-tokens", str(31 * 8), "--lora-tokens", str(31 * 6), "--validate-every", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def both(folder, text, tmp_path_factory):
    """Return the folders of the same run in one process and in two."""
    path = tmp_path_factory.mktemp("processes")
    settings = replace(SMALL, batch=2, transfer_tokens=31 * 8, lora_tokens=31 * 6, validate_every=2)
    subquad.llm.linearize(folder, text, settings, out=path / "one", quiet=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [
        "-m",
        "subquad",
        "llm",
        "linearize",
        str(folder),
        "--text",
        str(text),
        "--out",
        str(path / "two"),
        *FLAGS,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *command], check=False, capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return path / "one", path / "two", done.stdout


def losses(path):
    return [json.loads(line)["loss"] for line in (path / "history.jsonl").read_text().splitlines() if '"loss"' in line]


def test_the_losses_are_those_of_one_process(both):
    one, two, _ = both
    assert len(losses(one)) == 4 + 3
    torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), rtol=1e-4, atol=1e-5)


def test_the_weights_are_those_of_one_process(both):
    one, two = (read_tensors(path / "model.safetensors") for path in both[:2])
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def test_one_process_speaks_and_writes(both):
    *_, two, printed = both
    assert printed.count("Perplexity on held-out text") == 1
    assert json.loads((two / "metrics.json").read_text())["tokens"] == {"transfer": 31 * 8, "lora": 31 * 6}
