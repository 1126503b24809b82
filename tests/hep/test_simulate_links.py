"""The links of the simulator's chain, each against a definition or a truth: vertices, helices, towers, substructure."""

import importlib.util
import math

import numpy as np
import pytest

from subquad.hep.data.examples import example_path
from subquad.hep.data.substructure import RADIUS, substructure
from subquad.hep.simulation.detector import CHARGED_HADRON, MUON, NEUTRAL_HADRON, PHOTON, Candidates, detect
from subquad.hep.simulation.generator import Events, Generator
from subquad.hep.simulation.jets import find_jets
from subquad.hep.simulation.processes import PROCESSES
from subquad.hep.simulation.towers import ECAL, HCAL
from subquad.hep.simulation.writer import columns, read_columns

pytest.importorskip("fastjet")
uproot = pytest.importorskip("uproot")
needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="pythia8mc is not installed (it has wheels for some Pythons)"
)


def _particles(*rows):
    """Particles of one event from (PDG code, charge, pT, η, φ, mass, vertex)."""
    pt, eta, phi, mass = np.array([row[2:6] for row in rows], dtype=float).T
    three = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1)
    energy = np.sqrt((three**2).sum(axis=1) + mass**2)
    return Events(
        count=1,
        event=np.zeros(len(rows), dtype=np.int64),
        pdg=np.array([row[0] for row in rows]),
        charge=np.array([row[1] for row in rows]),
        momentum=np.concatenate([three, energy[:, None]], axis=1),
        vertex=np.array([row[6] if len(row) > 6 else (0.0, 0.0, 0.0) for row in rows]),
        decays=(),
    )


@pytest.mark.slow
@needs_pythia
def test_vertices_rebuilt_from_the_decays_are_those_of_the_event_record():
    # the record of the last event of a batch is still there
    generator = Generator(PROCESSES["HToBB"], seed=11)
    batch = generator.batch(3)
    record = generator._pythia.event
    truth = np.array(
        [
            (particle.xProd(), particle.yProd(), particle.zProd())
            for particle in (record[index] for index in range(record.size()))
            if particle.isFinal() and particle.idAbs() not in (12, 14, 16)
        ]
    )
    own = batch.vertex[batch.event == 2]
    assert np.abs(truth).max() > 0.1
    # within a nanometre
    np.testing.assert_allclose(own, truth, rtol=1e-9, atol=1e-6)


@pytest.mark.slow
@needs_pythia
@pytest.mark.parametrize(
    ("name", "pdg", "products", "codes"),
    [("HToBB", 25, 2, {41}), ("HToWW2Q1L", 25, 3, {46}), ("TTBarLep", 6, 2, {15, 16}), ("ZToQQ", 23, 2, {31, 32, 33})],
)
def test_decays_are_those_of_the_class_and_conserve_momentum(name, pdg, products, codes):
    decays = Generator(PROCESSES[name], seed=2).batch(5).decays
    assert {abs(decay.pdg) for decay in decays} == {pdg}
    assert {decay.code for decay in decays} <= codes
    assert {len(decay.products) for decay in decays} == {products}
    if name in ("HToBB", "ZToQQ"):
        for decay in decays:
            np.testing.assert_allclose(np.sum(decay.products, axis=0), decay.momentum, rtol=1e-6, atol=1e-6)


def test_a_neutral_particle_flies_straight_and_a_charged_one_bends_to_its_side():
    from subquad.hep.simulation.detector import _at_calorimeter

    pion = 0.13957
    events = _particles((22, 0, 5, 0.7, 1.0, 0), (211, 1, 5, 0.7, 1.0, pion), (-211, -1, 5, 0.7, 1.0, pion))
    place, turned = _at_calorimeter(events)
    eta, phi = place.T
    assert (eta[0], phi[0]) == pytest.approx((0.7, 1.0))
    # by hand: r = pT / (0.3 B) = 4.39 m, and sin of the turn = 1.29 m / 2r
    turn = math.asin(1.29 / 2 / (5 / (0.299792458 * 3.8)))
    assert phi[1:] == pytest.approx([1.0 - turn, 1.0 + turn])
    assert turned == pytest.approx([0, 2 * turn, 2 * turn])
    assert eta[1] == pytest.approx(eta[2])
    # the path along the arc is longer than the chord
    assert eta[1] == pytest.approx(math.asinh(math.sinh(0.7) * turn / math.sin(turn)))


