"""Collections of jets and particles by a data card: compound types in HDF5, and jets of events as in NanoAOD."""

import awkward as ak
import h5py
import numpy as np
import pytest
from support.hep_layouts import FLAVOUR_CARD, NANO_CARD, particles, write_flavour_tagging, write_nano

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, predict
from subquad.hep.data import file_chunks
from subquad.hep.data.card import read_card
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.formats import inspect_file, iterate_columns
from subquad.hep.data.layout import layout_of
from subquad.hep.models.presets import PRESETS

NET = PRESETS["standard"].net


def written(path, text):
    path.write_text(text)
    return path


def chunks_of(path, card):
    return list(read_chunks([path], layout_of(NET, read_card(card)), is_training=True))


def joined(chunks, name):
    return np.concatenate([getattr(chunk, name) for chunk in chunks])


def test_fields_of_compound_types_are_columns(tmp_path):
    path = write_flavour_tagging(tmp_path / "a.h5")
    labels, pt, eta, _ = particles()
    source = inspect_file(path, None)
    assert source.entries == 29
    assert source.refused["jets_name"] == "it is of type |S4, which is not a number"
    assert (
        source.refused["cutBookkeeper_nominal_counts"]
        == "it has 3 rows, and jets, tracks, weights 29, of which there is one per jet"
    )
    chunks = list(
        iterate_columns(source, ["weights", "jets_flavour_label", "tracks_pt", "tracks_deta", "tracks_d0"], 8)
    )
    assert [len(chunk["tracks_pt"]) for chunk in chunks] == [8, 8, 8, 5]
    found = {name: ak.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    assert found["jets_flavour_label"].to_list() == (5 * labels).tolist()
    assert found["weights"].to_list() == (1 + labels).tolist()
    assert np.array_equal(ak.to_numpy(ak.flatten(found["tracks_pt"])), pt[pt > 0].astype(np.float32))
    assert np.array_equal(ak.to_numpy(ak.flatten(found["tracks_deta"])), (eta - 0.4)[pt > 0].astype(np.float32))
    assert set(ak.to_list(ak.flatten(found["tracks_d0"]))) == {0.0, 0.5}


def test_a_card_reads_tracks_of_compound_types(tmp_path):
    card = written(tmp_path / "card.yaml", FLAVOUR_CARD)
    (chunk,) = chunks_of(write_flavour_tagging(tmp_path / "a.h5"), card)
    labels, pt, *_ = particles()
    assert chunk.classes == ("is_light", "is_b")
    assert np.array_equal(chunk.labels, labels)
    assert np.array_equal(chunk.lengths, (pt > 0).sum(1))


def test_what_cannot_be_read_of_an_hdf5_file_is_named_with_the_reason(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["jets"] = np.zeros(5, [("pt", "<f4")])
        file["tracks"] = np.zeros((5, 3), [("pt", "<f4")])
    with pytest.raises(
        SubquadError,
        match=r"a\.h5: the file has no branch tracks_pt, which card\.yaml: .*; tracks is not read, as it has no field "
        "`valid` that is true for real particles",
    ):
        chunks_of(tmp_path / "a.h5", written(tmp_path / "card.yaml", FLAVOUR_CARD))
    with pytest.raises(SubquadError, match=r"unknown layout: .* are jets_pt; tracks is not read, as .*; describe them"):
        fit(tmp_path / "a.h5", out=tmp_path / "run", quiet=True)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["events/names"] = np.array([b"a", b"b"])
        file["events/images"] = np.zeros((2, 3, 3))
        file["events/block0_values"] = np.zeros((2, 3))
    with pytest.raises(SubquadError) as caught:
        inspect_file(tmp_path / "b.h5", None)
    assert "b.h5: no dataset holds columns of jets:" in str(caught.value)
    assert "events_names: it is of type |S1, which is not a number" in str(caught.value)
    assert "events_images: it is an array [2, 3, 3] in a group" in str(caught.value)
    assert "events_block0_values: it is a part of a data frame in pandas' fixed format" in str(caught.value)


@pytest.mark.parametrize("entries", [3, 10_000])
def test_jets_of_events_are_flattened_with_their_particles(tmp_path, monkeypatch, entries):
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", entries)
    chunks = chunks_of(write_nano(tmp_path / "nano.root"), written(tmp_path / "card.yaml", NANO_CARD))
    labels, pt, eta, _ = particles()
    layout = layout_of(NET, read_card(tmp_path / "card.yaml"))
    column = {name: joined(chunks, "particles")[:, i] for i, name in enumerate(layout.particles)}
    assert np.array_equal(joined(chunks, "labels"), labels)
    assert np.array_equal(joined(chunks, "lengths"), (pt > 0).sum(1))
    np.testing.assert_allclose(np.exp(column["part_pt_log"]), pt[pt > 0], rtol=1e-5)
    np.testing.assert_allclose(column["PFCands_eta"], eta[pt > 0], rtol=1e-5)
    # a branch of the links
    np.testing.assert_allclose(column["FatJetPFCands_btag"], pt[pt > 0], rtol=1e-5)
    events = np.concatenate([chunk.observers["event"] for chunk in chunks])
    assert events[:7].tolist() == [1001, 1001, 1001, 1002, 1003, 1003, 1005]


def test_a_selection_and_errors_of_jets_of_events_name_the_event(tmp_path):
    is_selected = "(FatJet_isTop == 1) & (ak.num(PFCands_pt) > 0)"
    card = written(tmp_path / "card.yaml", NANO_CARD.replace("ak.num(PFCands_pt) > 0", is_selected))
    path = write_nano(tmp_path / "nano.root")
    (chunk,) = chunks_of(path, card)
    assert set(chunk.labels) == {1}
    with_bad = written(tmp_path / "bad.yaml", NANO_CARD.replace("FatJet_isTop == 1", "FatJet_isTop == 2"))
    with pytest.raises(SubquadError, match=r"nano\.root: entry 1: no label is 1 for FatJet_isTop = 1 \(and 13 more"):
        chunks_of(path, with_bad)


def test_links_that_lead_nowhere_are_reported(tmp_path):
    card = written(tmp_path / "card.yaml", NANO_CARD)
    table = next(iterate_columns(inspect_file(write_nano(tmp_path / "nano.root"), None), ["FatJetPFCands_jetIdx"], 99))
    links = ak.to_list(table["FatJetPFCands_jetIdx"])
    links[1][0] = 3
    path = write_nano(tmp_path / "far.root", FatJetPFCands_jetIdx=ak.Array(links))
    with pytest.raises(
        SubquadError, match=r"far\.root: entry 1: FatJetPFCands_jetIdx has the value 3, and the event has 3 of them"
    ):
        chunks_of(path, card)
    shorter = ak.Array([one[:-1] for one in links])
    with pytest.raises(SubquadError, match=r"entry 0: FatJetPFCands_jetIdx and .*pFCandsIdx have different lengths"):
        chunks_of(write_nano(path, FatJetPFCands_jetIdx=shorter), card)
    with pytest.raises(
        SubquadError, match=r"far\.root: FatJet_isTop is of type int64; it must be a list of numbers per"
    ):
        chunks_of(write_nano(path, FatJet_isTop=np.ones(len(links), np.int64)), card)
    with pytest.raises(
        SubquadError, match=r"no branch FatJetPFCands_jetIdx, which card\.yaml: collections: jet_index asks"
    ):
        chunks_of(write_nano(path, FatJetPFCands_jetIdx=None), card)


def test_collections_of_a_card_are_checked(tmp_path):
    with pytest.raises(SubquadError) as caught:
        read_card(written(tmp_path / "card.yaml", NANO_CARD.replace("jet_index", "jetIdx")))
    assert "collections: no key 'jetIdx'; did you mean 'jet_index'?" in str(caught.value)
    assert "collections: jet_index: give the names of collections and branches, such as jets: FatJet" in str(
        caught.value
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", ["flavour", "nano"])
def test_a_tagger_is_fitted_on_collections(kind, tmp_path):
    write, card, name = (
        (write_flavour_tagging, FLAVOUR_CARD, "jets.h5") if kind == "flavour" else (write_nano, NANO_CARD, "nano.root")
    )
    path = write(tmp_path / name, jets=401)
    card = str(written(tmp_path / "card.yaml", card))
    settings = FitSettings(preset="standard", card=card, epochs=8, batch_size=32, no_boosting=True)
    assert fit(path, settings, out=tmp_path / "run", quiet=True)["test"]["net"]["accuracy"] > 0.8
    scores = predict(tmp_path / "run", path, out=tmp_path / "scores.root", quiet=True)
    assert inspect_file(scores, None).entries == 401
