import math

import pytest
import torch

from subquad.nn.sequence import PGC, S4D, Lyra, _drop, masked_mean
from subquad.ops.s4d import kernel

WAYS = [{}, {"positions": 17}, {"is_bidirectional": True}, {"kernel": 3}]


def small(seed=0, **options):
    torch.manual_seed(seed)
    net = Lyra(5, 3, width=7, gates=(2, 11), modes=3, **options).double().eval()
    if net.motifs is not None:
        # it starts at zero, where it would hide what it reads
        torch.nn.init.normal_(net.motifs.weight)
        torch.nn.init.normal_(net.motifs.bias)
    return net


def letters(B, T, seed=0):
    index = torch.randint(0, 5, (B, T), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(index, 5).double()


def test_the_papers_net_has_47169_parameters():
    assert sum(p.numel() for p in Lyra.paper(20, 1).parameters()) == 47_169


def test_a_convolution_of_motifs_starts_at_zero():
    torch.manual_seed(0)
    plain = Lyra(4, 2, width=7, gates=(5,), modes=3)
    motifs = Lyra(4, 2, width=7, gates=(5,), modes=3, kernel=3)
    motifs.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 11, 4)
    torch.testing.assert_close(motifs.eval()(x), plain.eval()(x))
    assert motifs.motifs.weight.shape == (7, 4, 3)


def test_positions_add_one_row_of_the_width_each():
    count = sum(p.numel() for p in Lyra(20, 1, positions=30).parameters())
    assert count == 47_169 + 1_920


def test_state_space_parameters_are_named_for_the_optimiser():
    layer = S4D(5, 3)
    assert {name for name, _ in layer.named_parameters()} >= set(layer.state_space_parameters)
    assert layer.log_dt.min() >= math.log(1e-3)
    assert layer.log_dt.max() <= math.log(1e-1)


@pytest.mark.parametrize("options", WAYS)
def test_padding_changes_nothing_in_value_or_gradient(options):
    net = small(**options)
    x = letters(3, 11)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 6), value=1.0)
    mask = (torch.arange(17) < 11).expand(3, -1)
    plain = net(x)
    gradients = torch.autograd.grad(plain.square().sum(), net.parameters())
    masked = net(padded, mask)
    torch.testing.assert_close(masked, plain)
    for a, b in zip(torch.autograd.grad(masked.square().sum(), net.parameters()), gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", WAYS)
def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch(options):
    net, x = small(**options), letters(5, 13)
    mask = torch.arange(13) < torch.tensor([[13], [7], [2], [11], [1]])
    together = net(x, mask)
    for row, length in enumerate([13, 7, 2, 11, 1]):
        torch.testing.assert_close(together[row : row + 1], net(x[row : row + 1, :length]))


@pytest.mark.parametrize("layer", [PGC(7, 3), S4D(7, 3), S4D(7, 3, is_bidirectional=True)])
def test_every_layer_gives_zero_at_padded_positions_and_ignores_what_stands_there(layer):
    x, mask = torch.randn(2, 11, 7), (torch.arange(11) < 5).expand(2, -1)
    y = layer(x, mask)
    assert (y[:, 5:] == 0).all()
    other = torch.where(mask[:, :, None], x, 3.0)
    torch.testing.assert_close(layer(other, mask), y)


def test_dropout_leaves_its_share_scales_it_and_is_gone_in_evaluation():
    torch.manual_seed(0)
    x, dropout = torch.ones(31, 101, 67), torch.nn.Dropout(0.2)
    y = _drop(x, dropout)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 256 / 205]))
    assert abs(float(y.mean()) - 1) < 0.01
    # eight numbers come from one draw: each of the eight must be as often kept
    kept = (y.flatten()[: y.numel() // 8 * 8].view(-1, 8) > 0).double().mean(0)
    assert (kept - 205 / 256).abs().max() < 0.01
    assert (_drop(x, dropout) != y).any()
    assert _drop(x, dropout.eval()) is x
    assert _drop(x, torch.nn.Dropout(0.0)) is x
    assert (_drop(x, torch.nn.Dropout(1.0)) == 0).all()


def test_dropout_repeats_with_the_seed_and_its_gradient_is_what_it_left():
    x, dropout = torch.ones(2, 3, 5, requires_grad=True), torch.nn.Dropout(0.5)
    torch.manual_seed(3)
    y = _drop(x, dropout)
    torch.manual_seed(3)
    assert (_drop(x, dropout) == y).all()
    assert (torch.autograd.grad(y.sum(), x)[0] == y).all()


def test_an_empty_sequence_has_the_mean_zero():
    x, mask = torch.randn(2, 5, 3), torch.tensor([[True] * 5, [False] * 5])
    assert (masked_mean(x, mask)[1] == 0).all()
    torch.testing.assert_close(masked_mean(x, mask)[0], x[0].mean(0))


def test_the_causal_net_sees_only_the_neighbours_of_a_position_ahead():
    net, x = small(), letters(1, 13)
    changed = x.clone()
    changed[:, 9:] = letters(1, 4, seed=1)
    # two gates each add one later position
    torch.testing.assert_close(net.embed(changed)[:, :7], net.embed(x)[:, :7])


def test_sequences_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match="sequences of 19 positions, but the positional embedding has 17"):
        small(positions=17)(letters(1, 19))


@pytest.mark.long
def test_learns_products_of_letters_that_no_additive_model_can():
    torch.manual_seed(0)
    index = torch.randint(0, 5, (512, 11))
    y = ((index[:, 2] < 2) ^ (index[:, 3] < 2)).float()[:, None]
    x = torch.nn.functional.one_hot(index, 5).float()
    net = Lyra(5, 1, width=16, gates=(16, 16), modes=4, dropout=0.0, positions=11)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (net(x[:400]) - y[:400]).square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = ((net(x[400:]) > 0.5) == (y[400:] > 0.5)).float().mean()
    assert right > 0.9


# torch's RMSNorm warns that it is not fused under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize("form", ["autocast", "bfloat16"])
def test_half_precision_changes_outputs_and_gradients_little(form, is_bidirectional):
    torch.manual_seed(0)
    net = Lyra(20, 1, dropout=0.0, kernel=3, is_bidirectional=is_bidirectional)
    x = torch.randn(4, 50, 20)
    exact = net(x)
    exact.sum().backward()
    expected = net.encode.weight.grad.clone()
    net.zero_grad()
    if form == "bfloat16":
        net, x = net.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=form == "autocast"):
        half = net(x)
        half.sum().backward()
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), exact, atol=0.01)
    assert (net.encode.weight.grad.float() - expected).norm() < 0.05 * expected.norm()


def test_autocast_leaves_the_kernel_of_the_state_space_exact():
    torch.manual_seed(0)
    layer = S4D(8, 16)
    A = torch.complex(-layer.log_A_real.exp(), layer.A_imag)
    C, dt = torch.view_as_complex(layer.C), layer.log_dt.exp()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = kernel(A, C, dt, length=64)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, kernel(A, C, dt, length=64))
