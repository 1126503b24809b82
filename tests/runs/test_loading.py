"""Opening any run folder."""

import json

import pytest

from subquad.errors import SubquadError
from subquad.runs.loading import LOADERS, load_run


def test_a_folder_that_subquad_did_not_write_is_refused(tmp_path):
    with pytest.raises(SubquadError, match=r"no config.json in it; give a folder that subquad wrote"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SubquadError, match="was not written by subquad"):
        load_run(tmp_path)


def test_a_kind_that_no_field_has_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"subquad": {"kind": "hpe", "format": 1}}))
    with pytest.raises(SubquadError, match="no kind of run 'hpe'; did you mean 'hep'"):
        load_run(tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
def test_every_registered_loader_exists(kind):
    from importlib import import_module

    module, function = LOADERS[kind].split(":")
    assert callable(getattr(import_module(module), function))
