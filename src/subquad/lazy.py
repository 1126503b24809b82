"""Lazy imports: public names are imported at first use, and a module can be imported right after another one."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["import_after", "lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package.

    Args:
        package: Name of the package.
        homes: Public name → module that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes)


def import_after(leader: str, follower: str) -> None:
    """Import the module `follower` right after `leader` is imported, or now if it already is."""
    if leader in sys.modules:
        import_module(follower)
    else:
        sys.meta_path.insert(0, _After(leader, follower))


class _After(MetaPathFinder):
    def __init__(self, leader: str, follower: str) -> None:
        self.leader, self.follower = leader, follower

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.leader:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_both(module: ModuleType) -> None:
                execute(module)
                import_module(self.follower)

            spec.loader.exec_module = execute_both
        return spec
