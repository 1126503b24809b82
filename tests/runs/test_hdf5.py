"""An HDF5 file that names other files is refused: what someone uploads does not choose which files are read."""

import numpy as np
import pytest

from subquad.errors import SubquadError

h5py = pytest.importorskip("h5py")

SECRET = np.arange(6.0).reshape(3, 2)


def external_storage(file, secret):
    raw = secret.with_suffix(".raw")
    raw.write_bytes(SECRET.tobytes())
    file.create_dataset("mean", shape=SECRET.shape, dtype="f8", external=[(raw, 0, raw.stat().st_size)])


def virtual_dataset(file, secret):
    layout = h5py.VirtualLayout(shape=SECRET.shape, dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", shape=SECRET.shape)
    file.create_virtual_dataset("mean", layout)


def external_link(file, secret):
    file["mean"] = h5py.ExternalLink(str(secret), "/x")


def external_link_in_a_group(file, secret):
    file["own"] = SECRET
    file.create_group("mean")["a"] = h5py.ExternalLink(str(secret), "/x")


def soft_link_to_an_external_link(file, secret):
    file["mean"] = h5py.SoftLink("/there")
    file["there"] = h5py.ExternalLink(str(secret), "/x")


WRITERS = [external_storage, virtual_dataset, external_link, external_link_in_a_group, soft_link_to_an_external_link]


def read_embeddings(path):
    from subquad.bio.data.embeddings import read_embeddings

    return read_embeddings(path, ["A", "C", "D"], table="table.csv")


def read_jets(path):
    pytest.importorskip("awkward")
    from subquad.hep.data.formats import inspect_file

    return inspect_file(path, None)


@pytest.mark.parametrize("read", [read_embeddings, read_jets])
@pytest.mark.parametrize("write", WRITERS)
def test_an_hdf5_file_that_names_another_file_is_refused(write, read, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = SECRET
    with h5py.File(tmp_path / "given.h5", "w") as file:
        write(file, tmp_path / "secret.h5")
    with pytest.raises(SubquadError) as error:
        read(tmp_path / "given.h5")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'given.h5'}: ")
    assert "mean" in text or "there" in text
    assert "lies in another file, " in text
    assert "secret" in text


def test_soft_links_and_second_names_within_a_file_are_no_further_datasets(tmp_path):
    with h5py.File(tmp_path / "given.h5", "w") as file:
        file["mean"] = SECRET
        file["soft"] = h5py.SoftLink("/mean")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "given.h5").mean, SECRET)
