"""Reflections of training jets change what they should, and nothing else."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support.hep_jets import CLASSES, columns, write

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit
from subquad.hep.data.augmentation import SIGNED, UNSIGNED, drawn_for, reflected
from subquad.hep.data.batches import collate
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.features import STANDARD_FEATURES, particle_features
from subquad.hep.data.jets import PARTICLES, read
from subquad.hep.data.layout import layout_of
from subquad.hep.data.public_layouts import layout_card
from subquad.hep.data.store import dataset_of
from subquad.hep.models.networks import build_network, forward
from subquad.hep.models.presets import PRESETS

MIRRORED = {0: ("part_deta", "part_dzval"), 1: ("part_dphi", "part_d0val")}
"""Branches that change their sign when a jet is reflected in Δη and in Δφ."""


@pytest.fixture(scope="module")
def jets():
    return read("example:jets")[:60]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_reflected_features_are_those_of_reflected_jets(jets):
    x = torch.from_numpy(particle_features(jets, STANDARD_FEATURES))
    points = torch.from_numpy(jets.particles[:, [PARTICLES.index(f"part_{name}") for name in ("deta", "dphi")]])
    # each jet as its particles, padded
    padded = torch.nn.utils.rnn.pad_sequence(list(x.split(jets.lengths.tolist())), batch_first=True)
    padded_points = torch.nn.utils.rnn.pad_sequence(list(points.split(jets.lengths.tolist())), batch_first=True)
    found, found_points = reflected(padded, padded_points, STANDARD_FEATURES, generator())
    seen = set()
    for axes in product((False, True), repeat=2):
        table = jets.particles.copy()
        for axis in (axis for axis in (0, 1) if axes[axis]):
            table[:, [PARTICLES.index(name) for name in MIRRORED[axis]]] *= -1
        own = particle_features(replace(jets, particles=table), STANDARD_FEATURES)
        mirrored = torch.nn.utils.rnn.pad_sequence(
            list(torch.from_numpy(own).split(jets.lengths.tolist())), batch_first=True
        )
        signs = 1 - 2 * torch.tensor(axes).float()
        for j in range(len(jets)):
            if torch.equal(found_points[j], padded_points[j] * signs):
                assert torch.equal(found[j], mirrored[j])
                seen.add((j, axes))
    assert {j for j, _ in seen} == set(range(len(jets)))
    assert len({axes for _, axes in seen}) == 4


def test_features_of_unknown_meaning_are_refused(tmp_path):
    with pytest.raises(SubquadError, match="--reflect: it is unknown how a reflection changes the feature px; omit it"):
        fit("example:jets", FitSettings(reflect=True, preset="paper"), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_features_of_all_layouts_are_known():
    known = {*SIGNED, *UNSIGNED}
    assert {*STANDARD_FEATURES} <= known
    for name in ("top-landscape", "quark-gluon"):
        columns = ["part_px", "part_py", "part_pz", "part_energy", "part_charge"]
        card = card_of(layout_card(name, columns), name)
        assert {*layout_of(PRESETS["auto"].net, card).features.names} <= known


@pytest.mark.parametrize("preset", ["auto", "standard"])
def test_networks_see_the_reflected_jets(preset, jets):
    """Edges, variables of pairs and masks are those of jets that were reflected in their file."""
    layout = layout_of(PRESETS[preset].net)
    dataset, rows = dataset_of(chunk_of(jets, layout), layout), torch.arange(17)
    plain, batch = collate(dataset, rows), collate(dataset, rows, generator=generator(3))
    assert not torch.equal(plain.x, batch.x)
    assert torch.equal(plain.mask, batch.mask)
    signs = torch.sign(batch.points / plain.points)[:, 0]
    table = jets[:17].particles.copy()
    for axis in (0, 1):
        is_mirrored = np.repeat(signs[:, axis].numpy() < 0, jets.lengths[:17])
        for name in MIRRORED[axis]:
            table[is_mirrored, PARTICLES.index(name)] *= -1
    mirrored = dataset_of(chunk_of(replace(jets[:17], particles=table), layout), layout)
    torch.manual_seed(0)
    net = build_network(replace(PRESETS[preset].net, has_jet_features=False), layout, 3).eval()
    with torch.no_grad():
        found, own = (forward(net, replace(one, jet_features=None)) for one in (batch, collate(mirrored, rows)))
    torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)


def test_the_changes_of_a_batch_depend_on_seed_epoch_and_jets_alone():
    def draw(rows, **place):
        return torch.rand(3, generator=drawn_for(torch.tensor(rows), **place)).tolist()

    assert draw([4, 2], seed=1, epoch=3) == draw([4, 9], seed=1, epoch=3)
    others = [draw([5, 2], seed=1, epoch=3), draw([4, 2], seed=2, epoch=3), draw([4, 2], seed=1, epoch=4)]
    assert len({*map(tuple, [draw([4, 2], seed=1, epoch=3), *others])}) == 4


@pytest.mark.slow
def test_a_fit_with_reflections_differs_and_is_repeated(tmp_path):
    files = [write(tmp_path / f"{label}.root", columns(label, jets=47)) for label in CLASSES]
    settings = FitSettings(epochs=2, batch_size=17, no_boosting=True)
    found = {}
    for name, own in (("plain", False), ("one", True), ("two", True)):
        fit(files, replace(settings, reflect=own), out=tmp_path / name, quiet=True)
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert found["one"] == found["two"] != found["plain"]
