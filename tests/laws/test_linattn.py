import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.laws import assert_same_law
from torch.nn import functional

from subquad.ops.attention_sizes import seen_whole
from subquad.ops.linattn import (
    hybrid_chunked,
    hybrid_prefill,
    hybrid_quadratic,
    hybrid_state,
    hybrid_step,
    hybrid_weights,
)
from subquad.ops.linattn_cache import Marks, evict

WINDOWS = ["sliding", "terrace"]
SHAPES = [*WINDOWS, "none"]
few = examples(25)
K, V, F, U = 5, 7, 3, 4
NO_TOKENS = ("mix", "w")


def draw(B, T, *, kv_heads=2, groups=3, has_own_maps=True, has_inputs=False, seed=0, dtype=torch.float64):
    """Everything that a form takes, and those of it that have gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    heads = kv_heads * groups
    inputs = {
        "q": normal(B, heads, T, K),
        "k": normal(B, kv_heads, T, K),
        "v": normal(B, kv_heads, T, V),
        "phi_q": normal(B, heads, T, F).abs(),
        # the map of keys is |k w|, with a w for each of its heads
        "w": normal(heads if has_own_maps else kv_heads, U if has_inputs else K, F),
        "mix": normal(heads),
    }
    if has_inputs:
        # what the map reads in place of the keys
        inputs["inputs"] = normal(B, kv_heads, T, U)
    return {name: x.requires_grad_() for name, x in inputs.items()}


def map_of(w):
    return lambda k: (k.repeat_interleave(len(w) // k.shape[1], 1) @ w).abs()


def with_features(form):
    """The form of features as one of their map."""

    def whole(*, w, inputs=None, **given):
        return form(**given, phi_k=map_of(w)(given["k"] if inputs is None else inputs), inputs=inputs)

    return whole


quadratic, chunked = with_features(hybrid_quadratic), with_features(hybrid_chunked)
weights_of = with_features(hybrid_weights)
FORMS = [quadratic, chunked]


def empty(inputs, *, window, window_shape, sinks=0, cache=0, batch=None):
    q, k, v, w = (inputs[name] for name in ("q", "k", "v", "w"))
    return hybrid_state(
        q.shape[0] if batch is None else batch,
        kv_heads=k.shape[1],
        key_width=K,
        value_width=v.shape[3],
        feature_heads=w.shape[0],
        features=w.shape[2],
        window=window,
        window_shape=window_shape,
        sinks=sinks,
        cache=cache,
        input_width=inputs["inputs"].shape[3] if "inputs" in inputs else 0,
        dtype=q.dtype,
    )


def part(inputs, start, stop):
    return {name: x if name in NO_TOKENS else x[:, :, start:stop] for name, x in inputs.items()}


def in_chunks(sizes):
    """The form that processes a row in chunks; chunks of one token by `hybrid_step`."""

    def form(*, mask=None, use_linear=True, window, window_shape, sinks=0, cache=0, **inputs):
        state = empty(inputs, window=window, window_shape=window_shape, sinks=sinks, cache=cache)
        map_k = map_of(inputs.pop("w"))
        outputs, start = [], 0
        while start < inputs["q"].shape[2]:
            stop = min(start + sizes[len(outputs) % len(sizes)], inputs["q"].shape[2])
            step = hybrid_step if stop == start + 1 else hybrid_prefill
            y, state = step(
                **part(inputs, start, stop),
                map_k=map_k,
                state=state,
                window=window,
                window_shape=window_shape,
                mask=None if mask is None else mask[:, start:stop],
                use_linear=use_linear,
                sinks=sinks,
                cache=cache,
            )
            outputs.append(y)
            start = stop
        return torch.cat(outputs, 2)

    return form


def assert_equal_in_value_and_gradient(form, inputs, **options):
    assert_same_law(quadratic, form, inputs, list(inputs.values()), **options)


@pytest.mark.parametrize("form", [*FORMS, in_chunks([1]), in_chunks([2, 1])])
@pytest.mark.parametrize("window_shape", SHAPES)
def test_a_number_that_is_checked_by_hand(form, window_shape):
    # scores 0, so each key of the window weighs γ = 3; features 2, so each earlier one weighs 4
    # the last of four tokens: a window of 1 shows itself (sliding) or itself and the one before (terrace)
    v = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 1, 4, 1)
    q, k, phi = torch.zeros(1, 1, 4, K), torch.ones(1, 1, 4, K), torch.full((1, 1, 4, 1), 2.0)
    w = torch.full((1, K, 1), 2 / K)
    inputs = {"q": q, "k": k, "v": v, "phi_q": phi, "w": w, "mix": torch.tensor([math.log(3)])}
    y = form(**inputs, window=1, window_shape=window_shape)[0, 0, :, 0]
    if window_shape == "sliding":
        expected = [1.0, (30 + 4) / 7, (300 + 44) / 11, (3000 + 444) / 15]
    elif window_shape == "none":
        expected = [1.0, 11 / 2, 111 / 3, 1111 / 4]
    else:
        expected = [1.0, 11 / 2, (330 + 4) / 10, (3300 + 44) / 14]
    torch.testing.assert_close(y, torch.tensor(expected))


shapes = {
    "B": st.integers(1, 3),
    "T": st.integers(1, 29),
    "kv_heads": st.integers(1, 2),
    "groups": st.sampled_from([1, 3]),
    "has_own_maps": st.booleans(),
    "has_inputs": st.booleans(),
    "window": st.integers(1, 11),
    "use_linear": st.sampled_from([True, True, True, False]),
    "sinks": st.sampled_from([0, 0, 1, 2, 4]),
    "cache": st.sampled_from([0, 0, 1, 2, 3, 7]),
    "real": st.sampled_from([None, 0.0, 0.2, 0.7, 0.95]),
    "seed": st.integers(0, 2**31),
}


def options_of(window, window_shape, *, use_linear, sinks, cache=0):
    if window_shape == "none":
        # without a window there are no sinks, and without linear terms there is nothing
        use_linear, sinks = True, 0
    # the first two tokens are equally novel if they alone have left the window: rounding would decide which is kept
    is_tied = window == 2 and sinks == 0
    cache = cache if window_shape == "terrace" and not is_tied else 0
    return {
        "window": window, "window_shape": window_shape, "use_linear": use_linear, "sinks": min(sinks, window),
        "cache": cache,
    }  # fmt: skip


def mask_of(real, B, T, seed):
    # holes in every place, and now and then a row of holes only
    return None if real is None else torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) < real


@pytest.mark.parametrize("window_shape", SHAPES)
@given(**shapes)
@few
def test_chunks_equal_the_definition_in_value_and_gradient(
    window_shape, *, B, T, window, use_linear, sinks, cache, real, **heads
):
    options = options_of(window, window_shape, use_linear=use_linear, sinks=sinks, cache=cache)
    mask = mask_of(real, B, T, heads["seed"])
    assert_equal_in_value_and_gradient(chunked, draw(B, T, **heads), mask=mask, **options)


@pytest.mark.long
@pytest.mark.parametrize("window_shape", SHAPES)
@given(**shapes, sizes=st.lists(st.sampled_from([1, 1, 1, 2, 3, 7, 13]), min_size=1, max_size=5))
@few
def test_prefill_and_steps_equal_the_definition_in_value_and_gradient(
    window_shape, *, B, T, window, use_linear, sinks, cache, real, sizes, **heads
):
    options = options_of(window, window_shape, use_linear=use_linear, sinks=sinks, cache=cache)
    mask = mask_of(real, B, T, heads["seed"])
    assert_equal_in_value_and_gradient(in_chunks(sizes), draw(B, T, **heads), mask=mask, **options)


@pytest.mark.parametrize("window_shape", SHAPES)
@pytest.mark.parametrize("frozen", [("q", "k", "v"), ("v",), ("q",), ("phi_q", "w", "mix")])
def test_what_is_frozen_takes_nothing_from_the_gradient_of_the_rest(frozen, window_shape):
    inputs = draw(2, 13)
    part_of = {name: x.detach() if name in frozen else x for name, x in inputs.items()}
    y = [chunked(**x, window=3, window_shape=window_shape) for x in (inputs, part_of)]
    rest = [x for name, x in inputs.items() if name not in frozen]
    options = {"allow_unused": True, "materialize_grads": True}
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), rest, **options) for x in y), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.long
@pytest.mark.parametrize("window_shape", SHAPES)
def test_the_gradient_is_that_of_finite_differences(window_shape):
    inputs, how = draw(1, 9, kv_heads=1, groups=2), options_of(2, window_shape, use_linear=True, sinks=1, cache=2)

    def form(*tensors):
        return chunked(**dict(zip(inputs, tensors, strict=True)), **how)

    assert torch.autograd.gradcheck(form, tuple(inputs.values()))


@pytest.mark.parametrize("form", [*FORMS, in_chunks([1]), in_chunks([2, 1])])
@pytest.mark.parametrize(("window_shape", "weights"), [("sliding", [3, 4, 4, 3]), ("terrace", [3, 4, 3, 3])])
def test_a_sink_is_in_every_window(form, window_shape, weights):
    # as in the first number that is checked by hand: each key of the window weighs 3, each earlier one 4
    v = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 1, 4, 1)
    q, k, phi = torch.zeros(1, 1, 4, K), torch.ones(1, 1, 4, K), torch.full((1, 1, 4, 1), 2.0)
    inputs = {"q": q, "k": k, "v": v, "phi_q": phi, "w": torch.full((1, K, 1), 2 / K)}
    y = form(**inputs, mix=torch.tensor([math.log(3)]), window=1, window_shape=window_shape, sinks=1)
    expected = sum(weight * 10**place for place, weight in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(y[0, 0, -1, 0], torch.tensor(expected))


def test_what_a_cache_keeps_is_checked_by_hand():
    # blocks of one token, so a query sees itself and the token before it; keys are orthogonal but for tokens 2 and 3,
    # which are equal, and queries ask for token 1
    k = torch.zeros(1, 1, 7, K)
    k[0, 0, range(7), [0, 1, 2, 2, 3, 4, 4]] = 1.0
    q = torch.zeros(1, 1, 7, K)
    q[..., 1] = 9.0
    v = torch.eye(7)[None, None]
    given = hybrid_quadratic(
        q, k, v, phi_q=torch.zeros(1, 1, 7, 1), phi_k=torch.zeros(1, 1, 7, 1), mix=torch.zeros(1), window=1, cache=2
    )
    seen = given[0, 0] > 1e-9
    assert seen[1].nonzero()[:, 0].tolist() == [0, 1]
    # token 0 had all attention before there was another; with two tokens cached nothing has to go
    assert seen[2].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert seen[3].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    # token 2 got less attention than token 1, which stays
    assert 1 in seen[4].nonzero()[:, 0].tolist()
    # token 3 is like token 2 and gets no more attention, so it never enters
    assert not seen[5:, 3].any()
    assert seen[6, 1]


def test_the_mass_of_cached_tokens_is_checked_by_hand():
    # blocks of one token and scores 0: each query divides its attention equally among the tokens that it sees, which
    # are all four; whenever a block begins, what tokens got before counts 0.6 times
    q = k = torch.zeros(1, 1, 4, K)
    state = hybrid_state(1, kv_heads=1, key_width=K, value_width=1, feature_heads=1, features=None, window=1, cache=2)
    _, state = hybrid_prefill(
        q, k, k[..., :1], spread=torch.ones(1), mix=torch.zeros(1), state=state, window=1, cache=2
    )
    first = ((1 * 0.6 + 1 / 2) * 0.6 + 1 / 3) * 0.6 + 1 / 4
    second = (1 / 2 * 0.6 + 1 / 3) * 0.6 + 1 / 4
    # the ring of two slots holds tokens 2 and 3
    expected = [first, second, 1 / 3 * 0.6 + 1 / 4, 1 / 4]
    torch.testing.assert_close(state.mass[0, 0], torch.tensor(expected))


def test_mass_and_novelty_decide_together_which_tokens_stay():
    e = torch.eye(3)
    # two cached tokens, then a block of two; cosines to the sum of all directions are about 0 and 0.7
    left = torch.stack((e[1], e[0] + e[1]))[None, None]
    marks = Marks(
        mass=torch.tensor([[[4.0, 3.0]]]), novelty=torch.tensor([[[-0.9, -0.8]]]), direction=100 * e[:1][None]
    )
    found = evict(marks, left, mass=torch.tensor([[[2.0, 1.0]]]), behind=torch.tensor([4]), sinks=0)
    # ranks by mass 3, 2, 1, 0 and by novelty 0, 1, 3, 2: of the equal sums of the first two the oldest stays
    assert found.stay[0, 0].tolist() == [0, 2]
    assert sorted(found.gone[0, 0].tolist()) == [1, 3]
    alike = evict(
        Marks(mass=torch.ones(1, 1, 2), novelty=-torch.ones(1, 1, 2), direction=e[:1][None]),
        e[:1].expand(1, 1, 2, -1), mass=torch.ones(1, 1, 2), behind=torch.tensor([4]), sinks=0,
    )  # fmt: skip
    assert alike.stay[0, 0].tolist() == [2, 3]


@pytest.mark.parametrize("form", [*FORMS, in_chunks([1]), in_chunks([5, 1])])
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_cache_for_all_tokens_is_softmax_attention(form, sinks):
    inputs = draw(2, 17)
    y = form(**inputs, window=3, window_shape="terrace", sinks=sinks, cache=12, use_linear=False)
    expected = functional.scaled_dot_product_attention(
        inputs["q"], inputs["k"], inputs["v"], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(y, expected)
    less = form(**inputs, window=3, window_shape="terrace", sinks=sinks, cache=5, use_linear=False)
    assert not torch.isclose(less[:, :, -1], expected[:, :, -1]).all()


def test_a_key_that_queries_attend_to_and_that_is_like_no_other_stays_in_a_small_cache():
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, 1, 1, K, dtype=torch.float64, generator=generator).repeat(1, 1, 200, 1)
    k += 0.1 * torch.randn(1, 1, 200, K, dtype=torch.float64, generator=generator)
    k[:, :, 37] = -3 * k[:, :, 36]
    q = torch.zeros_like(k) + 0.1 * k[:, :, 37:38]
    q[:, :, 150] *= 50
    v = torch.arange(200.0, dtype=torch.float64).view(1, 1, 200, 1)
    nothing = {"phi_q": torch.zeros(1, 1, 200, 1).double(), "phi_k": torch.zeros(1, 1, 200, 1).double()}
    y, without = (
        hybrid_chunked(q, k, v, **nothing, mix=torch.zeros(1).double(), window=8, cache=cache)[0, 0, 150, 0]
        for cache in (6, 0)
    )
    assert abs(y - 37) < 0.1
    assert without > 130


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window_shape", WINDOWS)
def test_a_window_over_all_tokens_is_softmax_attention(form, window_shape):
    inputs = draw(2, 13)
    y = form(**inputs, window=13, window_shape=window_shape)
    expected = functional.scaled_dot_product_attention(
        inputs["q"], inputs["k"], inputs["v"], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("window_shape", WINDOWS)
@pytest.mark.parametrize(("window", "sinks"), [(3, 0), (3, 2), (2, 2), (1, 1)])
def test_up_to_some_length_all_is_softmax_and_not_beyond(window_shape, window, sinks):
    length = seen_whole(window, window_shape, sinks)
    inputs = draw(2, length + 1)
    y = chunked(**inputs, window=window, window_shape=window_shape, sinks=sinks)
    expected = functional.scaled_dot_product_attention(
        inputs["q"], inputs["k"], inputs["v"], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(y[:, :, :length], expected[:, :, :length])
    assert not torch.isclose(y[:, :, length], expected[:, :, length]).all()


@pytest.mark.parametrize("window_shape", SHAPES)
@given(T=st.integers(2, 29), window=st.integers(1, 7), cut=st.integers(1, 28), seed=st.integers(0, 2**31))
@few
def test_no_position_sees_a_later_one(window_shape, *, T, window, cut, seed):
    inputs = draw(2, T, seed=seed)
    changed = {
        name: x if name in NO_TOKENS else torch.cat((x[:, :, :cut], x[:, :, cut:] + 1), 2) for name, x in inputs.items()
    }
    for form in FORMS:
        y, other = (form(**x, window=window, window_shape=window_shape) for x in (inputs, changed))
        torch.testing.assert_close(y[:, :, :cut], other[:, :, :cut])


@pytest.mark.long
@pytest.mark.parametrize("window_shape", SHAPES)
@given(
    T=st.integers(1, 23),
    window=st.integers(1, 7),
    left=st.integers(0, 11),
    right=st.integers(0, 11),
    seed=st.integers(0, 2**31),
)
@few
def test_padding_on_either_side_changes_nothing_whatever_stands_in_it(window_shape, *, T, window, left, right, seed):
    inputs = {name: x.detach() for name, x in draw(2, T, seed=seed).items()}
    padded = {
        name: x if name in NO_TOKENS else functional.pad(x, (0, 0, left, right), value=math.nan)
        for name, x in inputs.items()
    }
    mask = torch.zeros(2, left + T + right, dtype=torch.bool)
    mask[:, left : left + T] = True
    how = options_of(window, window_shape, use_linear=True, sinks=left % 3, cache=right % 4)
    expected = quadratic(**inputs, **how)
    for form in [*FORMS, in_chunks([1]), in_chunks([5, 1, 2])]:
        y = form(**padded, **how, mask=mask)
        torch.testing.assert_close(y[:, :, left : left + T], expected)
        assert (y.masked_select(~mask[:, None, :, None]) == 0).all()


@pytest.mark.parametrize("form", [*FORMS, in_chunks([3, 1])])
@pytest.mark.parametrize("window_shape", SHAPES)
def test_a_row_does_not_depend_on_its_neighbours_in_the_batch(form, window_shape):
    inputs = draw(5, 17)
    mask = torch.arange(17) < torch.tensor([17, 3, 11, 0, 16])[:, None]
    options = {"window": 3, "window_shape": window_shape}
    whole = form(**inputs, **options, mask=mask)
    alone = {name: x if name in NO_TOKENS else x[2:3] for name, x in inputs.items()}
    torch.testing.assert_close(whole[2:3], form(**alone, **options, mask=mask[2:3]))


@pytest.mark.parametrize("form", [*FORMS, in_chunks([3, 1])])
@pytest.mark.parametrize("window_shape", SHAPES)
def test_a_row_of_padding_gives_zeros_and_a_finite_gradient(form, window_shape):
    inputs = draw(2, 7)
    mask = torch.tensor([[False], [True]]).expand(-1, 7)
    y = form(**inputs, window=2, window_shape=window_shape, mask=mask)
    assert (y[0] == 0).all()
    for gradient in torch.autograd.grad(y.sum(), list(inputs.values()), allow_unused=True, materialize_grads=True):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("window_shape", SHAPES)
def test_without_gradients_a_step_writes_into_the_state_that_it_got(window_shape):
    inputs, options = draw(2, 11, has_inputs=True), options_of(3, window_shape, use_linear=True, sinks=2, cache=2)
    del options["use_linear"]
    state, map_k = empty(inputs, **options), map_of(inputs["w"])
    rest = {name: x for name, x in inputs.items() if name != "w"}
    places = [x.data_ptr() for x in state]
    outputs = []
    with torch.no_grad():
        for t in range(11):
            y, state = hybrid_step(**part(rest, t, t + 1), map_k=map_k, state=state, **options)
            outputs.append(y)
    assert [x.data_ptr() for x in state] == places
    torch.testing.assert_close(torch.cat(outputs, 2), quadratic(**inputs, **options))


@pytest.mark.parametrize(
    ("window_shape", "expected"), [("sliding", [4, 4, 4, 3]), ("terrace", [4, 4, 3, 3]), ("none", [4, 4, 4, 4])]
)
def test_the_weights_are_those_checked_by_hand(window_shape, expected):
    # as above: each key of the window weighs γ = 3, each earlier one 4
    q, k, phi = torch.zeros(1, 1, 4, K), torch.ones(1, 1, 4, K), torch.full((1, 1, 4, 1), 2.0)
    given = hybrid_weights(
        q, k, phi_q=phi, phi_k=phi, mix=torch.tensor([math.log(3)]), window=1, window_shape=window_shape
    )
    torch.testing.assert_close(given[0, 0, -1], torch.tensor(expected) / sum(expected))
    assert not given.triu(1).any()


@pytest.mark.parametrize("window_shape", SHAPES)
@few
@given(
    T=st.integers(1, 29),
    window=st.integers(1, 11),
    has_own_maps=st.booleans(),
    has_padding=st.booleans(),
    use_linear=st.booleans(),
)
def test_the_weights_sum_to_1_and_give_the_output(window_shape, T, window, *, has_own_maps, has_padding, use_linear):
    inputs = draw(2, T, has_own_maps=has_own_maps, seed=T)
    mask = torch.rand(2, T, generator=torch.Generator().manual_seed(T)) < 0.7 if has_padding else None
    how = {"window": window, "window_shape": window_shape, "mask": mask, "use_linear": use_linear}
    given = weights_of(**{name: x for name, x in inputs.items() if name != "v"}, **how)
    real = torch.ones(2, T, dtype=torch.bool) if mask is None else mask
    # without linear terms and without a window there is nothing to see
    sums = real * float(use_linear or window_shape != "none")
    torch.testing.assert_close(given.sum(-1), sums[:, None].expand(-1, 6, -1).double())
    assert not given.masked_fill(real[:, None, None], 0.0).any()
    values = inputs["v"].repeat_interleave(3, 1)
    torch.testing.assert_close(given @ values, chunked(**inputs, **how), rtol=1e-9, atol=1e-9)


def test_features_that_never_meet_give_no_weight_and_no_nan():
    inputs = draw(1, 7)
    del inputs["v"]
    given = weights_of(**{**inputs, "phi_q": 0.0 * inputs["phi_q"]}, window=3, window_shape="none")
    assert not given.any()
    gradients = torch.autograd.grad(given.sum(), list(inputs.values()), materialize_grads=True, allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.long
@pytest.mark.parametrize("window_shape", SHAPES)
def test_bfloat16_under_autocast_is_summed_in_float32(window_shape):
    inputs = {name: x.detach() for name, x in draw(2, 1009, dtype=torch.bfloat16).items()}
    inputs["phi_k"] = map_of(inputs.pop("w"))(inputs["k"])
    wide = {name: x.double() for name, x in inputs.items()}
    options = {"window": 31, "window_shape": window_shape}
    expected = hybrid_quadratic(**wide, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = hybrid_chunked(**inputs, **options)
    assert y.dtype == torch.bfloat16
    # one rounding, that of the output: 2⁻⁸ of its size
    assert ((y - expected).abs() <= 2**-8 * expected.abs() + 1e-5).all()


@pytest.mark.parametrize("form", FORMS)
def test_large_scores_do_not_overflow(form):
    inputs = draw(1, 13, dtype=torch.float32)
    y = form(**{**inputs, "q": inputs["q"] * 1e4}, window=3, window_shape="sliding")
    assert y.isfinite().all()


def test_what_does_not_fit_together_is_refused():
    inputs = draw(1, 5)
    given = {name: x for name, x in inputs.items() if name != "w"} | {"phi_k": inputs["phi_q"]}
    with pytest.raises(ValueError, match="'sliding', 'terrace' or 'none', not 'round'"):
        inspect.unwrap(hybrid_weights)(**{name: x for name, x in given.items() if name != "v"}, window_shape="round")
    with pytest.raises(ValueError, match="window must be at least 1, not 0"):
        hybrid_chunked(**given, window=0)
    with pytest.raises(ValueError, match="6 query heads are not a multiple of 4 key heads"):
        hybrid_chunked(**{**given, "k": given["k"].repeat(1, 2, 1, 1), "v": given["v"].repeat(1, 2, 1, 1)})
    with pytest.raises(ValueError, match=r"phi_k has 3 heads; it needs one per query head \(6\) or key head \(2\)"):
        hybrid_chunked(**{**given, "phi_k": given["phi_k"][:, :3]})
    del given["phi_k"]
    state = empty(inputs, window=3, window_shape="sliding")
    with pytest.raises(ValueError, match=r"sinks must be from 0 to the window, which is 2 terrace, not 3"):
        hybrid_chunked(**given, phi_k=inputs["phi_q"], window=2, sinks=3)
    with pytest.raises(ValueError, match=r"a cache, of 2 tokens, needs a terrace window, not sliding"):
        hybrid_chunked(**given, phi_k=inputs["phi_q"], window_shape="sliding", cache=2)
    with pytest.raises(
        ValueError, match="3 slots and a cache of 0, but a terrace window of 3 with 0 sinks and a cache of 0 needs 6"
    ):
        hybrid_prefill(**given, map_k=map_of(inputs["w"]), window=3, state=state)
