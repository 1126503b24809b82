"""The token budget of a run: the user's tokens, or what fits into a time by the speed of a few steps.

It is determined once and saved in the run's folder, so that a resumed run trains on the same tokens.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import reading
from subquad.llm.data.packing import VALIDATION_SEQUENCES, TextDataset
from subquad.llm.metrics import CONTROLS, LABELS
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import embedding_weight
from subquad.llm.settings import DEFAULT_MINUTES, LinearizeSettings
from subquad.llm.training.controls import control_names
from subquad.llm.training.layer_choice import CHOICE_SEQUENCES
from subquad.llm.training.lora import draw_windows, fine_tune_step
from subquad.llm.training.metrics import perplexity
from subquad.llm.training.stages import Precision, steps_for
from subquad.llm.training.transfer import freeze_for_transfer, transfer_step
from subquad.runs.storage import read_json, write_json
from subquad.train.distributed import broadcast_object, processes

BUDGET_FILE = "budget.json"
EVALUATION_FRACTION, TRANSFER_FRACTION = 0.25, 0.25
"""Fractions of the time after loading, and of what evaluation leaves of it."""
MOMENTS_FRACTION = 0.1
"""In place of `TRANSFER_FRACTION` for moments, of which few steps train two numbers per head."""
EVALUATION_TOKENS = 8192
STEP_COST = 3
"""Time of a training step, in forward passes over its tokens."""
OTHER_SEQUENCES = 12
"""Time for saving, text samples and layer errors, in evaluations of one sequence."""
LONG_STEP = 2.0
"""Seconds from which a step is timed without a first call, whose overhead is small beside them."""


@dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """How much a run trains and evaluates."""

    precision: Precision
    """Data type of matrix products in training."""
    evaluation_sequences: int
    """Held-out sequences on which perplexities are measured."""
    transfer_tokens: int
    """Training tokens of attention transfer; 0 if a run continues an earlier one."""
    lora_tokens: int
    """Training tokens of fine-tuning."""
    seconds_per_sequence: dict[str, float] = field(default_factory=dict)
    """Measured times of `evaluate`, `transfer` and `lora`; empty if the user gave the tokens."""


def budget_from_time(
    model: PreTrainedModel,
    text: TextDataset,
    settings: LinearizeSettings,
    *,
    directory: Path,
    elapsed: float,
    seed: int,
) -> TokenBudget:
    """Return the budget in the folder, or determine it from `settings.minutes` by timing steps of both stages.

    All processes must call it.

    Args:
        model: The converted model; its weights are not changed.
        text: Training and held-out sequences.
        settings: Settings of the run.
        directory: Folder of the run.
        elapsed: Seconds since the start of the run.
        seed: Seed of the timed LoRA updates.
    """
    saved = _read(directory)
    if saved is not None:
        return saved
    weight = embedding_weight(model)
    precision = _choose_precision(settings, weight.shape[1], weight.device)
    start = time.monotonic()
    seconds = _time_steps(model, text, settings, precision, seed)
    remaining = (settings.minutes or DEFAULT_MINUTES) * 60 - elapsed - (time.monotonic() - start)
    sequences = _evaluation_sequences(text, settings)
    remaining -= choice_sequences(model, settings) * seconds["evaluate"]
    return _save(divide_time(remaining, seconds, settings, precision=precision, sequences=sequences), directory)


def budget_from_tokens(
    text: TextDataset, settings: LinearizeSettings, *, directory: Path, width: int, device: torch.device
) -> TokenBudget:
    """Return the budget in the folder, or that of the user's tokens, which needs no model.

    All processes must call it.

    Args:
        text: Training and held-out sequences.
        settings: Settings with the tokens of both stages.
        directory: Folder of the run.
        width: Size of the model's hidden states.
        device: Device of the model.
    """
    saved = _read(directory)
    if saved is not None:
        return saved
    if settings.lora_tokens is None:
        raise ValueError("this budget needs the tokens of fine-tuning, and of attention transfer if there is one")
    sequences = _evaluation_sequences(text, settings)
    if settings.evaluation_tokens is None:
        sequences = max(1, min(sequences, _affordable_sequences(settings)))
    budget = TokenBudget(
        precision=_choose_precision(settings, width, device),
        evaluation_sequences=sequences,
        transfer_tokens=settings.transfer_tokens or 0,
        lora_tokens=settings.lora_tokens,
    )
    return _save(budget, directory)


def _read(directory: Path) -> TokenBudget | None:
    """Return the saved budget as the first process sees it, which may write while others still look for the file."""
    path, budget = directory / BUDGET_FILE, None
    if path.is_file():
        # a new budget might not be the one by which the run was trained so far
        with reading(path, "a budget"):
            budget = TokenBudget(**read_json(path))
    return broadcast_object(budget)


def _save(budget: TokenBudget, directory: Path) -> TokenBudget:
    """Save the first process's budget and return it."""
    budget = broadcast_object(budget)
    if processes().is_main_process:
        write_json(directory / BUDGET_FILE, asdict(budget))
    return budget


