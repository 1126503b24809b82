"""Reading jets: the values, and the errors of files that cannot be used."""

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

from subquad.errors import SubquadError
from subquad.hep.data import file_chunks
from subquad.hep.data.formats import expand_files
from subquad.hep.data.jets import OBSERVERS, PARTICLES, as_jets, iterate_jets, read
from subquad.hep.data.layout import Standardizer


def spoilt(array, jet, value):
    lists = ak.to_list(array)
    lists[jet][-1] = value
    return ak.values_astype(ak.Array(lists), "float32")


def test_jets_come_out_in_order_with_the_hardest_particle_first(jets):
    read_jets = read(jets)
    assert len(read_jets) == 3 * 47
    assert read_jets.classes == ("QCD", "Hbb", "Tbqq")
    assert np.bincount(read_jets.labels).tolist() == [47, 47, 47]
    with uproot.open(jets[1]) as file:
        arrays = file["tree"].arrays(["part_px", "part_py", "jet_sdmass"])
    assert read_jets.observers[47:94, OBSERVERS.index("jet_sdmass")].tolist() == arrays["jet_sdmass"].to_list()
    pt = np.hypot(read_jets.particles[:, 0], read_jets.particles[:, 1])
    of_jet = pt[read_jets.first[50] : read_jets.first[51]]
    assert of_jet.tolist() == sorted(of_jet.tolist(), reverse=True)
    expected = np.hypot(arrays["part_px"][3], arrays["part_py"][3])
    assert sorted(of_jet.tolist()) == pytest.approx(sorted(expected.tolist()))


def test_chunks_together_are_the_whole_file(jets, monkeypatch):
    whole = read(jets)
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", 11)
    chunks = list(iterate_jets(jets))
    assert len(chunks) == 15
    assert np.array_equal(np.concatenate([chunk.particles for chunk in chunks]), whole.particles)


def test_selected_jets_keep_their_own_particles(jets):
    whole = read(jets)
    some = whole[np.array([70, 3, 3])]
    assert some.lengths.tolist() == whole.lengths[[70, 3, 3]].tolist()
    assert np.array_equal(
        some.particles[some.first[1] : some.first[2]], whole.particles[whole.first[3] : whole.first[4]]
    )
    assert some.labels.tolist() == whole.labels[[70, 3, 3]].tolist()


def test_patterns_are_expanded_and_all_missing_files_are_named(jets, tmp_path):
    assert expand_files([jets[0].parent / "*.root"]) == sorted(jets)
    assert expand_files([jets[0], jets[0]]) == [jets[0]]
    with pytest.raises(SubquadError):
        expand_files([tmp_path / "none.root", f"{tmp_path}/no*"])


def test_other_labels_in_another_file_are_refused(tables, tmp_path):
    columns, write = tables
    one = write(tmp_path / "one.root", columns("QCD"))
    other = write(tmp_path / "other.root", columns("QCD", classes=("QCD", "Wqq")))
    with pytest.raises(SubquadError):
        read([one, other])


BAD_JETS = {
    "part_dzerr": (lambda table: spoilt(table["part_dzerr"], 5, np.nan), r"entry 5: .*nan"),
    "jet_tau2": (lambda table: np.where(np.isin(np.arange(23), [7, 9]), np.inf, table["jet_tau2"]), r"entry 7: .*inf"),
    "label_Hbb": (lambda table: np.arange(23) == 11, "entry 11: exactly one label .*label_QCD, label_Hbb"),
    "label_QCD": (lambda table: np.arange(23) != 13, "entry 13: .*exactly one label"),
    "part_energy": (lambda table: spoilt(table["part_energy"], 5, 0.0), r"entry 5: the energy"),
}


@pytest.mark.parametrize("name", BAD_JETS)
def test_bad_jets_are_reported_with_entry_and_branch(name, tables, tmp_path):
    columns, write = tables
    table, (change, message) = columns("QCD"), BAD_JETS[name]
    table[name] = change(table)
    with pytest.raises(SubquadError, match=rf"bad\.root: {message}"):
        read([write(tmp_path / "bad.root", table)])


