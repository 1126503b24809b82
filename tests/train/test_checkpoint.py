"""Checkpoints of trainings that somebody has changed."""

import json
from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator

from subquad.errors import SubquadError
from subquad.runs.storage import read_tensors_and_metadata, write_tensors
from subquad.train.checkpoint import Counters, load_checkpoint, save_checkpoint, trained_state


def saved(folder):
    """Return the checkpoint of a small model, and what it is restored to."""
    path, model = folder / "checkpoint-lora.safetensors", torch.nn.Linear(3, 2)
    own = {"accelerator": Accelerator(cpu=True), "model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    save_checkpoint(path, **own, weights={"best": trained_state(model)}, state=asdict(Counters(step=1)))
    return path, own


@pytest.mark.parametrize("entry", ["optimizer", "state"])
@pytest.mark.parametrize("content", [None, "[", '{"a": 1', "[3]"])
def test_a_checkpoint_with_a_damaged_header_is_refused_with_its_name(tmp_path, entry, content):
    path, own = saved(tmp_path)
    tensors, header = read_tensors_and_metadata(path)
    changed = {name: text for name, text in header.items() if name != entry}
    write_tensors(path, tensors, changed if content is None else {**changed, entry: content})
    with pytest.raises(SubquadError, match=r"checkpoint-lora\.safetensors: .*damaged.* start again with --force"):
        load_checkpoint(path, **own)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"step": "two"}, r'state: step must be an integer, got "two"'),
        ({"sums": 3}, r"state: sums must be an object, got 3"),
        ({"stride": 1}, r"damaged; start again with --force \(.*unexpected keyword argument 'stride'"),
    ],
)
def test_a_checkpoint_with_other_counters_is_refused(state, message, tmp_path):
    path, own = saved(tmp_path)
    tensors, header = read_tensors_and_metadata(path)
    write_tensors(path, tensors, {**header, "state": json.dumps(json.loads(header["state"]) | state)})
    with pytest.raises(SubquadError, match=rf"checkpoint-lora\.safetensors: {message}"):
        load_checkpoint(path, **own)


def test_a_checkpoint_without_its_checksum_is_refused(tmp_path):
    path, own = saved(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"crc32"', b'"crc12"'))
    with pytest.raises(SubquadError, match=r"checkpoint-lora\.safetensors: damaged \(it has no checksum\)"):
        load_checkpoint(path, **own)
