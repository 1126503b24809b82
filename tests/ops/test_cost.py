import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subquad.ops import chebyshev as graph
from subquad.ops import cost, linattn, longconv, s4d

HEADS = {"B": 2, "Hq": 6, "Hkv": 2, "Hf": 6, "K": 5, "V": 7, "F": 3}
SOFTMAX = {name: HEADS[name] for name in ("B", "Hq", "Hkv", "K", "V")}


def counted(work):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def slope(form, axis, sizes=(2**13, 2**17)):
    """The slope of operations against one size, log-log."""
    few, many = (form(**{axis: size}).operations for size in sizes)
    return math.log(many / few) / math.log(sizes[1] / sizes[0])


@pytest.mark.parametrize(
    ("form", "axis", "expected"),
    [
        (lambda T: cost.longconv_direct(B=2, H=3, T=T), "T", 2),
        (lambda T: cost.longconv_toeplitz(B=2, H=3, T=T), "T", 2),
        (lambda T: cost.longconv_frozen(B=2, H=3, T=T), "T", 2),
        # n log n looks like a slope a little above 1
        (lambda T: cost.longconv_fft(B=2, H=3, T=T), "T", 1.1),
        (lambda T: cost.s4d_kernel_direct(H=3, N=5, T=T), "T", 1),
        (lambda T: cost.s4d_kernel(H=3, N=5, T=T), "T", 1),
        (lambda T: cost.s4d_scan(B=2, H=3, N=5, T=T), "T", 1),
        (lambda T: cost.softmax_attention(**SOFTMAX, T=T), "T", 2),
        (lambda T: cost.softmax_step(**SOFTMAX, T=T), "T", 1),
        (lambda T: cost.hybrid_quadratic(**HEADS, T=T), "T", 2),
        (lambda T: cost.hybrid_chunked(**HEADS, T=T), "T", 1),
        (lambda T: cost.hybrid_chunked(**HEADS, T=T, window_shape="sliding"), "T", 1),
        (lambda P: cost.knn_graph(B=2, P=P, D=2, k=3), "P", 2),
        (lambda P: cost.chebyshev_direct(B=2, P=P, C=3, O=5, K=7), "P", 3),
        (lambda P: cost.chebyshev(B=2, P=P, C=3, O=5, K=7), "P", 2),
        (lambda P: cost.fully_connected(B=2, P=P, C=3, O=5, K=7), "P", 2),
        (lambda P: cost.chebyshev_rows(B=2, P=P, E=3, C=3, O=5, K=7), "P", 1),
        (lambda P: cost.pair_means_direct(B=2, P=P, C=3), "P", 2),
        (lambda P: cost.pair_means(B=2, P=P, E=3, C=3), "P", 1),
    ],
)
def test_operations_grow_with_the_power_that_the_form_promises(form, axis, expected):
    assert slope(form, axis) == pytest.approx(expected, abs=0.05)


def test_a_cost_that_is_checked_by_hand():
    # two heads of width 1 over 3 positions: 2 · 2 heads · 9 pairs · (1 + 1) operations
    # 3 positions · (2 heads · 2 + 1 head · 2) numbers of queries, outputs, keys, values, and 2 · 9 weights
    assert cost.softmax_attention(B=1, Hq=2, Hkv=1, T=3, K=1, V=1) == cost.Cost(operations=72, bytes=4 * (18 + 18))


@pytest.mark.parametrize("T", [2, 13, 41])
def test_operations_of_convolutions_are_those_that_torch_counts(T):
    u, k = torch.randn(2, 3, T), torch.randn(3, T)
    sizes = {"B": 2, "H": 3, "T": T}
    assert cost.longconv_toeplitz(**sizes).operations == counted(lambda: longconv.longconv_toeplitz(u, k))
    assert cost.longconv_direct(**sizes).operations == counted(lambda: longconv.longconv_direct(u, k))
    # the products of the spectra are no matrix products
    spectra = 6 * 2 * 3 * (T + 1)
    assert cost.longconv_frozen(**sizes).operations - spectra == counted(lambda: longconv.longconv_frozen(u, k))


@pytest.mark.parametrize("T", [1, 13, 41])
def test_operations_of_the_state_space_kernel_are_those_that_torch_counts(T):
    A, C, dt = s4d.s4d_lin(5).repeat(3, 1), torch.randn(3, 5, dtype=torch.complex64), torch.full((3,), 0.1)
    assert cost.s4d_kernel(H=3, N=5, T=T).operations == counted(lambda: s4d.kernel(A, C, dt, length=T))


def attention_inputs(T, feature_heads):
    B, Hq, Hkv, K, V, F = (HEADS[name] for name in ("B", "Hq", "Hkv", "K", "V", "F"))
    return {
        "q": torch.randn(B, Hq, T, K),
        "k": torch.randn(B, Hkv, T, K),
        "v": torch.randn(B, Hkv, T, V),
        "phi_q": torch.rand(B, Hq, T, F),
        "phi_k": torch.rand(B, feature_heads, T, F),
        "mix": torch.randn(Hq),
    }


