"""Finds source that unpickles, evaluates text, or runs code that comes with a file, by its syntax and its imports.

It is a guard against mistakes and short cuts, not against someone who hides what the source does: names that are put
together at run time are not followed.
"""

import ast
import builtins

REFUSED = (
    *(
        "pickle",
        "_pickle",
        "cPickle",
        "cloudpickle",
        "dill",
        "jsonpickle",
        "skops",
        "marshal",
        "shelve",
        "runpy",
        "imp",
        "code",
    ),
    *("codeop", "zipimport", "pkgutil.resolve_name", "pydoc.locate", "transformers.dynamic_module_utils"),
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *("numpy.lib.format.read_array", "numpy.lib.format.open_memmap", "numpy.lib.npyio"),
    *("pandas.read_pickle", "pandas.io.pickle", "pandas.read_hdf"),
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
    "yaml": (
        *("yaml.safe_load", "yaml.safe_dump", "yaml.compose", "yaml.serialize", "yaml.SafeLoader"),
        *("yaml.YAMLError", "yaml.MarkedYAMLError", "yaml.Node", "yaml.ScalarNode", "yaml.SequenceNode"),
        "yaml.MappingNode",
    ),
}
"""Package → all that is used of it."""
OPENERS = ("from_pretrained", "from_config")
"""Methods of transformers that run code of a checkpoint unless they are told not to."""
WITHOUT_CODE = ("transformers.GenerationConfig.from_pretrained",)
"""Openers that read numbers only."""
FLAGS = ("trust_remote_code", "allow_pickle")
"""Arguments that are False wherever they are given, and are given to whatever takes them."""
FLAG_OF = {"numpy.load": "allow_pickle", "transformers.pipeline": "trust_remote_code"}
POSITIONAL = {"numpy.load": 2, "numpy.save": 2}
"""Number of positional arguments before those that matter."""
IMPORTERS = ("importlib.import_module", "subquad.errors.require", "subquad.lazy.import_after")
"""Functions that import the modules that their arguments name."""
LAZY_NAMES = "subquad.lazy.lazy_names"
COMPUTED = {
    ("errors.py", "module"): (),
    ("lazy.py", "homes[name]"): (),
    ("lazy.py", "follower"): (),
    ("lazy.py", "self.follower"): ("follower",),
    ("runs/examples.py", "module"): ("LOADERS[name].split(':')",),
    ("app/forms.py", "f'subquad.{group}.cli'"): (),
}
"""File and argument of an import of a computed name → what is assigned to it there; nothing to a parameter."""


def faults(text: str, own: str = "") -> list[str]:
    """Return what is wrong with a source, one line each.

    Args:
        text: The source.
        own: Its path in `src/subquad`.
    """
    source = Source(ast.parse(text), own)
    found = [(node.lineno, problem) for node in source.nodes for problem in source.problems(node)]
    return [f"line {line}: {problem}" for line, problem in sorted(set(found))]


def names_of_modules(text: str, table: str) -> list[str]:
    """Return the names `module:function` in a table of a module."""
    ((value, _),) = assignments(ast.walk(ast.parse(text)))[table]
    return [own for own in map(literal, ast.walk(value)) if isinstance(own, str) and ":" in own]


def literal(node):
    return node.value if isinstance(node, ast.Constant) else None


def is_written(node):
    return isinstance(node.ctx, ast.Store | ast.Del)


