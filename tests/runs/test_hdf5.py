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
    assert "lies in another file" in text


@pytest.mark.parametrize("write", [external_storage, virtual_dataset, external_link, external_link_in_a_group])
def test_what_lies_in_another_file_and_is_not_used_is_no_error(write, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = SECRET
    with h5py.File(tmp_path / "given.h5", "w") as file:
        write(file, tmp_path / "secret.h5")
        file["own"] = SECRET[:, 0]
    found = read_jets(tmp_path / "given.h5")
    assert found.columns == ("own",)
    (name,) = found.refused
    assert name.startswith("mean")
    assert found.refused[name].startswith("it lies in another file")


def test_columns_of_a_virtual_dataset_are_refused_where_they_are_used(tmp_path):
    jets = np.zeros(3, dtype=[("pt", "f4"), ("eta", "f4")])
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["jets"] = jets
    with h5py.File(tmp_path / "given.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=jets.shape, dtype=jets.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "part.h5"), "jets", shape=jets.shape)
        file.create_virtual_dataset("more", layout)
        file["jets"] = jets
    found = read_jets(tmp_path / "given.h5")
    assert found.columns == ("jets_pt", "jets_eta")
    assert {"more", "more_pt", "more_eta"} == set(found.refused)


@pytest.mark.parametrize("name", ["mask", "npart"])
def test_a_mask_or_count_in_another_file_is_not_left_out(name, tmp_path):
    with h5py.File(tmp_path / "given.h5", "w") as file:
        file["vectors"] = np.ones((3, 4, 5))
        file[name] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(SubquadError, match=rf"given\.h5: {name}: it lies in another file"):
        read_jets(tmp_path / "given.h5")


def test_soft_links_and_second_names_within_a_file_are_no_further_datasets(tmp_path):
    with h5py.File(tmp_path / "given.h5", "w") as file:
        file["mean"] = SECRET
        file["soft"] = h5py.SoftLink("/mean")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "given.h5").mean, SECRET)


@pytest.mark.parametrize("read", [read_embeddings, read_jets])
def test_a_head_that_is_cut_short_is_refused_with_the_name_of_the_file(read, tmp_path):
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["mean"] = SECRET
    content = (tmp_path / "whole.h5").read_bytes()
    for size in (1, 8, 9, 13, 14, 50, 60):
        (tmp_path / "given.h5").write_bytes(content[:size])
        with pytest.raises(SubquadError, match=r"given\.h5: cannot be read"):
            read(tmp_path / "given.h5")


def test_a_file_of_the_newest_layout_is_read(tmp_path):
    with h5py.File(tmp_path / "given.h5", "w", libver="latest") as file:
        file["mean"] = SECRET
    np.testing.assert_array_equal(read_embeddings(tmp_path / "given.h5").mean, SECRET)
