import math

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops import pgc as module
from subquad.ops.linear import linear, product
from subquad.ops.pgc import PGCWeights, pgc, pgc_direct

FORMS = [pgc_direct, pgc]


@pytest.fixture(autouse=True)
def even_few_numbers_go_the_fast_way(monkeypatch):
    monkeypatch.setattr(module, "FEW_NUMBERS", 0)


few = examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw(B, T, H, M, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    sizes = [(2 * M, H), (2 * M,), (2 * M,), (M, 1, 3), (M,), (H, M), (H,), (H,)]
    mask = torch.arange(T) < torch.randint(0, T + 1, (B, 1), generator=generator)
    return normal(B, T, H), PGCWeights(*(normal(*size) for size in sizes)), mask


def one(value, *shape):
    return torch.full(shape, value, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_is_checked_by_hand(form):
    # [x, v] = [u, u] normalised is [±1, ±1]; the three taps weigh left, own and right by 1, 10, 100; the second norm
    # leaves of one channel its sign, so two are needed: the other is the bias 1
    weights = PGCWeights(
        project=one(1.0, 2, 1),
        project_bias=one(0.0, 2),
        inner_gain=one(1.0, 2),
        kernel=torch.tensor([[[1.0, 10.0, 100.0]]], dtype=torch.float64),
        kernel_bias=one(0.5, 1),
        back=torch.tensor([[1.0], [0.0]], dtype=torch.float64)[:1],
        back_bias=one(0.0, 1),
        gain=one(3.0, 1),
    )
    u = torch.tensor([[[2.0], [-3.0], [5.0]]], dtype=torch.float64)
    # before the last norm: 1 · (10 - 100 + ½), -1 · (1 - 10 + 100 + ½), 1 · (-1 + 10 + ½)
    right = torch.tensor([[[-3.0], [-3.0], [3.0]]], dtype=torch.float64)
    torch.testing.assert_close(form(u, weights), right)


@given(
    B=st.integers(1, 5),
    T=st.integers(1, 23),
    H=st.integers(1, 5),
    M=st.integers(1, 5),
    numbers=st.sampled_from([1, 17, 64, 2**17]),
    seed=st.integers(0, 2**31),
    is_masked=st.booleans(),
)
@few
def test_equals_the_definition_in_value_and_gradient_however_it_is_cut(*, B, T, H, M, numbers, seed, is_masked):
    u, weights, mask = draw(B, T, H, M, seed)
    mask = mask if is_masked else None
    expected = pgc_direct(u, weights, mask)
    weight = torch.linspace(-1, 1, u.numel(), dtype=torch.float64).reshape(u.shape)
    with pytest.MonkeyPatch.context() as patch:
        # windows of one position, of a part of a sequence, of several sequences
        patch.setattr(module, "NUMBERS_AT_ONCE", numbers)
        got = pgc(u, weights, mask)
        gradients = torch.autograd.grad((got * weight).sum(), [u, *weights])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients, torch.autograd.grad((expected * weight).sum(), [u, *weights]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing_whatever_stands_in_it(form):
    u, weights, _ = draw(2, 11, 3, 5, 1)
    padded = torch.nn.functional.pad(u.detach(), (0, 0, 0, 6), value=math.nan)
    y = form(padded, weights, (torch.arange(17) < 11).expand(2, -1))
    torch.testing.assert_close(y[:, :11], form(u, weights))
    assert (y[:, 11:] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_position_sees_only_its_neighbours(form):
    u, weights, _ = draw(2, 13, 3, 5, 2)
    changed = u.detach().clone()
    changed[:, 7] += 1
    same = [t for t in range(13) if abs(t - 7) > 1]
    torch.testing.assert_close(form(changed, weights)[:, same], form(u, weights)[:, same])


def test_half_precision_and_no_sequences_go_the_plain_way():
    u, weights, _ = draw(2, 7, 3, 5, 3)
    half = pgc(u.bfloat16(), PGCWeights(*(w.bfloat16() for w in weights)))
    assert half.dtype == torch.bfloat16
    assert pgc(u[:0], weights).shape == (0, 7, 3)


@pytest.mark.parametrize("few_numbers", [0, 2**14])
def test_both_sides_of_the_switch_agree_with_the_definition(monkeypatch, few_numbers):
    monkeypatch.setattr(module, "FEW_NUMBERS", few_numbers)
    u, weights, mask = draw(3, 11, 5, 7, 5)
    torch.testing.assert_close(pgc(u, weights, mask), pgc_direct(u, weights, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_product_through_onednn_equals_the_plain_one_in_value_and_gradient(dtype):
    generator = torch.Generator().manual_seed(4)
    sizes = [(2, 7, 3), (5, 3), (5,)]
    x, weight, bias = (torch.randn(*size, dtype=dtype, generator=generator).requires_grad_() for size in sizes)
    expected, got = torch.nn.functional.linear(x, weight, bias), linear(x, weight, bias)
    torch.testing.assert_close(got, expected)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), (x, weight, bias)),
        torch.autograd.grad(expected.square().sum(), (x, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product(x, weight), expected - bias)
