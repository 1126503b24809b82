"""Every form of the Chebyshev filter equals its definition, in value and in gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from torch.utils._python_dispatch import TorchDispatchMode

from subquad.ops.chebyshev import (
    chebyshev,
    chebyshev_direct,
    chebyshev_rows,
    knn_adjacency,
    rows,
    scaled_laplacian,
)


def by_rows(x, weight, laplacian):
    B, P, H = x.shape
    graph = rows(laplacian, torch.ones(B, P, dtype=torch.bool))
    return chebyshev_rows(x.reshape(B * P, H), weight, graph).reshape(B, P, weight.shape[-1])


forms = pytest.mark.parametrize("form", [chebyshev, by_rows])
drawn = {
    "B": st.integers(1, 3),
    "P": st.sampled_from([1, 2, 5, 11, 13]),
    "H": st.integers(1, 4),
    "F": st.integers(1, 4),
    "K": st.sampled_from([1, 2, 3, 7, 16]),
    "k": st.integers(1, 5),
    "seed": st.integers(0, 2**31),
}


def jets(B, P, seed, D=2):
    """Points in general position, and masks of which one may be empty and others have holes."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(B, P, D, generator=generator, dtype=torch.float64)
    mask = torch.rand(B, P, generator=generator) < torch.rand(B, 1, generator=generator) * 1.3
    return points, mask, generator


def value_and_gradients(form, x, weight, adjacency, mask):
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, adjacency)]
    # a symmetric matrix of edge weights: the forms may rely on it
    weights = (leaves[2] + leaves[2].mT) / 2
    y = form(leaves[0], leaves[1], scaled_laplacian(weights, mask))
    target = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * target).sum(), leaves, materialize_grads=True)]


@forms
@examples(25)
@given(is_weighted=st.booleans(), **drawn)
def test_a_filter_equals_its_definition_in_value_and_gradient(form, *, is_weighted, B, P, H, F, K, k, seed):
    points, mask, generator = jets(B, P, seed)
    adjacency = knn_adjacency(points, mask, k)
    if is_weighted:
        adjacency = adjacency * (0.1 + torch.rand(B, P, P, generator=generator, dtype=torch.float64))
    x = torch.randn(B, P, H, generator=generator, dtype=torch.float64) * mask[..., None]
    weight = torch.randn(K, H, F, generator=generator, dtype=torch.float64)
    got = value_and_gradients(form, x, weight, adjacency, mask)
    expected = value_and_gradients(chebyshev_direct, x, weight, adjacency, mask)
    # an edge that is not there has no place in a list of neighbours, and so no gradient
    is_edge = (adjacency != 0) | (adjacency.mT != 0)
    for one, other in zip(got[:3], expected[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got[3][is_edge], expected[3][is_edge], rtol=1e-7, atol=1e-7)


@forms
@examples(25)
@given(has_input_gradient=st.booleans(), **drawn)
def test_a_filter_on_a_fixed_graph_equals_its_definition(form, *, has_input_gradient, B, P, H, F, K, k, seed):
    points, mask, generator = jets(B, P, seed)
    laplacian = scaled_laplacian(knn_adjacency(points, mask, k), mask)
    x = torch.randn(B, P, H, generator=generator, dtype=torch.float64) * mask[..., None]
    weight = torch.randn(K, H, F, generator=generator, dtype=torch.float64)
    outcomes = []
    for one in (form, chebyshev_direct):
        leaves = [weight.clone().requires_grad_(), *([x.clone().requires_grad_()] if has_input_gradient else [])]
        y = one(leaves[-1] if has_input_gradient else x, leaves[0], laplacian)
        target = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        outcomes.append([y, *torch.autograd.grad((y * target).sum(), leaves)])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-7)


@forms
def test_a_filter_on_a_fixed_graph_keeps_its_input_alone_for_the_way_back(form):
    points, mask, generator = jets(3, 13, 5)
    laplacian = scaled_laplacian(knn_adjacency(points, mask, 3), mask)
    x = torch.randn(3, 13, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 11, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda x: x):
        form(x, weight, laplacian)
    assert kept == [(39, 11), (16, 11, 11)]


