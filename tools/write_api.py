"""Write docs/api.md: all public names with the first sentence of their docstrings, read from the source.

`python tools/write_api.py` writes the page; with `--check` it exits with 1 when the page is out of date.
"""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "api.md"
START = """# Public names

The first sentence of each docstring. Arguments, shapes, units, return values and errors are in the docstrings
themselves, for example in `help(subquad.bio.fit)`. This page is written by `make api`.
"""
SECTIONS = {
    "Fields": ["subquad.bio", "subquad.llm", "subquad.hep"],
    "Operators": ["subquad.ops.*"],
    "Layers and models": ["subquad.nn.*"],
    "Training": ["subquad.train.*"],
    "Saved runs, reports, export, errors": [
        "subquad.runs.*", "subquad.reporting.*", "subquad.export", "subquad.errors", "subquad.progress", "subquad.lazy",
    ],
}  # fmt: skip
"""Modules of each section; `*` stands for every public module of a package that has public names."""


def source_of(module: str) -> Path:
    """Return the file of a module or package."""
    path = SOURCE / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def first_sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def value_of(tree: ast.Module, name: str) -> ast.expr | None:
    """Return what is assigned to a name of the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    return None


def summary_of(module: str, name: str) -> str:
    """Return the first sentence about one name; a name that is imported is looked up where it is defined."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found) if found == name:
                return first_sentence(ast.get_docstring(node))
            case ast.ImportFrom(module=str(home), names=names) if any((a.asname or a.name) == name for a in names):
                return summary_of(home, next(a.name for a in names if (a.asname or a.name) == name))
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    return first_sentence(str(after.value.value)) if is_text else f"`{ast.unparse(node.value)}`"
    raise SystemExit(f"{module}: {name} is in __all__, but nothing defines it")


def entry(module: str) -> list[str]:
    """Return the lines about one module; none where it has no public names."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    public = value_of(tree, "__all__")
    if public is None:
        return []
    # a field's package imports its names when they are first used; importing it is cheap
    homes = import_module(module)._HOMES if value_of(tree, "_HOMES") is not None else {}
    lines = [f"### `{module}`", "", first_sentence(ast.get_docstring(tree)), ""]
    for name in sorted(ast.literal_eval(public)):
        summary = summary_of(homes.get(name, module), name)
        lines.append(f"- `{name}`: {summary}" if summary else f"- `{name}`")
    return [*lines, ""]


def modules(pattern: str) -> list[str]:
    """Return the modules that a pattern of `SECTIONS` stands for."""
    if not pattern.endswith(".*"):
        return [pattern]
    package = pattern.removesuffix(".*")
    names = sorted(path.stem for path in (SOURCE / package.replace(".", "/")).glob("*.py"))
    return [f"{package}.{name}" for name in names if not name.startswith("_")]


def page() -> str:
    """Return the whole page."""
    lines = [START]
    for title, patterns in SECTIONS.items():
        lines += [f"## {title}", ""]
        for pattern in patterns:
            for module in modules(pattern):
                lines += entry(module)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE.relative_to(ROOT)} is out of date; run: make api")
