"""Layouts of public data sets: exact four-vectors, labels and splits, and the errors of files that are not in them."""

import os
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest
from support.hep_layouts import (
    TRUTH,
    energyflow_arrays,
    momenta,
    pickled_names,
    write_energyflow,
    write_top,
)

from subquad.errors import SubquadError
from subquad.hep import FitSettings, evaluate, fit, predict
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.data import file_chunks
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.energyflow import PARTICLES
from subquad.hep.data.fit_files import FitFiles
from subquad.hep.data.formats import inspect_file, iterate_columns
from subquad.hep.data.preparation import source_of
from subquad.hep.models.presets import PRESETS
from subquad.runs.storage import read_json

NET = PRESETS["standard"].net
SETTINGS = FitSettings(preset="standard", epochs=1, no_boosting=True)
MOMENTA = ["part_energy", "part_px", "part_py", "part_pz"]


def columns_of(path, names, entries=8):
    chunks = list(iterate_columns(inspect_file(path, None), names, entries))
    return {name: ak.concatenate([chunk[name] for chunk in chunks]) for name in names}


def source(*paths, **settings):
    return source_of(FitFiles(train=paths), NET, FitSettings(preset="standard", **settings))


def chunk_of_files(*paths, **settings):
    """The jets of files in one chunk, as `subquad hep fit` reads them."""
    found = source(*paths, **settings)
    (chunk,) = read_chunks(found.files.train, found.layout, is_training=True)
    return chunk, found.layout


def real(vectors):
    """[C, 4] of the particles that are not padding."""
    return vectors[(vectors != 0).any(2)]


@pytest.mark.parametrize(("places", "has_names"), [(200, True), (13, True), (13, False)])
def test_a_table_of_pandas_gives_the_four_vectors_labels_and_split_of_its_rows(tmp_path, places, has_names):
    labels, vectors = momenta(places=places)
    ttv = np.arange(29) % 3
    path = write_top(tmp_path / "top.h5", vectors, labels, ttv, has_names=has_names)
    found = columns_of(path, [*MOMENTA, "ttv", "is_signal_new"])
    table = np.stack([ak.to_numpy(ak.flatten(found[name])) for name in MOMENTA], axis=1)
    assert np.array_equal(table, real(vectors))
    assert ak.to_list(ak.num(found["part_px"])) == (vectors[..., 0] > 0).sum(1).tolist()
    assert found["ttv"].to_list() == ttv.tolist()
    assert found["is_signal_new"].to_list() == labels.tolist()


def test_the_inputs_of_the_network_are_computed_from_the_four_vectors(tmp_path):
    labels, vectors = momenta()
    chunk, layout = chunk_of_files(write_top(tmp_path / "top.h5", vectors, labels))
    energy, px, py, pz = real(vectors).T
    column = {name: chunk.particles[:, i] for i, name in enumerate(layout.particles)}
    assert np.array_equal(column["part_px"], px)
    assert np.array_equal(column["part_energy"], energy)
    np.testing.assert_allclose(column["part_pt_log"], np.log(np.hypot(px, py)), atol=1e-5)
    jet = np.repeat(np.arange(29), chunk.lengths)
    sums = vectors.sum(1, dtype=np.float64)
    eta, phi = np.arcsinh(sums[:, 3] / np.hypot(sums[:, 1], sums[:, 2])), np.arctan2(sums[:, 2], sums[:, 1])
    np.testing.assert_allclose(column["part_deta"], np.arcsinh(pz / np.hypot(px, py)) - eta[jet], atol=1e-5)
    turn = np.arctan2(py, px) - phi[jet]
    np.testing.assert_allclose(column["part_dphi"], (turn + np.pi) % (2 * np.pi) - np.pi, atol=1e-5)
    np.testing.assert_allclose(column["part_logerel"], np.log(energy / sums[jet, 0]), atol=1e-5)
    mass = np.sqrt(sums[:, 0] ** 2 - (sums[:, 1:] ** 2).sum(1))
    np.testing.assert_allclose(chunk.observers["jet_mass"], mass, rtol=1e-4)
    assert chunk.classes == ("QCD", "top")
    assert np.array_equal(chunk.labels, labels)
    assert len(layout.jet_features) == 11


