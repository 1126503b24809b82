"""What the source never does: unpickle, evaluate text, or run code that comes with a model.

Rules S of ruff refuse pickle, eval, exec, yaml.load and torch.load. These tests refuse what would switch the rules off,
and what ruff has no rule for.
"""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
RULES = ("S102", "S301", "S302", "S307", "S403", "S506", "S614")
"""Exec, pickle and its kin, marshal, eval, the import of pickle, yaml.load, torch.load."""
MUST_BE_FALSE = ("trust_remote_code", "allow_pickle")
REFUSED = ("joblib.load", "torch.load")


def lint():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]


def dotted(node):
    """Return the name that a call is written with, such as `torch.load`."""
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_the_rules_against_pickle_and_evaluation_are_on_for_all_of_src():
    chosen = lint()
    files = {path: own for path, own in chosen["per-file-ignores"].items() if path.startswith("src")}
    off = [*chosen["ignore"], *(rule for own in files.values() for rule in own)]
    assert "S" in chosen["select"]
    # S itself or a beginning of a rule, such as S3, switches it off too
    assert [rule for rule in RULES if any(rule.startswith(own) for own in off)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_code_from_files_is_run(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(rf"noqa(?!: )|noqa:[^#\n]*({'|'.join(RULES)})", text)
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        assert dotted(call.func) not in REFUSED, f"line {call.lineno}"
        for keyword in call.keywords:
            if keyword.arg in MUST_BE_FALSE:
                assert isinstance(keyword.value, ast.Constant), f"line {keyword.value.lineno}: {keyword.arg}"
                assert keyword.value.value is False, f"line {keyword.value.lineno}: {keyword.arg}"
