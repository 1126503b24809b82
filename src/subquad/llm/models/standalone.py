"""The code of a linearized model beside its weights, so that transformers opens the folder without subquad.

A folder with it opens by `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. It holds the modules
of subquad that the model's class needs, under flat names and otherwise unchanged, since transformers copies such code
file by file. jaxtyping and cyclopts, which they use for annotations only, are replaced.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from transformers.modeling_utils import PreTrainedModel

from subquad import __version__

SOURCE = Path(__file__).parents[3]
ENTRY = "modeling_subquad"
ROOT = "subquad.llm.models.convert"
SHAPES, FLAGS = "subquad_shapes", "subquad_flags"
OTHERS = {"jaxtyping": SHAPES, "cyclopts": FLAGS}
"""Packages that are replaced: name → module in their place."""
STUBS = {
    FLAGS: '''"""Flags, which only the command line has."""


class Group:
    """A group of flags, or a flag."""

    def __init__(self, *given, **how):
        """Keep nothing."""


Parameter = Group
''',
    SHAPES: '''"""Shapes in annotations, which only subquad's tests check."""


class Float:
    """A tensor of floating-point numbers."""

    def __class_getitem__(cls, item):
        """Return the type without its shape."""
        return item[0]


Bool = Int = Float
''',
}
"""Modules that stand in their place: name → text."""
IMPORT = re.compile(r"^(\s*)from (subquad[\w.]*|jaxtyping|cyclopts) import", re.MULTILINE)


def write_code(folder: Path, model: PreTrainedModel) -> None:
    """Write the modules that the class of a linearized model needs into its folder.

    Args:
        folder: Folder of the model.
        model: The model; its config gets the entry `auto_map`.
    """
    base = type(model).__mro__[1]
    own, config = type(model).__name__, type(model.config).__name__
    modules = dict(_modules(ROOT))
    entry = (
        f'"""{own}: hybrid attention in {base.__name__}, from subquad {__version__}."""\n\n'
        f"from transformers import {base.__name__}\n\n"
        f"from .{_flat(ROOT)} import linearized_classes\n\n"
        f"{own}, {config} = linearized_classes({base.__name__})\n"
        "# transformers copies the file in which a class was defined when it saves a model\n"
        f"{own}.__module__ = {config}.__module__ = __name__\n"
        "# transformers 5.5 copies no other files of a local folder than those that this one names\n"
    ) + "".join(f"from .{_flat(name)} import __name__ as _\n" for name in modules)
    header = f"# From subquad {__version__}, under the Apache License 2.0.\n"
    (folder / f"{ENTRY}.py").write_text(header + entry, encoding="utf-8")
    for name, text in modules.items():
        flat = IMPORT.sub(_relative_import, text)
        (folder / f"{_flat(name)}.py").write_text(header + flat, encoding="utf-8")
    model.config.auto_map = {"AutoConfig": f"{ENTRY}.{config}", "AutoModelForCausalLM": f"{ENTRY}.{own}"}


def _modules(root: str) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a module and of all modules of subquad that it needs."""
    waiting, done = [root], set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        text = STUBS.get(name)
        if text is None:
            text = (SOURCE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        yield name, text
        names: list[str] = [found for _, found in IMPORT.findall(text)]
        waiting += [OTHERS.get(found, found) for found in names]


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _relative_import(found: re.Match[str]) -> str:
    indent, name = found.groups()
    return f"{indent}from .{OTHERS.get(name, _flat(name))} import"
