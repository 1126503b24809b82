"""What the source never does: unpickle, evaluate text, or run code that comes with a model.

Rules S of ruff refuse pickle, eval, exec, yaml.load and torch.load. These tests refuse what would switch the rules off,
and what ruff has no rule for; the checks are in `support/source_safety.py`.
"""

import re
import tomllib
from pathlib import Path

import pytest
from support.source_safety import COMPUTED, faults

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "subquad"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
RULES = ("S102", "S301", "S302", "S307", "S403", "S506", "S614")
"""Exec, pickle and its kin, marshal, eval, the import of pickle, yaml.load, torch.load."""
OTHERS = ("tests/", "benchmarks/", "tools/")
"""Folders beside src, where other rules apply."""
SWITCHED_OFF = re.compile(rf"noqa(?!: )|noqa:[^#\n]*({'|'.join(RULES)})", re.IGNORECASE)


def lint():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]


def read(name):
    return SOURCES[name].read_text(encoding="utf-8")


def test_the_rules_against_pickle_and_evaluation_are_on_for_all_of_src():
    chosen = lint()
    files = {path: rules for path, rules in chosen["per-file-ignores"].items() if not path.startswith(OTHERS)}
    off = [*chosen["ignore"], *(rule for rules in files.values() for rule in rules)]
    assert "S" in chosen["select"]
    assert not {"extend-ignore", "extend-per-file-ignores", "exclude", "external"} & chosen.keys()
    # S itself or a beginning of a rule, such as S3, switches it off too
    assert [rule for rule in RULES if any(rule.startswith(start) for start in off)] == []


@pytest.mark.parametrize(
    ("comment", "is_refused"),
    [
        ("# noqa", True),
        ("# NOQA:S301", True),
        ("# noqa: E501, S307 (a reason)", True),
        ("# ruff: noqa: S614", True),
        ("# noqa: SIM118 (no mapping)", False),
    ],
)
def test_comments_that_switch_the_rules_off_are_found(comment, is_refused):
    assert bool(SWITCHED_OFF.search(f"a = 1  {comment}\n")) == is_refused


@pytest.mark.parametrize("name", SOURCES)
def test_no_code_from_files_is_run(name):
    text = read(name)
    assert not SWITCHED_OFF.search(text)
    assert faults(text, name) == []


AUTO = "from transformers import AutoModel, AutoTokenizer\n"
IMPORT = "from importlib import import_module\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import pickle", "pickle is not used here"),
        ("import skops.io", "skops.io is not used here"),
        ("from joblib import load as read", "joblib.load is not among what is used of joblib"),
        ("import joblib as j\nread = j.load", "joblib.load is not among"),
        ("from joblib import *", "imports are absolute and by name"),
        ("import torch as t\nt.load(p, weights_only=False)", "torch.load is not used here"),
        ("import pandas as pd\npd.read_pickle(p)", "pandas.read_pickle is not used here"),
        ("import yaml\nyaml.load(p, yaml.Loader)", "yaml.load is not among what is used of yaml"),
        ("import numpy as np\nnp.load(p)", "allow_pickle=False is missing"),
        ("import numpy as np\nnp.load(p, allow_pickle=chosen)", "allow_pickle must be False"),
        ("import numpy as np\nnp.load(p, **dict(allow_pickle=True))", "allow_pickle must be False"),
        ("from numpy.lib.format import read_array", "numpy.lib.format.read_array is not used here"),
        (AUTO + "AutoModel.from_pretrained(p)", "trust_remote_code=False is missing"),
        (AUTO + "AutoModel.from_config(p, trust_remote_code=settings.trust)", "trust_remote_code must be False"),
        ("def f(loader):\n    return loader.from_pretrained(p)", "trust_remote_code=False is missing"),
        ("from transformers import pipeline\npipeline('fill-mask', p)", "trust_remote_code=False is missing"),
        ("run = eval", "builtins.eval is not used here"),
        ("def f():\n    exec(text)", "builtins.exec is not used here"),
        ("import runpy\nrunpy.run_path(p)", "runpy.run_path is not used here"),
        (IMPORT + "import_module(path)", "import of path, which is no literal"),
        (IMPORT + "import_module('runpy')", "runpy is not used here"),
        ("from importlib.util import spec_from_file_location", "spec_from_file_location is not among"),
        ("from subquad.errors import require\nrequire(path, extra='bio')", "import of path, which is no literal"),
        ("from subquad.lazy import import_after\nimport_after('a', path)", "import of path, which is no literal"),
    ],
)
def test_a_source_that_could_run_code_from_a_file_is_refused(text, fault):
    assert any(fault in line for line in faults(text)), faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nnp.load(p, 'r', allow_pickle=False, **how)",
        AUTO + "AutoModel.from_pretrained(p, trust_remote_code=False, **how)",
        "from transformers import GenerationConfig\nGenerationConfig.from_pretrained(p)",
        IMPORT + "import_module('hdf5plugin')",
        "from joblib import Parallel, delayed\nfrom importlib.util import find_spec\nimport yaml\nyaml.safe_load(text)",
        "import re\nre.compile(text)\nmodel.eval()\nimport torch\ntorch.compile(model)",
    ],
)
def test_a_source_that_runs_no_code_is_accepted(text):
    assert faults(text) == []


def test_imports_of_computed_names_are_accepted_only_where_they_stand():
    text = IMPORT + "import_module(module)"
    assert faults(text, "llm/cli.py") == []
    assert faults(text, "runs/folder.py") == ["line 2: import of module, which is no literal"]
    assert {name for name, _ in COMPUTED} <= SOURCES.keys()


def test_the_tables_of_lazy_imports_name_modules_of_subquad_only():
    import subquad.bio
    import subquad.hep
    import subquad.llm

    homes = [home for field in (subquad.bio, subquad.llm, subquad.hep) for home in field._HOMES.values()]
    paths = {name: name.removeprefix("subquad.").replace(".", "/") for name in homes}
    assert [name for name, path in paths.items() if not {f"{path}.py", f"{path}/__init__.py"} & SOURCES.keys()] == []
