"""Finds source that unpickles, evaluates text, or runs code that comes with a file, by its syntax and its imports.

It is a guard against mistakes and short cuts: names that are put together at run time are not followed.
"""

import ast
import builtins

REFUSED = (
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "jsonpickle", "skops", "marshal", "shelve", "runpy"),
    *("imp", "code", "codeop", "zipimport", "pkgutil.resolve_name", "pydoc.locate"),
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *("numpy.lib.format.read_array", "numpy.lib.format.open_memmap", "numpy.lib.npyio"),
    *("pandas.read_pickle", "pandas.io.pickle", "pandas.read_hdf", "transformers.dynamic_module_utils"),
    *("torch.load", "torch.hub", "torch.package", "torch.serialization", "torch.jit.load"),
    *("torch.distributed.checkpoint", "torch.utils.model_zoo", "torch.ops.load_library", "torch.classes.load_library"),
)
"""Names, and beginnings of names, that are never used."""
ALLOWED = {
    "importlib": (
        *("importlib.import_module", "importlib.metadata", "importlib.resources", "importlib.util.find_spec"),
        *("importlib.abc.MetaPathFinder", "importlib.machinery.ModuleSpec", "importlib.machinery.PathFinder"),
    ),
    "joblib": ("joblib.Parallel", "joblib.delayed"),
    "yaml": ("yaml.safe_load", "yaml.safe_dump", "yaml.YAMLError", "yaml.MarkedYAMLError"),
}
"""Package → all that is used of it."""
OPENERS = ("from_pretrained", "from_config")
"""Methods of transformers that run code of a checkpoint unless they are told not to."""
WITHOUT_CODE = "transformers.GenerationConfig.from_pretrained"
"""The opener that reads numbers only."""
FLAGS = {"numpy.load": "allow_pickle", "transformers.pipeline": "trust_remote_code"}
"""Function → the argument that it must be called with, and that is False wherever it is given."""
IMPORTERS = ("importlib.import_module", "subquad.errors.require", "subquad.lazy.import_after")
COMPUTED = {
    ("errors.py", "module"),
    ("lazy.py", "homes[name]"),
    ("lazy.py", "follower"),
    ("lazy.py", "self.follower"),
    ("app/forms.py", "f'subquad.{group}.cli'"),
    ("export.py", "name"),
    ("hep/commands/simulate.py", "module"),
    ("llm/cli.py", "module"),
    ("llm/models/convert.py", "type(attention).__module__"),
}
"""File and argument of each import of a name that is no literal."""


def faults(text: str, file: str = "") -> list[str]:
    """Return what is wrong with a source, one line each.

    Args:
        text: The source.
        file: Its path in `src/subquad`.
    """
    nodes, names, problems = list(ast.walk(ast.parse(text))), {}, []

    def qualified(node):
        match node:
            case ast.Name(id=name):
                return names.get(name, f"builtins.{name}" if hasattr(builtins, name) else "")
            case ast.Attribute(value=value, attr=name):
                return f"{qualified(value)}.{name}"
        return ""

    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                problems += name_problems(module + alias.name, node, is_import=not module)
                top = alias.name if alias.asname or module else alias.name.partition(".")[0]
                names[alias.asname or top] = module + top
            if getattr(node, "level", 0) or any(alias.name == "*" for alias in node.names):
                problems.append((node.lineno, "imports are absolute and by name"))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            problems += name_problems(qualified(node), node)
        elif isinstance(node, ast.Call):
            problems += [(node.lineno, line) for line in call_problems(node, qualified(node.func), file)]
    return [f"line {line}: {problem}" for line, problem in sorted(set(problems))]


def begins(name, *starts):
    return f"{name}.".startswith(tuple(f"{start}." for start in starts))


def name_problems(name, node, *, is_import=False):
    allowed = ALLOWED.get(name.partition(".")[0])
    if begins(name, *REFUSED):
        return [(node.lineno, f"{name} is not used here")]
    if allowed is None or begins(name, *allowed) or (is_import and any(begins(entry, name) for entry in allowed)):
        return []
    return [(node.lineno, f"{name} is not among what is used of {name.partition('.')[0]}")]


def call_problems(call, name, file):
    """Return what is wrong with the arguments of a call."""
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    flags, lines = {*FLAGS.values()}, []
    for flag in flags & {*values}:
        if not (isinstance(values[flag], ast.Constant) and values[flag].value is False):
            lines.append(f"{flag} must be False")
    needed = FLAGS.get(name)
    if isinstance(call.func, ast.Attribute) and call.func.attr in OPENERS and name != WITHOUT_CODE:
        needed = "trust_remote_code"
    if needed and needed not in values:
        lines.append(f"{needed}=False is missing")
    if name in IMPORTERS:
        # all arguments of import_after are modules
        for argument in call.args if name.endswith("import_after") else call.args[:1]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                lines += [line for _, line in name_problems(argument.value, call, is_import=True)]
            elif (file, ast.unparse(argument)) not in COMPUTED:
                lines.append(f"import of {ast.unparse(argument)}, which is no literal")
    return lines
