"""Linear attention in trained language models (LoLCATs, arXiv:2410.10254). Importing this loads no heavy package.

After it, `AutoModelForCausalLM` of transformers opens the folders of linearized models, and lm-eval knows the model
`subquad`.
"""

from typing import TYPE_CHECKING

from subquad.lazy import import_after, lazy_names

if TYPE_CHECKING:
    from subquad.llm.commands.evaluate import evaluate
    from subquad.llm.commands.generate import generate
    from subquad.llm.commands.linearize import linearize
    from subquad.llm.commands.merge import merge
    from subquad.llm.commands.plan import plan
    from subquad.llm.commands.report import report
    from subquad.llm.evaluation.settings import EvaluateSettings
    from subquad.llm.models.loading import load
    from subquad.llm.planning.settings import PlanSettings
    from subquad.llm.serving.settings import GenerateSettings
    from subquad.llm.settings import AttentionSettings, LinearizeSettings

__all__ = [
    "AttentionSettings",
    "EvaluateSettings",
    "GenerateSettings",
    "LinearizeSettings",
    "PlanSettings",
    "evaluate",
    "generate",
    "linearize",
    "load",
    "merge",
    "plan",
    "report",
]

_HOMES = {
    "AttentionSettings": "subquad.llm.settings",
    "EvaluateSettings": "subquad.llm.evaluation.settings",
    "GenerateSettings": "subquad.llm.serving.settings",
    "LinearizeSettings": "subquad.llm.settings",
    "PlanSettings": "subquad.llm.planning.settings",
    "evaluate": "subquad.llm.commands.evaluate",
    "generate": "subquad.llm.commands.generate",
    "linearize": "subquad.llm.commands.linearize",
    "load": "subquad.llm.models.loading",
    "merge": "subquad.llm.commands.merge",
    "plan": "subquad.llm.commands.plan",
    "report": "subquad.llm.commands.report",
}

import_after("transformers.models.auto.modeling_auto", "subquad.llm.models.auto")
import_after("lm_eval.models", "subquad.llm.evaluation.lm_eval_registry")
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
