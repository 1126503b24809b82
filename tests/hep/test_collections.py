"""Collections of jets and particles by a data card: compound types in HDF5, and jets of events as in NanoAOD."""

import awkward as ak
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


def test_a_card_reads_tracks_of_compound_types(tmp_path):
    card = written(tmp_path / "card.yaml", FLAVOUR_CARD)
    (chunk,) = chunks_of(write_flavour_tagging(tmp_path / "a.h5"), card)
    labels, pt, *_ = particles()
    assert chunk.classes == ("is_light", "is_b")
    assert np.array_equal(chunk.labels, labels)
    assert np.array_equal(chunk.lengths, (pt > 0).sum(1))


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
    with pytest.raises(SubquadError):
        chunks_of(path, with_bad)


def test_links_that_lead_nowhere_are_reported(tmp_path):
    card = written(tmp_path / "card.yaml", NANO_CARD)
    table = next(iterate_columns(inspect_file(write_nano(tmp_path / "nano.root"), None), ["FatJetPFCands_jetIdx"], 99))
    links = ak.to_list(table["FatJetPFCands_jetIdx"])
    links[1][0] = 3
    path = write_nano(tmp_path / "far.root", FatJetPFCands_jetIdx=ak.Array(links))
    with pytest.raises(SubquadError):
        chunks_of(path, card)
    shorter = ak.Array([one[:-1] for one in links])
    with pytest.raises(SubquadError):
        chunks_of(write_nano(path, FatJetPFCands_jetIdx=shorter), card)
    with pytest.raises(SubquadError):
        chunks_of(write_nano(path, FatJet_isTop=np.ones(len(links), np.int64)), card)
    with pytest.raises(SubquadError):
        chunks_of(write_nano(path, FatJetPFCands_jetIdx=None), card)


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
