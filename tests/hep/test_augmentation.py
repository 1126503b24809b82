"""Reflections of training jets change what they should, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.hep_jets import CLASSES, columns, write
from support.hep_layouts import NANO_CARD, write_energyflow, write_nano

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit
from subquad.hep.data.augmentation import batch_generator, check_reflections
from subquad.hep.data.batches import collate
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.jets import PARTICLES, read
from subquad.hep.data.layout import Standardizer, layout_of
from subquad.hep.data.public_layouts import LAYOUTS, MOMENTUM, layout_card
from subquad.hep.data.store import dataset_of
from subquad.hep.models.networks import build_network, forward
from subquad.hep.models.presets import PRESETS


def column(name):
    return PARTICLES.index(f"part_{name}")


@pytest.fixture(scope="module")
def jets():
    return read("example:jets")[:60]


def mirrored(jets, is_mirrored):
    """Jets of which some [J, 2] were reflected in Δη and in Δφ in their file; the energies stay."""
    table = jets.particles.astype(np.float64)
    eta, phi = np.repeat(is_mirrored, jets.lengths, axis=0).T
    # about the axis of the jet, so that azimuths are 2 φ(jet) - φ
    angle = np.arctan2(table[:, column("py")], table[:, column("px")])
    angle = np.where(phi, angle - 2 * table[:, column("dphi")], angle)
    pt = np.hypot(table[:, column("px")], table[:, column("py")])
    table[:, column("px")], table[:, column("py")] = pt * np.cos(angle), pt * np.sin(angle)
    for flips, names in ((eta, ("deta", "dzval")), (phi, ("dphi", "d0val"))):
        table[:, [column(name) for name in names]] *= np.where(flips, -1, 1)[:, None]
    return replace(jets, particles=table.astype(np.float32))


@pytest.mark.parametrize(("preset", "graph"), [("auto", "angles"), ("standard", "angles"), ("standard", "features")])
def test_networks_see_jets_that_were_reflected(preset, graph, jets):
    settings = replace(PRESETS[preset].net, graph=graph)
    layout = layout_of(settings)
    check_reflections(layout, has_jet_features=False)
    dataset, rows = dataset_of(chunk_of(jets, layout), layout), torch.arange(47)
    batch, plain = collate(dataset, rows, generator=torch.Generator().manual_seed(3)), collate(dataset, rows)
    signs = torch.sign(batch.x[:, 0, :2] / plain.x[:, 0, :2])
    # all four images
    assert len(signs.unique(dim=0)) == 4
    own = mirrored(jets[:47], (signs < 0).numpy())
    torch.manual_seed(0)
    net = build_network(replace(settings, has_jet_features=False), layout, 3).eval()
    batches = (batch, collate(dataset_of(chunk_of(own, layout), layout), rows))
    with torch.no_grad():
        found, expected = (forward(net, replace(one, jet_features=None)) for one in batches)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, forward(net, replace(plain, jet_features=None)), atol=1e-3)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "jetclass"])
@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_the_features_of_all_public_layouts_are_known(name, preset):
    momenta = [f"part_{part}" for part in ("px", "py", "pz", "energy")]
    types = [name for name in PARTICLES if name == "part_charge" or name.startswith("part_is")]
    for given in (momenta, [*momenta, *types]):
        card = card_of(layout_card(name, [*given, "label", "labels"]), name)
        check_reflections(layout_of(PRESETS[preset].net, card), has_jet_features=True)


def test_a_reflected_feature_is_standardized_afterwards(jets):
    layout = layout_of(PRESETS["standard"].net)
    center = torch.full((len(layout.features.names),), 0.1)
    layout = replace(layout, features=replace(layout.features, standardizer=Standardizer.of(center, center * 20, 0.05)))
    dataset, rows = dataset_of(chunk_of(jets, layout), layout), torch.arange(9)
    plain, batch = collate(dataset, rows), collate(dataset, rows, generator=torch.Generator().manual_seed(3))
    signs = torch.sign(batch.points[..., 0] / plain.points[..., 0])
    expected = ((signs * plain.points[..., 0] - 0.1) * 2).clamp(-0.05, 0.05)
    torch.testing.assert_close(batch.x[..., 0][batch.mask], expected[batch.mask])


def test_features_of_unknown_meaning_are_refused(tmp_path):
    message = "--reflect: it is not known how a reflection changes px, py, pz and .* more; omit --reflect"
    with pytest.raises(SubquadError, match=message):
        fit("example:jets", FitSettings(reflect=True, preset="paper"), out=tmp_path / "out", quiet=True)
    (tmp_path / "nano.yaml").write_text(NANO_CARD)
    settings = FitSettings(reflect=True, card=str(tmp_path / "nano.yaml"))
    with pytest.raises(SubquadError, match="changes part_pt_log, PFCands_eta, FatJetPFCands_btag; omit --reflect"):
        fit(write_nano(tmp_path / "nano.root"), settings, out=tmp_path / "out", quiet=True)
    # a card may give a known name to something else
    options = layout_card("four-vectors", MOMENTUM)
    options["labels"] = {"type": "simple", "value": ["label_0", "label_1"]}
    options["new_variables"]["part_deltaR"] = "part_deta - part_dphi"
    card = card_of(options, "own.yaml")
    with pytest.raises(SubquadError, match="how a reflection changes part_deltaR; omit --reflect"):
        check_reflections(layout_of(PRESETS["auto"].net, card), has_jet_features=True)
    # means over the particles, which are not reflected
    layout = layout_of(PRESETS["standard"].net)
    with pytest.raises(SubquadError, match="how a reflection changes mean part_deta; omit --reflect"):
        check_reflections(replace(layout, jet_features=("mean part_deta",)), has_jet_features=True)
    assert not (tmp_path / "out").exists()


def test_the_changes_of_a_batch_depend_on_seed_epoch_and_jets_alone():
    def draw(rows, **place):
        return torch.rand(3, generator=batch_generator(torch.tensor(rows), **place)).tolist()

    assert draw([4, 2], seed=1, epoch=3) == draw([4, 9], seed=1, epoch=3)
    others = [draw([5, 2], seed=1, epoch=3), draw([4, 2], seed=2, epoch=3), draw([4, 2], seed=1, epoch=4)]
    assert len({*map(tuple, [draw([4, 2], seed=1, epoch=3), *others])}) == 4


@pytest.mark.long
def test_a_fit_with_reflections_differs_and_is_repeated(tmp_path):
    files = [write(tmp_path / f"{label}.root", columns(label, jets=47)) for label in CLASSES]
    settings = FitSettings(epochs=2, batch_size=17, no_boosting=True)
    found = {}
    for name, own in (("plain", False), ("one", True), ("two", True)):
        fit(files, replace(settings, reflect=own), out=tmp_path / name, quiet=True)
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert found["one"] == found["two"] != found["plain"]


@pytest.mark.slow
def test_published_networks_are_fitted_on_reflected_jets_of_a_public_layout(tmp_path):
    write_energyflow(tmp_path / "jets.npz", jets=60)
    settings = FitSettings(preset="paper", reflect=True, epochs=1, no_boosting=True)
    metrics = fit(tmp_path / "jets.npz", settings, out=tmp_path / "out", quiet=True)
    assert metrics["test"]["net"]["accuracy"] > 0.7
