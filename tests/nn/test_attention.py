import jaxtyping
import pytest
import torch

from subquad.nn.attention import Hedgehog, HybridAttention
from subquad.ops.linattn import step_place

CHOICES = [{"window_shape": shape, "sinks": 2, "horizon": 4.0} for shape in ("terrace", "sliding")]
CHOICES += [{**choice, "has_inputs": True} for choice in CHOICES]
MOMENTS = {"feature_map": "moments", "cache": 4, "has_inputs": True, "sinks": 2}
NONE = {**MOMENTS, "feature_map": "none"}
CHOICES += [{**CHOICES[0], "cache": 4}, MOMENTS, NONE, {"feature_map": "none", "window_shape": "sliding"}]


def attention(**changes):
    torch.manual_seed(0)
    module = HybridAttention(**{"heads": 6, "kv_heads": 2, "head_width": 5, "window": 3, **changes}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    return module


def step_place_of(module, state, mask=None):
    return step_place(
        state.length, window=module.window, window_shape=module.window_shape, sinks=module.sinks,
        cache=module.cache, mask=mask,
    )  # fmt: skip


def inputs(B=2, T=17):
    """Return queries, keys, values, and what the maps of queries and keys may read in place of these."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, heads, T, 5, dtype=torch.float64, generator=generator) for heads in (6, 2, 2, 6, 2)]


def attend(module, given, start=0, stop=None, **how):
    """Attend with tokens from `start` to `stop`; a single token that follows a state takes the form for one token."""
    q, k, v, *others = (x[:, :, start:stop] for x in given)
    if how.get("state") is not None and q.shape[2] == 1:
        how["place"] = step_place_of(module, how["state"])
    return module(q, k, v, inputs=tuple(others) if module.has_inputs else None, **how)


def one_by_one(module, given, first):
    """Return the outputs of `first` tokens together and of all others one by one, and the state after them."""
    y, state = attend(module, given, 0, first, return_state=True)
    outputs = [y]
    for t in range(first, given[0].shape[2]):
        y, state = attend(module, given, t, t + 1, state=state, return_state=True)
        outputs.append(y)
    return torch.cat(outputs, 2), state


def test_hedgehog_starts_as_softmax_of_the_head_and_of_its_negative():
    x = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(Hedgehog(3, 5)(x), torch.cat((x.softmax(-1), (-x).softmax(-1)), -1))


@pytest.mark.parametrize("features", [2, 5, 11])
def test_a_map_has_as_many_features_as_it_says_and_none_is_negative(features):
    phi = Hedgehog(3, 5, features=features)
    y = phi(torch.randn(2, 3, 7, 5))
    assert y.shape == (2, 3, 7, phi.width)
    assert (y >= 0).all()


def test_maps_of_query_heads_on_shared_keys_equal_maps_on_repeated_keys():
    phi, k = Hedgehog(6, 5), torch.randn(2, 2, 7, 5)
    with torch.no_grad():
        phi.weight.normal_()
    torch.testing.assert_close(phi(k), phi(k.repeat_interleave(3, 1)))


def test_a_map_keeps_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Hedgehog(3, 5)(torch.randn(2, 3, 7, 5, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("choice", CHOICES)
def test_one_token_at_a_time_gives_what_the_whole_row_gives(choice):
    module, given = attention(**choice), inputs()
    with torch.no_grad():
        y, state = one_by_one(module, given, 7)
        torch.testing.assert_close(y, attend(module, given))
    assert state.length.tolist() == [17, 17]


@pytest.mark.parametrize("choice", CHOICES)
def test_the_state_is_as_large_after_many_tokens_as_before_the_first(choice):
    module, given = attention(**choice), inputs(T=41)
    empty = module.empty_state(2, torch.float64)
    _, state = attend(module, given, return_state=True)
    assert [(x.shape, x.dtype) for x in state] == [(x.shape, x.dtype) for x in empty]


@pytest.mark.parametrize("choice", CHOICES)
def test_left_padding_changes_nothing(choice):
    module, given = attention(**choice), inputs()
    padded = [torch.nn.functional.pad(x, (0, 0, 4, 0), value=3.0) for x in given]
    mask = (torch.arange(21) >= 4).expand(2, -1)
    torch.testing.assert_close(attend(module, padded, mask=mask)[:, :, 4:], attend(module, given))


def test_with_a_horizon_earlier_tokens_weigh_at_most_as_much_as_it():
    module, (q, k, *_) = attention(window_shape="sliding", horizon=2.0), inputs(T=50)
    # of these values the output is the weights
    v = torch.eye(50, dtype=torch.float64).expand(2, 2, -1, -1)

    def share(t):
        """Return the weight of what lies before the window, relative to that of the window."""
        weights = module(q, k, v)[..., t, :]
        return weights[..., : t - 2].sum(-1) / weights[..., t - 2 :].sum(-1)

    with torch.no_grad():
        horizon, limited = module.log_horizon.exp(), {t: share(t) for t in (3, 4, 10, 49)}
        module.log_horizon.fill_(1e3)
        for t, ratio in limited.items():
            torch.testing.assert_close(ratio, share(t) / (1 + (t - 2) / horizon))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"horizon": 9.0, "has_inputs": True}, {"map_q.weight", "map_k.weight", "mix", "log_horizon"}),
        (MOMENTS, {"mix", "log_spread"}),
    ],
)
def test_every_parameter_gets_a_gradient(settings, expected):
    module, given = attention(**settings), inputs()
    attend(module, given).square().sum().backward()
    assert {name for name, parameter in module.named_parameters() if parameter.grad.abs().sum() > 0} == expected
    assert {name for name, _ in module.named_parameters()} == expected


def test_without_linear_terms_early_tokens_are_out_of_sight():
    module, (q, k, v, *_) = attention(window_shape="sliding"), inputs()
    changed = v.clone()
    changed[:, :, :5] += 1
    window_only = [module(q, k, x, use_linear=False)[:, :, 8:] for x in (v, changed)]
    torch.testing.assert_close(*window_only)
    assert (module(q, k, v) - module(q, k, changed))[:, :, 8:].abs().min() > 0


def test_without_a_linear_branch_attention_is_that_of_moments_without_linear_terms():
    module, given = attention(**NONE), inputs()
    others = attention(**MOMENTS)
    torch.testing.assert_close(attend(module, given), attend(others, given, use_linear=False))
    assert not list(module.parameters())
    sizes = [sum(x.numel() for x in one.empty_state(1)) for one in (module, others)]
    # sums of [k, 1] [v, 1]ᵀ and of squares, for two key heads
    assert sizes[1] - sizes[0] == 2 * (6 * 6 + 5)


def test_a_larger_gamma_brings_the_window_alone_nearer():
    q, k, v, *_ = inputs()
    distances = []
    for gamma in (0.1, 10.0, 1000.0):
        module = attention(gamma=gamma)
        distances.append((module(q, k, v) - module(q, k, v, use_linear=False)).abs().max().item())
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 4}, "6 query heads are not a multiple of 4 key heads"),
        ({"gamma": 0.0}, "gamma must be positive, not 0.0"),
        ({"horizon": -1.0}, "horizon must be positive, not -1.0"),
        ({"feature_map": "non"}, "feature_map must be one of hedgehog, none, moments, not 'non'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message, monkeypatch):
    # the module's own checks, not those of annotations, which users do not have
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        attention(**change)


@pytest.mark.parametrize("has_inputs", [False, True])
def test_inputs_of_the_maps_are_given_exactly_where_they_are_read(has_inputs):
    module, (q, k, v, *others) = attention(has_inputs=has_inputs), inputs()
    with pytest.raises(ValueError, match="the maps read"):
        module(q, k, v, inputs=None if has_inputs else tuple(others))


@pytest.mark.parametrize("choice", CHOICES)
def test_gradients_flow_through_single_tokens_as_through_the_whole(choice):
    module, given = attention(**choice), [x.requires_grad_() for x in inputs()]
    leaves = [*module.parameters(), *given[: 5 if module.has_inputs else 3]]
    whole = torch.autograd.grad(attend(module, given).square().sum(), leaves, materialize_grads=True)
    y, _ = one_by_one(module, given, 2)
    found = torch.autograd.grad(y.square().sum(), leaves, materialize_grads=True)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_rows_has_no_output():
    module, given = attention(), [x[:0] for x in inputs()]
    with torch.no_grad():
        _, state = attend(module, given, 0, 7, return_state=True)
        y, state = attend(module, given, 7, 8, state=state, return_state=True)
    assert y.shape == (0, 6, 1, given[2].shape[3])
