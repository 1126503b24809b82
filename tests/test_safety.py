"""What the source never does: unpickle, evaluate text, or run code that comes with a model.

Rules S of ruff refuse pickle, eval, exec, yaml.load and torch.load. These tests refuse what would switch the rules off,
and what ruff has no rule for; the checks are in `support/source_safety.py`.
"""

import re
import tomllib
from pathlib import Path

import pytest
from support.source_safety import COMPUTED, faults, names_of_modules

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "subquad"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
RULES = ("S102", "S301", "S302", "S307", "S403", "S506", "S614")
"""Exec, pickle and its kin, marshal, eval, the import of pickle, yaml.load, torch.load."""
OTHERS = ("tests/", "benchmarks/", "tools/", "notebooks/")
"""Folders beside src, where other rules apply."""
SWITCHED_OFF = re.compile(rf"noqa(?!: )|noqa:[^#\n]*({'|'.join(RULES)})", re.IGNORECASE)


def lint():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]


def read(name):
    return SOURCES[name].read_text(encoding="utf-8")


def test_the_rules_against_pickle_and_evaluation_are_on_for_all_of_src():
    chosen = lint()
    files = {path: own for path, own in chosen["per-file-ignores"].items() if not path.startswith(OTHERS)}
    off = [*chosen["ignore"], *(rule for own in files.values() for rule in own)]
    assert "S" in chosen["select"]
    assert not {"extend-ignore", "extend-per-file-ignores", "exclude", "external"} & chosen.keys()
    # S itself or a beginning of a rule, such as S3, switches it off too
    assert [rule for rule in RULES if any(rule.startswith(own) for own in off)] == []


