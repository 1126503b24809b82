"""The same jets from ROOT, Parquet, HDF5 and NPZ, and the errors of files that cannot be read."""

import os
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from subquad.errors import SubquadError
from subquad.hep.data import file_chunks
from subquad.hep.data.formats import inspect_file, iterate_columns
from subquad.hep.data.jets import read


def padded(table, places=16):
    """The columns as arrays [jets, places], and the number of real particles."""
    return {
        name: ak.to_numpy(ak.fill_none(ak.pad_none(value, places, clip=True), 0)).astype(np.float32)
        if isinstance(value, ak.Array)
        else value
        for name, value in table.items()
    }


def as_parquet(path, table):
    arrays = {name: ak.to_arrow(ak.Array(value), extensionarray=False) for name, value in table.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=7)
    return path


def as_hdf5(path, table):
    with h5py.File(path, "w") as file:
        for name, value in padded(table).items():
            file[name] = value
    return path


def as_flat_hdf5(path, table):
    with h5py.File(path, "w") as file:
        for name, value in table.items():
            file[name] = ak.to_numpy(ak.flatten(value)) if isinstance(value, ak.Array) else value
        file["npart"] = ak.to_numpy(ak.num(table["part_px"]))
    return path


def as_npz(path, table):
    lengths = ak.to_numpy(ak.num(table["part_px"]))
    np.savez(path, mask=(np.arange(16) < lengths[:, None]).astype(np.float32), **padded(table))
    return path


def as_nullable_parquet(path, table):
    """As pandas and Spark write it: every column and every entry of a list may be missing."""
    pq.write_table(pa.table({name: pa.array(ak.to_list(value)) for name, value in table.items()}), path)
    return path


def as_flat_npz(path, table):
    # jet_nparticles, a real number, is the count
    values = {name: ak.Array(value) for name, value in table.items()}
    np.savez(path, **{name: ak.to_numpy(ak.flatten(value, axis=None)) for name, value in values.items()})
    return path


WRITERS = {
    **{"parquet": as_parquet, "nullable.parquet": as_nullable_parquet},
    **{"h5": as_hdf5, "flat.h5": as_flat_hdf5},
    **{"npz": as_npz, "flat.npz": as_flat_npz},
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_jets_of_root(kind, tables, tmp_path, monkeypatch):
    columns, write = tables
    table = columns("Hbb")
    expected = read([write(tmp_path / "jets.root", table)])
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", 5)
    found = read([WRITERS[kind](tmp_path / f"jets.{kind}", table)])
    assert np.array_equal(found.particles, expected.particles)
    assert np.array_equal(found.first, expected.first)
    assert np.array_equal(found.observers, expected.observers)
    assert [found.classes[i] for i in found.labels] == ["Hbb"] * 23


def test_a_file_without_a_suffix_is_known_by_its_beginning(tables, tmp_path):
    columns, write = tables
    path = write(tmp_path / "jets.root", columns("Hbb")).rename(tmp_path / "jets")
    assert len(read([path])) == 23
    (tmp_path / "text").write_text("words")
    with pytest.raises(SubquadError, match="text: is neither ROOT, Parquet, HDF5 nor NPZ"):
        read([tmp_path / "text"])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_any_format_that_is_cut_short_is_reported(kind, tables, tmp_path):
    columns, _ = tables
    path = WRITERS[kind](tmp_path / f"jets.{kind}", columns("QCD", jets=211))
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(SubquadError):
        read([cut])


def test_a_missing_value_in_parquet_is_reported_with_its_entry(tables, tmp_path):
    columns, _ = tables
    table = columns("QCD")
    values = table["jet_tau3"].tolist()
    values[6] = None
    table["jet_tau3"] = ak.Array(values)
    with pytest.raises(SubquadError, match=r"none\.parquet: entry 6: jet_tau3 has no value; drop such jets"):
        read([as_parquet(tmp_path / "none.parquet", table)])


def test_vectors_and_points_are_cut_into_columns_and_summed_to_the_jet(tmp_path):
    vectors = np.zeros((2, 4, 3), np.float32)
    vectors[0, :, 0], vectors[0, :, 1], vectors[1, :, 0] = (3, 4, 0, 5), (3, 4, 1, 9), (1, 0, 0, 1)
    mask = np.array([[[1, 1, 0]], [[1, 0, 0]]], np.float32)
    np.savez(tmp_path / "v.npz", vectors=vectors, points=vectors[:, :2], mask=mask, labels=np.array([1, 0]))
    source = inspect_file(tmp_path / "v.npz", None)
    (found,) = iterate_columns(source, ["part_pz", "part_dphi", "jet_pt", "jet_energy", "n_parts", "label"], 10)
    assert ak.to_list(found["part_pz"]) == [[0, 1], [0]]
    assert ak.to_list(found["part_dphi"]) == [[4, 4], [0]]
    assert ak.to_list(found["jet_pt"]) == [10, 1]
    assert ak.to_list(found["jet_energy"]) == [14, 1]
    assert ak.to_list(found["n_parts"]) == [2, 1]
    assert ak.to_list(found["label"]) == [1, 0]


@pytest.mark.parametrize("is_turned", [False, True])
def test_vectors_are_cut_by_a_count_whatever_the_number_of_classes(is_turned, tmp_path):
    vectors, counts = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6), [6, 2, 3]
    labels = np.eye(4)[:3]
    given = vectors.swapaxes(1, 2).copy() if is_turned else vectors
    np.savez(tmp_path / "v.npz", vectors=given, npart=np.array(counts), labels=labels)
    source = inspect_file(tmp_path / "v.npz", None)
    for names in (["part_px"], ["part_px", "part_energy", "jet_nparticles", *(f"label_{i}" for i in range(4))]):
        (found,) = iterate_columns(source, names, 10)
        assert ak.to_list(found["part_px"]) == [vectors[j, 0, :n].tolist() for j, n in enumerate(counts)]
    assert ak.to_list(found["part_energy"]) == [vectors[j, 3, :n].tolist() for j, n in enumerate(counts)]
    assert ak.to_list(found["jet_nparticles"]) == counts
    assert ak.to_list(found["label_2"]) == labels[:, 2].tolist()


