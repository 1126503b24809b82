"""lm-eval's task definitions over local files: prompts, answers and metrics are its own; nothing is downloaded."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from subquad.errors import unknown
from subquad.llm.evaluation.harness import HarnessModel
from subquad.llm.evaluation.store import Row
from subquad.llm.evaluation.task_items import Splits, read

__all__ = ["SHOTS", "Question", "build", "item_rows", "questions"]

SHOTS = {"mmlu": 5}
"""Few-shot examples before each question; none for the other tasks."""

_FOLDERS = ("piqa", "arc", "hellaswag", "winogrande", "mmlu/default")


@dataclass(frozen=True)
class Question:
    """One item with its answers."""

    row: Any
    """The item as lm-eval's metrics read it."""
    pairs: Sequence[tuple[str, str]]
    """Context and continuation of each answer."""


def build(folder: Path, task: str, subject: str | None = None) -> ConfigurableTask:
    """Return lm-eval's task over the files in `folder`, for mmlu over one subject.

    Raises:
        SubquadError: The files are missing or have invalid rows, or lm-eval has no such subject.
    """
    splits, name = read(folder, task, subject), task if subject is None else f"{task}_{subject}"
    home = Path(lm_eval.tasks.__file__).parent
    manager = TaskManager(include_defaults=False, include_path=[home / part for part in _FOLDERS])
    if name not in manager.all_subtasks:
        known = [known.removeprefix("mmlu_") for known in manager.all_subtasks if known.startswith("mmlu_")]
        raise unknown("subject of mmlu", str(subject), known)
    changes = {"task": name, "custom_dataset": _local(splits), "num_fewshot": SHOTS.get(task, 0)}
    # a group of one task is lm-eval's way to override entries of its definition
    with redirect_stderr(io.StringIO()):
        made = manager.load({"group": "subquad", "task": [changes]})["tasks"][name]
    if not isinstance(made, ConfigurableTask):
        raise TypeError(f"lm-eval's {name} is a {type(made).__name__}")
    return made


def _local(splits: Splits) -> Callable[..., DatasetDict]:
    def load(**_: Any) -> DatasetDict:
        given = {name: Dataset.from_list(rows) for name, rows in splits.items()}
        # some definitions require a split for examples even if none are shown
        first = next(iter(given.values()))
        return DatasetDict({"train": first, "validation": first, **given})

    return load


def questions(task: ConfigurableTask, limit: int | None = None) -> list[Question]:
    """Return the first `limit` items with lm-eval's contexts and continuations."""
    with redirect_stderr(io.StringIO()):
        task.build_all_requests(limit=limit)
    together = groupby(task.instances, key=lambda instance: instance.doc_id)
    return [
        Question(row=asked[0].doc, pairs=[_pair(instance) for instance in asked])
        for asked in (list(part) for _, part in together)
    ]


def _pair(instance: Any) -> tuple[str, str]:
    context, continuation = instance.args
    return str(context), str(continuation)


def item_rows(harness: HarnessModel, task: ConfigurableTask, asked: Sequence[Question]) -> list[Row]:
    """Return lm-eval's metrics of each item, its log-likelihoods, and the tokens read for its longest answer."""
    answers = iter(harness.score([pair for question in asked for pair in question.pairs]))
    rows = []
    for question in asked:
        own = [next(answers) for _ in question.pairs]
        metrics = task.process_results(question.row, [answer[:2] for answer in own])
        rows.append(
            {
                **{name: float(value) for name, value in metrics.items()},
                "loglikelihoods": [round(log_likelihood, 5) for log_likelihood, _, _ in own],
                "tokens": max(length for _, _, length in own),
            }
        )
    return rows