def test_a_jet_without_particles_is_reported(tables, tmp_path):
    columns, write = tables
    table = columns("QCD")
    for name in PARTICLES:
        lists = ak.to_list(table[name])
        lists[17] = []
        table[name] = ak.values_astype(ak.Array(lists), "float32")
    with pytest.raises(SubquadError, match=r"bad\.root: entry 17: the jet has no particles"):
        read([write(tmp_path / "bad.root", table)])


@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_a_file_that_is_cut_short_is_reported(tables, tmp_path, part):
    columns, write = tables
    path = write(tmp_path / "whole.root", columns("QCD", jets=211))
    content = path.read_bytes()
    cut = tmp_path / "cut.root"
    cut.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SubquadError, match=r"cut\.root: cannot be read as "):
        read([cut])


def test_empty_files_are_not_used_and_an_error_if_there_are_no_others(tables, tmp_path, capsys):
    columns, write = tables
    table = {name: value[:0] for name, value in columns("QCD").items()}
    empty = write(tmp_path / "empty.root", table)
    with pytest.raises(SubquadError, match=r"empty\.root: tree 'tree' is empty; give files with jets"):
        read([empty])
    full = write(tmp_path / "full.root", columns("QCD"))
    assert len(read([empty, full], quiet=False)) == len(read([full]))
    assert "Warning: 1 of 2 files are empty and are not used: " in capsys.readouterr().err


def test_optional_labels_are_read_from_files_that_have_them_in_another_order(tables, tmp_path):
    columns, write = tables
    table = columns("Tbqq")
    labels = [name for name in table if name.startswith("label_")]
    files = [write(tmp_path / "a.root", columns("Hbb"))]
    files += [write(tmp_path / "b.root", {**{name: table.pop(name) for name in labels[::-1]}, **table})]
    first, second = iterate_jets(files, needs_labels=False)
    assert {*first.class_names} == {"Hbb"}
    assert {*second.class_names} == {"Tbqq"}


def test_arrays_with_optional_values_and_of_fixed_size_are_jets(tables):
    columns, _ = tables
    table = {name: ak.Array(column) for name, column in columns("Hbb").items()}
    expected = as_jets(table)
    # as from a Parquet file of pandas
    optional = {name: ak.mask(column, ak.ones_like(column, dtype=bool)) for name, column in table.items()}
    assert np.array_equal(as_jets(ak.zip(optional, depth_limit=1)).particles, expected.particles)
    leading = {name: column[:, :1] if column.ndim == 2 else column for name, column in table.items()}
    regular = {name: ak.to_regular(column) if column.ndim == 2 else column for name, column in leading.items()}
    assert np.array_equal(as_jets(regular).particles, as_jets(leading).particles)


def scaled(factor, *names):
    return {name: lambda table, name=name: table[name] * np.float32(factor) for name in names}


WRONG_AXES = {
    "MeV": (scaled(1e6, *PARTICLES[:4], "jet_pt", "jet_energy"), "momenta must be in GeV"),
    "jets in MeV": (scaled(1e3, "jet_pt"), "jet_pt is .* times the pT of its particles"),
    "degrees": (scaled(180 / np.pi, "part_dphi"), "part_dphi is in degrees"),
    "beyond π": ({"part_dphi": lambda table: table["part_dphi"] + np.float32(180)}, "entry 0: part_dphi is 1"),
    "exchanged": (
        {"part_deta": lambda table: table["part_dphi"], "part_dphi": lambda table: table["part_deta"]},
        "exchange them",
    ),
}


@pytest.mark.parametrize("case", WRONG_AXES)
def test_momenta_in_mev_and_angles_in_degrees_or_exchanged_are_refused(case, tables, tmp_path):
    columns, write = tables
    changes, message = WRONG_AXES[case]
    table = columns("QCD")
    table |= {name: change(table) for name, change in changes.items()}
    with pytest.raises(SubquadError, match=message):
        read([write(tmp_path / "a.root", table)])


def test_features_of_any_unit_are_standardized_and_constants_are_only_shifted():
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-7, 1e3, 0.0]) + 3.3e-9
    x[:, 2] = 3.3
    found = Standardizer.fit(x)(x)
    torch.testing.assert_close(found.mean(0), torch.zeros(3), atol=5e-3, rtol=0)
    torch.testing.assert_close(found.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=5e-3, rtol=0)