def _choose_precision(settings: LinearizeSettings, width: int, device: torch.device) -> Precision:
    """Return the precision of training, the same in all processes."""
    if settings.dtype == "bfloat16":
        return "bfloat16"
    return broadcast_object(settings.precision if settings.precision != "auto" else _faster_precision(width, device))


def _evaluation_sequences(text: TextDataset, settings: LinearizeSettings) -> int:
    tokens = EVALUATION_TOKENS if settings.evaluation_tokens is None else settings.evaluation_tokens
    return min(len(text.holdout), max(1, tokens // settings.sequence_length))


def _affordable_sequences(settings: LinearizeSettings) -> int:
    """Return on how many sequences each model is measured in a quarter of the time, given the training tokens."""
    tokens = (settings.transfer_tokens or 0) + (settings.lora_tokens or 0)
    training = STEP_COST * tokens * (1 + len(_controls(settings)))
    share = EVALUATION_FRACTION / (1 - EVALUATION_FRACTION)
    return int(share * training / (_measured_models(settings) * settings.sequence_length))


def _controls(settings: LinearizeSettings) -> list[str]:
    return control_names(settings.attention) if settings.controls else []


def _measured_models(settings: LinearizeSettings) -> int:
    absent = {
        *({*CONTROLS} - {*_controls(settings)}),
        # without a linear branch it is the untrained student
        *(() if settings.attention.cache and settings.attention.has_linear else ("cache",)),
        *(() if settings.attention.has_linear else ("transferred", "fine_tuned_without_linear")),
        *(() if settings.softmax_layers else ("restored",)),
        *(("earlier",) if settings.from_ is None else ("untrained", "transferred")),
    }
    return len({*LABELS} - absent)


def divide_time(
    remaining: float, seconds: dict[str, float], settings: LinearizeSettings, *, precision: Precision, sequences: int
) -> TokenBudget:
    """Divide a time in seconds between evaluations and the two stages; each runs at least once.

    Args:
        remaining: Seconds left.
        seconds: Seconds per sequence of `evaluate`, `transfer` and `lora`.
        settings: Settings of the run.
        precision: Data type of matrix products.
        sequences: Maximum number of evaluation sequences.
    """
    controls, models = len(_controls(settings)), _measured_models(settings)
    affordable = int(remaining * EVALUATION_FRACTION / (models * seconds["evaluate"]))
    sequences = max(1, min(sequences, affordable))
    training = remaining - (models * sequences + OTHER_SEQUENCES) * seconds["evaluate"]

    # the cost of a validation is spread over the training sequences before it
    step = settings.batch_size * settings.gradient_accumulation
    every = (settings.validate_every or math.inf) * step
    validation = VALIDATION_SEQUENCES * seconds["evaluate"] / every
    transfer = MOMENTS_FRACTION if settings.attention.has_moments else TRANSFER_FRACTION
    transfer = transfer if settings.has_transfer else 0.0
    fractions = {"transfer": transfer, "lora": 1 - transfer}
    # sequences per second of the two stages; each control fine-tunes on those of both
    rates = {stage: fraction / (seconds[stage] + validation) for stage, fraction in fractions.items() if fraction}
    training /= 1 + controls * sum(rates.values()) * (seconds["lora"] + validation)

    def tokens(stage: str) -> int:
        count = max(step, int(training * rates[stage])) if stage in rates else 0
        return count * settings.sequence_length * processes().num_processes

    return TokenBudget(
        precision=precision,
        evaluation_sequences=sequences,
        transfer_tokens=tokens("transfer"),
        lora_tokens=tokens("lora"),
        seconds_per_sequence={name: round(value, 4) for name, value in seconds.items()},
    )


def enough_minutes(
    steps: int,
    budget: TokenBudget,
    text: TextDataset,
    settings: LinearizeSettings,
    *,
    spent: float,
    others: int = 0,
) -> int:
    """Return the least `--minutes`, as a whole number, in which each stage has so many steps.

    Args:
        steps: Optimizer steps of each stage.
        budget: A budget with measured times of the steps.
        text: Training and held-out sequences.
        settings: Settings of the run.
        spent: Seconds before the budget was known.
        others: Further sequences that the run evaluates.
    """
    seconds, sequences, minutes = budget.seconds_per_sequence, _evaluation_sequences(text, settings), 1
    while True:
        remaining = 60 * minutes - spent - others * seconds["evaluate"]
        found = divide_time(remaining, seconds, settings, precision=budget.precision, sequences=sequences)
        if all(steps_for(tokens, settings) >= steps for tokens in (found.transfer_tokens, found.lora_tokens) if tokens):
            return minutes
        minutes += 1


def choice_sequences(model: PreTrainedModel, settings: LinearizeSettings) -> int:
    """Return how many sequences the choice of the layers that keep softmax attention evaluates."""
    return CHOICE_SEQUENCES * (2 + len(attention_layers(model))) if settings.softmax_layers else 0


def expected_seconds(budget: TokenBudget, settings: LinearizeSettings, *, others: int = 0) -> float:
    """Return the seconds that a run takes from its budget on, by the measured times of its steps.

    Args:
        budget: What it trains and evaluates.
        settings: Settings of the run.
        others: Further sequences that it evaluates.
    """
    seconds, length = budget.seconds_per_sequence, settings.sequence_length * processes().num_processes
    transfer, lora = (tokens / length for tokens in (budget.transfer_tokens, budget.lora_tokens))
    every = (settings.validate_every or math.inf) * settings.batch_size * settings.gradient_accumulation
    evaluations = _measured_models(settings) * budget.evaluation_sequences + OTHER_SEQUENCES + others
    # each control fine-tunes on the sequences of both stages
    lora += len(_controls(settings)) * (transfer + lora)
    evaluations += (transfer + lora) * VALIDATION_SEQUENCES / every
    return evaluations * seconds["evaluate"] + transfer * seconds.get("transfer", 0.0) + lora * seconds["lora"]


def _time_steps(
    model: PreTrainedModel, text: TextDataset, settings: LinearizeSettings, precision: Precision, seed: int
) -> dict[str, float]:
    batch = text.training[: settings.batch_size]
    ids, documents = batch.ids, batch.documents if settings.documents == "separate" else None
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    seconds = {"evaluate": _seconds(lambda: perplexity(model, ids[:1]), device)}
    if settings.has_transfer:
        freeze_for_transfer(model)
        with autocast:
            seconds["transfer"] = _seconds(
                lambda: transfer_step(model, ids, torch.Tensor.backward, documents=documents), device
            ) / len(ids)
        model.zero_grad(set_to_none=True)
    tuned = add_lora(model, settings, seed=seed).train()
    drawn = draw_windows([len(ids)], settings.random_windows, seed=seed, epoch=0)[0]
    how = {"documents": documents, "settings": settings, "windows": drawn}
    with autocast:
        seconds["lora"] = _seconds(lambda: fine_tune_step(tuned, ids, torch.Tensor.backward, **how), device) / len(ids)
    tuned.unload()
    model.eval()
    model.zero_grad(set_to_none=True)
    return seconds


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call: the second, since the first also allocates memory and compiles kernels.

    On a CPU a long first call is not repeated.
    """

    def timed() -> float:
        start = time.monotonic()
        work()
        _synchronize(device)
        return time.monotonic() - start

    first = timed()
    return first if device.type == "cpu" and first > LONG_STEP else timed()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _faster_precision(width: int, device: torch.device) -> Precision:
    """Return `bfloat16` if a matrix product of the model's size is clearly faster in it than in float32."""

    def trial(dtype: torch.dtype) -> float:
        a = torch.ones(512, width, dtype=dtype, device=device)
        b = torch.ones(width, 4 * width, dtype=dtype, device=device)
        return min(_seconds(lambda: a @ b, device) for _ in range(3))

    return "bfloat16" if trial(torch.bfloat16) < 0.8 * trial(torch.float32) else "float32"
