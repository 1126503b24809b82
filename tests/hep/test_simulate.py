"""The jet simulator as a whole: its files, their jets, what a stop leaves behind; and the example in the package."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from subquad.errors import MissingExtra, SubquadError
from subquad.hep.commands.simulate import PHYSICS, RECORD, simulate
from subquad.hep.data import examples
from subquad.hep.settings import CLASSES, SimulateSettings
from subquad.hep.simulation.jets import ETA_MAX, PT_RANGE
from subquad.hep.simulation.processes import PROCESSES
from subquad.hep.simulation.shard import make_jets
from subquad.hep.simulation.writer import BRANCHES, read_columns

pytest.importorskip("awkward")
uproot = pytest.importorskip("uproot")
pytest.importorskip("fastjet")
needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="pythia8mc is not installed (it has wheels for some Pythons)"
)

TWO = ("WToQQ", "TTBar")
JETS, JETS_PER_FILE, SEED = 13, 7, 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jets")
    return simulate(_settings(workers=2), out=folder, seed=SEED, quiet=True)


def _settings(**changes):
    return SimulateSettings(**{"jets_per_class": JETS, "jets_per_file": JETS_PER_FILE, "classes": TWO, **changes})


def _all_equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# the whole


@pytest.mark.slow
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
    if not folder:
        pytest.skip("SUBQUAD_DATA does not point to the reference data")
    with uproot.open(Path(folder) / "hep" / "sim" / "HToBB_000.root") as file:
        reference = {branch.name: branch.typename for branch in file["tree"].branches}
    with uproot.open(examples.example_path()) as file:
        assert {branch.name: branch.typename for branch in file["tree"].branches} == reference
        assert list(reference) == [branch.name for branch in file["tree"].branches]


@pytest.mark.slow
@needs_pythia
def test_each_jet_has_one_label_and_it_is_the_class_of_its_file(made):
    for path in made:
        table = read_columns(path)
        labels = np.stack([table[process.label] for process in PROCESSES.values()], axis=1).astype(int)
        assert (labels.sum(axis=1) == 1).all()
        assert table[PROCESSES[path.name.split("_")[0]].label].all()


@pytest.mark.long
@pytest.mark.slow
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


@pytest.mark.long
@pytest.mark.slow
@needs_pythia
def test_the_jets_do_not_depend_on_the_number_of_workers_and_do_depend_on_the_seed(made, tmp_path):
    job = {"classes": TWO[:1], "workers": 1}
    again = simulate(_settings(**job), out=tmp_path / "again", seed=SEED, quiet=True)
    for first, second in zip(made, again, strict=False):
        assert _all_equal(read_columns(first), read_columns(second))
    other = make_jets(TWO[0], 3, SEED + 1)
    assert not np.array_equal(other["jet_pt"], make_jets(TWO[0], 3, SEED)["jet_pt"])


@pytest.mark.long
@pytest.mark.slow
@needs_pythia
def test_a_file_that_is_gone_is_made_again_and_the_others_are_left(made):
    before = read_columns(made[1])
    times = {path: path.stat().st_mtime_ns for path in made}
    made[1].unlink()
    assert simulate(_settings(workers=1), out=made[0].parent, seed=SEED, quiet=True) == made
    assert _all_equal(read_columns(made[1]), before)
    assert all(path.stat().st_mtime_ns == times[path] for path in made if path != made[1])


@pytest.mark.long
@pytest.mark.slow
@needs_pythia
def test_a_stopped_simulation_leaves_no_half_file(tmp_path):
    command = "from subquad.hep.commands.simulate import simulate, SimulateSettings as S; import sys\n"
    command += (
        "simulate(S(jets_per_class=5, jets_per_file=1, classes=('WToQQ',), workers=1), out=sys.argv[1], quiet=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], stderr=subprocess.DEVNULL)
    watch = threading.Timer(60, process.kill)
    watch.start()
    while process.poll() is None and not list(tmp_path.glob("*.root")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    watch.cancel()
    files = list(tmp_path.glob("*.root"))
    assert files
    for path in files:
        assert len(read_columns(path)["npart"]) == 1


@pytest.mark.long
@pytest.mark.slow
@needs_pythia
def test_a_folder_with_jets_of_another_seed_is_refused_until_forced(tmp_path):
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",), workers=1)
    (path,) = simulate(settings, out=tmp_path, seed=1, quiet=True)
    first = read_columns(path)
    with pytest.raises(SubquadError):
        simulate(settings, out=tmp_path, seed=2, quiet=True)
    assert _all_equal(read_columns(path), first)
    simulate(settings, out=tmp_path, seed=2, force=True, quiet=True)
    assert not _all_equal(read_columns(path), first)


@pytest.mark.long
@pytest.mark.slow
@needs_pythia
@pytest.mark.parametrize("version", [None, 1])
def test_a_folder_with_jets_of_another_version_of_the_physics_is_refused_until_forced(tmp_path, version):
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",), workers=1)
    (path,) = simulate(settings, out=tmp_path, seed=1, quiet=True)
    record = tmp_path / RECORD
    asked = json.loads(record.read_text(encoding="utf-8"))
    assert asked.pop("physics") == PHYSICS == 2
    before = asked if version is None else {"physics": version, **asked}
    record.write_text(json.dumps(before), encoding="utf-8")
    # even where a file is missing that could be made now
    path.unlink()
    message = r"has jets of other settings \(physics"
    with pytest.raises(SubquadError, match=message):
        simulate(settings, out=tmp_path, seed=1, quiet=True)
    assert not path.exists()
    simulate(settings, out=tmp_path, seed=1, force=True, quiet=True)
    assert path.exists()
    assert json.loads(record.read_text(encoding="utf-8")) == {"physics": PHYSICS, **asked}


@pytest.mark.slow
@needs_pythia
def test_a_file_of_someone_else_is_not_overwritten(tmp_path):
    (tmp_path / "TTBar_000.root").write_text("mine")
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",))
    for force in (False, True):
        with pytest.raises(SubquadError):
            simulate(settings, out=tmp_path, force=force, quiet=True)
    assert (tmp_path / "TTBar_000.root").read_text() == "mine"
    # nor are simulated jets written beside files that would be read with them
    with pytest.raises(SubquadError):
        simulate(dataclasses.replace(settings, classes=("HToBB",)), out=tmp_path, quiet=True)


@pytest.mark.slow
@needs_pythia
def test_a_worker_that_fails_is_reported_with_the_end_of_its_error_output(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no hadrons today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = SimulateSettings(jets_per_class=1, classes=("TTBar",))
    with pytest.raises(SubquadError, match=r"(?s)TTBar_000\.root: the simulation ended with status \d+.*no hadrons"):
        simulate(settings, out=tmp_path / "out", quiet=True)
    assert not list((tmp_path / "out").glob("*.root"))


@pytest.mark.slow
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
    with pytest.raises(MissingExtra, match=r"pip install --only-binary pythia8mc pythia8mc.*example:jets"):
        simulate(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jets_per_class": 0}, r"--jets-per-class must be at least 1, got 0"),
        ({"workers": -2}, r"--workers must be at least 0, got -2"),
        ({"classes": ("HToBb",)}, r"no class 'HToBb'; did you mean 'HToBB'\?"),
        ({"classes": ()}, r"--classes is empty; the classes are ZJetsToNuNu"),
        ({"classes": ("TTBar", "TTBar")}, r"--classes names a class twice"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(SubquadError):
        SimulateSettings(**changes)


# records of earlier simulations


@pytest.fixture
def without_collisions(monkeypatch):
    """Replace the workers by one that writes empty files, so that Pythia is not needed."""
    home = "subquad.hep.commands.simulate"
    monkeypatch.setattr(f"{home}.pythia", lambda: None)
    monkeypatch.setattr(f"{home}.run_jobs", lambda jobs, *_: [job.path.touch() for job in jobs])


@pytest.mark.parametrize("content", ["[]", "{}", '{"classes": ["../TTBar"]}', '{"classes": ['])
def test_a_damaged_record_is_refused_also_with_force(tmp_path, without_collisions, content):
    (tmp_path / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(SubquadError, match=RECORD):
        simulate(_settings(), out=tmp_path, force=True, quiet=True)
    assert (tmp_path / RECORD).read_text(encoding="utf-8") == content


def test_force_removes_the_files_of_the_earlier_simulation_only(tmp_path, without_collisions):
    simulate(_settings(), out=tmp_path, quiet=True)
    (tmp_path / "jets_000.root").write_text("mine")
    simulate(_settings(classes=("HToBB",), jets_per_class=1), out=tmp_path, force=True, quiet=True)
    assert sorted(path.name for path in tmp_path.glob("*.root")) == ["HToBB_000.root", "jets_000.root"]


# the example


def test_the_example_that_ships_with_subquad_holds_the_ten_classes_mixed():
    path = examples.example_path()
    assert path.stat().st_size < 2_500_000
    table = read_columns(path)
    assert len(table["npart"]) == 150 * len(CLASSES)
    labels = np.stack([table[process.label] for process in PROCESSES.values()], axis=1).astype(int)
    assert (labels.sum(axis=1) == 1).all()
    assert (labels.sum(axis=0) == 150).all()
    # mixed: the first jets are not all of one class
    assert (labels[:101].sum(axis=0) > 0).all()


def test_all_classes_are_those_of_the_settings():
    assert tuple(PROCESSES) == CLASSES
    assert dataclasses.asdict(SimulateSettings())["classes"] == CLASSES
