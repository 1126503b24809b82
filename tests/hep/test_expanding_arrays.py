"""Arrays of jets are read in parts that are small in memory."""

import numpy as np
import pytest

from subquad.hep.data import padded_arrays
from subquad.hep.data.formats import inspect_file, iterate_columns

h5py = pytest.importorskip("h5py")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("awkward")
JETS = 211


def read(path, *names):
    source = inspect_file(path, None)
    return list(iterate_columns(source, names or source.columns, 10_000))


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_jets_are_read_in_parts_that_are_small_in_memory(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(padded_arrays, "LARGEST_READ", 2**18)
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
