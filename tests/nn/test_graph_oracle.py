"""Our Chebyshev filter against PyTorch Geometric's, in value and gradient."""

import pytest
import torch

from subquad.nn.graph import ChebConv
from subquad.ops.chebyshev import knn_adjacency, rows, scaled_laplacian

oracle = pytest.importorskip(
    "torch_geometric.nn", reason="needs PyTorch Geometric, with which it compares: pip install torch_geometric"
)


@pytest.mark.parametrize("terms", [1, 2, 3, 8, 16])
def test_a_filter_equals_pytorch_geometrics_whose_k_counts_terms(terms):
    generator = torch.Generator().manual_seed(terms)
    mask = torch.arange(17) < torch.tensor([[17], [1], [0], [11]])
    points = torch.randn(4, 17, 2, generator=generator, dtype=torch.float64)
    adjacency = knn_adjacency(points, mask, 3)
    laplacian = scaled_laplacian(adjacency, mask)
    x = torch.randn(4, 17, 5, generator=generator, dtype=torch.float64) * mask[..., None]
    ours = ChebConv(5, 7, terms).double()
    theirs = oracle.ChebConv(5, 7, terms, normalization="sym").double()
    with torch.no_grad():
        for linear, weight in zip(theirs.lins, ours.weight, strict=True):
            linear.weight.copy_(weight.T)
        theirs.bias.copy_(ours.bias)
    place = (mask.flatten().cumsum(0) - 1).reshape(mask.shape)
    b, i, j = adjacency.nonzero(as_tuple=True)
    edges = torch.stack([place[b, i], place[b, j]])

    def outcome(form, weights, x):
        x = x.requires_grad_()
        y = form(x)
        of_x, *of_weights = torch.autograd.grad(y.square().sum(), [x, *weights])
        return [y, of_x, *of_weights]

    expected = outcome(
        lambda x: theirs(x, edges, lambda_max=torch.tensor(2.0, dtype=torch.float64)),
        [theirs.bias, *(linear.weight for linear in theirs.lins)],
        x[mask].clone(),
    )
    expected = [*expected[:3], torch.stack([gradient.T for gradient in expected[3:]])]
    learnt = [ours.bias, ours.weight]
    found = outcome(lambda x: ours(x, rows(laplacian, mask)), learnt, x[mask].clone())
    torch.testing.assert_close(found, expected)
