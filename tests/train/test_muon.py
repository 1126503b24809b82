"""Muon moves hidden matrices by orthogonal updates, and all other parameters as AdamW does."""

import copy

import pytest
import torch
from torch import nn

from subquad.train.muon import LEAST_SIDE, MuonAdamW, muon_groups, orthogonalized
from subquad.train.optim import parameter_groups


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 33)
    )


def optimizer(model, rate=0.01):
    return MuonAdamW(muon_groups(parameter_groups(model, learning_rate=rate, weight_decay=0.1), model[-1].weight))


def step(model, optimizers, seed):
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    for one in optimizers:
        one.step()
        one.zero_grad()


@pytest.mark.parametrize("shape", [(3, 40, 64), (2, 64, 40), (1, 33, 100)])
def test_singular_values_become_nearly_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalized(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ found @ right.mT
    torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)


def test_only_matrices_of_hidden_layers_are_orthogonalized():
    model = net()
    hidden = [group["params"] for group in optimizer(model).param_groups if group["is_hidden"]]
    assert [tuple(p.shape) for own in hidden for p in own] == [(64, 40), (40, 64)]
    assert min(model[-1].weight.shape) >= LEAST_SIDE


def test_convolutions_over_one_position_are_matrices():
    layer = nn.Conv2d(40, 64, 1, bias=False)
    groups = muon_groups([{"params": [layer.weight, nn.Parameter(torch.ones(3))]}], layer.weight.new_zeros(()))
    assert [tuple(p.shape) for group in groups if group["is_hidden"] for p in group["params"]] == [(64, 40, 1, 1)]
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(3))
    MuonAdamW([{**group, "lr": 0.1, "weight_decay": 0.0} for group in groups]).step()
    values = torch.linalg.svdvals((layer.weight - before).flatten(1) / (0.1 * 0.2 * 8))
    assert 0.6 < values.min() <= values.max() < 1.25


def test_a_matrix_without_gradient_stays():
    assert (orthogonalized(torch.zeros(1, 40, 64)) == 0).all()


def test_every_group_follows_its_learning_rate_also_in_a_copy():
    own = copy.deepcopy(optimizer(net()))
    parameters = [parameter for group in own.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    for rate, moves in ((0.0, False), (0.1, True)):
        for group in own.param_groups:
            group["lr"] = rate
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        own.step()
        assert [bool((new != old).any()) for new, old in zip(parameters, before, strict=True)] == [moves] * len(before)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_parameters_move_as_by_torchs_muon_and_adamw():
    ours, theirs = net(), net()
    hidden = [theirs[2].weight, theirs[4].weight]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [
        {"params": [theirs[0].weight, theirs[6].weight], "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(hidden, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    own, adamw = optimizer(ours), torch.optim.AdamW(groups, lr=0.01)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for each in (own, muon, adamw):
            each.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        # torch's Muon computes in bfloat16
        is_hidden = any(other is matrix for matrix in hidden)
        torch.testing.assert_close(one, other, atol=5e-4 if is_hidden else 1e-6, rtol=0)


def test_a_restored_state_continues_as_the_first():
    whole, parted = net(), net()
    own, first = optimizer(whole), optimizer(parted)
    for seed in range(2):
        step(whole, [own], seed)
        step(parted, [first], seed)
    second = optimizer(parted)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for group in (*second.param_groups, *own.param_groups):
        group["lr"] = 0.02
    for seed in range(2, 4):
        step(whole, [own], seed)
        step(parted, [second], seed)
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
