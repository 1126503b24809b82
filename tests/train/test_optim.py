"""Parameter groups and schedules."""

import pytest
import torch
from torch import nn

from subquad.train.optim import parameter_groups, schedule


class Slow(nn.Module):
    state_space_parameters = ("log_dt",)

    def __init__(self):
        super().__init__()
        self.log_dt = nn.Parameter(torch.zeros(3, 5))
        self.mix = nn.Linear(5, 2)


def test_state_space_parameters_learn_slowly_and_vectors_do_not_decay():
    model = Slow()
    matrices, vectors, slow = parameter_groups(model, learning_rate=0.01, weight_decay=0.1)
    assert (matrices["params"], matrices["lr"], matrices["weight_decay"]) == ([model.mix.weight], 0.01, 0.1)
    assert (vectors["params"], vectors["lr"], vectors["weight_decay"]) == ([model.mix.bias], 0.01, 0.0)
    assert (slow["params"], slow["lr"], slow["weight_decay"]) == ([model.log_dt], 1e-3, 0.0)


def test_a_rate_below_the_state_space_rate_holds_for_all():
    assert {group["lr"] for group in parameter_groups(Slow(), learning_rate=1e-4)} == {1e-4}


def test_frozen_parameters_are_left_out():
    model = Slow()
    model.mix.requires_grad_(False)
    assert [group["params"] for group in parameter_groups(model, learning_rate=0.01)] == [[model.log_dt]]


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25, 0]),
        ("linear", 0.5, [0, 0.5, 1, 0.5, 0]),
        ("cosine", 0.0, [1, 0.853553, 0.5, 0.146447, 0]),
        ("one_cycle", 0.0, [0.04, 0.935692, 0.811745, 0.283058, 0]),
    ],
)
def test_the_factor_follows_its_formula(name, warmup, expected):
    factor = schedule(name, warmup=warmup)
    assert [factor(part / 4) for part in range(5)] == pytest.approx(expected, abs=1e-5)


def test_a_single_step_has_no_warm_up():
    assert schedule("linear", warmup=0.1)(0.0) == 0.0
    assert schedule("linear", warmup=0.1, steps=1)(0.0) == 1.0
    assert schedule("linear", warmup=0.1, steps=10)(0.0) == 1.0
    assert schedule("linear", warmup=0.1, steps=11)(0.0) == 0.0
