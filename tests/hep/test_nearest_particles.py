"""The graph of a k-d tree is that of all distances, with ties, for any jets of a batch."""

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.examples import examples

from subquad.hep.data.nearest_particles import ALL_DISTANCES, edges_by_tree, nearest_edges
from subquad.ops.chebyshev import knn_adjacency
from subquad.ops.edges import edges_of


@examples(60)
@given(
    B=st.integers(1, 4),
    P=st.integers(1, 31),
    k=st.integers(1, 9),
    grid=st.sampled_from([None, 0.1, 0.5, 10.0]),
    seed=st.integers(0, 2**31),
)
# more particles in one place than are asked for
@example(B=2, P=29, k=3, grid=10.0, seed=0)
def test_the_edges_of_a_tree_equal_those_of_all_distances(B, P, k, grid, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(P)[None] < torch.randint(0, P + 1, (B, 1), generator=generator)
    eta, phi = (0.4 * torch.randn(2, B, P, generator=generator)).unbind()
    # around the seam of the angle
    points = torch.stack([eta, torch.remainder(phi, 2 * torch.pi) - torch.pi], -1)
    if grid is not None:
        points = (points / grid).round() * grid
    points = points.masked_fill(~mask[..., None], torch.nan)
    expected = edges_of(knn_adjacency(points, mask, k, periodic=(1,)))
    for found, own in zip(edges_by_tree(points, mask, k), expected, strict=True):
        assert torch.equal(found, own)


def test_a_tiny_negative_angle_is_no_whole_turn():
    points = torch.linspace(0, 1, 9)[None, :, None].expand(1, 9, 2).clone()
    points[0, 0, 1] = -1e-20
    mask = torch.ones(1, 9, dtype=torch.bool)
    expected = edges_of(knn_adjacency(points, mask, 3, periodic=(1,)))
    assert all(torch.equal(*pair) for pair in zip(edges_by_tree(points, mask, 3), expected, strict=True))


def test_the_edges_do_not_depend_on_the_padding_of_a_batch():
    generator = torch.Generator().manual_seed(2)
    points, mask = torch.randn(3, 20, 2, generator=generator), torch.ones(3, 20, dtype=torch.bool)
    far = ALL_DISTANCES + 7 - 20
    long = torch.nn.functional.pad(points, (0, 0, 0, far)), torch.nn.functional.pad(mask, (0, far))
    short, padded = (nearest_edges(*jets, 5) for jets in ((points, mask), long))
    for one, other in ((short.row, padded.row), (short.column, padded.column)):
        assert torch.equal(one // 20, other // (20 + far))
        assert torch.equal(one % 20, other % (20 + far))
