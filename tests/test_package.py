"""What pyproject.toml claims about dependencies."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
IMPORTED = {
    "biopython": "Bio",
    "huggingface-hub": "huggingface_hub",
    "lm-eval": "lm_eval",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "prometheus-client": "prometheus_client",
    "viennarna": "RNA",
}
"""Import names that differ from the names of the packages."""
USERS = re.findall(r'"([\w-]+)>=[^"]*"\]?,? +# ((?:\w+/)*\w+\.py)', TEXT)


def lower_bounds(requirements):
    found = (re.match(r"([\w.-]+)>=([\d.]+)", line) for line in requirements)
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize(("package", "module"), USERS)
def test_the_module_named_behind_a_dependency_imports_it(package, module):
    path = ROOT / ("" if module.startswith("tests/") else "src/subquad") / module
    name = IMPORTED.get(package.lower(), package)
    used = rf"\b{name}\b"
    assert re.search(used, path.read_text(encoding="utf-8")), f"{module} does not import {name}"


def test_the_oldest_versions_are_the_lower_bounds():
    """`make test-oldest` tries the bounds only if both files agree; pip would install newer versions silently."""
    pinned = re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints" / "oldest.txt").read_text(), re.MULTILINE)
    extras = PROJECT["optional-dependencies"]
    named = [
        PROJECT["dependencies"],
        *(lines for extra, lines in extras.items() if extra not in ("audit", "dev", "docs", "e2e")),
    ]
    bounds = [lower_bounds(lines) for lines in named]
    assert dict(pinned) == {name: bound for lines in bounds for name, bound in lines.items()}


def test_a_package_has_the_same_lower_bound_in_every_extra():
    bounds = {}
    for lines in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]:
        for name, bound in lower_bounds(lines).items():
            assert bounds.setdefault(name, bound) == bound, name
