"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.llm.generation import generate, load
    from subquad.llm.settings import GenerateSettings, LinearizeSettings
    from subquad.llm.tasks import linearize

__all__ = ["GenerateSettings", "LinearizeSettings", "generate", "linearize", "load"]

_HOMES = {
    "GenerateSettings": "subquad.llm.settings",
    "LinearizeSettings": "subquad.llm.settings",
    "generate": "subquad.llm.generation",
    "linearize": "subquad.llm.tasks",
    "load": "subquad.llm.generation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subquad.llm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # importing subquad.llm.generation puts the module under this name; the call is what is meant
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