def test_columns_of_particles_are_cut_by_a_count_whatever_the_number_of_classes(tmp_path):
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "p.npz", labels=np.eye(7)[:2], part_px=table, part_py=table, npart=np.array([1, 3]))
    (found,) = iterate_columns(inspect_file(tmp_path / "p.npz", None), ["part_py", "label_1"], 10)
    assert ak.to_list(found["part_py"]) == [[0], [3, 4, 5]]
    assert ak.to_list(found["label_1"]) == [0, 1]


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_numbers_of_the_other_byte_order_are_read(kind, tmp_path):
    arrays = {"part_px": np.arange(6).reshape(2, 3).astype(">f4"), "npart": np.array([1, 3]).astype(">i8")}
    path = tmp_path / f"big.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            file.update(arrays)
    (found,) = iterate_columns(inspect_file(path, None), ["part_px", "npart"], 10)
    assert ak.to_list(found["part_px"]) == [[0], [3, 4, 5]]
    assert ak.to_list(found["npart"]) == [1, 3]


def test_compound_types_of_the_other_byte_order_are_read(tmp_path):
    with h5py.File(tmp_path / "big.h5", "w") as file:
        file["jets"] = np.array([(3.0,), (4.0,)], np.dtype([("pt", ">f4")]))
        file["tracks"] = np.array([[(1.0, True), (2.0, False)]] * 2, np.dtype([("pt", ">f8"), ("valid", "?")]))
    (found,) = iterate_columns(inspect_file(tmp_path / "big.h5", None), ["jets_pt", "tracks_pt"], 10)
    assert ak.to_list(found["jets_pt"]) == [3, 4]
    assert ak.to_list(found["tracks_pt"]) == [[1], [1]]


@pytest.mark.data
def test_public_jets_in_npz_are_read():
    folder = os.environ.get("SUBQUAD_DATA")
    if not folder or not (Path(folder) / "hep" / "real").is_dir():
        pytest.skip("SUBQUAD_DATA names no folder with hep/real")
    path = Path(folder) / "hep" / "real" / "top_landscape.npz"
    (found,) = iterate_columns(inspect_file(path, None), ["part_energy", "label", "jet_pt"], 2000)
    assert 20 < ak.mean(ak.num(found["part_energy"])) < 80
    assert 500 < ak.mean(found["jet_pt"]) < 700


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_counts_that_are_not_those_of_flat_arrays_are_refused(suffix, tables, tmp_path):
    columns, _ = tables
    table = columns("Hbb")
    path = as_flat_npz(tmp_path / "flat.npz", table)
    arrays = dict(np.load(path))
    lengths = ak.to_numpy(ak.num(table["part_px"]))
    total = f"{lengths.sum():,}"
    for counts, _ in (
        (lengths.clip(max=5), rf"'part_charge' has {total} entries, and the counts in 'npart' add up to "),
        (
            lengths + 1,
            rf"'part_charge' has {total} entries, and the counts in 'npart' add up to {lengths.sum() + 23:,}",
        ),
        (-lengths, "entry 0: npart is -1; it must be the number of particles"),
        (lengths + 0.5, r"entry 0: npart is 1\.5; it must be the number of particles"),
    ):
        given = {**arrays, "npart": counts}
        bad = tmp_path / f"bad.{suffix}"
        if suffix == "npz":
            np.savez(bad, **given)
        else:
            with h5py.File(bad, "w") as file:
                for name, value in given.items():
                    file[name] = value
        with pytest.raises(SubquadError):
            read([bad])


def test_a_mask_of_another_size_is_refused(tables, tmp_path):
    columns, _ = tables
    table = columns("Hbb")
    np.savez(tmp_path / "bad.npz", mask=np.ones((23, 20)), **padded(table))
    with pytest.raises(SubquadError):
        read([tmp_path / "bad.npz"])


def test_a_column_of_records_is_refused(tables, tmp_path):
    columns, _ = tables
    table = {name: pa.array(ak.to_list(value)) for name, value in columns("Hbb").items()}
    for name, value, what in (("jet_pt", {"x": 1.0}, "one number per"), ("part_px", [{"x": 1.0}], "a list of numbers")):
        pq.write_table(pa.table({**table, name: pa.array([value] * 23)}), tmp_path / "bad.parquet")
        with pytest.raises(SubquadError, match=rf"bad\.parquet: {name} is of type .*; it must be {what}"):
            read([tmp_path / "bad.parquet"])


def test_an_array_of_particles_is_no_label_by_its_name(tmp_path):
    mask = np.arange(5) < np.array([[1], [3], [2]])
    arrays = {"labelled_hits": np.arange(15.0).reshape(3, 5), "label_QCD": np.array([[1], [0], [1]])}
    np.savez(tmp_path / "a.npz", mask=mask, **arrays)
    (found,) = iterate_columns(inspect_file(tmp_path / "a.npz", None), list(arrays), 10)
    assert ak.to_list(found["labelled_hits"]) == [[0], [5, 6, 7], [10, 11]]
    assert ak.to_list(found["label_QCD"]) == [1, 0, 1]
