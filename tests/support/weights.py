"""Other weights and settings in a saved run, as if it had been trained so."""

import torch

from subquad.runs.folder import CONFIG, WEIGHTS
from subquad.runs.storage import CHECKSUM, read_json, read_tensors, write_json, write_tensors


def shuffle(folder):
    """Shuffle the weights of a run within each tensor."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in read_tensors(folder / WEIGHTS).items()
    }
    config = read_json(folder / CONFIG)
    config["subquad"][CHECKSUM] = write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, config)
    accept_changes(folder)


def accept_changes(folder):
    """Delete the checksums of the files of a run beside its weights, as someone does who changed one on purpose."""
    config = read_json(folder / CONFIG)
    config["subquad"].pop("parts", None)
    write_json(folder / CONFIG, config)


def replace_part(path, save):
    """Write another fitted baseline with `save(path)`, and accept it in the run of its folder."""
    save(path)
    accept_changes(path.parent)