@pytest.mark.parametrize("T", [1, 13, 41])
@pytest.mark.parametrize("feature_heads", [6, 2])
@pytest.mark.parametrize(
    ("window_shape", "sinks", "cache"),
    [("sliding", 0, 0), ("sliding", 3, 0), ("terrace", 3, 0), ("terrace", 3, 5), ("none", 0, 0)],
)
def test_operations_of_hybrid_attention_are_those_that_torch_counts(window_shape, sinks, cache, feature_heads, T):
    sizes, shape = {**HEADS, "Hf": feature_heads}, {"window_shape": window_shape, "sinks": sinks}
    inputs = attention_inputs(T, feature_heads)
    # T × T pairs, whatever is done with them
    assert cost.hybrid_quadratic(**sizes, T=T).operations == counted(
        lambda: linattn.hybrid_quadratic(**inputs, **shape)
    )
    shape["cache"] = cache
    assert cost.hybrid_chunked(**sizes, T=T, w=11, **shape).operations == counted(
        lambda: linattn.hybrid_chunked(**inputs, window=11, **shape)
    )


@pytest.mark.parametrize(("features", "input_width"), [(None, 5), (3, 5), (None, 0)])
def test_the_state_counts_unrotated_inputs_and_moments(features, input_width):
    state = linattn.hybrid_state(
        2, kv_heads=2, key_width=5, value_width=7, feature_heads=6, features=features, window=11, sinks=3, cache=5,
        input_width=input_width,
    )  # fmt: skip
    sizes = {**HEADS, "Hf": 6} if features else {**HEADS, "Hf": 2, "F": 6, "moments": True}
    expected = cost.hybrid_step(**sizes, w=11, sinks=3, cache=5, input_width=input_width)
    assert expected.state == sum(x.numel() * x.element_size() for x in state)


@pytest.mark.parametrize("feature_heads", [6, 2])
@pytest.mark.parametrize(
    ("window_shape", "sinks", "cache"), [("sliding", 3, 0), ("terrace", 0, 0), ("terrace", 3, 0), ("terrace", 3, 5)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_state_and_operations_of_a_step_are_those_of_the_tensors(*, dtype, window_shape, sinks, cache, feature_heads):
    sizes = {**HEADS, "Hf": feature_heads}
    state = linattn.hybrid_state(
        2,
        kv_heads=2,
        key_width=5,
        value_width=7,
        feature_heads=feature_heads,
        features=3,
        window=11,
        window_shape=window_shape,
        sinks=sinks,
        cache=cache,
        dtype=dtype,
    )
    shape = {"window_shape": window_shape, "sinks": sinks, "cache": cache}
    expected = cost.hybrid_step(**sizes, w=11, **shape, itemsize=dtype.itemsize)
    assert expected.state == sum(x.numel() * x.element_size() for x in state)
    inputs = {name: x.to(dtype) for name, x in attention_inputs(1, feature_heads).items()}
    features = inputs.pop("phi_k")
    # nothing leaves the window at the first token
    leaving = 2 * 2 * feature_heads * 3 * 8
    leaving += 2 * 2 * 2 * 5 if cache else 0
    assert expected.operations - leaving == counted(
        lambda: linattn.hybrid_step(**inputs, map_k=lambda _: features, state=state, window=11, **shape)
    )


@pytest.mark.parametrize(("C", "O"), [(3, 5), (5, 3)])
def test_operations_of_the_dense_filter_are_those_that_torch_counts(C, O):  # noqa: E741
    # with a gradient of the graph, since torch counts no products that are added in place
    x, weight, laplacian = torch.randn(2, 13, C), torch.randn(7, C, O), torch.randn(2, 13, 13, requires_grad=True)
    assert cost.chebyshev(B=2, P=13, C=C, O=O, K=7).operations == counted(lambda: graph.chebyshev(x, weight, laplacian))


def test_a_filter_on_few_neighbours_is_cheaper_than_on_all_pairs():
    sizes = {"B": 2, "P": 128, "C": 64, "O": 64, "K": 16}
    near, every = cost.chebyshev_rows(**sizes, E=5), cost.fully_connected(**sizes)
    assert near.operations < every.operations
    assert near.bytes < every.bytes


def test_the_state_of_hybrid_attention_is_smaller_than_a_cache_of_many_tokens():
    smollm = {"B": 1, "Hq": 9, "Hkv": 3, "K": 64, "V": 64}
    state = cost.hybrid_step(**smollm, Hf=9, F=128).state
    assert cost.softmax_step(**smollm, T=256).state < state < cost.softmax_step(**smollm, T=512).state


def test_costs_add_up():
    graph_and_filter = cost.knn_graph(B=1, P=2, D=2, k=1) + cost.chebyshev(B=1, P=2, C=1, O=1, K=1)
    assert graph_and_filter.operations == 28 + 4