def test_a_slow_charged_particle_curls_up_to_the_endcap():
    from subquad.hep.simulation.detector import _at_calorimeter

    events = _particles((211, 1, 0.3, 0.4, 2.0, 0.13957))
    ((eta, phi),), (turned,) = _at_calorimeter(events)
    radius = 0.3 / (0.299792458e-3 * 3.8)
    turn = 3000 / math.sinh(0.4) / radius
    x, y = radius * math.sin(turn), radius * (1 - math.cos(turn))
    assert abs(eta) == pytest.approx(math.asinh(3000 / math.hypot(x, y)))
    assert math.cos(phi - (2.0 - math.atan2(y, x))) == pytest.approx(1)
    assert turned == pytest.approx(turn)


@pytest.mark.parametrize("charge", [1, -1, 0])
@pytest.mark.parametrize(("pt", "eta"), [(0.4, 0.9), (0.9, 0.3), (3.0, -1.9), (40.0, 0.2)])
def test_a_particle_from_a_far_decay_leaves_the_tracker_where_small_steps_lead(charge, pt, eta):
    from subquad.hep.simulation.detector import _BEND, _HALF_LENGTH, _RADIUS, _at_calorimeter

    events = _particles(*[(211, charge, pt, eta, phi, 0.13957, (-310.0, 570.0, 730.0)) for phi in range(-3, 4)])
    place, turn = _at_calorimeter(events)
    for row in range(7):
        # exact chords of 1 mm, until the cylinder's end
        bend, direction = _BEND * charge / pt, float(row - 3)
        x, y, z = events.vertex[row]
        steps = 0
        while math.hypot(x, y) < _RADIUS and abs(z) < _HALF_LENGTH:
            x, y = x + math.cos(direction - bend / 2), y + math.sin(direction - bend / 2)
            z, direction, steps = z + math.sinh(eta), direction - bend, steps + 1
        assert place[row, 0] == pytest.approx(math.asinh(z / math.hypot(x, y)), abs=0.01)
        assert math.cos(place[row, 1] - math.atan2(y, x)) == pytest.approx(1, abs=1e-5)
        assert turn[row] == pytest.approx(steps * abs(bend), abs=1.01 * abs(bend) + 1e-9)


def test_what_turns_by_more_than_half_a_circle_in_the_tracker_is_no_track():
    # by hand: 3 m / sinh η over the radius of pT / (0.3 B), so that 0.3 GeV turn by 3.1 at η = 2.01 and by 3.4 at 1.93
    for eta, is_there in ((2.01, True), (1.93, False)):
        found = detect(_particles(*[(13, -1, 0.3, eta, 0.3 * k, 0.10566) for k in range(17)]), np.random.default_rng(1))
        assert (len(found.kind) > 0) == is_there
    # what reaches the barrel turns by less
    assert len(detect(_particles((13, -1, 0.8, 0.1, 0.3, 0.10566)), np.random.default_rng(1)).kind) == 1


@pytest.mark.parametrize(("vertex", "is_there"), [((1280, 0, 0), True), ((1300, 0, 0), False), ((0, 0, 3010), False)])
def test_what_is_made_outside_the_tracker_leaves_neither_track_nor_energy(vertex, is_there):
    products = _particles((22, 0, 40, 0.1, 0.0, 0, vertex), (211, 1, 60, 0.1, 0.5, 0.13957, vertex))
    found = detect(products, np.random.default_rng(0))
    assert set(found.kind.tolist()) >= ({PHOTON} if is_there else set())
    assert (len(found.kind) > 0) == is_there


@pytest.mark.slow
@needs_pythia
def test_no_short_lived_hadron_reaches_the_detector():
    final = set(np.abs(Generator(PROCESSES["HToBB"], seed=3).batch(11).pdg).tolist())
    assert final <= {11, 13, 22, 130, 211, 321, 2112, 2212}


