"""Measurements of a linearized model and its controls: what each row is, what it depends on, and how it is measured."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, raise_errors, require
from subquad.llm.data.packing import pack_text
from subquad.llm.data.readers import open_documents
from subquad.llm.evaluation.model_variants import EvaluatedModel, ModelLoader, ModelVariant
from subquad.llm.evaluation.probes import loss_rows, passkey_prompt, passkey_row, position_bins, speed_row
from subquad.llm.evaluation.settings import TASKS, EvaluateSettings
from subquad.llm.evaluation.store import MeasurementStore, Row
from subquad.llm.evaluation.task_items import find, missing, subject_files, subjects
from subquad.llm.models.attention import Mode
from subquad.llm.models.exact_lengths import seen_exactly, seen_in_window
from subquad.llm.models.loading import chosen_device
from subquad.llm.plots.evaluation_tables import LABELS, STUDENT, TEACHER, labels
from subquad.llm.training.metrics import check_finite
from subquad.runs.storage import fingerprint
from subquad.train.distributed import device_name

__all__ = ["MeasuredRows", "Measurement", "available_tasks", "measure_rows", "measurements_of"]

ITEMS_PER_STEP = 128
KEY_DIGITS = 5
SAME = {"window": "teacher", "cache": "teacher", "fine_tuned": "fine_tuned_without_linear"}
"""Variants that compute the same on items of which all tokens are seen exactly; the second is measured first."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Rows that are measured and stored together."""

    kind: str
    """`perplexity`, `tasks`, `passkey` or `speed`."""
    name: str
    """The text, the task, or the length."""
    file: str
    """Name of the file that stores the rows."""
    conditions: Mapping[str, Any]
    """What the rows depend on besides the model."""
    total: int
    """Number of rows."""
    step: int
    """Rows between two writes."""
    measure: Callable[[PreTrainedModel, Mode, Sequence[int]], list[Row]]
    """Returns the rows with these numbers, of a model in a mode."""
    roles: Sequence[str] = tuple(LABELS)
    """Variants that it is measured on."""


MeasuredRows = Mapping[str, Mapping[str, list[tuple[Measurement, list[Row]]]]]
"""Rows by kind of measurement and by model variant."""


def available_tasks(data: Path | None, settings: EvaluateSettings) -> tuple[list[str], list[str]]:
    """Return the tasks to measure, and what is missing for the others.

    Raises:
        SubquadError: A task that was asked for has no files, no task has any, or lm-eval is not installed.
    """
    if data is None:
        if settings.tasks:
            raise SubquadError("--tasks requires --data, the folder with the tasks' files")
        return [], []
    if not data.is_dir():
        raise SubquadError(f"--data {data}: no such folder")
    wanted = settings.tasks or TASKS
    absent = [missing(data, task) for task in wanted if not find(data, task)]
    if settings.tasks:
        raise_errors("files of tasks are missing; add them, or remove the tasks from --tasks:", absent)
    elif len(absent) == len(wanted):
        raise_errors(f"--data {data}: it contains the files of no task:", absent)
    require("lm_eval", "eval")
    return [task for task in wanted if find(data, task)], absent


def measurements_of(
    model: EvaluatedModel, settings: EvaluateSettings, *, text: Sequence[Path], data: Path | None, tasks: Sequence[str]
) -> list[Measurement]:
    """Return the measurements of a linearized model and its controls; nothing is measured yet.

    Raises:
        SubquadError: A text is shorter than one sequence, a sequence longer than the model allows, or a file of a task
            cannot be read.
    """
    tokenizer = model.tokenizer()
    found = [_text(model, tokenizer, settings, path) for path in text]
    if data is not None:
        parts = [(task, name) for task in tasks for name in (subjects(data) if task == "mmlu" else [None])]
        found += [_task(tokenizer, settings, data, task, name) for task, name in parts]
    for length in settings.passkey:
        _check_length(model, length, "--passkey")
    found += [_passkey(tokenizer, settings, length) for length in settings.passkey]
    return found + [_speed(context, settings) for context in settings.speed_lengths]


def _check_length(model: EvaluatedModel, length: int, flag: str) -> None:
    if model.longest and length > model.longest:
        raise SubquadError(f"{flag} {length}: {model.folder} supports at most {model.longest:,} tokens")


