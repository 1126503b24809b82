"""Remote files by fsspec's file system in memory: names, formats, fingerprints and errors, without a network."""

import json

import awkward as ak
import numpy as np
import pytest

from subquad.hep import FitSettings, fit, read
from subquad.hep.data.formats import expand_files, inspect_file, iterate_columns
from subquad.hep.data.remote import is_remote

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def remote():
    """A folder in memory, and the function that puts a local file there."""
    memory = fsspec.filesystem("memory")

    def put(path, name=None):
        memory.pipe(f"/jets/{name or path.name}", path.read_bytes())
        return f"memory://jets/{name or path.name}"

    yield put
    memory.rm("/jets", recursive=True)


def test_a_url_is_told_from_a_path_and_from_a_sample():
    for url in ("root://eos.cern.ch//jets.root", "https://zenodo.org/jets.h5", "memory://a.root"):
        assert is_remote(url)
    for name in ("jets/a.root", "QCD:root://host//a.root", "a.root:tree", "://a.root"):
        assert not is_remote(name)


def test_remote_jets_are_those_of_the_local_file(jets, remote):
    urls = [remote(path) for path in jets]
    expected = read(jets)
    for given in (urls, "memory://jets/*.root", "memory://jets", [f"{url}:tree" for url in urls], f"QCD:{urls[0]}"):
        found = read(given)
        rows = slice(47) if isinstance(given, str) and given.startswith("QCD") else slice(None)
        labels = np.sort(expected.class_names[rows])
        assert np.sort(found.class_names).tolist() == labels.tolist()
    found = read(urls)
    np.testing.assert_array_equal(found.particles, expected.particles)
    np.testing.assert_array_equal(found.observers, expected.observers)


@pytest.mark.parametrize("suffix", ["parquet", "h5", "npz"])
def test_every_format_is_read_from_a_url(suffix, remote, tmp_path):
    path = tmp_path / f"a.{suffix}"
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    if suffix == "parquet":
        ak.to_parquet(ak.Array({"x": values, "label": np.arange(5)}), path)
    elif suffix == "npz":
        np.savez(path, x=values, label=np.arange(5), mask=np.ones((5, 3), bool))
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["x"], file["label"], file["mask"] = values, np.arange(5), np.ones((5, 3), bool)
    (url,) = expand_files(remote(path))
    source = inspect_file(url, None)
    assert source.entries == 5
    chunks = list(iterate_columns(source, ["x", "label"], 2))
    assert [len(chunk["x"]) for chunk in chunks] == [2, 2, 1]
    assert ak.to_list(ak.concatenate([chunk["x"] for chunk in chunks])) == values.tolist()


@pytest.mark.long
def test_a_fit_on_remote_files_keeps_their_urls(jets, remote, tmp_path):
    for path in jets:
        remote(path)
    settings = FitSettings(preset="standard", epochs=1, no_boosting=True)
    fit("memory://jets/*.root:tree", settings, out=tmp_path / "run", quiet=True)
    files = json.loads((tmp_path / "run" / "config.json").read_text())["files"]
    assert sorted(files) == sorted(f"memory:///jets/{path.name}:tree" for path in jets)
