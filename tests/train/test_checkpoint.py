"""Checkpoints of trainings that somebody has changed."""

import pytest
import torch

from subquad.errors import SubquadError
from subquad.runs.storage import read_tensors_and_metadata, write_tensors
from subquad.train.checkpoint import load_checkpoint, save_checkpoint, trained_state


@pytest.mark.parametrize("entry", ["optimizer", "state"])
@pytest.mark.parametrize("content", [None, "[", '{"a": 1'])
def test_a_checkpoint_with_a_damaged_header_is_refused_with_its_name(tmp_path, entry, content):
    path, model = tmp_path / "checkpoint-lora.safetensors", torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(path, model, optimizer, copies={"best": trained_state(model)}, state={"steps": 1})
    assert load_checkpoint(path, model, optimizer)[0] == {"steps": 1}
    tensors, header = read_tensors_and_metadata(path)
    changed = {name: text for name, text in header.items() if name != entry}
    write_tensors(path, tensors, changed if content is None else {**changed, entry: content})
    with pytest.raises(SubquadError, match=r"checkpoint-lora\.safetensors: cannot be read as a checkpoint"):
        load_checkpoint(path, model, optimizer)
