"""The Triton form of hybrid attention: on a GPU where there is one, else in Triton's interpreter."""

import importlib.util
import math
from importlib.metadata import version

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.errors import SubquadError
from subquad.ops.linattn import hybrid_chunked, hybrid_prefill, hybrid_quadratic, hybrid_state

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ["sliding", "terrace", "none"]
K, V, F = 5, 7, 3

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        tuple(map(int, version("jaxtyping").split("."))) < (0, 3, 11),
        reason="the import hook of jaxtyping before 0.3.11 hides helper kernels from Triton's interpreter",
    ),
]


def draw(T, *, B=1, kv_heads=1, groups=2, has_own_maps=True, seed=0, dtype=torch.float32, widths=(K, V, F)):
    generator = torch.Generator().manual_seed(seed)
    heads, (key, value, features) = kv_heads * groups, widths

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    inputs = {
        "q": normal(B, heads, T, key).to(dtype),
        "k": normal(B, kv_heads, T, key).to(dtype),
        "v": normal(B, kv_heads, T, value).to(dtype),
        "phi_q": normal(B, heads, T, features).abs(),
        "phi_k": normal(B, heads if has_own_maps else kv_heads, T, features).abs(),
        "mix": normal(heads),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def triton(**inputs):
    return hybrid_chunked(**inputs, kernel="triton")


def assert_close(got, expected, tolerance):
    # in parts of the largest: single ones may be as small as the rounding of others
    assert got.isfinite().all()
    assert (got - expected).abs().max() <= tolerance * max(1.0, expected.abs().max())


def assert_equal_in_value_and_gradient(form, inputs, *, tolerance=1e-5, **options):
    wide = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    expected, got = hybrid_quadratic(**wide, **options), form(**inputs, **options)
    assert_close(got, expected, tolerance)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64, device=DEVICE).reshape(expected.shape)
    how = {"materialize_grads": True, "allow_unused": True}
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), [x for x in inputs.values() if x.requires_grad], **how),
        torch.autograd.grad((expected * weight).sum(), [x for x in wide.values() if x.requires_grad], **how),
        strict=True,
    ):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("window_shape", SHAPES)
@examples(3)
@given(
    T=st.integers(1, 11),
    window=st.integers(3, 5),
    groups=st.integers(1, 2),
    has_own_maps=st.booleans(),
    use_linear=st.sampled_from([True, True, True, False]),
    seed=st.integers(0, 2**31),
)
def test_the_kernels_equal_the_definition_in_value_and_gradient(window_shape, *, T, window, use_linear, **heads):
    # without a window and without linear terms there is nothing
    use_linear = use_linear or window_shape == "none"
    options = {"window": window, "window_shape": window_shape, "use_linear": use_linear}
    assert_equal_in_value_and_gradient(triton, draw(T, **heads), **options)


def test_a_number_that_is_checked_by_hand():
    # scores 0, so each key of the window weighs γ = 3; features 2, so each earlier one weighs 4
    v = torch.tensor([1.0, 10.0, 100.0, 1000.0], device=DEVICE).view(1, 1, 4, 1)
    q, phi = torch.zeros(1, 1, 4, K, device=DEVICE), torch.full((1, 1, 4, 1), 2.0, device=DEVICE)
    mix = torch.tensor([math.log(3)], device=DEVICE)
    y = triton(q=q, k=q + 1, v=v, phi_q=phi, phi_k=phi, mix=mix, window=1)[0, 0, :, 0]
    expected = torch.tensor([1.0, 11 / 2, (330 + 4) / 10, (3300 + 44) / 14], device=DEVICE)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("window_shape", ["sliding", "terrace"])
def test_blocks_of_several_tiles_and_more_features_than_a_tile_holds(window_shape):
    inputs = draw(79, groups=1, widths=(19, 17, 67))
    assert_equal_in_value_and_gradient(triton, inputs, window=37, window_shape=window_shape)


def test_several_rows_and_key_heads_stay_apart():
    inputs = draw(7, B=2, kv_heads=2, has_own_maps=False)
    assert_equal_in_value_and_gradient(triton, inputs, window=3, window_shape="terrace")


