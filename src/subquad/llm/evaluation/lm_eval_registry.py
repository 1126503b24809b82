"""Registers the model name `subquad` in lm-eval; imported right after lm-eval's own models, so it imports little."""

from contextlib import suppress

from lm_eval.api.registry import model_registry

LM_EVAL_NAME = "subquad"
"""Value of lm-eval's `--model` for linearized models."""

# another version of lm-eval than the extra `eval` installs must not break an import of subquad
with suppress(TypeError):
    model_registry.register(LM_EVAL_NAME, target="subquad.llm.evaluation.lm_eval_model:LinearizedLM")