def assignments(nodes):
    """Return name or attribute → the values assigned to it, and whether only a part of each is."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            targets = [node.target]
        else:
            continue
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            values = getattr(node.value, "elts", []) if len(parts) > 1 else [node.value]
            for k, part in enumerate(parts):
                own = (values[k], False) if len(values) == len(parts) else (node.value, True)
                name = part.id if isinstance(part, ast.Name) else ast.unparse(part)
                found.setdefault(name, []).append(own)
    return found


def literal_loops(nodes):
    """Return calls, by their identity → the loop around them over a tuple of texts: its name, and the texts."""
    found = {}
    for node in nodes:
        match node:
            case ast.For(target=ast.Name(id=name), iter=ast.Tuple(elts=parts)):
                inside = [own for statement in node.body for own in ast.walk(statement)]
                is_kept = not any(isinstance(own, ast.Name) and own.id == name and is_written(own) for own in inside)
                if is_kept and all(isinstance(literal(part), str) for part in parts):
                    found |= {id(own): (name, parts) for own in inside if isinstance(own, ast.Call)}
    return found


class Source:
    """A parsed module, with the qualified names that its names stand for."""

    def __init__(self, tree, own):
        self.tree, self.own, self.names = tree, own, {}
        self.nodes = nodes = list(ast.walk(tree))
        self.assigned, self.loops = assignments(nodes), literal_loops(nodes)
        self.inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        self.called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        # what is searched for in the text of an error
        self.compared = {id(node.left) for node in nodes if isinstance(node, ast.Compare)}
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self.names.setdefault(alias.asname or top, set()).add(alias.name if alias.asname else top)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.names.setdefault(alias.asname or alias.name, set()).add(f"{node.module}.{alias.name}")
        self._add_aliases()

    def _add_aliases(self):
        """Follow names to which modules and functions are assigned, such as `n = np`, until nothing new is found."""
        values = {name: [own for own, is_part in found if not is_part] for name, found in self.assigned.items()}
        has_grown = True
        while has_grown:
            has_grown = False
            for name, own in values.items():
                new = set().union(*map(self.qualified, own)) - self.names.get(name, set())
                if new:
                    self.names.setdefault(name, set()).update(new)
                    has_grown = True

    def qualified(self, node):
        """Return the qualified names that an expression can stand for."""
        match node:
            case ast.Name(id=name):
                return self.names.get(name, {f"builtins.{name}"} if hasattr(builtins, name) else set())
            case ast.Attribute(value=value, attr=attribute):
                return {f"{own}.{attribute}".replace(".__dict__", "") for own in self.qualified(value)}
            case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
                modules = self.qualified(value)
                # sys.modules["a"], and np.__dict__["load"]
                return {key if own == "sys.modules" else f"{own}.{key}" for own in modules}
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                return {name} if self.qualified(function) & {*IMPORTERS[:2], "builtins.__import__"} else set()
            case ast.Call(func=function, args=[value, ast.Constant(value=str(name)), *_]):
                is_read = "builtins.getattr" in self.qualified(function)
                return {f"{own}.{name}" for own in self.qualified(value)} if is_read else set()
        return set()

    def problems(self, node):
        """Return what is wrong with a node of the tree."""
        match node:
            case ast.Import(names=aliases):
                return [line for alias in aliases for line in module_problems(alias.name)]
            case ast.ImportFrom(module=module, names=aliases, level=level):
                if level or any(alias.name == "*" for alias in aliases):
                    return ["imports are absolute and by name"]
                return [line for alias in aliases for line in module_problems(f"{module}.{alias.name}")]
            case ast.Constant(value=str(text)) if text in (*FLAGS, *OPENERS) and id(node) not in self.compared:
                return [f"{text!r} as a text, by which a check would be passed"]
            case ast.Call():
                used = [] if id(node) in self.inner else self.reference_problems(node)
                return [*self.call_problems(node), *used]
            case ast.Name() | ast.Attribute() | ast.Subscript() if id(node) not in self.inner:
                return self.reference_problems(node)
        return []

    def reference_problems(self, node):
        """Return what is wrong with the use of a name."""
        found = [line for name in sorted(self.qualified(node)) for line in name_problems(name)]
        is_called = id(node) in self.called
        if isinstance(node, ast.Attribute) and node.attr in OPENERS and not is_called:
            found.append(f".{node.attr} is called where it is named, with its arguments")
        needing = {*IMPORTERS, *FLAG_OF, LAZY_NAMES} & self.qualified(node)
        if needing and not is_called and not isinstance(node, ast.Call) and not is_written(node):
            found.append(f"{needing.pop()} is called where it is named, with its arguments")
        return found

    def call_problems(self, call):
        """Return what is wrong with the arguments of a call."""
        names, keywords = self.qualified(call.func), {own.arg: own.value for own in call.keywords}
        found = [f"{flag} must be False" for flag in FLAGS if flag in keywords and literal(keywords[flag]) is not False]
        needed = {flag for name, flag in FLAG_OF.items() if name in names}
        is_opener = isinstance(call.func, ast.Attribute) and call.func.attr in OPENERS
        if is_opener and not (names and names <= {*WITHOUT_CODE}):
            needed.add("trust_remote_code")
        found += [f"{flag}=False is missing" for flag in sorted(needed) if flag not in keywords]
        if needed or names & {*POSITIONAL}:
            found += self._hidden_arguments(call, names)
        if names & {*IMPORTERS}:
            found += self._import_problems(call, names)
        if LAZY_NAMES in names and [ast.unparse(own) for own in call.args] != ["__name__", "_HOMES"]:
            found.append("lazy_names takes __name__ and _HOMES")
        return found

    def _hidden_arguments(self, call, names):
        """Return arguments that could be one of the flags: by place, in a star, or in a dict that is written out."""
        most = min((POSITIONAL[name] for name in names if name in POSITIONAL), default=len(call.args))
        if len(call.args) > most or any(isinstance(own, ast.Starred) for own in call.args):
            return ["arguments by place that could be another one"]
        # a dict with a name may pass others, since Python refuses an argument that is given twice
        hidden = [own.value for own in call.keywords if own.arg is None and not isinstance(own.value, ast.Name)]
        return ["** with anything but a name"] if hidden else []

    def _import_problems(self, call, names):
        """Return what is wrong with an import of a module by its name."""
        wanted = call.args if "subquad.lazy.import_after" in names else call.args[:1]
        if not wanted or any(own.arg in (None, "name", "module", "package") for own in call.keywords):
            return ["the name of the module is not the first argument"]
        name, values = self.loops.get(id(call), ("", []))
        found = []
        for own in [part for one in wanted for part in (values if ast.unparse(one) == name else [one])]:
            if isinstance(literal(own), str):
                found += module_problems(own.value)
            elif not self._is_known(own):
                found.append(f"import of {ast.unparse(own)}, which is neither a literal nor in a table of the project")
        return found

    def _is_known(self, argument):
        """Return whether a computed name of a module is one of the project's own, or that of a module in use."""
        key = (self.own, ast.unparse(argument))
        if key in COMPUTED:
            return tuple(ast.unparse(value) for value, _ in self.assigned.get(key[1], [])) == COMPUTED[key]
        match argument:
            case ast.Attribute(value=ast.Call(func=ast.Name(id="type"), args=[_]), attr="__module__"):
                return True
        return False


def begins(name, *starts):
    return f"{name}.".startswith(tuple(f"{start}." for start in starts))


def name_problems(name):
    """Return what is wrong with a qualified name that is used."""
    package = name.partition(".")[0]
    if begins(name, *REFUSED):
        return [f"{name} is not used here"]
    is_allowed = package not in ALLOWED or begins(name, *ALLOWED[package])
    return [] if is_allowed else [f"{name} is not among what is used of {package}"]


def module_problems(name):
    """Return what is wrong with a qualified name that is imported, which may be a package of others."""
    allowed = ALLOWED.get(name.partition(".")[0], ())
    return [] if any(begins(own, name) for own in allowed) else name_problems(name)
