"""Small files of jets that would become large in memory are refused before they do; limits are small, to be quick."""

import numpy as np
import pytest

from subquad.errors import SubquadError
from subquad.hep.data import array_files, formats, padded_arrays
from subquad.hep.data.formats import inspect_file, iterate_columns

h5py = pytest.importorskip("h5py")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("awkward")
JETS = 211


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(array_files, "LARGEST_FILE", 2**20)
    monkeypatch.setattr(array_files, "LARGEST_CHUNK", 2**20)
    monkeypatch.setattr(array_files, "MOST_ARRAYS", 7)
    monkeypatch.setattr(padded_arrays, "LARGEST_JET", 2**16)
    monkeypatch.setattr(padded_arrays, "LARGEST_READ", 2**18)
    monkeypatch.setattr(padded_arrays, "MOST_PARTICLES", 100_000)


def read(path, *names):
    source = inspect_file(path, None)
    return list(iterate_columns(source, names or source.columns, 10_000))


def error(path, *names):
    with pytest.raises(SubquadError) as caught:
        read(path, *names)
    return str(caught.value)


def test_datasets_that_were_never_written_are_refused(tmp_path):
    path = tmp_path / "jets.h5"
    with h5py.File(path, "w") as file:
        file["mask"] = np.ones((JETS, 7))
        file.create_dataset("part_px", (JETS, 10**9), dtype="f4")
    assert error(path).startswith(
        f"{path}: dataset part_px of the shape [211, 1000000000] would become 844,000,000,000 bytes from 0 bytes"
    )
    with h5py.File(path, "w") as file:
        file.create_dataset("jet_pt", (10**12,), dtype="f4")
    assert "dataset jet_pt of the shape [1000000000000] would become" in error(path)


def test_a_dataset_in_a_large_packed_chunk_is_refused(tmp_path):
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file.create_dataset("jet_pt", data=np.ones(JETS), maxshape=(None,), chunks=(10**6,), compression=9)
    assert "a chunk [1000000] of dataset jet_pt would become 8,000,000 bytes" in error(tmp_path / "jets.h5")


def test_a_jet_that_is_too_large_is_refused(tmp_path):
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file["jet_pt"] = np.ones(2)
        for name in ("mask", "part_px"):
            file.create_dataset(name, (2, 10_000), dtype="f4")
    assert error(tmp_path / "jets.h5").startswith(
        f"{tmp_path}/jets.h5: a jet has 160,008 bytes, of which 80,000 in array "
    )
    kind = np.dtype([("px", "f4"), ("valid", "?")])
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file.create_dataset("tracks", (2, 10_000), dtype=kind)
    assert "a jet has 160,000 bytes, of which 160,000 in dataset /tracks of the shape [2, 10000]" in error(
        tmp_path / "jets.h5"
    )


def test_counts_of_too_many_particles_are_refused(tmp_path):
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file["npart"] = np.array([1, 199_999, 2])
        file.create_dataset("part_px", (200_002,), dtype="f4")
    text = error(tmp_path / "jets.h5", "part_px")
    assert (
        "'npart' says 200,002 particles for 3 jets from entry 0, of which 199,999 in entry 1; at most 100,000" in text
    )


@pytest.mark.parametrize("shape", [(4,), (3, 5)])
def test_a_count_beyond_int64_is_refused(tmp_path, shape):
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file["npart"] = np.array([1, 2**64 - 1, 4], dtype=np.uint64)
        file["part_px"] = np.ones(shape)
    assert "entry 1: npart is 18446744073709551615; it must be the number of particles" in error(
        tmp_path / "jets.h5", "part_px"
    )


def test_an_archive_of_zeros_is_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MOST_EXPANDED", 200)
    np.savez_compressed(tmp_path / "jets.npz", jet_pt=np.zeros(10**6))
    assert "array 'jet_pt' of the shape [1000000] would become 8,000,000 bytes" in error(tmp_path / "jets.npz")
    np.savez_compressed(tmp_path / "jets.npz", *np.zeros((8, 2)))
    assert f"{tmp_path}/jets.npz: has 8 arrays; 7 can be read" in error(tmp_path / "jets.npz")


def test_parquet_of_repeated_values_is_refused_or_read_in_parts(tmp_path, monkeypatch):
    parquet, path = pytest.importorskip("pyarrow.parquet"), tmp_path / "jets.parquet"
    particles = pyarrow.FixedSizeListArray.from_arrays(np.ones(JETS * 400), 400)
    parquet.write_table(pyarrow.table({"part.px": particles, "other": particles, "jet_pt": np.ones(JETS)}), path)
    assert [len(part["jet_pt"]) for part in read(path, "jet_pt", "part.px")] == [81, 81, 49]
    monkeypatch.setattr(formats, "LARGEST_FILE", 2**18)
    monkeypatch.setattr(formats, "MOST_EXPANDED", 1)
    assert error(path, "part.px").startswith(f"{path}: a group of rows would become 675,200 bytes from ")
    assert len(read(path, "jet_pt")) == 1


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_jets_are_read_in_parts_that_are_small_in_memory(tmp_path, ending):
    path, random = tmp_path / f"jets{ending}", np.random.default_rng(3)
    arrays = {"mask": np.ones((JETS, 400)), "part_px": random.normal(size=(JETS, 400)), "jet_pt": np.arange(JETS)}
    if ending == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            file.update(arrays)
    parts = read(path, "part_px", "jet_pt")
    assert [len(part["jet_pt"]) for part in parts] == [40] * 5 + [11]
    np.testing.assert_array_equal(np.concatenate([part["jet_pt"] for part in parts]), arrays["jet_pt"])
    np.testing.assert_array_equal(np.concatenate([part["part_px"] for part in parts]), arrays["part_px"])
    kind = np.dtype([("px", "f4"), ("valid", "?")])
    with h5py.File(tmp_path / "tracks.h5", "w") as file:
        file["tracks"] = np.ones((JETS, 400), dtype=kind)
    assert [len(part["tracks_px"]) for part in read(tmp_path / "tracks.h5", "tracks_px")] == [40] * 5 + [11]
