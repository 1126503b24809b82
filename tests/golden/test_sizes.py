"""Sizes in `config.json` that are not those of the weights are refused before memory is reserved for them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.weights import accept_changes

from subquad.bio.models.fitted import load_networks
from subquad.bio.models.networks import NetworkEnsemble
from subquad.errors import SubquadError
from subquad.hep.models import trained

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 10**7, "embed.0.weight should have the shape (10000000, 19), and has (16, 19) in the weights"),
        ("layers", 10**7, "net.layers is 10,000,000, and there are 35 tensors of weights"),
        ("layers", 3, "the weights lack blocks.2"),
        ("pool_heads", 10**12, "attend.score.weight should have the shape (1000000000000, 16)"),
    ],
)
def test_a_tagger_with_other_sizes_is_refused(name, value, message, tmp_path):
    folder = with_net(tmp_path, name, value)
    with pytest.raises(SubquadError, match=f"its config.json is damaged .*{re.escape(message)}"):
        trained.load(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", None, "k must be an integer, got null"),
        ("k", True, "k must be an integer, got true"),
        ("k", 0, "k cannot be 0"),
        ("max_particles", -1, "max_particles cannot be -1"),
        ("dropout", 1.5, "dropout cannot be 1.5"),
        ("dropout", "x", 'dropout must be a number, got "x"'),
        ("graph", "momenta", 'graph must be "features" or "angles", got "momenta"'),
        ("has_jet_features", 1, "has_jet_features must be true or false, got 1"),
    ],
)
def test_a_tagger_with_settings_that_do_not_exist_is_refused(name, value, message, tmp_path):
    folder = with_net(tmp_path, name, value)
    with pytest.raises(SubquadError) as error:
        trained.load(folder)
    damage = "the file is damaged or was written by another tool; fit again, or copy the whole folder again"
    assert str(error.value) == f"{folder}/config.json: net: {message}; {damage}"


def test_a_tagger_without_settings_of_the_network_is_refused(tmp_path):
    with pytest.raises(SubquadError, match=r"config.json: net: must be an object with kind \("):
        trained.load(with_net(tmp_path, None, []))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("digests", {"a.root": {}}, ": digests: a.root must be a string, got {}"),
        ("digests", None, ": digests must be an object, got null"),
        ("temperature", "warm", ': temperature must be a number, got "warm"'),
        ("files", ["a.root", 3], ": files[1] must be a string, got 3"),
        ("classes", ["QCD", "Hbb", "\ud800"], ': the name "\\ud800" contains half a character'),
        ("targets", {"\ud800": {"center": 0.0, "scale": 1.0}}, ': the name "\\ud800" contains half a character'),
    ],
)
def test_a_tagger_with_entries_of_other_types_is_refused(name, value, message, tmp_path):
    folder = with_entries(tmp_path, lambda config: {name: value})
    with pytest.raises(SubquadError) as error:
        trained.load(folder)
    assert f"{folder}/config.json{message}; the file is damaged" in str(error.value)


def with_net(folder, name, value):
    """Return a copy of a tagger with another setting of its network, or with other settings."""
    return with_entries(folder, lambda config: {"net": value if name is None else {**config["net"], name: value}})


def with_entries(folder, change):
    folder = shutil.copytree(HERE / "hep_tagger", folder / "copy")
    config = json.loads((folder / "config.json").read_text())
    config |= change(config)
    (folder / "config.json").write_text(json.dumps(config))
    accept_changes(folder)
    return folder


@pytest.mark.parametrize("name", ["positions", "letters", "features", "vectors", "outputs"])
def test_a_network_of_sequences_with_other_sizes_is_refused(name):
    config = json.loads((HERE / "bio_model" / "config.json").read_text())
    ensemble = load_networks(HERE / "bio_model", config)["lyra"]
    values = replace(ensemble, spec=replace(ensemble.spec, **{name: 10**12})).as_dict()
    with pytest.raises(
        ValueError, match=r"should have the shape \(.*0000000.*\), and has \(.*\) in the weights|lack|reads 1000"
    ):
        NetworkEnsemble.from_dict(values, ensemble.tensors())
