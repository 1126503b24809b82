"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads nothing heavy.

After it, `AutoModelForCausalLM` of transformers opens the folders of linearized models.
"""

from typing import TYPE_CHECKING

from subquad.lazy import import_after, lazy_names

if TYPE_CHECKING:
    from subquad.llm.generation import generate, load, merge
    from subquad.llm.settings import GenerateSettings, LinearizeSettings
    from subquad.llm.tasks import linearize

__all__ = ["GenerateSettings", "LinearizeSettings", "generate", "linearize", "load", "merge"]

_HOMES = {
    "GenerateSettings": "subquad.llm.settings",
    "LinearizeSettings": "subquad.llm.settings",
    "generate": "subquad.llm.generation",
    "linearize": "subquad.llm.tasks",
    "load": "subquad.llm.generation",
    "merge": "subquad.llm.generation",
}

import_after("transformers.models.auto.modeling_auto", "subquad.llm.auto")
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