def test_particles_of_energyflow_have_the_masses_charges_and_types_of_their_pdg_ids(tmp_path):
    labels, x = energyflow_arrays()
    path = write_energyflow(tmp_path / "QG_jets.npz")
    names = [*MOMENTA, "part_charge", *(f"part_is{kind}" for kind in ("ChargedHadron", "Photon", "Electron", "Muon"))]
    found = columns_of(path, [*names, "part_isNeutralHadron", "y"])
    energy, px, py, pz = (ak.to_numpy(ak.flatten(found[name])).astype(np.float64) for name in MOMENTA)
    order = np.argsort(-x[..., 0], axis=1, kind="stable")
    pt, rapidity, phi, code = real(np.take_along_axis(x, order[..., None], axis=1)).T
    assert ak.to_list(ak.num(found["part_px"])) == (x[..., 0] > 0).sum(1).tolist()
    np.testing.assert_allclose(np.hypot(px, py), pt, rtol=1e-6)
    np.testing.assert_allclose(np.cos(np.arctan2(py, px) - phi), 1, atol=1e-6)
    np.testing.assert_allclose(np.arctanh(pz / energy), rapidity, atol=1e-6)
    mass = np.array([PARTICLES[abs(one)][0] for one in code])
    np.testing.assert_allclose(energy**2 - px**2 - py**2 - pz**2, mass**2, atol=1e-6 * energy.max() ** 2)
    flat = {name: ak.to_numpy(ak.flatten(found[name])) for name in names[4:]}
    for one, charge in ((211, 1), (-211, -1), (11, -1), (-13, 1), (2212, 1), (-2212, -1), (22, 0), (130, 0)):
        assert (code == one).any()
        assert set(flat["part_charge"][code == one]) == {charge}
    assert np.array_equal(flat["part_isMuon"] == 1, np.abs(code) == 13)
    assert np.array_equal(flat["part_isElectron"] == 1, np.abs(code) == 11)
    assert np.array_equal(flat["part_isPhoton"] == 1, code == 22)
    hadrons = [211, 321, 2212, 3112, 3222, 3312, 3334]
    assert np.array_equal(flat["part_isChargedHadron"] == 1, np.isin(np.abs(code), hadrons))
    assert found["y"].to_list() == labels.tolist()


def test_the_classes_of_energyflow_are_those_of_the_layout(tmp_path):
    labels, _ = energyflow_arrays()
    path = write_energyflow(tmp_path / "QG_jets.npz")
    chunk, layout = chunk_of_files(path)
    assert chunk.classes == ("gluon", "quark")
    assert np.array_equal(chunk.labels, labels)
    assert "part_isMuon" in layout.features.names
    assert chunk_of_files(path, layout="boosted-top")[0].classes == ("QCD", "top")
    np.savez(tmp_path / "unlabelled.npz", X=energyflow_arrays()[1])
    (unlabelled,) = read_chunks([tmp_path / "unlabelled.npz"], layout, needs_labels=False)
    assert np.array_equal(unlabelled.particles, chunk.particles)


def test_exchanged_rapidity_and_azimuth_of_energyflow_are_refused(tmp_path):
    labels, x = energyflow_arrays(jets=200)
    # of both signs
    x[..., 1] -= np.where(x[..., 0] > 0, 0.4, 0)
    for name, order in (("right", [0, 1, 2, 3]), ("exchanged", [0, 2, 1, 3])):
        np.savez(tmp_path / f"{name}.npz", X=x[..., order], y=labels)
    chunk_of_files(tmp_path / "right.npz")
    with pytest.raises(SubquadError):
        chunk_of_files(tmp_path / "exchanged.npz")


def test_four_vectors_of_any_format_with_a_numbered_label_are_recognized(tmp_path):
    labels, vectors = momenta()
    parts = vectors[..., [1, 2, 3, 0]].swapaxes(1, 2)
    # the padding is 0, so that no mask is needed
    np.savez(tmp_path / "one.npz", vectors=parts, labels=labels)
    np.savez(tmp_path / "hot.npz", vectors=parts, labels=np.eye(2)[labels], mask=parts[:, 3:] > 0)
    lists = ak.zip({name: ak.from_regular(vectors[..., i]) for i, name in enumerate(MOMENTA)})
    lists = lists[lists.part_energy > 0]
    columns = {**{name: lists[name] for name in MOMENTA}, "label": labels}
    ak.to_parquet(ak.zip(columns, depth_limit=1), tmp_path / "a.parquet")
    expected = None
    for name in ("one.npz", "hot.npz", "a.parquet"):
        chunk, _ = chunk_of_files(tmp_path / name)
        expected = expected or chunk
        assert np.array_equal(chunk.particles, expected.particles), name
        assert np.array_equal(chunk.labels, labels)
    assert chunk_of_files(tmp_path / "hot.npz")[0].classes == ("0", "1")


