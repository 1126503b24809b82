"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads nothing heavy.

After it, `AutoModelForCausalLM` of transformers opens the folders of linearized models.
"""

from typing import TYPE_CHECKING

from subquad.lazy import import_after, lazy_names

if TYPE_CHECKING:
    from subquad.llm.commands.evaluate import measure
    from subquad.llm.commands.generate import generate, merge
    from subquad.llm.commands.linearize import linearize
    from subquad.llm.evaluation.settings import EvaluateSettings
    from subquad.llm.models.loading import load
    from subquad.llm.settings import GenerateSettings, LinearizeSettings

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
    "EvaluateSettings": "subquad.llm.evaluation.settings",
    "GenerateSettings": "subquad.llm.settings",
    "LinearizeSettings": "subquad.llm.settings",
    "generate": "subquad.llm.commands.generate",
    "linearize": "subquad.llm.commands.linearize",
    "load": "subquad.llm.models.loading",
    "measure": "subquad.llm.commands.evaluate",
    "merge": "subquad.llm.commands.generate",
}

import_after("transformers.models.auto.modeling_auto", "subquad.llm.models.auto")
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
