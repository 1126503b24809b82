"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads nothing heavy.

After it, `AutoModelForCausalLM` of transformers opens the folders of linearized models.
"""

from typing import TYPE_CHECKING

from subquad.lazy import import_after, lazy_names

if TYPE_CHECKING:
    from subquad.llm.evaluating.job import measure
    from subquad.llm.evaluating.settings import EvaluateSettings
    from subquad.llm.generation import generate, load, merge
    from subquad.llm.settings import GenerateSettings, LinearizeSettings
    from subquad.llm.tasks import linearize

__all__ = [
    "EvaluateSettings",
    "GenerateSettings",
    "LinearizeSettings",
    "generate",
    "linearize",
    "load",
    "measure",
    "merge",
]

_HOMES = {
    "EvaluateSettings": "subquad.llm.evaluating.settings",
    "GenerateSettings": "subquad.llm.settings",
    "LinearizeSettings": "subquad.llm.settings",
    "generate": "subquad.llm.generation",
    "linearize": "subquad.llm.tasks",
    "load": "subquad.llm.generation",
    "measure": "subquad.llm.evaluating.job",
    "merge": "subquad.llm.generation",
}

import_after("transformers.models.auto.modeling_auto", "subquad.llm.auto")
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
