"""The distance correlation from centered distances is that of its definition, with all gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops.distance_correlation import distance_correlation, distance_correlation_direct


def drawn(N, seed, related=0.7):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, N, generator=generator, dtype=torch.float64).unbind()
    weights = torch.rand(N, generator=generator, dtype=torch.float64) + 0.01
    return x, related * x**2 + (1 - related) * noise, weights


@examples(40)
@given(N=st.sampled_from([2, 3, 7, 13, 31]), related=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_the_fast_form_equals_the_definition(N, related, seed):
    leaves = [one.requires_grad_() for one in drawn(N, seed, related)]
    fast, defined = distance_correlation(*leaves), distance_correlation_direct(*leaves)
    torch.testing.assert_close(fast, defined)
    torch.testing.assert_close(torch.autograd.grad(fast, leaves), torch.autograd.grad(defined, leaves))


@pytest.mark.parametrize("form", [distance_correlation, distance_correlation_direct])
def test_it_is_1_for_a_linear_relation_and_sees_one_without_linear_correlation(form):
    x, _, weights = drawn(61, 3)
    assert form(x, 2 - 5 * x, weights).item() == pytest.approx(1)
    x = torch.linspace(-1, 1, 61, dtype=torch.float64)
    assert form(x, x**2, torch.ones(61, dtype=torch.float64)).item() > 0.1


def test_it_goes_to_0_for_independent_variables():
    found = []
    for N in (101, 1601):
        generator = torch.Generator().manual_seed(5)
        x, y = torch.randn(2, N, generator=generator, dtype=torch.float64)
        found.append(distance_correlation(x, y, torch.ones(N, dtype=torch.float64)).item())
    # as 1 / N
    assert found[1] == pytest.approx(found[0] / 16, rel=0.6)


@pytest.mark.parametrize("form", [distance_correlation, distance_correlation_direct])
def test_weights_repeat_values_and_a_constant_has_no_correlation(form):
    x, y, _ = drawn(17, 8)
    counts = torch.arange(17) % 3
    repeated = form(x.repeat_interleave(counts), y.repeat_interleave(counts), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(form(x, y, counts.double()), repeated)
    constant = torch.zeros(17, dtype=torch.float64, requires_grad=True)
    value = form(constant, y, torch.ones(17, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert constant.grad.abs().max() == 0
