"""Networks on kinematic graphs: their variables by hand, what they must not depend on, that they learn from pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from support.examples import examples

from subquad.nn.kinematic import EPCN, AttentionPool, ContinuousFilterBlock, KinematicNet, scaled_variables
from subquad.ops.chebyshev import chebyshev_direct, knn_adjacency, scaled_laplacian
from subquad.ops.edges import edges_of
from subquad.ops.kinematics import kinematic_adjacency, pair_kinematics

nets = pytest.mark.parametrize("kind", ["epcn", "continuous", "chebyshev", "jet_features"])
filters = pytest.mark.parametrize("kind", ["continuous", "chebyshev"])


def net(kind, features=5, classes=7):
    torch.manual_seed(3)
    if kind == "epcn":
        return EPCN(features, classes, width=11, terms=4, k=2).double().eval()
    arguments = {"width": 12, "graphs": 3, "terms": 3, "layers": 2, "k": 2, "pool_heads": 2}
    if kind == "chebyshev":
        made = KinematicNet(features, classes, filter=kind, **arguments)
        with torch.no_grad():
            made.exponents.add_(torch.randn_like(made.exponents))
    else:
        made = KinematicNet(features, classes, jet_features=3 if kind == "jet_features" else 0, **arguments)
    return made.double().eval()


def jets(B, P, seed, features=5):
    """Features, Δη and Δφ, which particles are real, and their vectors; jet_features of each jet."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, P, features, generator=generator, dtype=torch.float64)
    mask = torch.arange(P)[None] < torch.randint(0, P + 1, (B, 1), generator=generator)
    pt = torch.randn(B, P, generator=generator, dtype=torch.float64).exp()
    eta, phi = (0.4 * torch.randn(2, B, P, generator=generator, dtype=torch.float64)).unbind()
    vectors = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], -1)
    jet_features = torch.randn(B, 3, generator=generator, dtype=torch.float64)
    return {"x": x, "points": torch.stack([eta, phi], -1), "mask": mask, "vectors": vectors}, jet_features, generator


def answer(made, inputs, jet_features):
    rest = {"jet_features": jet_features} if made.jet_features else {}
    return made(inputs["x"], inputs["points"], inputs["mask"], vectors=inputs["vectors"], **rest)


def test_the_variables_of_a_pair_are_those_of_its_formulas():
    # 3 GeV along x, 4 GeV along y: a right angle apart, both with η = 0
    vectors = torch.tensor([[[3.0, 0, 0, 3], [0, 4, 0, 4]]])
    points = torch.tensor([[[0.0, 0], [0, math.pi / 2]]])
    pairs = pair_kinematics(vectors, points, torch.ones(1, 2, dtype=torch.bool)).exp()
    expected = torch.tensor([math.pi / 2, 3 * math.pi / 2, 3 / 7, (3 + 4) ** 2 - (3**2 + 4**2)])
    torch.testing.assert_close(pairs[0, 0, 1], expected)
    torch.testing.assert_close(pairs[0, 1, 0], expected)


def test_a_pair_across_the_seam_of_phi_is_near():
    points = torch.tensor([[[0.0, math.pi - 0.1], [0, 0.1 - math.pi]]])
    pairs = pair_kinematics(torch.ones(1, 2, 4), points, torch.ones(1, 2, dtype=torch.bool))
    assert pairs[0, 0, 1, 0].exp().item() == pytest.approx(0.2, rel=1e-5)


def test_weights_are_powers_up_to_a_factor_of_the_jet_and_edges_stay_edges():
    inputs, _, _ = jets(3, 7, 5)
    adjacency = knn_adjacency(inputs["points"], inputs["mask"], 2, periodic=(1,))
    pairs = pair_kinematics(inputs["vectors"], inputs["points"], inputs["mask"])
    exponents = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0], [-1.5, 0.5, 0, 2]], dtype=torch.float64)
    weights = kinematic_adjacency(pairs, adjacency, exponents)
    assert torch.equal(weights[:, 0], adjacency)
    for g, power in enumerate(exponents):
        expected = (pairs @ power).exp() * adjacency
        for b in range(3):
            if adjacency[b].any():
                torch.testing.assert_close(weights[b, g], expected[b] / expected[b].max())
    # a power that no number holds leaves every edge an edge
    wild = kinematic_adjacency(pairs, adjacency, 900 * exponents)
    assert wild.isfinite().all()
    assert torch.equal(wild > 0, (adjacency > 0)[:, None].expand_as(wild))


