"""The costs of linearizing, as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from subquad.llm.planning.costs import CONTEXTS, GB, STAGES
from subquad.llm.planning.settings import SizingSettings

__all__ = ["show"]


def show(plans: Mapping[str, Mapping[str, Any]], settings: SizingSettings) -> None:
    """Print what `plans` found: sizes and time, memory, generation, and how sure each is."""
    console = Console()
    for table in (_sizes(plans), _memory(plans, settings), _generation(plans)):
        console.print(table)
    console.print(_notes(plans, settings), soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    return table


def _sizes(plans: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table(
        "What is trained, GPU hours, and the disk of block-wise transfer",
        "model", "weights", "stage 1 trains", "stage 2 trains", "stage 1 hours", "stage 2 hours", "disk",
    )  # fmt: skip
    for name, plan in plans.items():
        counts, time = plan["parameters"], plan["time"]
        table.add_row(
            name,
            *(_count(counts[key]) for key in ("model", "trained_in_transfer", "trained_in_lora")),
            *(f"{_plain(time[key]['gpu_hours'])}{'' if time[key]['is_estimate'] else '*'}" for key in time),
            _size(plan["disk_bytes"]),
        )
    return table


def _memory(plans: Mapping[str, Mapping[str, Any]], settings: SizingSettings) -> Table:
    one = "1 GPU" if settings.gpus == 1 else f"each of {settings.gpus} GPUs"
    table = _table(
        f"Memory of {one} in GB ({settings.dtype}, {settings.batch} × {settings.length:,} tokens a step"
        f"{', checkpointing' * settings.checkpointing})",
        "", "weights", "training", "activations", "other", "total", f"fits {settings.gpu_memory:g} GB", "fewest GPUs",
    )  # fmt: skip
    for name, plan in plans.items():
        table.add_row(name, style="bold")
        for stage in STAGES:
            parts = plan["memory"][stage]
            columns = (
                parts["weights"],
                parts["trained"] + parts["gradients"] + parts["optimizer"],
                parts["activations"],
                parts["gathered"] + parts["runtime"],
                parts["total"],
            )
            table.add_row(
                _stage(stage, plan["blocks"]),
                *(_plain(value / GB) for value in columns),
                "yes" if parts["fits"] else "no",
                str(parts["fewest_gpus"] or "none"),
            )
    return table


def _stage(stage: str, blocks: int) -> str:
    return {"transfer": "stage 1", "transfer_in_blocks": f"1 of {blocks} blocks", "lora": "stage 2"}[stage]


def _generation(plans: Mapping[str, Mapping[str, Any]]) -> Table:
    contexts = [f"{context // 1024}k" for context in CONTEXTS]
    table = _table("Generation: one sequence's state, and its cache in the softmax model", "", "state", "less from",
        *contexts)  # fmt: skip
    for name, plan in plans.items():
        costs = plan["generation"]
        table.add_row(name, "", "", *(_size(costs["cache_bytes"][str(context)]) for context in CONTEXTS), style="bold")
        for heads, state in costs["state"].items():
            table.add_row(f"{heads} maps", _size(state["bytes"]), f"{state['crossover']:,}")
    return table


def _notes(plans: Mapping[str, Mapping[str, Any]], settings: SizingSettings) -> str:
    lines = [
        "Counts, disk and states are exact where all layers become linear. Memory and time are estimates; the formulas "
        "stand in subquad.llm.planning.costs.",
        "weights: the frozen ones. training: what is trained, its gradients and AdamW's moments, in each GPU. other: "
        "CUDA, and with several GPUs (--shard) what each gathers.",
        "less from: the tokens from which on the cache is larger than the state.",
        f"Time is for {_count(settings.transfer_tokens)} + {_count(settings.lora_tokens)} tokens at "
        f"{settings.speed:.1e} operations per second and GPU (--flops)"
        + (", * at the rate given." if _is_measured(settings) else "; a measured rate is worth more."),
    ]
    if any(plan["memory"][stage]["fewest_gpus"] is None for plan in plans.values() for stage in STAGES):
        how = "a smaller --batch or --length" if settings.checkpointing else "--checkpointing, or a smaller --batch"
        lines.append(f"none: what GPUs do not share is more than --gpu-memory {settings.gpu_memory:g} GB; try {how}.")
    return "\n".join(lines)


def _is_measured(settings: SizingSettings) -> bool:
    return (settings.tokens_per_second_transfer or settings.tokens_per_second_lora) is not None


def _count(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{_plain(number / size)} {letter}"
    return f"{number:,}"


def _size(number: int) -> str:
    for size, letter in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{_plain(number / size)} {letter}"
    return f"{_plain(number / 1e3)} kB"


def _plain(value: float) -> str:
    """Return three digits, or all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
