"""The networks: their start, their invariances, and that they learn every task type."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from subquad.bio.data.dataset import ANY, PAD, Dataset, Inputs, Target
from subquad.bio.features.substitutions import channels_of, standard_properties
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models import training
from subquad.bio.models.additive import AdditivePath
from subquad.bio.models.baselines import fit_ridge
from subquad.bio.models.batches import net_inputs
from subquad.bio.models.fit import fit_network
from subquad.bio.models.initialization import fit_linear_start
from subquad.bio.models.losses import make_loss
from subquad.bio.models.lyra import BioNet, NetSpec, soft_one_hot
from subquad.bio.models.networks import NetworkEnsemble
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.models.training import MIXES, batch_size_for, ensemble_size_for, epochs_for, seconds_for
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import ALPHABETS, FitSettings

AMINO = ALPHABETS["protein"]
SPLIT = {"train": np.arange(151), "validation": np.arange(151, 181), "test": np.arange(181, 211)}


def inputs(*, length=7, is_aligned=True, covariates=0, has_partner=False, rows=211, seed=0):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (rows, length)).astype(np.int8)
    if not is_aligned:
        codes[np.arange(length) >= random.integers(3, length + 1, (rows, 1))] = PAD
    partner = None
    if has_partner:
        partner = np.where(random.random(codes.shape) < 0.2, random.integers(0, 4, codes.shape), codes).astype(np.int8)
        partner[:, :2] = PAD
    return Inputs(
        codes=codes,
        letters=4,
        partner=partner,
        covariates=random.normal(size=(rows, covariates)),
        is_aligned=is_aligned,
    )


def signal(own, seed=1):
    random = np.random.default_rng(seed)
    effects = random.normal(size=(2, 4))
    return effects[0][own.codes[:, 1]] + effects[1][own.codes[:, 2]]


def dataset(task_type="regression", **options):
    own = inputs(**options)
    y = signal(own)
    match task_type:
        case "regression":
            target = Target(task_type=task_type, y=y[:, None])
        case "binary":
            target = Target(task_type=task_type, y=(y > 0).astype(np.int64), classes=("no", "yes"))
        case "multiclass":
            target = Target(
                task_type=task_type, y=np.digitize(y, [-0.5, 0.5]).astype(np.int64), classes=("a", "b", "c")
            )
        case "multilabel":
            target = Target(task_type=task_type, y=np.stack([y > 0, y > 0.5], axis=1).astype(float), names=("x", "y"))
        case "residue_binary":
            values = np.where(own.codes == PAD, -1, own.codes % 2).astype(np.int16)
            target = Target(task_type=task_type, y=values, classes=("0", "1"))
        case "residue_multiclass":
            target = Target(task_type=task_type, y=own.codes.astype(np.int16), classes=tuple("ACGU"))
        case "residue_regression":
            target = Target(task_type=task_type, y=np.where(own.codes == PAD, np.nan, own.codes * 3.0 + 100))
    return Dataset(inputs=own, target=target, split=SPLIT)


def fitted(own, kind="lyra", **settings):
    settings = FitSettings(**{"epochs": 12.0, "ensemble_size": 1, "batch_size": 31, **settings})
    return fit_network(kind, prepare(own), settings, seed=0)


def test_padding_is_zero_and_any_letter_is_equal_parts():
    x = soft_one_hot(torch.tensor([[2, 0, PAD, ANY]], dtype=torch.int8), 4)
    assert x.tolist() == [[[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0.25] * 4]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "lyra-additive", "lyra"])
@pytest.mark.parametrize("task_type", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("has_partner", [True, False])
def test_networks_with_an_additive_path_start_exactly_at_a_linear_model(kind, task_type, has_partner):
    own = dataset(task_type, covariates=2, has_partner=has_partner)
    settings = {"learning_rate": 1e-12, "epochs": 0.01}
    start = fit_linear_start(own, fit_ridge(own), FitSettings(**settings))
    # one step at a negligible rate leaves the start unchanged
    nets = fitted(own, kind, **settings)
    test, _ = own.part("test")
    expected = to_predictions(start.linear(start.features.matrix(test)), task_type, nets.scaler)
    np.testing.assert_allclose(nets.predict(test), expected, rtol=2e-3, atol=2e-3)


def test_the_output_curve_never_falls():
    curve = AdditivePath(5, 3, hidden=7, is_curved=True).curve
    with torch.no_grad():
        curve.height.copy_(torch.linspace(-9, 9, 8))
        curve.log_steepness.copy_(torch.linspace(2, -1, 8))
        values = curve(torch.linspace(-6, 6, 1001)[:, None].expand(-1, 3))
    assert (values.diff(dim=0) > 0).all()


def test_lyra_as_published_has_the_published_number_of_parameters():
    net = BioNet(NetSpec(task_type="regression", letters=20, outputs=1, kind="lyra-paper"))
    assert sum(p.numel() for p in net.parameters()) == 47_169


def test_padding_changes_no_prediction_and_no_loss_of_pairs():
    net = BioNet(NetSpec(task_type="pairs", letters=4, outputs=1, has_prior=True)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    codes, prior = torch.randint(0, 4, (3, 11)).to(torch.int8), torch.randn(3, 11, 11)
    with torch.no_grad():
        alone = net(codes, prior=prior)
        wider = torch.nn.functional.pad(codes, (0, 6), value=PAD)
        padded = net(wider, prior=torch.nn.functional.pad(prior, (0, 6, 0, 6)))
    torch.testing.assert_close(padded[:, :11, :11], alone)
    inputs = Inputs(codes=codes.numpy(), letters=4, covariates=np.zeros((3, 0)), is_aligned=False)
    target = Target(
        task_type="pairs", y=[np.array([[0, 9], [1, 8]]), np.zeros((0, 2), dtype=np.int64), np.array([[2, 7]])]
    )
    loss = make_loss(Dataset(inputs=inputs, target=target, split={}), TargetScaler.identity(1))
    rows = np.array([2, 0, 1])
    torch.testing.assert_close(loss(padded[rows], rows), loss(alone[rows], rows))


@pytest.mark.parametrize("kind", ["lyra", "lyra-paper", "cnn"])
@pytest.mark.parametrize("task_type", ["regression", "residue_multiclass"])
def test_padding_changes_no_prediction(kind, task_type):
    net = BioNet(NetSpec(task_type=task_type, letters=4, outputs=3, kind=kind, kernel=5)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    codes = torch.randint(0, 4, (5, 11))
    with torch.no_grad():
        padded = net(torch.nn.functional.pad(codes, (0, 6), value=PAD))
        torch.testing.assert_close(padded[:, :11] if task_type != "regression" else padded, net(codes))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "task_type", "is_aligned", "least"),
    [
        ("lyra", "regression", True, 0.9),
        ("lyra", "binary", True, 0.9),
        ("lyra", "multiclass", True, 0.6),
        ("lyra", "multilabel", True, 0.9),
        ("lyra", "residue_binary", True, 0.95),
        ("lyra", "residue_multiclass", True, 0.95),
        ("lyra", "residue_regression", True, 0.9),
        ("cnn", "regression", True, 0.9),
        ("cnn", "multiclass", True, 0.6),
        ("cnn", "residue_binary", True, 0.95),
        ("mlp", "regression", True, 0.9),
        ("mlp", "multilabel", True, 0.9),
        # without places, composition alone says less
        ("lyra", "regression", False, 0.4),
        ("lyra", "residue_regression", False, 0.9),
        ("cnn", "multiclass", False, 0.4),
        ("mlp", "multiclass", False, 0.4),
    ],
)
@pytest.mark.slow
def test_every_task_type_is_learned_and_saved(kind, task_type, is_aligned, least):
    own = dataset(task_type, is_aligned=is_aligned)
    nets = fitted(own, kind)
    test, truth = own.part("test")
    prediction = nets.predict(test)
    assert score(truth, prediction)[MAIN_METRIC[task_type]] > least
    again = NetworkEnsemble.from_dict(nets.as_dict(), nets.tensors(), nets.prior)
    np.testing.assert_array_equal(again.predict(test), prediction)


@pytest.mark.long
def test_lyra_also_learns_what_the_linear_model_explains():
    own = inputs(rows=811)
    split = {"train": np.arange(600), "validation": np.arange(600, 700), "test": np.arange(700, 811)}
    # an interaction, so that the linear model at which training starts is not the best one
    y = signal(own) + 3.0 * (own.codes[:, 1] == own.codes[:, 5])
    own = Dataset(inputs=own, target=Target(task_type="regression", y=y[:, None]), split=split)
    nets, (test, truth) = fitted(own, epochs=40.0), own.part("test")
    assert score(truth, nets.predict(test))["r2"] > score(truth, fitted(own, "lyra-additive").predict(test))["r2"] + 0.3
    assert nets.selected[0]["best_step"] > 0
    assert nets.features is not None
    matrix = nets.features.matrix(test)
    batch = net_inputs(test, np.arange(len(test)), matrix, None, task_type="regression", device=torch.device("cpu"))
    with torch.no_grad():
        outputs, direct = nets.nets[0](*batch, of_heads=True)
        # the validation rows chose their parts in the prediction
        mix = float(nets.nets[0].mix)
        assert mix in MIXES
        torch.testing.assert_close((1 - mix) * outputs + mix * direct, nets.nets[0](*batch))
    assert direct.shape == outputs.shape
    # the direct head was fitted too: Adam leaves a bias without gradients as it was
    torch.manual_seed(0)
    initial, own = BioNet(nets.spec).direct, nets.nets[0].direct
    assert initial is not None
    assert own is not None
    assert not torch.equal(own.bias, initial.bias)


@pytest.mark.slow
@pytest.mark.long
def test_base_pairs_are_learned_beyond_the_thermodynamic_model():
    pytest.importorskip("RNA")
    random = np.random.default_rng(3)
    codes = random.integers(0, 4, (211, 23)).astype(np.int8)
    # a rule that no energy knows: the first letter pairs with the last
    pairs = [np.array([[0, 22]]) for _ in codes]
    own = Dataset(
        inputs=Inputs(codes=codes, letters=4, covariates=np.zeros((211, 0)), is_aligned=False),
        target=Target(task_type="pairs", y=pairs),
        split=SPLIT,
    )
    settings = FitSettings(epochs=6.0, ensemble_size=1, batch_size=13)
    nets = fit_network("lyra", prepare(own), settings, seed=0)
    test, _ = own.part("test")
    prediction = nets.predict(test)
    assert np.mean([values[0, 22] for values in prediction]) > 0.5
    assert all(np.allclose(values, values.T, atol=1e-6) for values in prediction)


@pytest.mark.slow
def test_covariates_are_learned_even_without_sequences():
    own = inputs(covariates=3, length=0)
    target = Target(task_type="regression", y=(own.covariates[:, :1] - own.covariates[:, 2:]) * 2 + 5)
    bare = Dataset(inputs=own, target=target, split=SPLIT)
    test, truth = bare.part("test")
    assert score(truth, fitted(bare, "mlp").predict(test))["r2"] > 0.95


@pytest.mark.slow
def test_rows_of_weight_zero_have_no_effect():
    own = dataset()
    wrong = own.target.y.copy()
    wrong[:75] = -wrong[:75]
    weight = np.where(np.arange(211) < 75, 0.0, 1.0)
    bent = replace(own, target=replace(own.target, y=wrong), weight=weight)
    test, truth = own.part("test")
    assert score(truth, fitted(bent).predict(test))["spearman"] > 0.9


def test_positions_that_vary_are_found():
    own = dataset()
    codes = own.inputs.codes.copy()
    codes[:, 4:6] = 1
    data = prepare(replace(own, inputs=replace(own.inputs, codes=codes)))
    assert data.positions.tolist() == [0, 1, 2, 3, 6]
    assert data.dataset.inputs.codes.shape[1] == 7


def test_small_tables_get_several_networks_and_large_ones_one():
    own = dataset()
    assert ensemble_size_for(own, FitSettings(), "lyra") == 5
    assert ensemble_size_for(own, FitSettings(tokens=50_000), "lyra") == 1
    assert ensemble_size_for(own, FitSettings(ensemble_size=3), "lyra") == 3
    # a step of the CNN takes less than half the time
    assert ensemble_size_for(own, FitSettings(tokens=50_000), "cnn") == 2
    # the published network and the additive path are one network each, and MLPs cost little
    for kind, count in (("lyra-paper", 1), ("lyra-additive", 1), ("mlp", 4)):
        assert ensemble_size_for(own, FitSettings(ensemble_size=3), kind) == count


def test_a_budget_is_spent_in_many_steps_of_few_sequences():
    # 151 training rows of 7 letters
    own = dataset()
    assert batch_size_for(own, FitSettings(batch_size=17)) == 17
    assert batch_size_for(own, FitSettings(epochs=40.0)) == 128
    # 300 steps in the 40 passes that the budget allows
    assert batch_size_for(own, FitSettings()) == 151 * 40 // 300
    longer = dataset(length=77)
    # a step has letters enough: 1,500 of 77 a row
    assert batch_size_for(longer, FitSettings(epochs=8.6)) == 19
    assert batch_size_for(longer, FitSettings(epochs=1000.0)) == 151 * 1000 // 2000


@pytest.mark.parametrize("kind", ["lyra-alone", "lyra-additive"])
def test_two_processes_take_as_many_steps_as_one_and_each_has_a_batch(monkeypatch, kind):
    monkeypatch.setattr(training, "processes", lambda: SimpleNamespace(num_processes=2))
    own, longer = dataset(), dataset(length=77)
    assert batch_size_for(own, FitSettings(batch_size=17)) == 17
    assert batch_size_for(longer, FitSettings(epochs=1000.0)) == 151 * 1000 // 2000 // 2
    # one batch of all rows would be none for the second process
    selected = fitted(own, kind, epochs=3.0, batch_size=1000).selected[0]
    assert (selected["batch_size"], selected["steps"]) == (151 // 2, 3)


@pytest.mark.long
def test_lyra_learns_a_motif_at_any_position_and_its_additive_path_alone_does_not():
    random = np.random.default_rng(5)
    codes = random.integers(0, 4, (1211, 31)).astype(np.int8)
    split = {"train": np.arange(811), "validation": np.arange(811, 1011), "test": np.arange(1011, 1211)}
    own = Inputs(codes=codes, letters=4, covariates=np.zeros((1211, 0)), is_aligned=True)
    # with a gap, so that counts of k-mers, which are features of the linear model, do not show it
    found = ((codes[:, :-3] == 0) & (codes[:, 3:] == 3)).sum(1)[:, None] * 1.0
    motif = Dataset(inputs=own, target=Target(task_type="regression", y=found), split=split)
    inputs, truth = motif.part("test")
    models = {kind: fitted(motif, kind, epochs=10.0) for kind in ("lyra", "cnn", "lyra-additive")}
    r2 = {name: score(truth, model.predict(inputs))["r2"] for name, model in models.items()}
    assert min(r2["lyra"], r2["cnn"]) > r2["lyra-additive"] + 0.4
    assert r2["lyra"] > score(truth, fit_ridge(motif).predict(inputs))["r2"] + 0.4


def test_other_outputs_replace_those_of_the_linear_model_at_which_a_path_starts():
    path = AdditivePath(inputs=5, outputs=2, hidden=7, is_curved=True)
    random = torch.Generator().manual_seed(0)
    for tensor in (*path.parameters(), path.linear.start, path.linear.start_bias):
        tensor.detach().normal_(std=0.3, generator=random)
    path.eval()
    f = torch.randn(11, 5, generator=random)
    start = torch.nn.functional.linear(f, path.linear.start, path.linear.start_bias)
    torch.testing.assert_close(path(f, 0.5, start), path(f, 0.5))
    moved = path(f, 0.5, start + torch.tensor([1.0, 0.0]))
    # the curve never falls, and each output has its own start
    assert (moved[:, 0] > path(f, 0.5)[:, 0]).all()
    torch.testing.assert_close(moved[:, 1], path(f, 0.5)[:, 1])


def test_channels_tell_what_a_letter_means_beside_the_reference():
    reference = np.array([AMINO.index(letter) for letter in "AWP"])
    channels = channels_of(reference, 20)
    assert channels.shape == (3, 22, 20)
    own = channels[np.arange(3), reference]
    # the reference itself changes nothing
    assert not own[:, :7].any()
    assert (channels[:, :20, 6].sum(1) == 19).all()
    table, w, a = standard_properties(20), AMINO.index("W"), AMINO.index("A")
    np.testing.assert_allclose(channels[0, w, :6], table[w] - table[a])
    # BLOSUM62 of W and A is -3
    assert channels[0, w, 7] == -3 / 4
    np.testing.assert_allclose(channels[0, w, 8:], [*table[w], *table[a]])
    # equal parts of all letters, and nothing for padding
    np.testing.assert_allclose(channels[:, ANY], channels[:, :20].mean(1))
    assert not channels[:, PAD].any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lyra", "lyra-alone", "cnn"])
def test_networks_read_substitutions_of_aligned_proteins_and_comes_back(kind):
    own = dataset()
    codes = np.where(own.inputs.codes == 0, ANY, own.inputs.codes).astype(np.int8)
    own = replace(own, inputs=replace(own.inputs, letters=20, codes=codes))
    nets = fitted(own, kind)
    train = codes[own.split["train"]]
    most = [np.bincount(column[column >= 0]).argmax() for column in train.T]
    assert list(nets.spec.reference) == most
    test, truth = own.part("test")
    prediction = nets.predict(test)
    assert score(truth, prediction)["spearman"] > 0.85
    values = json.loads(json.dumps(nets.as_dict()))
    np.testing.assert_array_equal(NetworkEnsemble.from_dict(values, nets.tensors()).predict(test), prediction)


def test_an_empty_sequence_has_a_finite_prediction_of_the_cnn():
    net = BioNet(NetSpec(task_type="regression", letters=4, outputs=1, kind="cnn")).eval()
    codes = torch.full((2, 5), PAD)
    codes[1, :3] = 2
    assert torch.isfinite(net(codes)).all()


def test_bins_of_large_nearly_equal_values_are_finite():
    path = AdditivePath(inputs=1, outputs=1, hidden=7, is_curved=False, binned=1)
    lengths = torch.tensor([1701.0] * 50 + [1702.0, 1704.0])[:, None]
    path.mlp.set_bins(torch.tensor([0]), lengths.double())
    assert torch.isfinite(path(lengths)).all()


def test_few_passes_are_stretched_to_five_or_to_four_times_the_budget():
    # 151 training rows of 7 letters
    own = dataset()
    tokens = int(own.inputs.lengths[own.split["train"]].sum())
    assert epochs_for(own, FitSettings(tokens=10 * tokens)) == 10
    # few passes are stretched to five, at four times the budget at most
    assert epochs_for(own, FitSettings(tokens=2 * tokens)) == 5
    assert epochs_for(own, FitSettings(tokens=tokens)) == 4
    assert epochs_for(own, FitSettings(tokens=tokens // 8)) == pytest.approx(0.5, rel=0.01)
    assert epochs_for(own, FitSettings(tokens=tokens, epochs=0.5)) == 0.5
    # as long as the passes that are made, and not only those that the budget allows
    assert seconds_for(own, FitSettings(tokens=tokens)) == pytest.approx(4 * seconds_for(own, FitSettings(epochs=1)))


@pytest.mark.slow
def test_the_published_network_makes_fifty_passes_or_as_many_as_are_set():
    own = replace(dataset(), split={**SPLIT, "train": np.arange(31)})
    settings = FitSettings(batch_size=31, learning_rate=0.03)
    assert fit_network("lyra-paper", prepare(own), settings, seed=0).selected[0]["epochs"] == 50
    assert fitted(own, "lyra-paper", epochs=2.0).selected[0]["epochs"] == 2


@pytest.mark.slow
def test_more_mlps_are_others_than_those_of_the_baseline():
    own = dataset()
    first, more = (fitted(own, kind, epochs=0.1) for kind in ("mlp", "mlp-more"))
    assert len(more.nets) == len(first.nets) == 4
    assert first.spec == more.spec
    each = [torch.nn.utils.parameters_to_vector(net.additive.mlp.parameters()) for net in (*first.nets, *more.nets)]
    assert all((a - b).abs().max() > 1e-2 for k, a in enumerate(each) for b in each[:k])


@pytest.mark.slow
def test_lyra_with_few_passes_starts_at_the_trained_additive_path():
    own, data = dataset(), prepare(dataset())
    settings = FitSettings(ensemble_size=1, epochs=9.0)
    additive = fit_network("lyra-additive", data, settings, seed=0)
    with torch.no_grad():
        # another path than the linear model, at which Lyra starts otherwise
        additive.nets[0].additive.curve.shift += 0.5
    still = replace(settings, learning_rate=1e-12)
    few, many = (
        fit_network("lyra", data, replace(still, epochs=epochs), additive=additive, seed=0) for epochs in (0.01, 10.0)
    )
    test, _ = own.part("test")
    np.testing.assert_allclose(few.predict(test), additive.predict(test), rtol=1e-4, atol=1e-4)
    assert np.abs(many.predict(test) - additive.predict(test)).max() > 1e-2
    assert few.cpu_seconds > additive.cpu_seconds
