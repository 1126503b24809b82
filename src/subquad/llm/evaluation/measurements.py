"""Measurements of a linearized model and its controls: what each row is, what it depends on, and how it is measured."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, require
from subquad.llm.data.packing import pack_text
from subquad.llm.data.readers import open_documents
from subquad.llm.evaluation.model_variants import EvaluatedModel, ModelLoader, ModelVariant
from subquad.llm.evaluation.probes import loss_rows, passkey_prompt, passkey_row, position_bins, speed_row
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import MeasurementStore, Row
from subquad.llm.metrics import LABELS, STUDENT, TEACHER
from subquad.llm.models.attention import Mode
from subquad.llm.models.loading import chosen_device
from subquad.llm.training.metrics import check_finite
from subquad.runs.storage import fingerprint
from subquad.train.distributed import device_name

KEY_DIGITS = 5


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


def measurements_of(model: EvaluatedModel, settings: EvaluateSettings, *, text: Sequence[Path]) -> list[Measurement]:
    """Return the measurements of a linearized model and its controls; nothing is measured yet.

    Raises:
        SubquadError: A text is shorter than one sequence, a sequence longer than the model allows, or lm-eval is not
            installed.
    """
    for length in (*settings.passkey, *([settings.sequence_length] if text else [])):
        if model.longest and length > model.longest:
            raise SubquadError(f"{model.folder}: supports at most {model.longest:,} tokens, not {length:,}")
    tokenizer = model.tokenizer()
    found = [_text(tokenizer, settings, path) for path in text]
    found += [_task(tokenizer, settings, task) for task in settings.tasks]
    found += [_passkey(tokenizer, settings, length) for length in settings.passkey]
    return found + [_speed(context, settings) for context in settings.speed_lengths]


def _text(tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, path: Path) -> Measurement:
    length = settings.sequence_length
    packed = pack_text(tokenizer, [path], sequence_length=length, text_key=settings.text_key).ids
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


def _task(tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings, task: str) -> Measurement:
    require("lm_eval", "eval")
    from importlib.metadata import version

    from subquad.llm.evaluation.tasks import item_rows

    def measure(model: PreTrainedModel, mode: Mode, numbers: Sequence[int]) -> list[Row]:
        return [{"items": item_rows(model, tokenizer, task, mode=mode, limit=settings.limit)}]

    return Measurement(
        kind="tasks",
        name=task,
        file=f"task-{task}",
        conditions={"limit": settings.limit, "lm_eval": version("lm_eval")},
        # lm-eval has all items at once
        total=1,
        step=1,
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
        documents = open_documents(settings.passkey_text, settings.text_key).documents
        whole = "\n\n".join("".join(document.blocks) for document in documents)
        # each prompt begins at another place of the first half
        texts = [whole[number * len(whole) // (2 * len(keys)) :] for number in range(len(keys))]
        conditions |= {"text": fingerprint(settings.passkey_text), "text_key": settings.text_key}
    # a length that is too short is rejected before a model is loaded, and a text: the last one is the shortest
    passkey_prompt(tokenizer, tokens=length, depth=0.5, key=keys[0], text=texts[-1])

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
            rows = store.rows(
                f"{variant.key}.{measurement.file}",
                {**measurement.conditions, "dtype": settings.dtype},
                measurement.total,
                partial(_measure, measurement, variant, loader),
                step=measurement.step,
                # time to open a model is no time of the measurement
                prepare=lambda variant=variant: loader.load(variant),
                title=f"{LABELS[variant.role]}: {measurement.kind} {measurement.name}",
            )
            found[measurement.kind][variant.role].append((measurement, rows))
    return found


def _measure(measurement: Measurement, variant: ModelVariant, loader: ModelLoader, start: int, stop: int) -> list[Row]:
    return measurement.measure(loader.load(variant), variant.mode, range(start, stop))
