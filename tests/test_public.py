"""Public names can be imported, and nothing heavy is imported before it is needed."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["subquad.bio", "subquad.llm", "subquad.hep"])
def test_the_public_names_of_a_field_can_be_imported(name):
    """Ruff checks `__all__` elsewhere (F822); these names are resolved when they are first used."""
    module = importlib.import_module(name)
    for public in module.__all__:
        assert hasattr(module, public), public


def test_importing_the_fields_imports_nothing_heavy():
    heavy = {"torch", "pandas", "transformers", "uproot", "numpy"}
    code = f"import sys, subquad.bio, subquad.llm, subquad.hep; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_commands_that_read_no_weights_start_without_torch():
    names = ["bio.commands.bench", "bio.commands.guides", "bio.commands.report", "hep.commands.simulate"]
    code = f"import sys, {', '.join(f'subquad.{name}' for name in names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.long
def test_operators_need_torch_and_jaxtyping_only():
    code = (
        "import importlib, pkgutil, sys\n"
        "import subquad.nn, subquad.ops\n"
        "for package in (subquad.ops, subquad.nn):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'pandas', 'sklearn', 'transformers', 'uproot', 'accelerate', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