@pytest.mark.parametrize("charge", [1, -1])
def test_impact_parameters_are_the_distances_of_the_nearest_point_of_the_helix(charge):
    from subquad.hep.simulation.detector import _BEND, _impact

    many = 101
    x, y, z = 3.1, -1.7, 2.3
    pt, eta, phi = 1.9, 0.6, 0.8
    events = _particles(*[(211 * charge, charge, pt, eta, phi, 0.13957, (x, y, z))] * many)
    tracks = np.ones(many, dtype=bool)
    impact = _impact(events, events.momentum, tracks, np.random.default_rng(0))
    # the helix by small steps of the path, both ways
    path = np.linspace(-40, 40, 400_001)
    radius = pt / _BEND * charge
    direction = phi - path / radius
    along_x = x - radius * (np.sin(direction) - math.sin(phi))
    along_y = y + radius * (np.cos(direction) - math.cos(phi))
    nearest = np.argmin(np.hypot(along_x, along_y))
    side = along_x[nearest] * math.sin(direction[nearest]) - along_y[nearest] * math.cos(direction[nearest])
    d0, dz = side, z + path[nearest] * math.sinh(eta)
    assert abs(d0) == pytest.approx(np.hypot(along_x, along_y).min(), rel=1e-4)
    error = math.hypot(0.0106, 0.0837 * pt**-0.75)
    assert impact[:, 1] == pytest.approx(error)
    assert impact[:, 0].mean() == pytest.approx(d0, abs=5 * error / math.sqrt(many))
    assert impact[:, 2].mean() == pytest.approx(dz, abs=5 * impact[0, 3] / math.sqrt(many))
    assert impact[:, 0].std() == pytest.approx(error, rel=0.3)


def test_energy_flow_counts_a_charged_pion_once_and_a_neutral_one_as_a_photon():
    random = np.random.default_rng(4)
    kinds, energy = [], []
    for _ in range(53):
        found = detect(_particles((211, 1, 60, 0.1, 0.5, 0.13957), (22, 0, 40, -0.9, 2.0, 0)), random)
        kinds.append(np.bincount(found.kind, minlength=5))
        energy.append(found.momentum[:, 3].sum())
    kinds = np.array(kinds)
    assert (kinds[:, CHARGED_HADRON] + kinds[:, NEUTRAL_HADRON] >= 1).all()
    assert (kinds[:, PHOTON] == 1).all()
    # 60 cosh 0.1 + 40 cosh 0.9, with the calorimeter's width
    assert np.mean(energy) == pytest.approx(60 * math.cosh(0.1) + 40 * math.cosh(0.9), rel=0.05)


def test_a_muon_leaves_a_track_and_no_tower():
    found = detect(_particles(*[(13, -1, 30, 0.2, 0.3 * k, 0.10566) for k in range(17)]), np.random.default_rng(1))
    assert set(found.kind.tolist()) == {MUON}
    assert (found.charge == -1).all()
    assert np.hypot(*found.momentum[:, :2].T) == pytest.approx(30, rel=0.06)


@pytest.mark.parametrize("calorimeter", [ECAL, HCAL], ids=["ecal", "hcal"])
def test_a_tower_holds_the_particles_that_hit_it(calorimeter):
    random = np.random.default_rng(2)
    position = np.stack([random.uniform(-4.9, 4.9, 997), random.uniform(-math.pi, math.pi, 997)], axis=1)
    number, eta, phi = calorimeter.cells(position, random)
    again, _, _ = calorimeter.cells(np.stack([eta, phi], axis=1), random)
    np.testing.assert_array_equal(number, again)
    assert number.min() >= 0
    assert number.max() < calorimeter.count
    assert np.abs(eta - position[:, 0]).max() < 0.2


def test_a_tower_measures_the_energy_on_average_with_its_resolution():
    random = np.random.default_rng(3)
    energy, eta = np.full(20_011, 50.0), np.zeros(20_011)
    measured = HCAL.measure(energy, eta, random)
    width = math.sqrt((0.05 * 50) ** 2 + 1.5**2 * 50)
    assert measured.mean() == pytest.approx(50, rel=0.01)
    assert measured.std() == pytest.approx(width, rel=0.05)
    # below 2.256 GeV a hadron's tower is within its own noise
    soft = HCAL.measure(np.full(20_011, 2.0), eta, random)
    assert soft[soft > 0].min() > 1.5**2 / math.sqrt(1 - 0.05**2) ** 2


