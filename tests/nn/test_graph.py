"""The particle Chebyshev network: what it must not depend on, and that it learns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.nn.graph import PCN, EdgeConv, knn_graph, masked_max, masked_mean, unpacked
from subquad.ops.chebyshev import knn_adjacency

variants = pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"has_edges": True},
        {"is_normalised": True, "is_residual": True, "pool": "mean_max", "hidden": 11, "periodic": (1,)},
    ],
    ids=["paper", "edges", "ours"],
)


def net(arguments, features=5, classes=7):
    torch.manual_seed(3)
    return PCN(features, classes, width=11, terms=4, k=2, **arguments).double().eval()


def jets(B, P, seed, features=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, P, features, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, P + 1, (B, 1), generator=generator)
    return x, x[..., :2].contiguous(), torch.arange(P)[None] < lengths, generator


def test_the_published_net_has_three_filters_of_sixteen_terms():
    pcn = PCN.paper(16, 10)
    assert [tuple(layer.weight.shape) for layer in pcn.filters] == [(16, 16, 64), (16, 64, 64), (16, 64, 64)]
    assert sum(p.numel() for p in pcn.parameters()) == 16 * 64 * (16 + 64 + 64) + 3 * 64 + 64 * 10 + 10


@variants
@examples(15)
@given(B=st.integers(1, 3), P=st.sampled_from([1, 3, 7, 13]), seed=st.integers(0, 2**31))
def test_the_order_of_particles_changes_nothing(arguments, B, P, seed):
    x, points, mask, generator = jets(B, P, seed)
    order = torch.randperm(P, generator=generator)
    pcn = net(arguments)
    torch.testing.assert_close(pcn(x, points, mask), pcn(x[:, order], points[:, order], mask[:, order]))


@variants
@examples(15)
@given(B=st.integers(1, 3), P=st.sampled_from([1, 3, 7, 13]), padding=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_padding_and_the_other_jets_change_nothing(arguments, B, P, padding, seed):
    x, points, mask, _ = jets(B, P, seed)
    pcn = net(arguments)
    # garbage in padded places, also what no arithmetic survives
    padded_x = torch.nn.functional.pad(x, (0, 0, 0, padding)).masked_fill(
        ~torch.nn.functional.pad(mask, (0, padding))[..., None], torch.nan
    )
    padded_mask = torch.nn.functional.pad(mask, (0, padding))
    together = pcn(padded_x, padded_x[..., :2], padded_mask)
    for b in range(B):
        torch.testing.assert_close(together[b : b + 1], pcn(x[b : b + 1], points[b : b + 1], mask[b : b + 1]))


@variants
def test_empty_and_single_particle_jets_have_finite_gradients(arguments):
    x, points, _, _ = jets(3, 7, 1)
    mask = torch.arange(7)[None] < torch.tensor([[0], [1], [7]])
    pcn = net(arguments)
    x = x.requires_grad_()
    pcn(x, points, mask).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in pcn.parameters())
    assert x.grad.isfinite().all()
    assert not x.grad[~mask].any()


def test_padded_places_are_zero_in_unpacked_jets():
    x, _, mask, _ = jets(3, 7, 2)
    assert torch.equal(unpacked(x[mask], mask), torch.where(mask[..., None], x, 0))


def test_an_edge_convolution_takes_the_largest_difference_of_the_neighbours():
    x, points, mask, _ = jets(3, 7, 2)
    layer = EdgeConv(5, 11).double()
    found = unpacked(layer(x[mask], knn_graph(points, mask, 2)), mask)
    adjacency = knn_adjacency(points, mask, 2) > 0
    for b, i in mask.nonzero().tolist():
        expected = layer.phi(x[b, i])
        if adjacency[b, i].any():
            expected = expected + (layer.theta(x[b, adjacency[b, i]]) - layer.theta(x[b, i])).amax(0)
        torch.testing.assert_close(found[b, i], expected)


def test_pools_count_real_particles_only():
    x = torch.tensor([[[-2.0], [-4.0], [9.0]], [[1.0], [2.0], [3.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).flatten().tolist() == [-3.0, 0.0]
    assert masked_max(x, mask).flatten().tolist() == [-2.0, 0.0]


def test_observers_of_the_jet_reach_the_head():
    x, points, mask, _ = jets(2, 7, 5)
    pcn = net({"jet_features": 3, "hidden": 11})
    one = pcn(x, points, mask, jet_features=torch.zeros(2, 3, dtype=torch.float64))
    two = pcn(x, points, mask, jet_features=torch.ones(2, 3, dtype=torch.float64))
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match="this PCN takes 3 jet-level features"):
        pcn(x, points, mask)


def test_it_learns_to_tell_one_cluster_from_two():
    torch.manual_seed(0)
    label = torch.arange(128) % 2
    centre = (torch.randint(0, 2, (128, 13, 1)) * 2 - 1) * label[:, None, None]
    points = centre + 0.1 * torch.randn(128, 13, 2)
    points = points - points.mean(1, keepdim=True)
    mask = torch.arange(13)[None] < torch.randint(7, 14, (128, 1))
    pcn = PCN(2, 2, width=11, terms=4, k=2)
    optimizer = torch.optim.AdamW(pcn.parameters(), lr=1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(pcn(points, points, mask), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (pcn(points, points, mask).argmax(-1) == label).float().mean() > 0.97
