"""Tensors in files: what shares memory is written too, without copies of what does not."""

import torch

from subquad.runs import storage
from subquad.runs.storage import read_tensors, write_tensors


def test_tied_weights_and_views_are_written(tmp_path):
    whole = torch.arange(35.0).reshape(5, 7)
    tensors = {"whole": whole, "tied": whole, "rows": whole[1:3], "columns": whole[:, 2:5], "empty": whole[:0]}
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_tensors_with_memory_of_their_own_are_not_copied():
    tensors = {"a": torch.ones(3, 5), "b": torch.ones(7)}
    given = storage._without_shared_memory(tensors)
    assert all(given[name].data_ptr() == tensor.data_ptr() for name, tensor in tensors.items())
