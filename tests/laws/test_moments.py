"""Moments in place of features: all forms equal the definition, which is close to softmax attention where it should."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.laws import assert_same_law
from torch.nn import functional

from subquad.ops.attention_sizes import seen_whole
from subquad.ops.linattn import hybrid_chunked, hybrid_prefill, hybrid_quadratic, hybrid_state, hybrid_step
from subquad.ops.linattn_state import moments_of
from subquad.ops.moments import far_terms

K, V, U = 5, 7, 3
few = examples(25)
NO_TOKENS = ("mix", "spread")


def draw(B, T, *, kv_heads=2, groups=3, has_inputs=False, seed=0):
    """Return everything that a form takes, with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    heads = kv_heads * groups
    inputs = {
        "q": normal(B, heads, T, K), "k": normal(B, kv_heads, T, K), "v": normal(B, kv_heads, T, V),
        "mix": normal(heads), "spread": normal(heads).exp(),
    }  # fmt: skip
    if has_inputs:
        inputs["inputs"] = normal(B, kv_heads, T, U)
    return {name: x.requires_grad_() for name, x in inputs.items()}


def in_chunks(sizes):
    """The form that reads a row in chunks, single tokens by `hybrid_step`."""

    def form(*, mask=None, window, sinks=0, cache=0, use_linear=True, **inputs):
        state = hybrid_state(
            inputs["q"].shape[0], kv_heads=inputs["k"].shape[1], key_width=K, value_width=V, feature_heads=1,
            features=None, window=window, sinks=sinks, cache=cache, input_width=U if "inputs" in inputs else 0,
            dtype=torch.float64,
        )  # fmt: skip
        outputs, start = [], 0
        while start < inputs["q"].shape[2]:
            stop = min(start + sizes[len(outputs) % len(sizes)], inputs["q"].shape[2])
            step = hybrid_step if stop == start + 1 else hybrid_prefill
            part = {name: x if name in NO_TOKENS else x[:, :, start:stop] for name, x in inputs.items()}
            y, state = step(
                **part, state=state, window=window, mask=None if mask is None else mask[:, start:stop], sinks=sinks,
                cache=cache, use_linear=use_linear,
            )  # fmt: skip
            outputs.append(y)
            start = stop
        return torch.cat(outputs, 2)

    return form


def assert_equal(form, inputs, **options):
    # the choice of cached tokens has no gradient
    leaves = [x for name, x in inputs.items() if name != "inputs"]
    assert_same_law(hybrid_quadratic, form, inputs, leaves, **options)


# of a window of two, rounding would decide which of the first two tokens is kept
CASES = {
    "T": st.integers(1, 29), "window": st.sampled_from([1, 3, 5]), "sinks": st.sampled_from([0, 1]),
    "cache": st.sampled_from([0, 3]), "has_inputs": st.booleans(), "use_linear": st.booleans(),
    "padding": st.sampled_from([None, 0, 2]), "seed": st.integers(0, 99),
}  # fmt: skip


