import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops import longconv as module
from subquad.ops.longconv import longconv, longconv_direct, longconv_frozen, longconv_toeplitz

FORMS = [longconv_direct, longconv_toeplitz, longconv, longconv_frozen]
few = examples(20)


def draw(B, H, T, seed, is_bidirectional):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    inputs = [normal(B, H, T), normal(H, T)]
    return inputs + [normal(H, T)] * is_bidirectional, torch.randn(B, H, T, dtype=torch.float64, generator=generator)


def loops(u, k, reverse=None):
    y = torch.zeros_like(u)
    for t in range(u.shape[-1]):
        for s in range(u.shape[-1]):
            if s <= t:
                y[..., t] += k[:, t - s] * u[..., s]
            if s >= t and reverse is not None:
                y[..., t] += reverse[:, s - t] * u[..., s]
    return y


@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_the_definition_is_the_formula_written_as_loops(is_bidirectional):
    inputs, _ = draw(2, 3, 7, 0, is_bidirectional)
    with torch.no_grad():
        torch.testing.assert_close(longconv_direct(*inputs), loops(*inputs))


@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_is_checked_by_hand(form):
    u = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    k, reverse = (
        torch.tensor([[10.0, 1.0, 0.1]], dtype=torch.float64),
        torch.tensor([[0.0, 100.0, 1000.0]], dtype=torch.float64),
    )
    torch.testing.assert_close(form(u, k), torch.tensor([[[10.0, 21.0, 32.1]]], dtype=torch.float64))
    torch.testing.assert_close(form(u, k, reverse), torch.tensor([[[3210.0, 321.0, 32.1]]], dtype=torch.float64))


@pytest.mark.parametrize("has_fft_only", [False, True])
@pytest.mark.parametrize("fast", FORMS[1:])
@given(
    B=st.integers(1, 3),
    H=st.integers(1, 5),
    T=st.integers(1, 67),
    seed=st.integers(0, 2**31),
    is_bidirectional=st.booleans(),
)
@few
def test_equals_the_definition_in_value_and_gradient(fast, has_fft_only, *, B, H, T, seed, is_bidirectional):
    inputs, weight = draw(B, H, T, seed, is_bidirectional)
    with pytest.MonkeyPatch.context() as patch:
        # short sequences must reach the FFT too
        patch.setattr(module, "TOEPLITZ_LENGTH", 0 if has_fft_only else 128)
        y = fast(*inputs)
        gradients = torch.autograd.grad((y * weight).sum(), inputs)
    expected = longconv_direct(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for gradient, right in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("numbers", [1, 1100, 2**19])
def test_channels_transformed_one_or_several_at_a_time_give_the_same(monkeypatch, numbers):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", numbers)
    inputs, weight = draw(2, 5, 131, 7, True)
    y, expected = longconv(*inputs), longconv_direct(*inputs)
    torch.testing.assert_close(y, expected)
    for a, b in zip(
        torch.autograd.grad((y * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("T", [128, 129, 257])
def test_both_sides_of_the_switch_agree_with_the_definition(T):
    inputs, _ = draw(2, 3, T, 1, True)
    torch.testing.assert_close(longconv(*inputs), longconv_direct(*inputs))


@pytest.mark.parametrize("T", [7, 131])
@pytest.mark.parametrize("form", FORMS)
def test_no_position_sees_a_later_one(form, T):
    (u, k), _ = draw(2, 3, T, 2, False)
    changed = u.detach().clone()
    changed[..., T // 2 :] += 1
    torch.testing.assert_close(form(changed, k)[..., : T // 2], form(u, k)[..., : T // 2])


@pytest.mark.parametrize("T", [7, 131])
@pytest.mark.parametrize("form", FORMS)
def test_zeros_behind_the_sequence_change_nothing(form, T):
    (u, k, reverse), _ = draw(2, 3, T, 3, True)
    longer = [torch.nn.functional.pad(x, (0, 5)) for x in (u, k, reverse)]
    torch.testing.assert_close(form(*longer)[..., :T], form(u, k, reverse))


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch(form):
    (u, k), _ = draw(5, 3, 131, 4, False)
    torch.testing.assert_close(form(u, k)[2:3], form(u[2:3], k))


@pytest.mark.parametrize("T", [8, 300])
def test_a_batch_without_sequences_has_no_output_and_zero_gradients(T):
    u, k, reverse = torch.randn(0, 3, T), torch.randn(3, T).requires_grad_(), torch.randn(3, T).requires_grad_()
    for kernels in ((k,), (k, reverse)):
        y = longconv(u, *kernels)
        assert y.shape == u.shape
        for gradient in torch.autograd.grad(y.sum(), kernels):
            assert not gradient.any()


@pytest.mark.parametrize("T", [11, 131])
@pytest.mark.parametrize("form", FORMS[1:])
def test_only_the_asked_gradients_are_made(form, T):
    (u, k), _ = draw(2, 3, T, 5, False)
    both = torch.autograd.grad(form(u, k).sum(), (u, k))
    torch.testing.assert_close(torch.autograd.grad(form(u, k.detach()).sum(), u)[0], both[0])
    torch.testing.assert_close(torch.autograd.grad(form(u.detach(), k).sum(), k)[0], both[1])


@pytest.mark.parametrize("T", [11, 131])
def test_half_precision_keeps_its_type_and_float32_its_accuracy(T):
    (u, k), _ = draw(2, 3, T, 6, False)
    right = longconv_direct(u, k)
    torch.testing.assert_close(longconv(u.float(), k.float()).double(), right, rtol=1e-4, atol=1e-4)
    half = longconv(u.bfloat16(), k.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), right, rtol=0.05, atol=0.3)