def test_chunks_of_a_file_give_the_same_jets(tmp_path, monkeypatch):
    labels, vectors = momenta()
    paths = [write_top(tmp_path / "top.h5", vectors, labels), write_energyflow(tmp_path / "QG.npz")]
    expected = [chunk_of_files(path)[0] for path in paths]
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", 5)
    for path, whole in zip(paths, expected, strict=True):
        found = source(path)
        chunks = list(read_chunks([path], found.layout, is_training=True))
        assert [len(chunk) for chunk in chunks] == [5, 5, 5, 5, 5, 4]
        assert np.array_equal(np.concatenate([chunk.particles for chunk in chunks]), whole.particles)


def test_the_layout_and_what_it_lacks_are_logged_in_one_line(tmp_path, jets, capsys):
    labels, vectors = momenta()
    files = [write_top(tmp_path / "top.h5", vectors, labels), write_energyflow(tmp_path / "QG.npz"), jets[0]]
    for path in files:
        source_of(FitFiles(train=[path]), NET, SETTINGS, quiet=False)
    top, quarks, jetclass = capsys.readouterr().err.splitlines()
    assert top == (
        "layout top-landscape (top tagging reference data set, Zenodo 2603256); is_signal_new = 0 is QCD, "
        "is_signal_new = 1 is top; without charges and particle types, impact parameters, jet substructure: jet-level "
        "features are computed from the momenta"
    )
    assert "y = 0 is gluon, y = 1 is quark; without impact parameters, jet substructure:" in quarks
    assert jetclass == "layout jetclass (JetClass, arXiv:2202.03772)"


@pytest.mark.parametrize("renamed", [["E_0", "PX_0", "PZ_0", "PY_0"], ["E_0", "PX_0", "PY_0", "mass_0"]])
def test_a_table_with_other_columns_is_refused(tmp_path, renamed):
    labels, vectors = momenta()
    names = [*renamed, *(f"{part}_{i}" for i in range(1, 13) for part in ("E", "PX", "PY", "PZ")), *TRUTH]
    path = write_top(tmp_path / "top.h5", vectors, labels, names=names)
    with pytest.raises(SubquadError):
        inspect_file(path, None)


def test_jets_of_a_table_without_labels_can_be_scored(tmp_path):
    labels, vectors = momenta()
    layout = source(write_top(tmp_path / "top.h5", vectors, labels)).layout
    rows = np.zeros(29, [("index", "<i8"), ("values_block_0", "<f4", (52,))])
    rows["values_block_0"] = vectors.reshape(29, -1)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["jets/table"] = rows
        names = [f"{part}_{i}" for i in range(13) for part in ("E", "PX", "PY", "PZ")]
        file["jets/table"].attrs["values_block_0_kind"] = pickled_names(names)
    (chunk,) = read_chunks([tmp_path / "data.h5"], layout, needs_labels=False)
    assert np.array_equal(chunk.particles[:, layout.particles.index("part_px")], real(vectors)[:, 1])
    assert set(chunk.labels) == {-1}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((6, 1, 0), -2.0, r"entry 6: pT of particle \d+, by descending pT, is -2 in array 'X'; drop such jets"),
        ((6, 1, 2), 219.0, r"entry 6: the azimuth of particle \d+, by descending pT, is 219 in array 'X'; give rad"),
        ((6, 1, 3), 4.0, r"entry 6: PDG id of particle \d+, by descending pT, is 4 in array 'X'; store unprocessed"),
        ((6, 0, 1), np.nan, r"entry 6: part_pz of particle \d+ is nan; drop such jets"),
        ((6, 0, 0), np.nan, r"entry 6: part_px of particle \d+ is nan; drop such jets"),
    ],
)
def test_particles_of_energyflow_that_cannot_be_used_are_reported_by_entry(tmp_path, place, value, message):
    labels, x = energyflow_arrays()
    x[place] = value
    np.savez(tmp_path / "QG.npz", X=x, y=labels)
    with pytest.raises(SubquadError):
        chunk_of_files(tmp_path / "QG.npz")


@pytest.mark.long
def test_empty_files_are_refused_unless_there_are_others(tmp_path):
    labels, vectors = momenta()
    empty = [write_top(tmp_path / "empty.h5", vectors[:0], labels[:0], chunks=(7,), maxshape=(None,))]
    np.savez(tmp_path / "empty.npz", X=np.zeros((0, 5, 4)), y=np.zeros(0))
    np.savez(tmp_path / "none.npz")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_group("jets")
    (tmp_path / "bytes.h5").write_bytes(b"")
    empty += [tmp_path / name for name in ("empty.npz", "none.npz", "none.h5", "bytes.h5")]
    for path in empty:
        with pytest.raises(SubquadError, match=path.name):
            fit(path, SETTINGS, out=tmp_path / "run", quiet=True)
    # the layout is that of a file with jets
    full = write_top(tmp_path / "full.h5", vectors, labels)
    fit([empty[2], full], SETTINGS, out=tmp_path / "run", quiet=True)
    assert read_json(tmp_path / "run" / "config.json")["classes"] == ["QCD", "top"]


