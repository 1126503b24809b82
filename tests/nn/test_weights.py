"""Saved weights are compared with the sizes of a module before memory is reserved for them."""

import pytest
import torch
from torch import nn

from subquad.nn.weights import load_weights


class Net(nn.Module):
    """A network with a buffer that is not saved."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(3, width)
        self.register_buffer("places", torch.arange(width), persistent=False)


def test_the_module_has_the_saved_weights_and_its_own_buffers():
    saved = Net(7)
    torch.manual_seed(0)
    Net(7)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    net = load_weights(lambda: Net(7), saved.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in saved.state_dict().items())
    assert net.places.tolist() == list(range(7))
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}


def test_other_sizes_and_names_are_refused_before_memory_is_reserved():
    devices = []

    def build(width):
        devices.append(torch.empty(0).device.type)
        return Net(width)

    saved = Net(7).state_dict()
    with pytest.raises(
        ValueError, match=r"^linear.weight should have the shape \(10000000000000, 3\), and has \(7, 3\)"
    ):
        load_weights(lambda: build(10**13), saved)
    with pytest.raises(ValueError, match=r"^the weights lack linear.bias"):
        load_weights(lambda: build(7), {"linear.weight": saved["linear.weight"]})
    with pytest.raises(ValueError, match=r"^the weights have more, which is no part of the network"):
        load_weights(lambda: build(7), {**saved, "more": torch.zeros(3)})
    assert devices == ["meta"] * 3