@pytest.mark.parametrize(
    ("comment", "is_refused"),
    [
        ("# noqa", True),
        ("# NOQA: S301", True),
        ("# noqa:S301", True),
        ("# noqa: E501, S307 (a reason)", True),
        ("# ruff: noqa", True),
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


AUTO = "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # unpickling
        ("import pickle", "pickle is not used here"),
        ("import skops.io", "skops.io is not used here"),
        ("from joblib import load", "joblib.load is not among what is used of joblib"),
        ("from joblib import load as read\nread(p)", "joblib.load is not among"),
        ("import joblib\njoblib.load(p)", "joblib.load is not among"),
        ("import joblib as j\nj.load(p)", "joblib.load is not among"),
        ("import joblib\nread = joblib.load", "joblib.load is not among"),
        ("import joblib\nj = joblib", "joblib is not among"),
        ("import joblib.numpy_pickle as n\nn.load(p)", "joblib.numpy_pickle is not among"),
        ("from joblib import *", "imports are absolute and by name"),
        ("from importlib import import_module\nimport_module('joblib').load(p)", "joblib.load is not among"),
        ("from subquad.errors import require\nrequire('joblib', extra='bio').load(p)", "joblib.load is not among"),
        ("import sys\nsys.modules['joblib'].load(p)", "joblib.load is not among"),
        ("import torch\ntorch.load(p, weights_only=False)", "torch.load is not used here"),
        ("from torch import load, nn", "torch.load is not used here"),
        ("import torch as t\nt.hub.load(p)", "torch.hub.load is not used here"),
        ("import pandas as pd\npd.read_pickle(p)", "pandas.read_pickle is not used here"),
        ("import yaml\nyaml.load(p, yaml.Loader)", "yaml.load is not among what is used of yaml"),
        ("from yaml import unsafe_load", "yaml.unsafe_load is not among"),
        # arrays
        ("import numpy as np\nnp.load(p, None, True)", "arguments by place that could be another one"),
        ("import numpy as np\nnp.load(p, None, True, allow_pickle=False)", "arguments by place"),
        ("import numpy as np\nnp.load(*p, allow_pickle=False)", "arguments by place"),
        ("import numpy as np\nnp.load(p)", "allow_pickle=False is missing"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "allow_pickle must be False"),
        ("import numpy as np\nnp.load(p, allow_pickle=chosen)", "allow_pickle must be False"),
        ("import numpy as np\nnp.load(p, **{'allow_pickle': True})", "'allow_pickle' as a text"),
        ("import numpy as np\nnp.load(p, **dict(allow_pickle=True))", "allow_pickle must be False"),
        ("import numpy as np\nnp.load(p, **{'mmap_mode': None}, allow_pickle=False)", "** with anything but a name"),
        ("import numpy as np\nnp.load(p, **how)", "allow_pickle=False is missing"),
        ("import numpy as np\nnp.save(p, x, True)", "arguments by place"),
        ("import numpy as np\nmap(np.load, files)", "numpy.load is called where it is named"),
        ("import numpy as np\nn = np\nn.load(p)", "allow_pickle=False is missing"),
        ("import numpy as np\ngetattr(np, 'load')(p)", "allow_pickle=False is missing"),
        ("import numpy as np\nnp.__dict__['load'](p)", "allow_pickle=False is missing"),
        ("from numpy import load\nload(p)", "allow_pickle=False is missing"),
        ("from numpy.lib.format import read_array", "numpy.lib.format.read_array is not used here"),
        # code of checkpoints
        (AUTO + "AutoModel.from_pretrained(p)", "trust_remote_code=False is missing"),
        (AUTO + "AutoModel.from_pretrained(p, trust_remote_code=True)", "trust_remote_code must be False"),
        (AUTO + "AutoModel.from_pretrained(p, trust_remote_code=settings.trust)", "trust_remote_code must be False"),
        (AUTO + "AutoModel.from_pretrained(p, **{'trust_remote_code': True})", "'trust_remote_code' as a text"),
        (AUTO + "AutoModel.from_pretrained(p, **dict(trust_remote_code=True))", "trust_remote_code must be False"),
        (AUTO + "AutoModel.from_pretrained(p, **how)", "trust_remote_code=False is missing"),
        (AUTO + "how['trust_remote_code'] = True", "'trust_remote_code' as a text"),
        (AUTO + "AutoModel.from_pretrained(*p, trust_remote_code=False)", "arguments by place"),
        (AUTO + "AutoModelForCausalLM.from_config(c)", "trust_remote_code=False is missing"),
        (AUTO + "load = AutoTokenizer.from_pretrained\nload(p)", ".from_pretrained is called where it is named"),
        (AUTO + "getattr(AutoTokenizer, 'from_pretrained')(p)", "'from_pretrained' as a text"),
        ("def f(loader):\n    return loader.from_pretrained(p)", "trust_remote_code=False is missing"),
        ("from transformers import pipeline\npipeline('fill-mask', p)", "trust_remote_code=False is missing"),
        ("from transformers.dynamic_module_utils import get_class_from_dynamic_module", "is not used here"),
        # evaluation of text, and imports of other modules
        ("eval(text)", "builtins.eval is not used here"),
        ("run = exec", "builtins.exec is not used here"),
        ("import builtins\nbuiltins.exec(text)", "builtins.exec is not used here"),
        ("compile(text, p, 'exec')", "builtins.compile is not used here"),
        ("__import__(name)", "builtins.__import__ is not used here"),
        ("import runpy\nrunpy.run_path(p)", "runpy.run_path is not used here"),
        ("from runpy import run_path", "runpy.run_path is not used here"),
        (
            "import importlib\nimportlib.import_module(path)",
            "import of path, which is neither a literal nor in a table",
        ),
        ("from importlib import import_module as find\nfind(path)", "import of path, which is neither"),
        ("from importlib import import_module\nimport_module(name=path)", "is not the first argument"),
        ("from importlib import import_module\nmap(import_module, names)", "importlib.import_module is called where"),
        ("from importlib import import_module\nimport_module('runpy').run_path(p)", "runpy is not used here"),
        ("from importlib import import_module\nfor name in names:\n    import_module(name)", "import of name, which"),
        (
            "from importlib import import_module\nfor name in ('a',):\n    name = path\n    import_module(name)",
            "import of name, which is neither a literal nor in a table",
        ),
        ("from importlib.util import spec_from_file_location", "spec_from_file_location is not among"),
        ("import importlib.machinery as m\nm.SourceFileLoader('a', p)", "SourceFileLoader is not among"),
        ("from subquad.errors import require\nrequire(path, extra='bio')", "import of path, which is neither"),
        ("from subquad.lazy import import_after\nimport_after('a', path)", "import of path, which is neither"),
        ("from subquad.lazy import lazy_names\nlazy_names(__name__, read(p))", "lazy_names takes __name__ and _HOMES"),
    ],
)
def test_a_source_that_could_run_code_from_a_file_is_refused(text, fault):
    assert any(fault in line for line in faults(text)), faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nnp.load(p, allow_pickle=False)\nnp.load(p, 'r', allow_pickle=False, **how)",
        AUTO + "AutoModel.from_pretrained(p, trust_remote_code=False, **how)",
        "from transformers import GenerationConfig\nGenerationConfig.from_pretrained(p)",
        "'trust_remote_code' in str(error)",
        "from importlib import import_module\nimport_module('hdf5plugin')\nimport_module(type(layer).__module__)",
        "from subquad.errors import require\nfor name in ('onnx', 'onnxruntime'):\n    require(name, extra='export')",
        "from joblib import Parallel, delayed\nfrom importlib.util import find_spec\nimport yaml\nyaml.safe_load(text)",
        "import re\nre.compile(text)\nmodel.eval()\ntorch.compile(model)",
    ],
)
def test_a_source_that_runs_no_code_is_accepted(text):
    assert faults(text) == []


def test_imports_of_computed_names_are_accepted_only_where_they_stand():
    text = "from importlib import import_module\nmodule, function = LOADERS[name].split(':')\nimport_module(module)"
    assert faults(text, "runs/examples.py") == []
    assert faults(text, "runs/folder.py") == [
        "line 3: import of module, which is neither a literal nor in a table of the project"
    ]
    assert faults(text.replace("LOADERS[name]", "path"), "runs/examples.py") != []
    assert {name for name, _ in COMPUTED} <= SOURCES.keys()


def test_the_tables_of_lazy_imports_name_modules_of_subquad_only():
    import subquad.bio
    import subquad.hep
    import subquad.llm

    fields = (subquad.bio, subquad.llm, subquad.hep)
    assert [name for name in SOURCES if "lazy_names(__name__" in read(name)] == [
        "bio/__init__.py",
        "hep/__init__.py",
        "llm/__init__.py",
    ]
    loaders = names_of_modules(read("runs/examples.py"), "LOADERS")
    assert loaders
    names = {home for field in fields for home in field._HOMES.values()}
    names |= {name.partition(":")[0] for name in loaders}
    paths = {name: name.removeprefix("subquad.").replace(".", "/") for name in names}
    assert [name for name, path in paths.items() if not {f"{path}.py", f"{path}/__init__.py"} & SOURCES.keys()] == []
