"""Write docs/reference/, the reference pages of the site, which git ignores: `make docs` writes them again.

The pages of the command line come from the same objects as `--help`; those of the Python API name the modules whose
docstrings mkdocstrings renders.
"""

import ast
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from cyclopts.help import HelpEntry, HelpPanel
from rich.console import Console

from subquad.cli import HelpFormatter, app

__all__ = ["commands", "pages"]

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src"
FIELDS = {"bio": "sequences", "llm": "language models", "hep": "jets"}
API = {
    "ops": ("Operators: `subquad.ops`", ["subquad.ops.*"]),
    "nn": ("Layers and models: `subquad.nn`", ["subquad.nn.*"]),
    "train": ("Training: `subquad.train`", ["subquad.train.*"]),
    "infrastructure": (
        "Saved runs, reports, export and errors",
        [
            "subquad.runs.*",
            "subquad.reporting.*",
            *(f"subquad.{name}" for name in ("export", "errors", "progress", "lazy")),
        ],
    ),
}
"""Title and modules of each page; `*` stands for every public module of a package. The fields have a page each."""
GROUPS = ("Commands", "Settings", "Classes", "Functions")
"""Headings of the page of a field."""


class _Recorder(HelpFormatter):
    """Keeps the parts of a help page in place of printing them."""

    def __init__(self) -> None:
        super().__init__()
        self.usage, self.description, self.panels = "", "", []

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Keep one group of flags."""
        if panel.entries:
            self.panels.append(panel)

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Keep the usage line."""
        self.usage = " ".join(usage.plain.split())

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Keep the paragraphs above the flags."""
        self.description = description.primary_renderable.plain.strip()


def commands(field: str) -> list[str]:
    """Return the names of the commands of one field, in the order of its help."""
    return [name for name in app[field] if not name.startswith("-")]


def pages() -> dict[str, str]:
    """Return the pages: paths below `docs/`, and Markdown."""
    found = {"reference/cli.md": _overview()}
    found |= {f"reference/cli-{field}.md": _field(field) for field in FIELDS}
    found |= {f"reference/{field}.md": _package(f"subquad.{field}") for field in FIELDS}
    for name, (title, patterns) in API.items():
        found[f"reference/{name}.md"] = _modules(
            title, [module for pattern in patterns for module in _expanded(pattern)]
        )
    return found


def _help(words: list[str]) -> _Recorder:
    recorder, before = _Recorder(), app.help_formatter
    app.help_formatter = recorder
    try:
        app.help_print(words, console=Console(width=10_000))
    finally:
        app.help_formatter = before
    return recorder


def _overview() -> str:
    lines = ["# Command line", "", "Generated from the help of the commands, which `--help` shows in the terminal.", ""]
    for field, topic in FIELDS.items():
        lines += [f"## `subquad {field}`: {topic}", "", "| command | |", "|---|---|"]
        for name in commands(field):
            summary = _markdown(_help([field, name]).description.split("\n\n")[0])
            lines.append(f"| [`{field} {name}`](cli-{field}.md#{_anchor(field, name)}) | {summary} |")
        lines.append("")
    return "\n".join([*lines, *_command(["demo"]), *_command(["app"])])


def _field(field: str) -> str:
    lines = [f"# `subquad {field}`", "", _markdown(_help([field]).description), ""]
    for name in commands(field):
        lines += _command([field, name])
    return "\n".join(lines)


def _command(words: list[str]) -> list[str]:
    shown = _help(words)
    lines = [f"## `subquad {' '.join(words)}` {{ #{_anchor(*words)} }}", "", "```text", shown.usage, "```", ""]
    for paragraph in shown.description.split("\n\n"):
        # examples are indented
        is_code = paragraph.startswith("    ")
        text = re.sub(r"^ {4}", "", paragraph, flags=re.MULTILINE)
        lines += ["```sh", text.rstrip(), "```", ""] if is_code else [_markdown(text), ""]
    for panel in shown.panels:
        lines += [f"**{panel.title}**", ""]
        for entry in panel.entries:
            lines += [*_flag(entry, words), ""]
    return lines


def _flag(entry: HelpEntry, words: list[str]) -> list[str]:
    """Return one flag or argument as an item of a definition list, with an anchor of its own."""
    label = entry.positional_label or " ".join(entry.names)
    value = f" {entry.metavar.replace('...', '…')}" if entry.metavar and not entry.positional_label else ""
    text = _markdown(entry.description.primary_renderable.plain)
    if entry.choices:
        text += f" Choices: {', '.join(f'`{choice}`' for choice in entry.choices)}."
    default = entry.default
    if default not in {None, "False", "()", "[]"}:
        listed = " ".join(re.findall(r"[^\s,'()]+", default)) if re.fullmatch(r"\(.*\)", default) else default
        text += f" Default: `{listed}`."
    if entry.required:
        text += " **Required.**"
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    return [f'<a id="{_anchor(*words)}-{name}"></a>`{label}{value}`', f":   {text}"]


def _anchor(*words: str) -> str:
    return "-".join(words)


def _markdown(text: str) -> str:
    """Return the text of a help page as one paragraph of Markdown: only its backticks are markup."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|$#])", r"\\\1", part) for part in parts)


def _tree(module: str) -> ast.Module:
    path = SOURCE / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _public(module: str) -> list[str]:
    """Return the public names of a module, sorted; it is not imported."""
    body = _tree(module).body
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return sorted(ast.literal_eval(node.value))
    definitions = (node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return sorted(name for name in definitions if not name.startswith("_"))


def _expanded(pattern: str) -> list[str]:
    """Return the modules with public names that a pattern of `API` stands for."""
    package = pattern.removesuffix(".*")
    paths = sorted((SOURCE / package.replace(".", "/")).glob("*.py")) if package != pattern else []
    names = [f"{package}.{path.stem}" for path in paths if not path.stem.startswith("_")] or [pattern]
    return [name for name in names if _public(name)]


def _modules(title: str, names: list[str]) -> str:
    """Return the page of several modules, each with its own docstring."""
    lines = [f"# {title}", ""]
    for module in names:
        lines += [f"::: {module}", "    options:", f"      members: [{', '.join(_public(module))}]", ""]
    return "\n".join(lines)


def _package(module: str) -> str:
    """Return the page of a field, whose names are defined in many modules."""
    docstring = ast.get_docstring(_tree(module)) or ""
    homes, groups = import_module(module)._HOMES, {title: [] for title in GROUPS}
    for name in _public(module):
        groups[_group(name, homes[name])].append(name)
    lines = [f"# `{module}`", "", docstring, ""]
    for title, names in groups.items():
        lines += [f"## {title}", ""] if names else []
        for name in names:
            options = ["heading_level: 3", "show_root_full_path: false"]
            lines += [f"::: {module}.{name}", "    options:", *(f"      {option}" for option in options), ""]
    return "\n".join(lines)


def _group(name: str, home: str) -> str:
    if name.endswith("Settings"):
        return "Settings"
    if name[0].isupper():
        return "Classes"
    return "Commands" if ".commands." in home else "Functions"


if __name__ == "__main__":
    # a page that is no longer made must not stay
    shutil.rmtree(DOCS / "reference", ignore_errors=True)
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
