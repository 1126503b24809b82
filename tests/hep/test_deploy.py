"""An exported tagger scores jets where neither subquad nor torch can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from subquad.hep import example_path, export, predict

uproot = pytest.importorskip("uproot")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
GOLDEN, EXAMPLES = ROOT / "tests" / "golden" / "hep_tagger", ROOT / "docs" / "examples"
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "subquad"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The exported tagger, and the scores of `predict`."""
    folder = tmp_path_factory.mktemp("deployed")
    found = export(GOLDEN, out=folder / "tagger.onnx", quiet=True)
    assert found["checked"]["largest_difference"] < 1e-5
    assert found["checked"]["jets"] == 200
    scores = predict(GOLDEN, "example:jets", out=folder / "expected.root", quiet=True)
    with uproot.open(scores) as file:
        table = file["Events"].arrays(library="np")
    return folder, np.stack([table[f"score_{name}"] for name in found["metadata"]["classes"]], 1)


@pytest.fixture(scope="module")
def isolated(tmp_path_factory):
    """An environment in which torch and subquad cannot be imported."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(EXAMPLES)])}


def python(arguments, environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_neither_package_can_be_imported_in_the_environment(isolated):
    for name in ("torch", "subquad"):
        done = python(["-c", f"import {name}"], isolated)
        assert f"{name} is blocked" in done.stderr


def test_a_root_file_is_scored_as_by_predict(deployed, isolated):
    folder, expected = deployed
    out = folder / "scores.root"
    script = [EXAMPLES / "score_root_file.py", folder / "tagger.onnx", example_path("example:jets"), out]
    done = python(script, isolated)
    assert done.returncode == 0, done.stderr
    with uproot.open(out) as file:
        table = file["Events"].arrays(library="np")
    found = np.stack([table[f"score_{name}"] for name in ("QCD", "Hbb", "Tbqq")], 1)
    assert found.shape == expected.shape == (1500, 3)
    assert expected.std(0).min() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_only_tree_of_a_file_is_scored_and_one_of_several_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from score_root_file import tree_of

    assert tree_of(example_path("example:jets")) == "tree"
    column = {"x": np.ones(3, np.float32)}
    with uproot.recreate(tmp_path / "a.root") as file:
        file["Jets"] = column
    assert tree_of(tmp_path / "a.root") == "Jets"
    with uproot.update(tmp_path / "a.root") as file:
        file["Others"] = column
    with pytest.raises(SystemExit, match=r"a\.root: name one of Jets, Others at the end"):
        tree_of(tmp_path / "a.root")
    with uproot.update(tmp_path / "a.root") as file:
        file["tree"] = column
    assert tree_of(tmp_path / "a.root") == "tree"


def test_chunks_of_events_are_scored_as_by_predict(deployed, isolated):
    folder, expected = deployed
    code = f"""
import awkward as ak, numpy as np, uproot
from score_events import score_events
jets = uproot.open({str(example_path("example:jets"))!r})["tree"].arrays(entry_stop=95)
jets_per_event = np.array([2, 0, 1] * 31 + [2])
events = {{name: ak.unflatten(jets[name], jets_per_event) for name in jets.fields if name.startswith(("part", "jet"))}}
scores = score_events({str(folder / "tagger.onnx")!r}, events, batch_size=17)
assert ak.num(scores, axis=1).tolist() == jets_per_event.tolist()
np.save({str(folder / "events.npy")!r}, np.stack([ak.to_numpy(ak.flatten(scores[name])) for name in scores.fields], 1))
"""
    done = python(["-c", code], isolated)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(folder / "events.npy"), expected[:95], atol=1e-5)


def test_scores_do_not_depend_on_batch_padding_and_order(deployed):
    folder, expected = deployed
    session = onnxruntime.InferenceSession(folder / "tagger.onnx", providers=["CPUExecutionProvider"])
    with uproot.open(example_path("example:jets")) as file:
        jets = file["tree"].arrays(entry_stop=41)
    lengths, generator = ak.to_numpy(ak.num(jets["part_px"])), np.random.default_rng(5)
    for rows, places in ((np.arange(41), 140), (np.arange(3, 20), int(lengths.max())), (np.array([7]), lengths[7])):
        order = generator.permutation(places)
        inputs = {"particle_mask": (order < lengths[rows, None]).astype(np.float32)}
        for given in session.get_inputs():
            if given.name.startswith("part_"):
                # padding with a number that no particle has
                column = ak.to_numpy(ak.fill_none(ak.pad_none(jets[given.name][rows], places), 1e9))
                inputs[given.name] = column[:, order].astype(np.float32)
            elif given.name.startswith("jet_"):
                inputs[given.name] = ak.to_numpy(jets[given.name][rows]).astype(np.float32)
        (found,) = session.run(None, inputs)
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)


def test_several_threads_score_as_one(tmp_path, monkeypatch):
    """The sums over the edges of many jets are those of `predict`, whatever the number of threads."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from score_root_file import score

    about = export("example:tagger", out=tmp_path / "tagger.onnx", quiet=True)["metadata"]
    with uproot.open(predict("example:tagger", "example:jets", out=tmp_path / "scores.root", quiet=True)) as file:
        table = file["Events"].arrays(library="np")
    with uproot.open(example_path("example:jets")) as file:
        jets = file["tree"].arrays()
    expected = np.stack([table[f"score_{name}"] for name in about["classes"]], 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(tmp_path / "tagger.onnx", options, providers=["CPUExecutionProvider"])
    found = [score(session, jets[begin : begin + 32]) for begin in range(0, len(jets), 32)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)