@forms
def test_autocast_keeps_the_type_that_it_chooses_for_products(form):
    points, mask, generator = jets(3, 13, 5)
    laplacian = scaled_laplacian(knn_adjacency(points.float(), mask, 3), mask)
    x = torch.randn(3, 13, 7, generator=generator) * mask[..., None]
    weight = torch.randn(5, 7, 11, generator=generator, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = form(x, weight, laplacian)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("form", [chebyshev_direct, chebyshev, by_rows])
def test_two_particles_with_one_edge_can_be_checked_by_hand(form):
    mask = torch.tensor([[True, True, False]])
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]], dtype=torch.float64)
    laplacian = scaled_laplacian(knn_adjacency(points, mask, 3), mask)
    # both have degree 1, so the matrix swaps the two and changes the sign
    assert laplacian[0].tolist() == [[0, -1, 0], [-1, 0, 0], [0, 0, 0]]
    x = torch.tensor([[[2.0], [5.0], [0.0]]], dtype=torch.float64)
    # T_0 x = (2, 5), T_1 x = (-5, -2), T_2 x = 2 L T_1 x - x = (2, 5)
    weight = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).reshape(3, 1, 1)
    assert form(x, weight, laplacian).flatten().tolist() == pytest.approx([152, 485, 0], abs=1e-12)


def test_the_definition_is_the_cosine_of_the_multiple_angle():
    # on the eigenvector of a two-particle jet with eigenvalue cos(pi), every term is cos(k pi)
    laplacian = torch.tensor([[[0.0, -1.0], [-1.0, 0.0]]], dtype=torch.float64)
    x = torch.ones(1, 2, 1, dtype=torch.float64)
    for K in (1, 2, 3, 7, 16):
        weight = torch.zeros(K, 1, 1, dtype=torch.float64)
        weight[K - 1] = 1
        y = chebyshev_direct(x, weight, laplacian)
        assert y.flatten().tolist() == pytest.approx([math.cos((K - 1) * math.pi)] * 2, abs=1e-9)


@forms
@pytest.mark.parametrize("real", [0, 1])
def test_empty_and_single_particle_jets_give_finite_values_and_gradients(form, real):
    mask = torch.arange(5)[None] < real
    adjacency = knn_adjacency(torch.zeros(1, 5, 2, dtype=torch.float64), mask, 3)
    assert not adjacency.any()
    x = torch.ones(1, 5, 2, dtype=torch.float64) * mask[..., None]
    y, *gradients = value_and_gradients(form, x, torch.ones(7, 2, 3, dtype=torch.float64), adjacency, mask)
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))
    assert not y[~mask].any()
    # an isolated particle sees T_k(0) = 1, 0, -1, 0, 1, 0, -1
    assert y[mask].flatten().tolist() == [0.0] * 3 * real


@forms
@examples(15)
@given(**drawn)
def test_padding_and_other_jets_change_nothing(form, *, B, P, H, F, K, k, seed):
    points, mask, generator = jets(B, P, seed)
    x = torch.randn(B, P, H, generator=generator, dtype=torch.float64) * mask[..., None]
    weight = torch.randn(K, H, F, generator=generator, dtype=torch.float64)

    def run(points, mask, x):
        return form(x, weight, scaled_laplacian(knn_adjacency(points, mask, k), mask))

    together = run(points, mask, x)
    for b in range(B):
        alone = run(points[b : b + 1, mask[b]], mask[b : b + 1, mask[b]], x[b : b + 1, mask[b]])
        torch.testing.assert_close(together[b, mask[b]], alone[0])
    assert not together[~mask].any()


@examples(15)
@given(**drawn)
def test_rows_of_the_real_particles_alone_give_what_padded_jets_give(*, B, P, H, F, K, k, seed):
    points, mask, generator = jets(B, P, seed)
    x = torch.randn(B, P, H, generator=generator, dtype=torch.float64) * mask[..., None]
    weight = torch.randn(K, H, F, generator=generator, dtype=torch.float64)
    laplacian = scaled_laplacian(knn_adjacency(points, mask, k), mask)
    got = chebyshev_rows(x[mask], weight, rows(laplacian, mask))
    torch.testing.assert_close(got, chebyshev(x, weight, laplacian)[mask])


