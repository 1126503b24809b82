"""A step as C code equals the step in torch, which equals the definition (test_linattn.py)."""

import inspect
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.nn import native
from subquad.nn.attention import Hedgehog, HybridAttention
from subquad.nn.native import step_library
from subquad.ops.linattn import hybrid_state, hybrid_step, step_place
from subquad.ops.linattn_native import hedgehog_native, is_native

pytestmark = pytest.mark.skipif(step_library() is None, reason="there is no C compiler")

K, V, F, U = 5, 7, 11, 3


@pytest.mark.long
@torch.no_grad()
@examples(40)
@given(
    rows=st.sampled_from([1, 2, 3]), kv_heads=st.sampled_from([1, 2]), groups=st.sampled_from([1, 3]),
    has_own_maps=st.booleans(), has_inputs=st.booleans(), use_linear=st.booleans(), sinks=st.sampled_from([0, 2]),
    layout=st.sampled_from([("terrace", 0), ("terrace", 5), ("sliding", 0)]), has_moments=st.booleans(),
    length=st.integers(0, 40), seed=st.integers(0, 999),
)  # fmt: skip
def test_steps_equal_those_of_torch_and_leave_the_same_state(
    *, rows, kv_heads, groups, has_own_maps, has_inputs, use_linear, sinks, layout, has_moments, length, seed
):
    (shape, cache), window, heads = layout, 3, kv_heads * groups
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator)

    has_moments = has_moments and shape == "terrace"
    w = normal(heads if has_own_maps else kv_heads, U if has_inputs else K, F)
    empty = hybrid_state(
        rows, kv_heads=kv_heads, key_width=K, value_width=V, feature_heads=len(w), features=None if has_moments else F,
        window=window,
        window_shape=shape, sinks=sinks, cache=cache, input_width=U if has_inputs else 0,
    )  # fmt: skip
    # what a state holds does not matter here; rows are at different places of their blocks
    lengths = length + torch.arange(rows)
    state = type(empty)(*(x if x is empty.length else normal(*x.shape).abs() for x in empty))._replace(length=lengths)
    if has_moments:
        # as many tokens as have left the window, none in the first blocks
        total = state.total.clone()
        total[..., -1, -1] = ((lengths - 1) // window * window - window).clamp(min=0)[:, None]
        state = state._replace(total=total, squares=9 * state.squares)
        of_far = {"spread": normal(heads).exp()}
    else:
        of_far = {"map_k": lambda k: (k.repeat_interleave(len(w) // kv_heads, 1) @ w).abs()}
    how = {
        **of_far, "mix": normal(heads), "window": window, "window_shape": shape, "sinks": sinks, "cache": cache,
        "use_linear": use_linear,
    }  # fmt: skip
    for _ in range(2 * window):
        how |= {"inputs": normal(rows, kv_heads, 1, U) if has_inputs else None}
        how |= {} if has_moments else {"phi_q": normal(rows, heads, 1, F).abs()}
        q, k, v = normal(rows, heads, 1, K), normal(rows, kv_heads, 1, K), normal(rows, kv_heads, 1, V)
        place = step_place(state.length, window=window, window_shape=shape, sinks=sinks, cache=cache)
        given = {name: how.get(name) for name in ("phi_q", "spread", "mix", "inputs")}
        # the first tokens become sinks, which torch writes
        assert is_native(q, k, v, **given, state=state, place=place) == (place.sink is None)
        copies = [type(state)(*(x.clone() for x in state)) for _ in range(2)]
        given_y, given_state = hybrid_step(q, k, v, state=copies[0], **how, library=step_library())
        y, state = hybrid_step(q, k, v, state=copies[1], **how)
        torch.testing.assert_close(given_y, y, rtol=1e-5, atol=1e-5)
        for name, one, other in zip(state._fields, given_state, state, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize(("heads", "of_input"), [(6, 6), (6, 2)])
def test_features_equal_those_of_torch(monkeypatch, heads, of_input):
    own = Hedgehog(heads, K, features=F)
    torch.nn.init.normal_(own.weight)
    x = 3 * torch.randn(2, of_input, 1, K)
    given = own(x)
    assert hedgehog_native(x, own.weight, library=step_library()) is not None
    with monkeypatch.context() as patch:
        patch.setattr(native, "step_library", lambda: None)
        torch.testing.assert_close(given, own(x), rtol=1e-5, atol=1e-6)
    large = torch.full((1, of_input, 1, K), 1e4)
    assert own(large).isfinite().all()


def test_gradients_and_other_types_are_left_to_torch(monkeypatch):
    def fails():
        raise AssertionError("the C code was called")

    attention = HybridAttention(heads=4, kv_heads=2, head_width=K, window=3, sinks=2)
    q, k, v = (torch.randn(1, heads, 1, K) for heads in (4, 2, 2))

    def step(q, k, v, attention=attention):
        state = attention.empty_state(1, dtype=k.dtype)._replace(length=torch.tensor([20]))
        place = step_place(state.length, window=3, window_shape="terrace", sinks=2)
        return attention(q, k, v, state=state, return_state=True, place=place)[0]

    monkeypatch.setattr(native, "step_library", fails)
    step(q.requires_grad_(), k, v).sum().backward()
    assert q.grad is not None
    with torch.no_grad():
        step(q.double(), k.double(), v.double(), attention.double())
        with pytest.raises(AssertionError, match="was called"):
            step(q.detach(), k, v, attention.float())


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        {"rows": 3}, {"state": "keys"}, {"state": "values"}, {"state": "total"}, {"state": "inputs"}, {"state": "mass"},
        {"width": 4},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_do_not_fit_are_left_to_torch(change):
    attention = HybridAttention(heads=4, kv_heads=2, head_width=K, window=3, sinks=2, cache=4, has_inputs=True)
    state = attention.empty_state(2)._replace(length=torch.tensor([20, 21]))
    place = step_place(state.length, window=3, window_shape="terrace", sinks=2, cache=4)
    if "state" in change:
        name = change["state"]
        state = state._replace(**{name: getattr(state, name)[..., :1].contiguous()})
    rows, width = change.get("rows", 2), change.get("width", K)
    q, k, v = (torch.randn(rows, heads, 1, width) for heads in (4, 2, 2))
    phi_q = torch.rand(rows, 4, 1, 2 * K)
    given = {"phi_q": phi_q, "spread": None, "mix": attention.mix, "state": state, "inputs": k, "place": place}
    assert not is_native(q, k, v, **given)


@torch.no_grad()
def test_a_place_of_another_window_is_an_error_and_no_damage():
    attention = HybridAttention(heads=4, kv_heads=2, head_width=K, window=3, sinks=2)
    state = attention.empty_state(1)._replace(length=torch.tensor([20]))
    place = step_place(state.length, window=3, window_shape="terrace", sinks=2)._replace(slot=torch.tensor([6]))
    q, k, v = (torch.randn(1, heads, 1, K) for heads in (4, 2, 2))
    with pytest.raises(ValueError, match="slots outside of the ring, which has 6"):
        attention(q, k, v, state=state, return_state=True, place=place)


@torch.no_grad()
def test_features_of_other_sizes_and_places_are_left_to_torch():
    weight = torch.randn(4, K, F)
    # without the checks of types and shapes that tests add
    features = partial(inspect.unwrap(hedgehog_native), library=step_library())
    assert features(torch.randn(1, 4, 1, K + 1), weight) is None
    assert features(torch.randn(1, 8, 1, K), weight) is None
    assert features(torch.randn(1, 4, 2, K), weight) is None
    assert features(torch.randn(1, 4, 1, K), weight.to("meta")) is None


@torch.no_grad()
def test_the_default_type_of_torch_does_not_matter():
    own, x = Hedgehog(4, K, features=F), torch.randn(2, 4, 1, K)
    expected = own(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert own(x).dtype == torch.float32
        torch.testing.assert_close(own(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_a_temporary_folder_torch_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "missing"))
    assert step_library.__wrapped__() is None


@pytest.mark.parametrize(
    ("name", "value"), [("SUBQUAD_NATIVE", "0"), ("PATH", "")], ids=["switched off", "no compiler"]
)
def test_without_the_code_torch_is_used(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert step_library.__wrapped__() is None


def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert step_library.__wrapped__() is None


def test_loading_the_code_leaves_small_numbers_as_they_are():
    assert step_library() is not None
    # with -ffast-math at linking, numbers this small would become 0
    assert float(torch.tensor(1e-40) * 0.5) > 0
