"""Laplacians of kinematic graphs in one go are those of the weighted graphs, with all gradients."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from subquad.ops.chebyshev import knn_adjacency, scaled_laplacian
from subquad.ops.kinematics import kinematic_adjacency, kinematic_laplacians, pair_kinematics


def jets(B, P, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(P)[None] < torch.randint(0, P + 1, (B, 1), generator=generator)
    pt = torch.randn(B, P, generator=generator, dtype=torch.float64).exp()
    eta, phi = (0.4 * torch.randn(2, B, P, generator=generator, dtype=torch.float64)).unbind()
    vectors = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], -1)
    points = torch.stack([eta, phi], -1)
    return pair_kinematics(vectors, points, mask), knn_adjacency(points, mask, 3, periodic=(1,)), mask, generator


@examples(40)
@given(
    B=st.integers(1, 3),
    P=st.sampled_from([1, 2, 3, 7, 13]),
    G=st.integers(1, 4),
    size=st.floats(0, 0.7),
    seed=st.integers(0, 2**31),
)
def test_laplacians_in_one_go_equal_those_of_weighted_graphs(B, P, G, size, seed):
    pairs, adjacency, mask, generator = jets(B, P, seed)
    pairs.requires_grad_()
    exponents = (size * torch.randn(G, 4, generator=generator, dtype=torch.float64)).clamp(-0.7, 0.7).requires_grad_()
    one_go = kinematic_laplacians(pairs, adjacency, exponents)
    weights = kinematic_adjacency(pairs, adjacency, exponents)
    defined = torch.stack([scaled_laplacian(one, mask) for one in weights.unbind(1)], 1)
    torch.testing.assert_close(one_go, defined)
    cotangent = torch.randn(one_go.shape, generator=generator, dtype=torch.float64)
    of_one_go, of_defined = (
        torch.autograd.grad((laplacians * cotangent).sum(), [pairs, exponents]) for laplacians in (one_go, defined)
    )
    torch.testing.assert_close(of_one_go, of_defined)


def test_powers_that_no_number_holds_give_finite_laplacians_and_gradients():
    pairs, adjacency, _, generator = jets(3, 13, 5)
    exponents = (900 * torch.randn(3, 4, generator=generator)).requires_grad_()
    laplacians = kinematic_laplacians(pairs.float(), adjacency.float(), exponents)
    assert laplacians.isfinite().all()
    laplacians.square().sum().backward()
    assert exponents.grad.isfinite().all()
