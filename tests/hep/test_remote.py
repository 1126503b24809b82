"""Remote files by fsspec's file system in memory: names, formats, fingerprints and errors, without a network."""

import importlib.util
import json

import awkward as ak
import numpy as np
import pytest

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, read
from subquad.hep.data.formats import expand_files, file_of, inspect_file, iterate_columns
from subquad.hep.data.remote import RemotePath, is_remote

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


def test_names_of_remote_files_stay_urls(jets, remote):
    url = remote(jets[0])
    (path,) = expand_files(f"{url}:tree")
    assert isinstance(path, RemotePath)
    assert (str(path), str(file_of(path)), file_of(path).name) == (f"{url}:tree", url, "QCD.root")
    assert inspect_file(path, None).entries == 47
    with pytest.raises(SubquadError, match=r"memory://jets/QCD\.root: no tree 'Jets' in it"):
        read(f"{url}:Jets")
    # a file without the ending of its format is recognized by its content
    assert len(read(remote(jets[0], "download"))) == 47


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


def test_what_cannot_be_read_is_named_with_the_remedy(remote, jets, capsys, tmp_path):
    remote(jets[0])
    with pytest.raises(SubquadError) as caught:
        expand_files(["memory://jets/none.root", "memory://jets/*.h5", "nowhere://a.root", "none.root"])
    text = str(caught.value)
    assert "memory://jets/none.root: no such file, folder with files of jets" in text
    assert "memory://jets/*.h5: no such file" in text
    assert "nowhere://a.root: cannot be read (Protocol not known: nowhere); copy the file first" in text
    assert "none.root: no such file; searched in" in text
    if importlib.util.find_spec("fsspec_xrootd") is None:
        assert main(["hep", "fit", "root://eos.cern.ch//jets.root", "--out", str(tmp_path / "run")]) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert (
            "root://eos.cern.ch//jets.root: the package for root:// is not installed; install it with: pip" in printed
        )
        assert "pip install fsspec-xrootd" in printed
    fsspec.filesystem("memory").pipe("/jets/bad.root", b"root, but nothing else")
    with pytest.raises(
        SubquadError, match=r"memory://jets/bad\.root: is not a ROOT file, or is damaged.* give the copy"
    ):
        read("memory://jets/bad.root")


class XrootdLike(fsspec.get_filesystem_class("memory")):
    """What differs in fsspec-xrootd 0.5: names without folders, and errors that only `exists` raises."""

    protocol = "xrootdlike"
    is_down = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("xrootdlike://"))

    def ls(self, path, detail=True, **_):
        entries = super().ls(path, detail=True)
        return entries if detail else [entry["name"].rpartition("/")[2] for entry in entries]

    def exists(self, path, **_):
        if self.is_down:
            raise OSError("Failed to submit request: [FATAL] Connection error")
        return super().exists(path)

    def isfile(self, path):
        return not self.is_down and super().isfile(path)

    def isdir(self, path):
        return not self.is_down and super().isdir(path)

    def glob(self, path, **arguments):
        return [] if self.is_down else super().glob(path, **arguments)


def test_a_server_that_lists_names_alone_is_read_and_one_that_is_down_is_not_an_empty_folder(remote, jets, monkeypatch):
    fsspec.register_implementation("xrootdlike", XrootdLike, clobber=True)
    for path in jets:
        remote(path)
    expected = sorted(f"xrootdlike:///jets/{path.name}" for path in jets)
    assert [path.url for path in expand_files("xrootdlike://jets")] == expected
    monkeypatch.setattr(XrootdLike, "is_down", True)
    for url in ("xrootdlike://jets", "xrootdlike://jets/*.root", f"xrootdlike://jets/{jets[0].name}"):
        with pytest.raises(SubquadError, match=r"cannot be reached .*Connection error.*check the address"):
            expand_files(url)
