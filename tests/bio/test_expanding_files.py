"""Small files that would become large in memory are refused before they do; limits are small here, to be quick."""

import numpy as np
import pytest

from subquad.bio.data.embeddings import WIDEST, read_embeddings
from subquad.errors import SubquadError
from subquad.runs import unpacking

h5py = pytest.importorskip("h5py")
LIMIT = 2**16
ROWS = 211


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", LIMIT)


def error(read, *arguments, **options):
    with pytest.raises(SubquadError) as caught:
        read(*arguments, **options)
    return str(caught.value)


def embeddings(path):
    return read_embeddings(path, ["A"] * ROWS, table="t.csv")


def unwritten(path, shape, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("group/mean", shape, dtype="f4", **options)
    return path


def test_a_data_set_that_was_never_written_is_refused(tmp_path):
    path = unwritten(tmp_path / "e.h5", (ROWS, 200))
    assert error(embeddings, path).startswith(
        f"{path}: data set 'group/mean' of shape (211, 200) would become 168,800 bytes from 0 bytes in the file, more "
        "than 100 times as many"
    )
    assert error(embeddings, unwritten(tmp_path / "wide.h5", (ROWS, 10**9))).endswith(
        "has the shape (211, 1000000000); embeddings have at most 100,000 numbers: check how the file was made"
    )


def test_a_data_set_in_a_large_packed_chunk_is_refused(tmp_path):
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("mean", data=np.ones((ROWS, 7)), maxshape=(None, 7), chunks=(10**6, 7), compression=9)
    assert "a chunk of data set 'mean', of shape (1000000, 7), would become 56,000,000 bytes" in error(
        embeddings, tmp_path / "e.h5"
    )


def test_an_archive_of_zeros_is_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "e.npz", mean=np.zeros((ROWS, 2_000)))
    monkeypatch.setattr(np.lib.format, "read_array", None)
    assert f"{tmp_path}/e.npz: the array of shape (211, 2000) would become 3,376,000 bytes from" in error(
        embeddings, tmp_path / "e.npz"
    )
    np.savez_compressed(tmp_path / "wide.npz", mean=np.zeros((ROWS, WIDEST + 1), dtype=np.uint8))
    assert "embeddings have at most 100,000 numbers" in error(embeddings, tmp_path / "wide.npz")
    np.savez_compressed(tmp_path / "long.npz", mean=np.zeros((10**6, 2)))
    assert "has 1,000,000 rows, but t.csv has 211" in error(embeddings, tmp_path / "long.npz")


def test_an_array_that_is_longer_than_its_file_is_refused(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros((ROWS, 50_000), dtype=np.uint8))
    data = (tmp_path / "e.npy").read_bytes()
    (tmp_path / "e.npy").write_bytes(data[:1_000])
    assert "the array of shape (211, 50000) would become 10,550,000 bytes from 1,000 bytes" in error(
        embeddings, tmp_path / "e.npy"
    )


@pytest.mark.parametrize("write", [np.save, np.savez, np.savez_compressed])
def test_embeddings_that_are_larger_than_the_limit_are_read(tmp_path, write):
    values = np.random.default_rng(3).normal(size=(ROWS, 200)).astype(np.float32)
    assert values.nbytes > LIMIT
    path = tmp_path / ("e.npy" if write is np.save else "e.npz")
    write(path, values)
    np.testing.assert_array_equal(embeddings(path).mean, values)
