"""Other weights in a saved run, as if it had been trained so."""

import torch

from subquad.runs.folder import CONFIG, WEIGHTS
from subquad.runs.storage import read_json, read_tensors, sha256_of, write_json, write_tensors


def shuffle(folder):
    """Shuffle the weights of a run within each tensor."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in read_tensors(folder / WEIGHTS).items()
    }
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    accept_weights(folder)


def accept_weights(folder):
    """Write the SHA-256 of the weights into the config of a run."""
    config = read_json(folder / CONFIG)
    config["subquad"]["sha256"] = sha256_of(folder / WEIGHTS)
    write_json(folder / CONFIG, config)
