"""The jet simulator: each link of its chain against a definition or a truth, and the whole against its promises."""

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from subquad.errors import MissingExtra, SubquadError
from subquad.hep import sample
from subquad.hep.simulate_settings import CLASSES, SimulateSettings
from subquad.hep.simulation.detector import CHARGED_HADRON, MUON, NEUTRAL_HADRON, PHOTON, detect
from subquad.hep.simulation.generator import Events, Generator
from subquad.hep.simulation.jets import ETA_MAX, PT_RANGE, RADIUS, substructure
from subquad.hep.simulation.processes import PROCESSES
from subquad.hep.simulation.shard import make_jets
from subquad.hep.simulation.towers import ECAL, HCAL
from subquad.hep.simulation.writer import BRANCHES, read_columns
from subquad.hep.simulator import simulate

ak = pytest.importorskip("awkward")
uproot = pytest.importorskip("uproot")
fastjet = pytest.importorskip("fastjet")
needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="pythia8mc is not installed (it has wheels for some Pythons)"
)

TWO = ("WToQQ", "TTBar")
JETS, JETS_PER_FILE, SEED = 13, 7, 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jets")
    return simulate(folder, _settings(workers=2), seed=SEED, quiet=True)


def _settings(**changes):
    return SimulateSettings(**{"jets_per_class": JETS, "jets_per_file": JETS_PER_FILE, "classes": TWO, **changes})


def _all_equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


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


# the whole


@needs_pythia
def test_the_files_have_the_names_and_the_branches_of_jetclass(made):
    assert [path.name for path in made] == ["WToQQ_000.root", "WToQQ_001.root", "TTBar_000.root", "TTBar_001.root"]
    names = {"float32": "float", "int32": "int32_t", "bool": "bool"}
    expected = {"npart": "int32_t"} | {
        name: names[kind] + ("[]" if is_per_particle else "") for name, (kind, is_per_particle) in BRANCHES.items()
    }
    with uproot.open(made[0]) as file:
        assert {branch.name: branch.typename for branch in file["tree"].branches} == expected
        assert file["tree"].num_entries == JETS_PER_FILE
    with uproot.open(made[1]) as file:
        assert file["tree"].num_entries == JETS - JETS_PER_FILE


@pytest.mark.data
def test_the_branches_are_those_of_the_reference_sample():
    folder = os.environ.get("SUBQUAD_DATA")
    if folder is None:
        pytest.skip("SUBQUAD_DATA does not point to the reference data")
    with uproot.open(Path(folder) / "hep" / "sim" / "HToBB_000.root") as file:
        reference = {branch.name: branch.typename for branch in file["tree"].branches}
    with uproot.open(sample.sample_path()) as file:
        assert {branch.name: branch.typename for branch in file["tree"].branches} == reference
        assert list(reference) == [branch.name for branch in file["tree"].branches]


@needs_pythia
def test_each_jet_has_one_label_and_it_is_the_class_of_its_file(made):
    for path in made:
        table = read_columns(path)
        labels = np.stack([table[process.label] for process in PROCESSES.values()], axis=1).astype(int)
        assert (labels.sum(axis=1) == 1).all()
        assert table[PROCESSES[path.name.split("_")[0]].label].all()


@needs_pythia
def test_jets_lie_within_the_cuts_and_are_the_sum_of_their_constituents(made):
    for path in made:
        table = read_columns(path)
        assert ((table["jet_pt"] > PT_RANGE[0]) & (table["jet_pt"] < PT_RANGE[1])).all()
        assert (np.abs(table["jet_eta"]) < ETA_MAX).all()
        sums = {
            name: np.add.reduceat(table[f"part_{name}"].astype(np.float64), np.cumsum(table["npart"]) - table["npart"])
            for name in ("px", "py", "pz", "energy")
        }
        np.testing.assert_allclose(np.hypot(sums["px"], sums["py"]), table["jet_pt"], rtol=1e-5)
        np.testing.assert_allclose(sums["energy"], table["jet_energy"], rtol=1e-5)
        np.testing.assert_array_equal(table["jet_nparticles"], table["npart"])
        pt = np.hypot(table["part_px"], table["part_py"])
        starts = np.cumsum(table["npart"])[:-1]
        assert (np.delete(np.diff(pt), starts - 1) <= 0).all(), "constituents fall in pT"
        kinds = np.stack([table[f"part_is{kind}"] for kind in ("ChargedHadron", "NeutralHadron", "Photon")])
        assert (kinds.sum(axis=0) + table["part_isElectron"] + table["part_isMuon"] == 1).all()
        is_track = table["part_charge"] != 0
        assert (table["part_d0err"][is_track] > 0).all()
        assert (table["part_d0err"][~is_track] == 0).all()


