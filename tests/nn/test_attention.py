import pytest
import torch

from subquad.nn.attention import T2R, Hedgehog, HybridAttention
from subquad.ops.linattn import step_place

CHOICES = [
    {"feature_map": feature_map, "window_shape": shape, "feature_heads": heads}
    for feature_map, shape, heads in [
        ("hedgehog", "terrace", "query"),
        ("hedgehog", "sliding", "kv"),
        ("t2r", "terrace", "kv"),
        ("t2r", "sliding", "query"),
    ]
]


def attention(**changes):
    torch.manual_seed(0)
    module = HybridAttention(**{"heads": 6, "kv_heads": 2, "head_width": 5, "window": 3, **changes}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    return module


def inputs(B=2, T=17):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, heads, T, 5, dtype=torch.float64, generator=generator) for heads in (6, 2, 2)]


def test_hedgehog_starts_as_softmax_of_the_head_and_of_its_negative():
    x = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(Hedgehog(3, 5)(x), torch.cat((x.softmax(-1), (-x).softmax(-1)), -1))


def test_t2r_starts_as_relu():
    x = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(T2R(3, 5)(x), x.relu())


@pytest.mark.parametrize("kind", [Hedgehog, T2R])
@pytest.mark.parametrize("features", [2, 5, 11])
def test_a_map_has_as_many_features_as_it_says_and_none_is_negative(kind, features):
    phi = kind(3, 5, features=features)
    y = phi(torch.randn(2, 3, 7, 5))
    assert y.shape == (2, 3, 7, phi.width)
    assert (y >= 0).all()


@pytest.mark.parametrize("kind", [Hedgehog, T2R])
def test_maps_of_query_heads_on_shared_keys_equal_maps_on_repeated_keys(kind):
    phi, k = kind(6, 5), torch.randn(2, 2, 7, 5)
    with torch.no_grad():
        phi.weight.normal_()
    torch.testing.assert_close(phi(k), phi(k.repeat_interleave(3, 1)))


@pytest.mark.parametrize("kind", [Hedgehog, T2R])
def test_a_map_keeps_float32_under_autocast(kind):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kind(3, 5)(torch.randn(2, 3, 7, 5, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("choice", CHOICES)
def test_one_token_at_a_time_gives_what_the_whole_row_gives(choice):
    module, (q, k, v) = attention(**choice), inputs()
    with torch.no_grad():
        whole = module(q, k, v)
        y, state = module(q[:, :, :7], k[:, :, :7], v[:, :, :7], return_state=True)
        outputs = [y]
        for t in range(7, 17):
            place = step_place(state.length, window=module.window, window_shape=module.window_shape)
            own = (x[:, :, t : t + 1] for x in (q, k, v))
            y, state = module(*own, state=state, return_state=True, place=place)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 2), whole)
    assert state.length.tolist() == [17, 17]


@pytest.mark.parametrize("choice", CHOICES)
def test_the_state_is_as_large_after_many_tokens_as_before_the_first(choice):
    module, (q, k, v) = attention(**choice), inputs(T=41)
    empty = module.empty_state(2, torch.float64)
    _, state = module(q, k, v, return_state=True)
    assert [(x.shape, x.dtype) for x in state] == [(x.shape, x.dtype) for x in empty]


@pytest.mark.parametrize("choice", CHOICES)
def test_left_padding_changes_nothing(choice):
    module, (q, k, v) = attention(**choice), inputs()
    padded = [torch.nn.functional.pad(x, (0, 0, 4, 0), value=3.0) for x in (q, k, v)]
    mask = (torch.arange(21) >= 4).expand(2, -1)
    torch.testing.assert_close(module(*padded, mask=mask)[:, :, 4:], module(q, k, v))


def test_every_parameter_gets_a_gradient():
    module, (q, k, v) = attention(), inputs()
    module(q, k, v).square().sum().backward()
    assert {name for name, parameter in module.named_parameters() if parameter.grad.abs().sum() > 0} == {
        "map_q.weight",
        "map_k.weight",
        "mix",
    }


def test_without_linear_terms_early_tokens_are_out_of_sight():
    module, (q, k, v) = attention(window_shape="sliding"), inputs()
    changed = v.clone()
    changed[:, :, :5] += 1
    window_only = [module(q, k, x, use_linear=False)[:, :, 8:] for x in (v, changed)]
    torch.testing.assert_close(*window_only)
    assert (module(q, k, v) - module(q, k, changed))[:, :, 8:].abs().min() > 0


def test_a_larger_gamma_brings_the_window_alone_nearer():
    q, k, v = inputs()
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
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        attention(**change)


@pytest.mark.parametrize("choice", CHOICES)
def test_gradients_flow_through_single_tokens_as_through_the_whole(choice):
    module, given = attention(**choice), [x.requires_grad_() for x in inputs()]
    learnt = [*module.parameters(), *given]
    whole = torch.autograd.grad(module(*given).square().sum(), learnt)
    y, state = module(*(x[:, :, :2] for x in given), return_state=True)
    outputs = [y]
    for t in range(2, 17):
        place = step_place(state.length, window=module.window, window_shape=module.window_shape)
        y, state = module(*(x[:, :, t : t + 1] for x in given), state=state, return_state=True, place=place)
        outputs.append(y)
    found = torch.autograd.grad(torch.cat(outputs, 2).square().sum(), learnt)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_rows_has_no_output():
    module, (q, k, v) = attention(), (x[:0] for x in inputs())
    with torch.no_grad():
        _, state = module(q[:, :, :7], k[:, :, :7], v[:, :, :7], return_state=True)
        place = step_place(state.length, window=module.window, window_shape=module.window_shape)
        one = (x[:, :, 7:8] for x in (q, k, v))
        y, state = module(*one, state=state, return_state=True, place=place)
    assert y.shape == (0, 6, 1, v.shape[3])
