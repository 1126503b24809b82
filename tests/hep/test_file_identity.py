"""Files that a tagger was fitted to are recognized by their content."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from subquad.hep.data.file_identity import digests_of, joined_digests, training_note, training_paths

from subquad.errors import SubquadError
from subquad.hep import FitSettings
from subquad.hep.commands.fit import fit
from subquad.hep.data import file_identity
from subquad.hep.data.examples import example_path
from subquad.hep.data.fit_files import fit_files
from subquad.hep.data.preparation import source_of
from subquad.hep.metrics.predictions import Predictions
from subquad.hep.models.presets import net_settings


def test_copies_and_links_are_recognized_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "a.root").write_bytes(b"jets")
    config = {"digests": digests_of([tmp_path / "a.root"])}
    shutil.copy(tmp_path / "a.root", tmp_path / "copy.root")
    os.link(tmp_path / "a.root", tmp_path / "link.root")
    (tmp_path / "other.root").write_bytes(b"jots")
    monkeypatch.chdir(tmp_path)
    files = [Path("copy.root:tree"), Path("link.root"), Path("other.root")]
    assert training_paths(config, files) == files[:2]
    # another tree of the file has other jets
    named = {"digests": digests_of([Path("copy.root:train")])}
    assert training_paths(named, [Path("link.root:test"), Path("link.root:train"), Path("a.root")]) == [
        Path("link.root:train"),
        Path("a.root"),
    ]
    # a training file that was replaced is not one any more
    (tmp_path / "a.root").write_bytes(b"new!")
    assert training_paths(config, [Path("a.root")]) == []


def test_files_of_other_sizes_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.root").write_bytes(b"jets")
    (tmp_path / "large.root").write_bytes(b"many jets")
    config = {"digests": digests_of([tmp_path / "a.root"])}
    monkeypatch.setattr(file_identity, "fingerprint", lambda file: pytest.fail(f"{file} is read"))
    assert training_paths(config, [tmp_path / "large.root"]) == []
    assert training_note("run", {}, [tmp_path / "large.root"], remedy="") is None


def test_the_note_names_the_files_and_what_to_do(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.root").write_text(name)
    files = sorted(tmp_path.iterdir())
    config = {"digests": digests_of(files[:4])}
    assert training_note("run", config, files, remedy="use others") == (
        "run was trained on jets of 4 of the 5 files (a.root, b.root, c.root, …), so results are biased upwards; use "
        "others."
    )
    marked = training_note("run", {**config, "is_marked": True}, files[:1], remedy="use others")
    assert "was trained on jets of a.root: on those that the files mark for training" in marked


def test_a_copy_of_a_training_file_is_not_tested_on(tmp_path):
    copy = tmp_path / "renamed.root"
    shutil.copy(example_path(), copy)
    with pytest.raises(SubquadError, match=r"--test: .*renamed\.root is also among the files to fit on \(as .*small"):
        fit("example:jets", test=[copy], out=tmp_path / "run", quiet=True)


def test_what_is_fitted_on_does_not_depend_on_where_it_is(tmp_path):
    copy, other = tmp_path / "renamed.root", tmp_path / "other.root"
    shutil.copy(example_path(), copy)
    other.write_bytes(copy.read_bytes() + b"more")
    settings = FitSettings(preset="standard")
    first, second, third = (
        source_of(fit_files(path), net_settings(settings), settings).data for path in (example_path(), copy, other)
    )
    assert first == second != third


def test_a_copy_among_the_files_to_fit_on_is_refused(tmp_path):
    copy = tmp_path / "renamed.root"
    shutil.copy(example_path(), copy)
    with pytest.raises(SubquadError, match=r"renamed\.root: has the same jets as .*small.*; omit one"):
        fit([example_path(), copy], out=tmp_path / "run", quiet=True)


def test_jets_are_compared_by_their_momenta_and_not_by_their_labels_alone():
    random = np.random.default_rng(0)
    labels, pt = np.repeat([0, 1], 20), random.uniform(500, 1000, 40)
    values = {"model": "m", "source": "s", "probabilities": np.full((40, 2), 0.5), "labels": labels}
    one, same = Predictions(**values, pt=pt), Predictions(**values, pt=pt.astype(np.float32).astype(float))
    assert one.is_on_jets_of(same)
    assert not one.is_on_jets_of(Predictions(**values, pt=pt[::-1]))
    # without common observers the labels decide
    assert one.is_on_jets_of(Predictions(**values, multiplicity=pt))
    # taggers that take at most so many particles of a jet count no more
    counts = random.integers(10, 90, 40)
    longer, shorter = (Predictions(**values, multiplicity=np.minimum(counts, most)) for most in (128, 40))
    assert longer.is_on_jets_of(shorter)
    assert not longer.is_on_jets_of(Predictions(**values, multiplicity=counts[::-1]))
    assert Predictions(**values, pt=pt, multiplicity=counts).is_on_jets_of(
        Predictions(**values, pt=pt, multiplicity=labels)
    )
    assert not one.is_on_jets_of(Predictions(**{**values, "labels": 1 - labels}, pt=pt))


def test_jets_of_another_fit_under_the_same_name_are_remembered():
    joined = joined_digests(
        {"a.root": "4-new", "b.root": "4-b"}, {"a.root": "4-old", "b.root": "4-b", "c": "4-c"}, "run"
    )
    assert joined == {"a.root of run": "4-old", "b.root": "4-b", "c": "4-c", "a.root": "4-new"}
