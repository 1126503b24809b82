"""Checkpoints of trainings that somebody has changed."""

from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator

from subquad.errors import SubquadError
from subquad.runs.storage import read_tensors_and_metadata, write_tensors
from subquad.train.checkpoint import Counters, load_checkpoint, save_checkpoint, trained_state


@pytest.mark.parametrize("entry", ["optimizer", "state"])
@pytest.mark.parametrize("content", [None, "[", '{"a": 1'])
def test_a_checkpoint_with_a_damaged_header_is_refused_with_its_name(tmp_path, entry, content):
    path, model = tmp_path / "checkpoint-lora.safetensors", torch.nn.Linear(3, 2)
    own = {"accelerator": Accelerator(cpu=True), "model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    save_checkpoint(path, **own, weights={"best": trained_state(model)}, state=asdict(Counters(step=1)))
    tensors, header = read_tensors_and_metadata(path)
    changed = {name: text for name, text in header.items() if name != entry}
    write_tensors(path, tensors, changed if content is None else {**changed, entry: content})
    with pytest.raises(SubquadError, match=r"checkpoint-lora\.safetensors: damaged; start again with --force"):
        load_checkpoint(path, **own)
