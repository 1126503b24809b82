"""What is measured on a linearized model: a list of figures, each with the rows that it needs and how to get them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, raise_errors, require
from subquad.llm.data.packing import prepare
from subquad.llm.evaluation.comparisons import ROLES, STUDENT, TEACHER
from subquad.llm.evaluation.model_variants import Subject
from subquad.llm.evaluation.probes import bins, loss_rows, passkey_prompt, passkey_row, speed_row
from subquad.llm.evaluation.settings import TASKS, EvaluateSettings
from subquad.llm.evaluation.store import Row
from subquad.llm.evaluation.task_items import find, missing, subjects
from subquad.llm.models.attention import Mode
from subquad.runs.storage import fingerprint

__all__ = ["Part", "parts_of", "task_list"]

ITEMS_AT_A_TIME = 128
KEY_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one figure, or of a part of it that is kept by itself."""

    kind: str
    """`perplexity`, `tasks`, `passkey` or `speed`."""
    name: str
    """The text, the task, or the length."""
    file: str
    """Of the file that keeps the rows."""
    asked: Mapping[str, Any]
    """What the rows depend on beside the model."""
    total: int
    """How many rows there are."""
    step: int
    """Rows between two writes."""
    compute: Callable[[PreTrainedModel, Mode, Sequence[int]], list[Row]]
    """Returns the rows of a model in a mode that have these numbers."""
    roles: Sequence[str] = ROLES
    """Whom it is measured on."""


def task_list(data: Path | None, settings: EvaluateSettings) -> tuple[list[str], list[str]]:
    """Return the tasks to run, and what to say of those that are left out.

    Raises:
        SubquadError: a task that was asked for by name has no files, or none has; lm-eval is missing.
    """
    if data is None:
        if settings.task_names:
            raise SubquadError("--tasks needs --data, the folder that holds the tasks' files")
        return [], []
    if not data.is_dir():
        raise SubquadError(f"--data {data}: no such folder")
    asked = settings.task_names or TASKS
    absent = [missing(data, task) for task in asked if not find(data, task)]
    if settings.task_names:
        raise_errors("files of tasks are missing; add them, or leave the tasks out of --tasks:", absent)
    elif len(absent) == len(asked):
        raise_errors(f"--data {data}: holds no files of any task:", absent)
    require("lm_eval", "eval")
    return [task for task in asked if find(data, task)], absent


def parts_of(
    subject: Subject, settings: EvaluateSettings, *, text: Sequence[Path], data: Path | None, tasks: Sequence[str]
) -> list[Part]:
    """Return the figures of one linearized model and its controls.

    Raises:
        SubquadError: a text is shorter than one sequence, a sequence longer than the model takes, or a file of a task
            cannot be read.
    """
    tokenizer = subject.tokenizer()
    parts = [_text_part(subject, tokenizer, settings, path) for path in text]
    for task in tasks:
        assert data is not None
        for name in subjects(data) if task == "mmlu" else [None]:
            parts.append(_task_part(tokenizer, settings, data, task, name))
    parts += [_passkey_part(tokenizer, settings, context) for context in settings.contexts]
    parts += [_speed_part(context) for context in settings.speed_contexts]
    return parts


def _text_part(subject: Subject, tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, path: Path) -> Part:
    length = settings.length
    if subject.longest and length > subject.longest:
        raise SubquadError(f"--length {length}: {subject.folder} was made for at most {subject.longest} tokens")
    packed = prepare(tokenizer, [path], [path], length=length, text_key=settings.text_key).held_out
    sequences = packed[: max(1, settings.evaluation_tokens // length)]
    edges, digits = bins(length), fingerprint(path)

    def compute(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        return loss_rows(model, sequences[list(numbers)], edges, mode=mode)

    return Part(
        kind="perplexity",
        name=path.name,
        file=f"perplexity-{digits}",
        asked={"text": digits, "length": length, "edges": edges, "text_key": settings.text_key},
        total=len(sequences),
        step=max(1, settings.batch_tokens // length),
        compute=compute,
    )


def _task_part(
    tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, data: Path, task: str, name: str | None
) -> Part:
    from importlib.metadata import version

    from subquad.llm.evaluation.harness import HarnessModel
    from subquad.llm.evaluation.tasks import SHOTS, build, item_rows, questions

    made = build(data, task, name)
    asked = questions(made, settings.limit)

    def compute(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        harness = HarnessModel(model, tokenizer, mode=mode, batch_tokens=settings.batch_tokens)
        return item_rows(harness, made, [asked[number] for number in numbers])

    files = [data / "mmlu" / split / f"{name}_{split}.csv" for split in ("test", "dev")] if name else find(data, task)
    return Part(
        kind="tasks",
        name=task,
        file=f"task-{task}" + (f"-{name}" if name else ""),
        asked={
            "files": fingerprint(*files),
            "examples": SHOTS.get(task, 0),
            "version": made.VERSION,
            "lm_eval": version("lm_eval"),
        },
        total=len(asked),
        step=ITEMS_AT_A_TIME,
        compute=compute,
    )


def _passkey_part(tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, context: int) -> Part:
    generator = torch.Generator().manual_seed(context)
    trials = [(depth, trial) for depth in settings.depths for trial in range(settings.passkey_trials)]
    first = 10 ** (KEY_DIGITS - 1)
    keys = torch.randint(first, 10 * first, (len(trials),), generator=generator).tolist()
    # too short a text is refused before a model is opened
    passkey_prompt(tokenizer, tokens=context, depth=0.5, key=keys[0])

    def compute(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        return [
            passkey_row(model, tokenizer, tokens=context, depth=trials[number][0], key=keys[number], mode=mode)
            for number in numbers
        ]

    return Part(
        kind="passkey",
        name=str(context),
        file=f"passkey-{context}",
        asked={"depths": settings.depths, "trials": settings.passkey_trials},
        total=len(trials),
        step=1,
        compute=compute,
    )


def _speed_part(context: int) -> Part:
    def compute(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        return [speed_row(model, tokens=context, mode=mode)]

    return Part(
        kind="speed",
        name=str(context),
        file=f"speed-{context}",
        asked={
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        total=1,
        step=1,
        compute=compute,
        roles=(TEACHER, STUDENT),
    )
