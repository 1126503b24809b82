"""Lists of edges give the values and gradients of whole matrices."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops.chebyshev import chebyshev, chebyshev_rows, chebyshev_terms, knn_adjacency
from subquad.ops.edges import (
    chebyshev_edges,
    edge_kinematics,
    edge_laplacians,
    edges_of,
    pair_means,
    pair_means_direct,
    rows_of,
)
from subquad.ops.kinematics import kinematic_laplacians, pair_kinematics


def jets(B, P, k, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(P)[None] < torch.randint(0, P + 1, (B, 1), generator=generator)
    pt = torch.randn(B, P, generator=generator, dtype=torch.float64).exp()
    eta = 0.4 * torch.randn(B, P, generator=generator, dtype=torch.float64)
    # around the seam of the angle
    phi = 3.1 + 0.4 * torch.randn(B, P, generator=generator, dtype=torch.float64)
    vectors = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], -1)
    points = torch.stack([eta, torch.remainder(phi, 2 * torch.pi) - torch.pi], -1)
    return vectors, points, mask, knn_adjacency(points, mask, k, periodic=(1,)), generator


@examples(40)
@given(
    P=st.sampled_from([1, 2, 3, 7, 13]),
    k=st.integers(1, 4),
    G=st.integers(1, 4),
    K=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_filters_on_edges_equal_those_on_matrices(P, k, G, K, seed):
    B = 3
    vectors, points, mask, adjacency, generator = jets(B, P, k, seed)
    exponents = (0.3 * torch.randn(G, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    x = torch.randn(B, P, G, 3, generator=generator, dtype=torch.float64).requires_grad_()
    edges = edges_of(adjacency)
    pairs = pair_kinematics(vectors, points, mask)
    own = edge_kinematics(vectors, points, edges)
    torch.testing.assert_close(own, pairs[adjacency > 0])

    laplacians = edge_laplacians(own @ exponents.T, edges)
    whole = kinematic_laplacians(pairs, adjacency, exponents)
    torch.testing.assert_close(laplacians, whole.movedim(1, -1)[adjacency > 0])

    # rows of the first graph
    weight = torch.randn(K, 3, 2, generator=generator, dtype=torch.float64)
    found = chebyshev_rows(x[mask][:, 0], weight, rows_of(laplacians[:, 0], edges, mask))
    torch.testing.assert_close(found, chebyshev(x[:, :, 0], weight, whole[:, 0])[mask])

    parts = x.transpose(1, 2).reshape(B * G, P, 3)
    expected = torch.stack(chebyshev_terms(parts, K, whole.flatten(0, 1)), 2).view(B, G, P, K, 3).transpose(1, 2)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)

    def gradients(found):
        return torch.autograd.grad(
            (found * cotangent).sum(), [x, exponents], allow_unused=True, materialize_grads=True, retain_graph=True
        )

    terms = chebyshev_edges(x, K, laplacians, edges)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(gradients(terms), gradients(expected))


@examples(40)
@given(P=st.sampled_from([1, 2, 3, 7, 13]), k=st.integers(1, 4), m=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_means_over_pairs_equal_those_of_matrices(P, k, m, seed):
    B = 3
    *_, adjacency, generator = jets(B, P, k, seed)
    edges = edges_of(adjacency)
    whole = torch.randn(B, P, P, m, generator=generator, dtype=torch.float64)
    whole = (whole + whole.transpose(1, 2)).requires_grad_()
    x = torch.randn(B, P, m, generator=generator, dtype=torch.float64).requires_grad_()
    pair = (edges.row < edges.column).nonzero()[:, 0]
    found = pair_means(x.flatten(0, 1), whole[adjacency > 0][pair], pair, edges).view(B, P, m)
    expected = pair_means_direct(x, whole, adjacency)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    of_found, of_expected = (torch.autograd.grad((y * cotangent).sum(), [x, whole]) for y in (found, expected))
    torch.testing.assert_close(of_found[0], of_expected[0])
    # a weight counts for both directions, and is read at one
    torch.testing.assert_close(*(of_w + of_w.transpose(1, 2) for of_w in (of_found[1], of_expected[1])))


def test_weights_that_no_number_holds_give_finite_entries_and_gradients():
    vectors, points, _, adjacency, generator = jets(3, 13, 3, 5)
    edges = edges_of(adjacency)
    exponents = (900 * torch.randn(3, 4, generator=generator)).requires_grad_()
    powers = edge_kinematics(vectors.float(), points.float(), edges) @ exponents.T
    laplacians = edge_laplacians(powers, edges)
    assert laplacians.isfinite().all()
    laplacians.square().sum().backward()
    assert exponents.grad.isfinite().all()


def test_masses_of_collinear_particles_keep_their_digits_in_float32():
    """Two energies of 300 GeV whose product is known to seven digits leave few of a mass of 1 GeV."""
    vectors, points, mask, adjacency, _ = jets(5, 13, 3, 6)
    vectors, points = (300 * vectors).float(), 0.01 * points.float()
    pt = torch.hypot(vectors[..., 0], vectors[..., 1])
    eta, phi = points.unbind(-1)
    vectors = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], -1)
    own = edge_kinematics(vectors, points, edges_of(adjacency))
    dense = pair_kinematics(vectors, points, mask)[adjacency > 0]
    torch.testing.assert_close(own, dense, atol=1e-5, rtol=0)
    exact = pair_kinematics(vectors.double(), points.double(), mask)[adjacency > 0]
    torch.testing.assert_close(own[:, 3], exact[:, 3].float(), atol=1e-6, rtol=1e-6)