def test_each_group_of_channels_is_filtered_on_its_own_graph():
    inputs, _, _ = jets(2, 7, 9)
    mask = inputs["mask"] = torch.ones(2, 7, dtype=torch.bool)
    made = net("chebyshev")
    block = made.blocks[0]
    block.feed[-1].weight.data.zero_(), block.feed[-1].bias.data.zero_()
    pairs = pair_kinematics(inputs["vectors"], inputs["points"], mask)
    adjacency = knn_adjacency(inputs["points"], mask, 2, periodic=(1,))
    weights = kinematic_adjacency(pairs, adjacency, made.exponents)
    laplacians = torch.stack([scaled_laplacian(one, mask) for one in weights.unbind(1)], 1)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    given = block(x, laplacians.movedim(1, -1)[adjacency > 0], edges_of(adjacency)) - x
    # the definition on each graph, with the part of the matrix that its four channels meet
    matrices, expected = block.filter.weight.mT.view(3, 3, 4, 12), block.filter.bias
    for g, matrix in enumerate(matrices):
        expected = expected + chebyshev_direct(block.norm(x)[..., 4 * g : 4 * g + 4], matrix, laplacians[:, g])
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("has_jet_mean", [True, False])
def test_a_continuous_filter_multiplies_neighbours_by_functions_of_the_pair(has_jet_mean):
    inputs, _, _ = jets(2, 7, 9)
    mask = inputs["mask"]
    block = ContinuousFilterBlock(12, hidden=24, has_jet_mean=has_jet_mean).double()
    block.feed[-1].weight.data.zero_(), block.feed[-1].bias.data.zero_()
    variables = scaled_variables(pair_kinematics(inputs["vectors"], inputs["points"], mask))
    adjacency = knn_adjacency(inputs["points"], mask, 2, periodic=(1,))
    edges = edges_of(adjacency)
    pair = (edges.row < edges.column).nonzero()[:, 0]
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    found = block(x, variables[adjacency > 0][pair], pair, edges, mask)
    y = block.norm(x)
    of_jets = [block.jet(y[b, mask[b]].mean(0)) if has_jet_mean else 0 for b in range(len(mask))]
    for b, i in mask.nonzero().tolist():
        near = adjacency[b, i] > 0
        messages = block.functions(variables[b, i, near]) * block.value(y[b, near])
        mean = messages.sum(0) / max(1, len(messages))
        torch.testing.assert_close(found[b, i], x[b, i] + block.filter(torch.cat([y[b, i], mean])) + of_jets[b])


@nets
def test_a_batch_without_jets_has_no_logits_and_no_gradients(kind):
    made = net(kind)
    inputs = {name: value[:0] for name, value in jets(2, 7, 9)[0].items()}
    logits = answer(made, inputs, torch.zeros(0, 3, dtype=torch.float64))
    assert logits.shape == (0, 7)
    logits.sum().backward()
    assert not any(p.grad.any() for p in made.parameters() if p.grad is not None)


def test_variables_of_pairs_are_scaled_and_limited():
    scaled = scaled_variables(torch.tensor([[-2.0, 1.5, -2.0, 1.0], [-1e3, 1e3, -3.2, 3.5]]))
    torch.testing.assert_close(scaled, torch.tensor([[0.0, 1.0, 0.0, 0.0], [-5.0, 5.0, -1.0, 1.0]]))


@nets
@examples(15)
@given(B=st.integers(1, 3), P=st.sampled_from([1, 3, 7, 13]), seed=st.integers(0, 2**31))
def test_the_order_of_particles_changes_nothing(kind, B, P, seed):
    inputs, jet_features, generator = jets(B, P, seed)
    order = torch.randperm(P, generator=generator)
    made = net(kind)
    moved = {name: value[:, order] for name, value in inputs.items()}
    torch.testing.assert_close(answer(made, inputs, jet_features), answer(made, moved, jet_features))


