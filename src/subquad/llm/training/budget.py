"""How much to train and evaluate: the user's tokens, or the tokens that fit into a time by the speed of a few steps.

Decided once and written into the run's folder, so that a run that is started again trains on the same tokens.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.data.packing import VALIDATION_SEQUENCES, Text
from subquad.llm.training.metrics import perplexity
from subquad.llm.models.adapter import add_lora
from subquad.llm.settings import DEFAULT_MINUTES, LinearizeSettings
from subquad.llm.training.lora import finetune_step
from subquad.llm.training.transfer import learnt_in_transfer, transfer_step
from subquad.runs.storage import read_json, write_json
from subquad.train.distributed import broadcast_object, processes

__all__ = ["EVALUATIONS", "Plan", "plan_for", "plan_of_tokens"]

PLAN = "plan.json"
EVALUATIONS = ("softmax", "window_only", "swapped", "transferred", "tuned", "tuned_without_linear")

# shares of the time that is left after loading
EVALUATION_SHARE, TRANSFER_SHARE = 0.25, 0.25
# writing the model, text samples and errors of the layers, in evaluations of one sequence
OTHER_SEQUENCES = 12


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the run does."""

    precision: str
    """Type of the matrix products in training."""
    evaluation_sequences: int
    """Held-out sequences that perplexities are measured on."""
    transfer_tokens: int
    """Tokens of stage 1."""
    lora_tokens: int
    """Tokens of stage 2."""
    seconds_per_sequence: dict[str, float] = field(default_factory=dict)
    """What was measured: `evaluate`, `transfer`, `tune`; nothing where the user gave the tokens."""


def plan_for(
    model: PreTrainedModel, text: Text, settings: LinearizeSettings, *, directory: Path, spent: float, seed: int
) -> Plan:
    """Return the plan in the folder, or make one and write it; of several processes all have to ask.

    Args:
        model: The converted model; its weights stay as they are.
        text: Training and held-out sequences.
        settings: Tokens or minutes.
        directory: The run's folder.
        spent: Seconds that went by before.
        seed: Of the trial's low-rank updates.
    """
    weight = model.get_input_embeddings().weight
    if settings.transfer_tokens is not None:
        return plan_of_tokens(text, settings, directory=directory, width=weight.shape[1], device=weight.device)
    found = _planned(directory)
    if found is not None:
        return found
    precision = _precision(settings, weight.shape[1], weight.device)
    began = time.monotonic()
    seconds = _measure(model, text, settings, precision, seed)
    left = (settings.minutes or DEFAULT_MINUTES) * 60 - spent - (time.monotonic() - began)
    plan = divide(left, seconds, settings, precision=precision, sequences=_evaluation_sequences(text, settings))
    return _kept(plan, directory)


def plan_of_tokens(
    text: Text, settings: LinearizeSettings, *, directory: Path, width: int, device: torch.device
) -> Plan:
    """Return the plan in the folder, or make and write that of the user's tokens, which needs no model.

    Of several processes all have to ask.

    Args:
        text: Training and held-out sequences.
        settings: Tokens of both stages.
        directory: The run's folder.
        width: Of the model's hidden states.
        device: Where the model will run.
    """
    found = _planned(directory)
    if found is not None:
        return found
    if settings.transfer_tokens is None or settings.lora_tokens is None:
        raise ValueError("this plan needs the tokens of both stages")
    plan = Plan(
        precision=_precision(settings, width, device),
        evaluation_sequences=_evaluation_sequences(text, settings),
        transfer_tokens=settings.transfer_tokens,
        lora_tokens=settings.lora_tokens,
    )
    return _kept(plan, directory)


def _planned(directory: Path) -> Plan | None:
    """Return the plan in the folder; the first process looks for all, since it may write while others still look."""
    path = directory / PLAN
    return broadcast_object(Plan(**read_json(path)) if path.is_file() else None)


def _kept(plan: Plan, directory: Path) -> Plan:
    """Return the first process's plan, and write it."""
    plan = broadcast_object(plan)
    if processes().is_main_process:
        write_json(directory / PLAN, asdict(plan))
    return plan


def _precision(settings: LinearizeSettings, width: int, device: torch.device) -> str:
    """Return the type of the matrix products, in all processes the same."""
    if settings.weights == "bfloat16":
        return "bfloat16"
    return broadcast_object(settings.precision if settings.precision != "auto" else _faster_precision(width, device))


def _evaluation_sequences(text: Text, settings: LinearizeSettings) -> int:
    return min(len(text.held_out), max(1, settings.evaluation_tokens // settings.length))


def divide(
    left: float, seconds: dict[str, float], settings: LinearizeSettings, *, precision: str, sequences: int
) -> Plan:
    """Return the plan for `left` seconds: evaluations first, then the stages by their shares; each at least once."""
    rounds = len(EVALUATIONS)
    fitting = int(left * EVALUATION_SHARE / (rounds * seconds["evaluate"]))
    sequences = max(1, min(sequences, fitting))
    rest = left - (rounds * sequences + OTHER_SEQUENCES) * seconds["evaluate"]

    # a validation is spread over the training sequences before it
    every = (settings.validate_every or math.inf) * settings.batch
    validation = VALIDATION_SEQUENCES * seconds["evaluate"] / every

    def tokens(share: float, stage: str) -> int:
        sequences = max(settings.batch, int(rest * share / (seconds[stage] + validation)))
        return sequences * settings.length * processes().num_processes

    return Plan(
        precision=precision,
        evaluation_sequences=sequences,
        transfer_tokens=tokens(TRANSFER_SHARE, "transfer"),
        lora_tokens=tokens(1 - TRANSFER_SHARE, "tune"),
        seconds_per_sequence={name: round(value, 4) for name, value in seconds.items()},
    )


def _measure(
    model: PreTrainedModel, text: Text, settings: LinearizeSettings, precision: str, seed: int
) -> dict[str, float]:
    ids = text.train[: settings.batch]
    documents = text.documents[: settings.batch] if settings.documents == "apart" else None
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    seconds = {"evaluate": _seconds(lambda: perplexity(model, ids[:1]), device)}
    learnt_in_transfer(model)
    with autocast:
        seconds["transfer"] = _seconds(
            lambda: transfer_step(model, ids, torch.Tensor.backward, settings=settings, documents=documents), device
        ) / len(ids)
    model.zero_grad(set_to_none=True)
    tuned = add_lora(model, settings, seed=seed).train()
    with autocast:
        seconds["tune"] = _seconds(
            lambda: finetune_step(tuned, ids, torch.Tensor.backward, documents=documents, distill=settings.distill),
            device,
        ) / len(ids)
    tuned.unload()
    model.eval()
    model.zero_grad(set_to_none=True)
    return seconds


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    # the first call also sets up memory and kernels
    work()
    _wait(device)
    began = time.monotonic()
    work()
    _wait(device)
    return time.monotonic() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _faster_precision(width: int, device: torch.device) -> str:
    """Return `bfloat16` where a matrix product of the model's size is clearly faster in it than in float32."""

    def trial(dtype: torch.dtype) -> float:
        a = torch.ones(512, width, dtype=dtype, device=device)
        b = torch.ones(width, 4 * width, dtype=dtype, device=device)
        return min(_seconds(lambda: a @ b, device) for _ in range(3))

    return "bfloat16" if trial(torch.bfloat16) < 0.8 * trial(torch.float32) else "float32"