def _soft_drop(constituents):
    """The definition, by recursion over a Cambridge/Aachen tree in plain Python (arXiv:1402.2657, Eq. 1)."""
    trees = [(vector, None) for vector in constituents]

    def apart(first, second):
        y, z = (0.5 * math.log((v[3] + v[2]) / (v[3] - v[2])) for v in (first, second))
        turn = abs(math.atan2(first[1], first[0]) - math.atan2(second[1], second[0]))
        return math.hypot(y - z, min(turn, 2 * math.pi - turn))

    while len(trees) > 1:
        pairs = ((apart(trees[i][0], trees[j][0]), i, j) for i in range(len(trees)) for j in range(i))
        _, i, j = min(pairs)
        merged = (trees[i][0] + trees[j][0], (trees[i], trees[j]))
        trees = [tree for k, tree in enumerate(trees) if k not in (i, j)] + [merged]
    vector, parents = trees[0]
    while parents is not None:
        soft, hard = sorted(parents, key=lambda tree: math.hypot(*tree[0][:2]))
        low, high = math.hypot(*soft[0][:2]), math.hypot(*hard[0][:2])
        if low > 0.1 * (low + high):
            break
        vector, parents = hard
    return math.sqrt(max(vector[3] ** 2 - (vector[:3] ** 2).sum(), 0.0))


@pytest.mark.long
def test_soft_drop_and_subjettiness_equal_their_definitions():
    table = read_columns(example_path())
    sizes = table["npart"][:11]
    vectors = np.stack([table[f"part_{name}"][: sizes.sum()] for name in ("px", "py", "pz", "energy")], axis=1)
    vectors = vectors.astype(np.float64)
    # massive enough for a rapidity in spite of float32
    vectors[:, 3] = np.sqrt((vectors[:, :3] ** 2).sum(axis=1) + 0.1**2)
    mass, tau = substructure(vectors, sizes.astype(np.int64))
    parts = np.split(vectors, np.cumsum(sizes)[:-1])
    np.testing.assert_allclose(mass, [_soft_drop(part) for part in parts], rtol=1e-6, atol=1e-4)
    for jet, part in enumerate(parts):
        pt, eta, phi = np.hypot(*part.T[:2]), np.arcsinh(part[:, 2] / np.hypot(*part.T[:2])), np.arctan2(*part.T[1::-1])
        # τ1 with the best axis is no larger than with the jet's own
        axis = part.sum(axis=0)
        dphi = np.mod(phi - math.atan2(axis[1], axis[0]) + np.pi, 2 * np.pi) - np.pi
        own = (pt * np.hypot(eta - math.asinh(axis[2] / math.hypot(*axis[:2])), dphi)).sum() / (pt.sum() * RADIUS)
        assert 0.7 * own < tau[jet, 0] < 1.02 * own
    assert (np.diff(tau, axis=1) < 1e-9).all(), "more axes, less τ"


def test_events_without_a_jet_above_the_threshold_have_no_jets():
    phi, events = np.tile([0.0, 0.1], 8), np.repeat(np.arange(8), 2)
    momentum = np.stack([150 * np.cos(phi), 150 * np.sin(phi), 0 * phi, np.full(16, 150.0)], axis=1)
    none, table = np.zeros(16, np.int64), np.zeros((16, 4))
    candidates = Candidates(event=events, momentum=momentum, kind=none, charge=none, impact=table)
    collisions = Events(
        **{"count": 8, "event": events, "pdg": none, "charge": none, "momentum": momentum},
        vertex=np.zeros((16, 3)),
        decays=(),
    )
    found = find_jets(collisions, candidates, PROCESSES["ZJetsToNuNu"])
    assert (found.first.tolist(), found.momentum.shape, found.decays) == ([0], (0, 4), ())
    assert len(columns(candidates, found, PROCESSES["ZJetsToNuNu"])["npart"]) == 0


def test_a_jet_of_one_particle_has_no_subjettiness():
    mass, tau = substructure(np.array([[600.0, 0.0, 10.0, math.hypot(600.0, 10.0)]]), np.array([1]))
    assert abs(mass[0]) < 1e-3
    np.testing.assert_allclose(tau, 0, atol=1e-9)