@pytest.mark.parametrize("window_shape", SHAPES)
def test_padding_in_any_place_changes_nothing(window_shape):
    inputs = draw(11, groups=1, B=2)
    mask = torch.ones(2, 11, dtype=torch.bool, device=DEVICE)
    mask[0, :4] = mask[1, 3:6] = mask[1, 10] = False
    assert_equal_in_value_and_gradient(triton, inputs, window=3, window_shape=window_shape, mask=mask)


@pytest.mark.parametrize("window_shape", SHAPES)
def test_a_prompt_in_chunks_equals_the_definition_in_value_and_gradient(window_shape):
    def form(*, phi_k, window, window_shape, **inputs):
        state = hybrid_state(
            1, kv_heads=1, key_width=K, value_width=V, feature_heads=1, features=K, window=window,
            window_shape=window_shape, device=DEVICE,
        )  # fmt: skip
        mix, outputs = inputs.pop("mix"), []
        for part in (slice(0, 4), slice(4, 11)):
            chunks = {name: x[:, :, part] for name, x in inputs.items()}
            y, state = hybrid_prefill(
                **chunks, mix=mix, map_k=torch.abs, state=state, window=window, window_shape=window_shape,
                kernel="triton",
            )  # fmt: skip
            outputs.append(y)
        return torch.cat(outputs, 2)

    def definition(*, phi_k, k, **inputs):
        return hybrid_quadratic(**inputs, k=k, phi_k=k.abs(), window=3, window_shape=window_shape)

    inputs = draw(11, groups=1, widths=(K, V, K))
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    got, expected = form(**inputs, window=3, window_shape=window_shape), definition(**wide)
    assert_close(got, expected, 1e-5)
    how = {"materialize_grads": True, "allow_unused": True}
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), list(inputs.values()), **how),
        torch.autograd.grad(expected.square().sum(), list(wide.values()), **how),
        strict=True,
    ):
        assert_close(a, b, 1e-5)


def test_what_is_frozen_takes_nothing_from_the_gradient_of_the_maps():
    inputs = draw(7, groups=1)
    inputs |= {name: inputs[name].detach() for name in ("q", "k", "v")}
    assert_equal_in_value_and_gradient(triton, inputs, window=3, window_shape="sliding")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_summed_in_float32(dtype):
    inputs = draw(11, groups=1, dtype=dtype)
    y = triton(**inputs, window=3)
    assert y.dtype == dtype
    # one rounding, that of output or gradient
    tolerance = 2**-8 if dtype == torch.bfloat16 else 2**-10
    assert_equal_in_value_and_gradient(triton, inputs, window=3, window_shape="terrace", tolerance=tolerance)


def test_large_scores_do_not_overflow():
    inputs = draw(7, groups=1)
    assert triton(**{**inputs, "q": inputs["q"] * 1e4}, window=3, window_shape="sliding").isfinite().all()


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = {name: x.detach().cpu() for name, x in draw(3).items()}
    with pytest.raises(SubquadError, match=r"'triton' needs a CUDA GPU, but its tensors are on cpu: take kernel"):
        triton(**inputs, window=2)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="accumulates in float32; use kernel 'torch' for float64"):
        triton(**{name: x.double() for name, x in draw(3).items()}, window=2)


@pytest.mark.skipif(DEVICE == "cpu", reason="compiles the kernels: needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window_shape", SHAPES)
@pytest.mark.parametrize(("width", "window"), [(64, 64), (96, 48), (128, 128), (256, 64)])
def test_compiled_for_the_heads_of_models_they_equal_the_definition(width, window, window_shape, dtype):
    inputs = draw(331, groups=3, dtype=dtype, widths=(width, width, 2 * width))
    inputs |= {name: inputs[name].detach().softmax(-1).requires_grad_() for name in ("phi_q", "phi_k")}
    # products of halves are in TF32, which rounds features and weights to 2⁻¹¹
    tolerance = 1e-4 if dtype == torch.float32 else 2**-7
    assert_equal_in_value_and_gradient(triton, inputs, window=window, window_shape=window_shape, tolerance=tolerance)