def mask_of(padding, T):
    """Return the mask of two rows, one of them with padding on the left and inside."""
    if padding is None:
        return None
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[1, : min(padding, T - 1)] = False
    mask[1, T // 2] = False
    mask[1, -1] = True
    return mask


@few
@given(**CASES)
def test_chunks_equal_the_definition_in_value_and_gradient(
    *, T, window, sinks, cache, has_inputs, use_linear, padding, seed
):
    inputs = draw(2, T, has_inputs=has_inputs, seed=seed)
    mask = mask_of(padding, T)
    assert_equal(hybrid_chunked, inputs, window=window, sinks=sinks, cache=cache, use_linear=use_linear, mask=mask)


@pytest.mark.long
@few
@given(**CASES, sizes=st.sampled_from([(1,), (4, 1, 1), (7,), (2, 1, 9)]))
def test_prefill_and_steps_equal_the_definition_in_value_and_gradient(
    *, T, window, sinks, cache, has_inputs, use_linear, padding, seed, sizes
):
    inputs = draw(2, T, has_inputs=has_inputs, seed=seed)
    mask = mask_of(padding, T)
    assert_equal(in_chunks(sizes), inputs, window=window, sinks=sinks, cache=cache, use_linear=use_linear, mask=mask)


@pytest.mark.parametrize("form", [hybrid_quadratic, hybrid_chunked, in_chunks((1,)), in_chunks((5, 1))])
@pytest.mark.parametrize("sinks", [0, 2])
def test_while_the_cache_holds_all_earlier_tokens_all_is_softmax_attention_and_not_beyond(form, sinks):
    length = seen_whole(3, "terrace", sinks + 4)
    inputs = {name: x.detach() for name, x in draw(2, length + 1).items()}
    y = form(**inputs, window=3, sinks=sinks, cache=4)
    q, k, v = (inputs[name] for name in "qkv")
    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(y[:, :, :length], expected[:, :, :length])
    assert not torch.isclose(y[:, :, -1], expected[:, :, -1]).any(-1).any()


def test_moments_of_normal_keys_give_softmax_attention():
    generator = torch.Generator().manual_seed(0)
    k = 0.4 * torch.randn(1, 1, 40_000, K, dtype=torch.float64, generator=generator)
    v = torch.randn(1, 1, 40_000, V, dtype=torch.float64, generator=generator) + k[..., :1]
    x = torch.randn(1, 1, 1, 3, K, dtype=torch.float64, generator=generator)
    total, squares = moments_of(k, v, torch.ones(1, 40_000, dtype=torch.bool))
    found = far_terms(x, total[:, :, None], squares[:, :, None], spread=torch.full((1, 1, 3), 1e6, dtype=torch.float64))
    scores = x[:, :, 0] @ k.mT
    torch.testing.assert_close(found.level[:, :, 0], scores.logsumexp(-1), rtol=0, atol=0.02)
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(found.value[:, :, 0], expected, rtol=0, atol=0.05)
    # the mean of the values alone would be off by more
    assert (v.mean(2) - expected).abs().max() > 0.2


def test_one_token_and_equal_tokens_are_exact():
    generator = torch.Generator().manual_seed(1)
    k, v, x = (torch.randn(1, 1, 1, width, dtype=torch.float64, generator=generator) for width in (K, V, K))
    for count in (1, 6):
        total, squares = moments_of(
            k.expand(-1, -1, count, -1), v.expand(-1, -1, count, -1), torch.ones(1, count, dtype=torch.bool)
        )
        found = far_terms(x[:, :, None], total[:, :, None], squares[:, :, None], spread=torch.ones(1, 1, 1).double())
        scores = (x @ k.mT).expand(-1, -1, -1, count)
        torch.testing.assert_close(found.level[:, :, 0], scores.logsumexp(-1))
        torch.testing.assert_close(found.value[:, :, 0], v)


def test_the_value_is_the_mean_under_weights_that_are_linear_in_the_score():
    generator = torch.Generator().manual_seed(2)
    k, v = (torch.randn(1, 1, 11, width, dtype=torch.float64, generator=generator) for width in (K, V))
    x = torch.randn(1, 1, 1, 1, K, dtype=torch.float64, generator=generator)
    total, squares = moments_of(k, v, torch.ones(1, 11, dtype=torch.bool))
    spread = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    scores = x[0, 0, 0] @ k[0, 0].mT
    root = (1 + (x[0, 0, 0].square() * k[0, 0].var(0, correction=0)).sum() / spread[0, 0]).sqrt()
    weights = (1 + (scores - scores.mean()) / root) / 11
    found = far_terms(x, total[:, :, None], squares[:, :, None], spread=spread)
    torch.testing.assert_close(found.value[0, 0, 0], weights @ v[0, 0])


def test_what_does_not_fit_together_is_refused():
    inputs = {name: x.detach() for name, x in draw(1, 7).items()}
    with pytest.raises(ValueError, match="moments need a terrace window, not sliding"):
        hybrid_quadratic(**inputs, window=3, window_shape="sliding")
    with pytest.raises(ValueError, match="give phi_q with phi_k"):
        hybrid_chunked(**inputs, phi_q=torch.ones(1, 6, 7, 2), phi_k=torch.ones(1, 2, 7, 2), window=3)
