import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops.s4d import discretise, kernel, kernel_direct, s4d, s4d_direct, s4d_lin, s4d_scan, s4d_step

FORMS = [s4d_direct, s4d, s4d_scan]
few = examples(15)


def draw(B, H, T, N, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    u = normal(B, H, T).requires_grad_()
    A = torch.complex(-normal(H, N).exp(), 5 * normal(H, N)).requires_grad_()
    C, C_reverse = (torch.complex(normal(H, N), normal(H, N)).requires_grad_() for _ in range(2))
    dt = (normal(H) - 3).exp().detach().requires_grad_()
    mask = torch.arange(T) < torch.randint(0, T + 1, (B, 1), generator=generator)
    return u, A, C, dt, C_reverse, mask


@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_is_checked_by_hand(form):
    # A = -ln 2 and dt = 1 halve the state each step; B = (1/2 - 1) / -ln 2; C = ln 2 makes each input count once
    A, C = torch.tensor([[-math.log(2) + 0j]]), torch.tensor([[math.log(2) + 0j]])
    y = form(torch.tensor([[[1.0, 0.0, 4.0]]]), A, C, dt=torch.tensor([1.0]))
    torch.testing.assert_close(y, torch.tensor([[[1.0, 0.5, 4.25]]]))


def test_s4d_lin_starts_where_the_paper_says():
    torch.testing.assert_close(s4d_lin(3), torch.tensor([-0.5 + 0j, -0.5 + math.pi * 1j, -0.5 + 2 * math.pi * 1j]))


@given(H=st.integers(1, 3), N=st.integers(1, 5), T=st.integers(1, 67), seed=st.integers(0, 2**31))
@few
def test_the_split_kernel_equals_the_vandermonde_matrix_in_value_and_gradient(H, N, T, seed):
    _, A, C, dt, _, _ = draw(1, H, T, N, seed)
    expected, got = kernel_direct(A, C, dt, length=T), kernel(A, C, dt, length=T)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    weight = torch.linspace(-1, 1, H * T, dtype=torch.float64).reshape(H, T)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), (A, C, dt)),
        torch.autograd.grad((expected * weight).sum(), (A, C, dt)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fast", FORMS[1:])
@given(
    B=st.integers(1, 3),
    H=st.integers(1, 3),
    T=st.integers(1, 23),
    N=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    is_bidirectional=st.booleans(),
    is_masked=st.booleans(),
)
@few
def test_equals_the_definition_in_value_and_gradient(fast, *, B, H, T, N, seed, is_bidirectional, is_masked):
    u, A, C, dt, C_reverse, mask = draw(B, H, T, N, seed)
    options = {"dt": dt, "C_reverse": C_reverse if is_bidirectional else None, "mask": mask if is_masked else None}
    inputs = [u, A, C, dt] + [C_reverse] * is_bidirectional
    expected, got = s4d_direct(u, A, C, **options), fast(u, A, C, **options)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    weight = torch.linspace(-1, 1, u.numel(), dtype=torch.float64).reshape(u.shape)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_the_skip_adds_each_input_to_its_own_output(form):
    u, A, C, dt, C_reverse, mask = draw(2, 3, 11, 5, 4)
    D = torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64, requires_grad=True)
    options = {"dt": dt, "C_reverse": C_reverse, "mask": mask}
    expected = form(u, A, C, **options) + torch.where(mask[:, None], D[:, None] * u, 0.0)
    got = form(u, A, C, D=D, **options)
    torch.testing.assert_close(got, expected)
    right = torch.where(mask[:, None], u, 0.0).sum((0, 2))
    torch.testing.assert_close(torch.autograd.grad(got.sum(), D)[0], right)


def test_one_step_at_a_time_gives_the_convolution():
    u, A, C, dt, _, _ = draw(2, 3, 11, 5, 0)
    state, y = torch.zeros(2, 3, 5, dtype=torch.complex128), []
    for t in range(11):
        out, state = s4d_step(u[..., t], state, A, C=C, dt=dt)
        y.append(out)
    torch.testing.assert_close(torch.stack(y, -1), s4d(u, A, C, dt=dt))


@pytest.mark.parametrize("form", FORMS)
def test_no_position_sees_a_later_one(form):
    u, A, C, dt, _, _ = draw(2, 3, 11, 5, 1)
    changed = u.detach().clone()
    changed[..., 7:] += 1
    torch.testing.assert_close(form(changed, A, C, dt=dt)[..., :7], form(u, A, C, dt=dt)[..., :7])


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing_whatever_stands_in_it(form):
    u, A, C, dt, C_reverse, _ = draw(2, 3, 11, 5, 2)
    padded = torch.nn.functional.pad(u.detach(), (0, 6), value=math.nan)
    mask = (torch.arange(17) < 11).expand(2, -1)
    y = form(padded, A, C, dt=dt, C_reverse=C_reverse, mask=mask)
    torch.testing.assert_close(y[..., :11], form(u, A, C, dt=dt, C_reverse=C_reverse))
    assert (y[..., 11:] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch(form):
    u, A, C, dt, C_reverse, _ = draw(5, 3, 11, 2, 3)
    whole = form(u, A, C, dt=dt, C_reverse=C_reverse)
    torch.testing.assert_close(whole[3:4], form(u[3:4], A, C, dt=dt, C_reverse=C_reverse))


def test_float32_is_accurate_at_small_steps_and_long_sequences():
    A = s4d_lin(32).repeat(3, 1)
    C, dt = torch.ones_like(A), torch.tensor([1e-3, 1e-2, 1e-1])
    exact = kernel(A.to(torch.complex128), C.to(torch.complex128), dt.double(), length=4099)
    single = kernel(A, C, dt, length=4099)
    assert (single.double() - exact).abs().max() / exact.abs().max() < 1e-4
    _, Bbar = discretise(A, dt)
    _, right = discretise(A.to(torch.complex128), dt.double())
    # at dt = 1e-3 the plain e^z - 1 loses four digits
    assert ((Bbar - right) / right)[0].abs().max() < 1e-6