def test_files_of_different_layouts_are_refused(tmp_path):
    labels, vectors = momenta()
    files = [write_top(tmp_path / "top.h5", vectors, labels), write_energyflow(tmp_path / "QG.npz")]
    with pytest.raises(SubquadError):
        fit(files, SETTINGS, out=tmp_path / "run", quiet=True)


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Three files of the top tagging data set, each with jets of one part."""
    folder = tmp_path_factory.mktemp("top")
    for name, ttv, jets in (("train", 0, 61), ("test", 1, 31), ("val", 2, 23)):
        labels, vectors = momenta(jets=jets, seed=ttv)
        write_top(folder / f"{name}.h5", vectors, labels, ttv)
    return folder


@pytest.mark.long
@pytest.mark.slow
def test_the_split_of_the_data_set_is_used(top, tmp_path, monkeypatch):
    metrics = fit(top, SETTINGS, out=tmp_path / "run", quiet=True)
    assert metrics["jets"] == {"train": 61, "validation": 23, "test": 31}
    # figures take most of the time, and are tested elsewhere
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models, *more: ({}, {model.name: {} for model in models}))
    own = evaluate(tmp_path / "run", out=tmp_path / "own", quiet=True)
    found = evaluate(tmp_path / "run", files=top / "test.h5", out=tmp_path / "files", quiet=True)
    # the test jets of the run are those of test.h5
    assert found["test"]["standard"]["accuracy"] == own["test"]["standard"]["accuracy"]
    assert "that are marked for it" in found["notes"][0]


@pytest.mark.long
def test_files_named_by_test_take_the_place_of_marked_jets(top, tmp_path):
    files = [top / "train.h5", top / "val.h5", top / "test.h5"]
    labels, vectors = momenta(jets=19, seed=5)
    other = write_top(tmp_path / "other.h5", vectors, labels)
    metrics = fit(files, SETTINGS, test=other, out=tmp_path / "run", quiet=True)
    assert metrics["jets"] == {"train": 61, "validation": 23, "test": 19}


@pytest.mark.long
@pytest.mark.slow
def test_a_single_part_of_the_data_set_is_split_at_random(top, tmp_path, capsys):
    metrics = fit(top / "test.h5", SETTINGS, out=tmp_path / "run")
    assert "Warning: all jets to fit on are marked for test, and used for training" in capsys.readouterr().err
    assert metrics["jets"]["train"] + metrics["jets"]["validation"] + metrics["jets"]["test"] == 31
    with pytest.raises(SubquadError, match="and none for training"):
        fit([top / "test.h5", top / "val.h5"], SETTINGS, out=tmp_path / "other", quiet=True)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["top-landscape", "quark-gluon"])
def test_a_tagger_of_each_layout_learns_and_scores_jets(layout, tmp_path):
    labels, vectors = momenta(jets=401)
    if layout == "top-landscape":
        path = write_top(tmp_path / "jets.h5", vectors, labels)
    else:
        path = write_energyflow(tmp_path / "jets.npz", jets=401)
    settings = FitSettings(preset="standard", epochs=6, no_boosting=True, layout=layout)
    metrics = fit(path, settings, out=tmp_path / "run", quiet=True)
    assert metrics["test"]["net"]["accuracy"] > 0.85
    scores = predict(tmp_path / "run", path, out=tmp_path / "scores.root", quiet=True)
    score = "score_top" if layout == "top-landscape" else "score_quark"
    (table,) = iterate_columns(inspect_file(scores, None), [score, "jet_mass"], 999)
    assert len(table["jet_mass"]) == 401
    assert ((ak.to_numpy(table[score]) > 0.5) == labels).mean() > 0.85


@pytest.mark.data
@pytest.mark.long
@pytest.mark.parametrize("name", ["top_landscape", "quark_gluon"])
def test_public_jets_are_fitted_on(name, tmp_path):
    folder = Path(os.environ.get("SUBQUAD_DATA", "")) / "hep" / "real"
    if not folder.is_dir():
        pytest.skip("SUBQUAD_DATA names no folder with hep/real")
    settings = FitSettings(preset="standard", epochs=2, no_boosting=True)
    metrics = fit(folder / f"{name}.npz", settings, out=tmp_path / "run", quiet=True)
    assert sum(metrics["jets"].values()) == 2000
    assert metrics["test"]["net"]["accuracy"] > (0.8 if name == "top_landscape" else 0.65)
