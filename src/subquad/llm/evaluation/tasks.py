"""lm-eval's tasks on a model in memory: the data, the prompts, the metrics and the class of the model are its own."""

import io
from contextlib import redirect_stderr
from functools import cache
from typing import Any, cast

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import reading
from subquad.llm.evaluation.store import Row
from subquad.llm.models.attention import Mode, attention_mode
from subquad.llm.training.metrics import check_finite

METRICS = ("acc", "acc_norm", "exact_match")
"""Metrics of an item, by lm-eval's names, that are 0 or 1."""
BATCH_SIZE = 8


def item_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    *,
    mode: Mode,
    limit: int | None = None,
) -> list[Row]:
    """Return the metrics of each item of a task without examples, and the tokens read for its longest answer.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: Name of a task or of a group of tasks in lm-eval.
        mode: What the attention layers compute.
        limit: Number of items of each task; None for all.

    Raises:
        SubquadError: lm-eval has no such task, its data cannot be loaded, or the logits of an item are not finite.
    """
    rows: list[Row] = []
    with reading(task, "a task of lm-eval"), attention_mode(model, mode), redirect_stderr(io.StringIO()):
        # their decorators hide the signatures
        make_model, evaluate = cast(Any, HFLM), cast(Any, simple_evaluate)
        results = evaluate(
            make_model(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE),
            tasks=[task],
            num_fewshot=0,
            limit=limit,
            task_manager=_task_manager(),
            bootstrap_iters=0,
            log_samples=True,
        )
        for name, samples in results["samples"].items():
            for sample in samples:
                texts = ["".join(map(str, arguments[:2])) for arguments in sample["arguments"]]
                for answer in sample["filtered_resps"]:
                    if isinstance(answer, tuple):
                        check_finite(answer[0], model, mode, f"item {sample['doc_id']} of {name}")
                metrics = {metric: float(sample[metric]) for metric in METRICS if metric in sample}
                rows.append({**metrics, "tokens": max(len(tokenizer.encode(text)) for text in texts) - 1})
    return rows


@cache
def _task_manager() -> TaskManager:
    """Return lm-eval's 13,000 definitions of tasks, which take seconds to read."""
    return TaskManager()
