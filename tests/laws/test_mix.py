import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops import mix as module
from subquad.ops.mix import mix, mix_direct

few = examples(25)


def draw(B, T, H, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    return [normal(B, T, H), normal(2 * H, H), normal(2 * H)], torch.rand(B, T, H, generator=generator) < 0.7


@pytest.mark.parametrize("form", [mix_direct, mix])
def test_a_number_that_is_checked_by_hand(form):
    # GELU leaves a large number as it is; the gate is the logistic function of ln 3, three quarters
    y = torch.tensor([[[20.0], [40.0]]], dtype=torch.float64)
    weight = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    bias = torch.tensor([1.0, 3.0], dtype=torch.float64).log()
    torch.testing.assert_close(form(y, weight, bias), y * 1.5)
    kept = torch.tensor([[[True], [False]]])
    torch.testing.assert_close(form(y, weight, bias, kept=kept, scale=1.25), y * 1.875 * kept)


@given(
    B=st.integers(1, 5),
    T=st.integers(0, 23),
    H=st.integers(1, 5),
    numbers=st.sampled_from([1, 17, 64, 2**17]),
    seed=st.integers(0, 2**31),
    is_dropped=st.booleans(),
)
@few
def test_equals_the_definition_in_value_and_gradient_however_it_is_cut(*, B, T, H, numbers, seed, is_dropped):
    inputs, kept = draw(B, T, H, seed)
    options = {"kept": kept, "scale": 1.25} if is_dropped else {}
    expected = mix_direct(*inputs, **options)
    weight = torch.linspace(-1, 1, B * T * H, dtype=torch.float64).reshape(B, T, H)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS_AT_ONCE", numbers)
        got = mix(*inputs, **options)
        gradients = torch.autograd.grad((got * weight).sum(), inputs)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_channels_may_stand_before_the_positions_in_memory():
    (y, weight, bias), _ = draw(3, 11, 5, 1)
    other = y.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    torch.testing.assert_close(mix(other, weight, bias), mix(y, weight, bias))
    for_other, for_y = (torch.autograd.grad(mix(x, weight, bias).square().sum(), x)[0] for x in (other, y))
    torch.testing.assert_close(for_other, for_y)