def _text(
    model: EvaluatedModel, tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, path: Path
) -> Measurement:
    length = settings.sequence_length
    _check_length(model, length, "--sequence-length")
    shortest = seen_exactly(model.attention) + 1
    packed = pack_text(tokenizer, [path], sequence_length=length, text_key=settings.text_key, shortest=shortest).ids
    sequences = packed[: max(1, settings.evaluation_tokens // length)]
    edges, digest = position_bins(length), fingerprint(path)

    def measure(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        rows = loss_rows(model, sequences[list(numbers)], edges, mode=mode)
        for number, row in zip(numbers, rows, strict=True):
            check_finite(sum(row["losses"]), model, mode, f"sequence {number + 1} of {path.name}")
        return rows

    return Measurement(
        kind="perplexity",
        name=path.name,
        file=f"perplexity-{digest}",
        conditions={"text": digest, "length": length, "edges": edges, "text_key": settings.text_key},
        total=len(sequences),
        step=max(1, settings.batch_tokens // length),
        measure=measure,
    )


def _task(
    tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, data: Path, task: str, subject: str | None
) -> Measurement:
    from importlib.metadata import version

    from subquad.llm.evaluation.harness import HarnessModel
    from subquad.llm.evaluation.tasks import SHOTS, build, item_rows, questions

    built = build(data, task, subject)
    items = questions(built, settings.limit)

    def measure(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        harness = HarnessModel(model, tokenizer, mode=mode, batch_tokens=settings.batch_tokens)
        return item_rows(harness, built, [items[number] for number in numbers])

    return Measurement(
        kind="tasks",
        name=task,
        file=f"task-{task}" + (f"-{subject}" if subject else ""),
        conditions={
            "files": fingerprint(*(subject_files(data, subject) if subject else find(data, task))),
            "examples": SHOTS.get(task, 0),
            "version": built.VERSION,
            "lm_eval": version("lm_eval"),
        },
        total=len(items),
        step=ITEMS_PER_STEP,
        measure=measure,
    )


def _passkey(tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, length: int) -> Measurement:
    generator = torch.Generator().manual_seed(length)
    depths = [depth for depth in settings.passkey_depths for _ in range(settings.passkey_trials)]
    smallest = 10 ** (KEY_DIGITS - 1)
    keys = torch.randint(smallest, 10 * smallest, (len(depths),), generator=generator).tolist()
    texts: list[str | None] = [None] * len(keys)
    conditions = {"depths": settings.passkey_depths, "trials": settings.passkey_trials}
    if settings.passkey_text is not None:
        whole = _whole_text(settings.passkey_text, settings.text_key)
        # each prompt begins at another place of the first half
        texts = [whole[number * len(whole) // (2 * len(keys)) :] for number in range(len(keys))]
        conditions |= {"text": fingerprint(settings.passkey_text), "text_key": settings.text_key}
    # a length that is too short is rejected before a model is loaded, and a text: the last one is the shortest
    try:
        passkey_prompt(tokenizer, tokens=length, depth=0.5, key=keys[0], text=texts[-1])
    except SubquadError as error:
        raise SubquadError(f"{settings.passkey_text}: {error}" if settings.passkey_text else str(error)) from error

    def measure(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        return [
            passkey_row(
                model, tokenizer, tokens=length, depth=depths[number], key=keys[number], mode=mode, text=texts[number]
            )
            for number in numbers
        ]

    return Measurement(
        kind="passkey",
        name=str(length),
        file=f"passkey-{length}" + (f"-{conditions['text']}" if "text" in conditions else ""),
        conditions=conditions,
        total=len(depths),
        step=1,
        measure=measure,
    )


def _whole_text(path: Path, text_key: str) -> str:
    return "\n\n".join("".join(document.blocks) for document in open_documents(path, text_key).documents)


def _speed(context: int, settings: EvaluateSettings) -> Measurement:
    return Measurement(
        kind="speed",
        name=str(context),
        file=f"speed-{context}",
        conditions={"threads": torch.get_num_threads(), "device": device_name(chosen_device(settings.device))},
        total=1,
        step=1,
        measure=lambda model, mode, numbers: [speed_row(model, tokens=context, mode=mode)],
        roles=(TEACHER, STUDENT),
    )


def measure_rows(
    model: EvaluatedModel,
    measurements: Sequence[Measurement],
    store: MeasurementStore,
    loader: ModelLoader,
    settings: EvaluateSettings,
) -> MeasuredRows:
    """Return the rows of all measurements, variant by variant, so that each model is loaded once."""
    found: dict[str, dict[str, list[tuple[Measurement, list[Row]]]]] = defaultdict(lambda: defaultdict(list))
    for variant in model.variants:
        for measurement in measurements:
            if variant.role not in measurement.roles:
                continue
            known: dict[int, Row] = {}
            same = found["tasks"][SAME[variant.role]] if variant.role in SAME else []
            if measurement.kind == "tasks" and same:
                seen = seen_in_window if variant.role == "window" else seen_exactly
                longest = seen(model.attention)
                rows = next(rows for other, rows in same if other is measurement)
                known = {number: row for number, row in enumerate(rows) if row["tokens"] <= longest}
            rows = store.rows(
                f"{variant.key}.{measurement.file}",
                {**measurement.conditions, "dtype": settings.dtype},
                measurement.total,
                _measuring(measurement, variant, loader, known=known),
                step=measurement.step,
                # time to open a model is no time of the measurement
                prepare=_opening(measurement, variant, loader, known=known),
                title=f"{labels(model.about)[variant.role]}: {measurement.kind} {measurement.name}",
            )
            found[measurement.kind][variant.role].append((measurement, rows))
    return found


def _measuring(
    measurement: Measurement,
    variant: ModelVariant,
    loader: ModelLoader,
    *,
    known: Mapping[int, Row],
) -> Callable[[int, int], list[Row]]:
    """Return the function that measures a variant's rows from a start to a stop, except those that are known."""

    def measure(start: int, stop: int) -> list[Row]:
        numbers = [number for number in range(start, stop) if number not in known]
        measured: Iterator[Row] = iter(())
        if numbers:
            measured = iter(measurement.measure(loader.load(variant), variant.mode, numbers))
        return [known[number] if number in known else next(measured) for number in range(start, stop)]

    return measure


def _opening(
    measurement: Measurement,
    variant: ModelVariant,
    loader: ModelLoader,
    *,
    known: Mapping[int, Row],
) -> Callable[[int], None]:
    """Return the function that opens a variant if rows from a number on are to be measured."""

    def prepare(first: int) -> None:
        if any(number not in known for number in range(first, measurement.total)):
            loader.load(variant)

    return prepare