@nets
@examples(15)
@given(B=st.integers(1, 3), P=st.sampled_from([1, 3, 7, 13]), padding=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_padding_and_the_other_jets_change_nothing(kind, B, P, padding, seed):
    inputs, jet_features, _ = jets(B, P, seed)
    made = net(kind)
    mask = torch.nn.functional.pad(inputs["mask"], (0, padding))
    # garbage in padded places, also what no arithmetic survives
    padded = {
        name: torch.nn.functional.pad(value, (0, 0, 0, padding)).masked_fill(~mask[..., None], torch.nan)
        for name, value in inputs.items()
        if name != "mask"
    }
    together = answer(made, {**padded, "mask": mask}, jet_features)
    for b in range(B):
        alone = {name: value[b : b + 1] for name, value in inputs.items()}
        torch.testing.assert_close(together[b : b + 1], answer(made, alone, jet_features[b : b + 1]))


@nets
def test_empty_and_single_particle_jets_and_particles_in_one_place_have_finite_gradients(kind):
    inputs, jet_features, _ = jets(4, 7, 1)
    inputs["mask"] = torch.arange(7)[None] < torch.tensor([[0], [1], [7], [7]])
    inputs["points"][3], inputs["vectors"][3] = inputs["points"][3, 0], inputs["vectors"][3, 0]
    made = net(kind)
    answer(made, inputs, jet_features).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


@nets
def test_half_precision_of_products_leaves_the_graphs_alone(kind):
    inputs, jet_features, _ = jets(4, 13, 8)
    inputs = {name: value if name == "mask" else value.float() for name, value in inputs.items()}
    made, jet_features = net(kind).float(), jet_features.float()
    exact = pair_kinematics(inputs["vectors"], inputs["points"], inputs["mask"])
    expected = answer(made, inputs, jet_features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pair_kinematics(inputs["vectors"], inputs["points"], inputs["mask"]), exact)
        given = answer(made, inputs, jet_features)
        given.square().sum().backward()
    torch.testing.assert_close(given.float(), expected, atol=0.05, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_attention_of_equal_scores_is_the_mean():
    pool = AttentionPool(5, 3).double()
    pool.score.weight.data.zero_()
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    mask = torch.arange(7)[None] < torch.tensor([[4], [7]])
    expected = torch.stack([x[0, :4].mean(0), x[1].mean(0)]).repeat(1, 3)
    torch.testing.assert_close(pool(x, mask), expected)


@pytest.mark.slow
@filters
def test_a_net_without_features_learns_how_far_pairs_are_apart(kind):
    """All particles look alike; whether pairs are near or far is seen by the weights of the edges alone."""
    generator = torch.Generator().manual_seed(1)
    B, P = 128, 8
    label = torch.arange(B) % 2
    centre = torch.rand(B, P // 2, 1, 2, generator=generator)
    apart = torch.where(label == 1, 0.2, 0.02)[:, None, None, None]
    points = (centre + apart * torch.randn(B, P // 2, 2, 2, generator=generator)).flatten(1, 2)
    vectors = torch.tensor([1.0, 0, 0, 1]).expand(B, P, 4)
    x, mask = torch.ones(B, P, 1), torch.ones(B, P, dtype=torch.bool)
    torch.manual_seed(8)
    made = KinematicNet(1, 2, filter=kind, width=16, graphs=2, terms=3, layers=2, k=3, dropout=0.0)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(made(x, points, mask, vectors=vectors), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (made(x, points, mask, vectors=vectors).argmax(-1) == label).float().mean() > 0.9


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="13 channels are not a multiple of 4 graphs"):
        KinematicNet(5, 7, filter="chebyshev", width=13)
    # checks of the types refuse it first, where they are on
    with pytest.raises((ValueError, TypeCheckError), match=r"filter must be .*, got 'chebychev'|Literal"):
        KinematicNet(5, 7, filter="chebychev")
    inputs, jet_features, _ = jets(2, 3, 1)
    with pytest.raises(ValueError, match="takes 0 jet-level features"):
        net("continuous")(
            inputs["x"], inputs["points"], inputs["mask"], vectors=inputs["vectors"], jet_features=jet_features
        )