@forms
@examples(15)
@given(**drawn)
def test_permuted_particles_give_permuted_results(form, *, B, P, H, F, K, k, seed):
    points, mask, generator = jets(B, P, seed)
    x = torch.randn(B, P, H, generator=generator, dtype=torch.float64) * mask[..., None]
    weight = torch.randn(K, H, F, generator=generator, dtype=torch.float64)
    order = torch.randperm(P, generator=generator)

    def run(points, mask, x):
        return form(x, weight, scaled_laplacian(knn_adjacency(points, mask, k), mask))

    torch.testing.assert_close(run(points, mask, x)[:, order], run(points[:, order], mask[:, order], x[:, order]))


@examples(25)
@given(B=st.integers(1, 3), P=st.sampled_from([1, 2, 5, 11, 13]), k=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_the_graph_joins_each_particle_with_its_nearest(B, P, k, seed):
    points, mask, _ = jets(B, P, seed)
    adjacency = knn_adjacency(points, mask, k)
    assert torch.equal(adjacency, adjacency.mT)
    for b in range(B):
        real = mask[b].nonzero().flatten().tolist()
        expected = torch.zeros(P, P, dtype=torch.float64)
        for i in real:
            others = sorted((j for j in real if j != i), key=lambda j: (points[b, i] - points[b, j]).norm().item())
            for j in others[:k]:
                expected[i, j] = expected[j, i] = 1
        assert torch.equal(adjacency[b], expected)


def test_an_angle_is_compared_modulo_a_turn():
    points = torch.tensor([[[3.1], [-3.1], [2.0]]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert knn_adjacency(points, mask, 1, periodic=(0,))[0].tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert knn_adjacency(points, mask, 1)[0].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_all_at_the_distance_of_the_last_neighbour_are_joined_whatever_the_order_and_the_padding():
    # a cross: the centre is as far from all, and each end is next to the centre and to two other ends
    points = torch.tensor([[[0.0, 0], [0.3, 0], [-0.3, 0], [0, 0.3], [0, -0.3]]]) + 1.1
    order = torch.tensor([3, 0, 4, 2, 1])
    for padding in (0, 2, 11):
        mask = torch.arange(5 + padding)[None] < 5
        padded = torch.nn.functional.pad(points, (0, 0, 0, padding))
        adjacency = knn_adjacency(padded, mask, 1)
        assert adjacency[0, 0].nonzero().flatten().tolist() == [1, 2, 3, 4]
        assert adjacency[0, 1].nonzero().flatten().tolist() == [0]
        assert knn_adjacency(padded, mask, 2)[0, 1].nonzero().flatten().tolist() == [0, 3, 4]
        moved = knn_adjacency(torch.nn.functional.pad(points[:, order], (0, 0, 0, padding)), mask, 2)
        assert torch.equal(moved[0, :5, :5], knn_adjacency(padded, mask, 2)[0][order][:, order])


def test_the_scaled_laplacian_has_its_eigenvalues_between_minus_one_and_one():
    points, mask, _ = jets(3, 13, 7)
    values = torch.linalg.eigvalsh(scaled_laplacian(knn_adjacency(points, mask, 3), mask))
    assert values.min() >= -1 - 1e-12
    assert values.max() <= 1 + 1e-12


def test_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn_adjacency(torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), 0)


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        assert getattr(found, "dtype", None) != torch.float64, func
        return found


def test_neighbours_are_found_on_a_device_without_float64(monkeypatch):
    points, mask, _ = jets(2, 13, 5)
    points = points.float()
    expected = knn_adjacency(points, mask, 3, periodic=(1,))
    # what `exact` does on such a device
    monkeypatch.setattr("subquad.ops.chebyshev.exact", torch.Tensor.float)
    with WithoutFloat64():
        assert torch.equal(knn_adjacency(points, mask, 3, periodic=(1,)), expected)
