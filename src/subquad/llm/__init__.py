"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