@needs_pythia
def test_the_jets_do_not_depend_on_the_number_of_workers_and_do_depend_on_the_seed(made, tmp_path):
    job = {"classes": TWO[:1], "workers": 1}
    again = simulate(tmp_path / "again", _settings(**job), seed=SEED, quiet=True)
    for first, second in zip(made, again, strict=False):
        assert _all_equal(read_columns(first), read_columns(second))
    other = make_jets(TWO[0], 3, SEED + 1)
    assert not np.array_equal(other["jet_pt"], make_jets(TWO[0], 3, SEED)["jet_pt"])


@needs_pythia
def test_a_file_that_is_gone_is_made_again_and_the_others_are_left(made):
    before = read_columns(made[1])
    times = {path: path.stat().st_mtime_ns for path in made}
    made[1].unlink()
    assert simulate(made[0].parent, _settings(workers=1), seed=SEED, quiet=True) == made
    assert _all_equal(read_columns(made[1]), before)
    assert all(path.stat().st_mtime_ns == times[path] for path in made if path != made[1])


@needs_pythia
def test_a_stopped_simulation_leaves_no_half_file(tmp_path):
    command = "from subquad.hep.simulator import simulate, SimulateSettings as S; import sys\n"
    command += "simulate(sys.argv[1], S(jets_per_class=5, jets_per_file=1, classes=('WToQQ',), workers=1), quiet=True)"
    process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], stderr=subprocess.DEVNULL)
    watch = threading.Timer(60, process.kill)
    watch.start()
    while process.poll() is None and not list(tmp_path.glob("*.root")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    watch.cancel()
    for path in tmp_path.glob("*.root"):
        assert len(read_columns(path)["npart"]) == 1


@needs_pythia
def test_a_folder_with_jets_of_another_seed_is_refused_until_forced(tmp_path):
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",), workers=1)
    (path,) = simulate(tmp_path, settings, seed=1, quiet=True)
    first = read_columns(path)
    with pytest.raises(SubquadError, match=r"asked for otherwise \(seed 1 → 2\); give the same again to go on"):
        simulate(tmp_path, settings, seed=2, quiet=True)
    assert _all_equal(read_columns(path), first)
    simulate(tmp_path, settings, seed=2, force=True, quiet=True)
    assert not _all_equal(read_columns(path), first)


@needs_pythia
def test_a_file_of_someone_else_is_not_overwritten(tmp_path):
    (tmp_path / "TTBar_000.root").write_text("mine")
    with pytest.raises(SubquadError, match=r"TTBar_000\.root: is there already, and was not made by this command"):
        simulate(tmp_path, SimulateSettings(jets_per_class=1, classes=("TTBar",)), quiet=True)
    assert (tmp_path / "TTBar_000.root").read_text() == "mine"


@needs_pythia
def test_a_worker_that_fails_is_reported_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no hadrons today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",))
    with pytest.raises(SubquadError, match=r"(?s)TTBar_000\.root: the simulation ended with status \d+.*no hadrons"):
        simulate(tmp_path / "out", settings, quiet=True)
    assert not list((tmp_path / "out").glob("*.root"))


@needs_pythia
def test_the_groomed_mass_of_w_jets_lies_near_the_w():
    table = make_jets("WToQQ", 61, 3)
    assert 72 < np.median(table["jet_sdmass"]) < 86
    assert set(table["aux_truth_match"].tolist()) <= {21.0, 22.0}
    assert set(np.abs(table["aux_genpart_pid"]).tolist()) == {24.0}
    ratio = table["jet_tau2"] / table["jet_tau1"]
    assert np.median(ratio) < 0.5, "two prongs"


def test_without_pythia_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(MissingExtra, match=r"pip install --only-binary pythia8mc pythia8mc.*sample_path\(\)"):
        simulate(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jets_per_class": 0}, r"jets_per_class is 0; give 1 or more"),
        ({"workers": -2}, r"workers is -2"),
        ({"classes": ("HToBb",)}, r"no class 'HToBb'; did you mean 'HToBB'\?"),
        ({"classes": ()}, r"classes is empty; there are: ZJetsToNuNu"),
        ({"classes": ("TTBar", "TTBar")}, r"classes names one twice"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(SubquadError, match=message):
        SimulateSettings(**changes)


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(SubquadError, match="seed is -1; give 0 or more"):
        simulate(tmp_path, seed=-1)


# the links


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
    eta, phi = _at_calorimeter(events).T
    assert (eta[0], phi[0]) == pytest.approx((0.7, 1.0))
    # by hand: r = pT / (0.3 B) = 4.39 m, and sin of the turn = 1.29 m / 2r
    turn = math.asin(1.29 / 2 / (5 / (0.299792458 * 3.8)))
    assert phi[1:] == pytest.approx([1.0 - turn, 1.0 + turn])
    assert eta[1] == pytest.approx(eta[2])
    # the path along the arc is longer than the chord
    assert eta[1] == pytest.approx(math.asinh(math.sinh(0.7) * turn / math.sin(turn)))


def test_a_slow_charged_particle_curls_up_to_the_endcap():
    from subquad.hep.simulation.detector import _at_calorimeter

    events = _particles((211, 1, 0.3, 0.4, 2.0, 0.13957))
    ((eta, phi),) = _at_calorimeter(events)
    radius = 0.3 / (0.299792458e-3 * 3.8)
    turn = 3000 / math.sinh(0.4) / radius
    x, y = radius * math.sin(turn), radius * (1 - math.cos(turn))
    assert abs(eta) == pytest.approx(math.asinh(3000 / math.hypot(x, y)))
    assert math.cos(phi - (2.0 - math.atan2(y, x))) == pytest.approx(1)


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


def test_soft_drop_and_subjettiness_equal_their_definitions():
    table = read_columns(sample.sample_path())
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


def test_a_jet_of_one_particle_has_no_subjettiness():
    mass, tau = substructure(np.array([[600.0, 0.0, 10.0, math.hypot(600.0, 10.0)]]), np.array([1]))
    assert abs(mass[0]) < 1e-3
    np.testing.assert_allclose(tau, 0, atol=1e-9)


# the sample


def test_the_sample_that_comes_with_subquad_holds_the_ten_classes_mixed():
    path = sample.sample_path()
    assert path.stat().st_size < 2_500_000
    table = read_columns(path)
    assert len(table["npart"]) == sample.JETS_PER_CLASS * len(CLASSES)
    labels = np.stack([table[process.label] for process in PROCESSES.values()], axis=1).astype(int)
    assert (labels.sum(axis=1) == 1).all()
    assert (labels.sum(axis=0) == sample.JETS_PER_CLASS).all()
    # mixed: the first jets are not all of one class
    assert (labels[:101].sum(axis=0) > 0).all()


def test_a_damaged_sample_is_noticed(monkeypatch, tmp_path):
    copy = tmp_path / "jets.root"
    copy.write_bytes(sample.sample_path().read_bytes()[:-1])
    monkeypatch.setattr(sample, "_PATH", copy)
    with pytest.raises(SubquadError, match=r"jets\.root: is damaged .*; install subquad again"):
        sample.sample_path()
    copy.unlink()
    with pytest.raises(SubquadError, match=r"jets\.root: is missing; install subquad again"):
        sample.sample_path()


def test_all_classes_are_those_of_the_settings():
    assert tuple(PROCESSES) == CLASSES
    assert dataclasses.asdict(SimulateSettings())["classes"] == CLASSES
