"""Lazy imports: public names are imported at first use, and a module can be imported right after another one."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package, from the module that defines each public name."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes)


def import_after(leader: str, follower: str) -> None:
    """Import the module `follower` right after `leader` is imported, or now if it already is."""

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if fullname != leader:
                return None
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def execute_both(module: ModuleType) -> None:
                    execute(module)
                    import_module(follower)

                spec.loader.exec_module = execute_both
            return spec

    if leader in sys.modules:
        import_module(follower)
    else:
        sys.meta_path.insert(0, Finder())
