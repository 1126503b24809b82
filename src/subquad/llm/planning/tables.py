"""Cost estimates as tables for the terminal."""

from collections.abc import Mapping

from subquad.llm.planning.cost_estimate import GB, STAGES, CostEstimate
from subquad.llm.planning.settings import PlanSettings
from subquad.reporting.tables import print_table

Estimates = Mapping[str, CostEstimate]


def print_costs(estimates: Estimates, settings: PlanSettings) -> None:
    """Print the memory of each stage of each model, and its sizes, time and state."""
    rows, sizes = [], []
    for name, estimate in estimates.items():
        titles: dict[str, str] = dict(
            zip(STAGES, ("stage 1", f"1 of {estimate.blocks} blocks", "stage 2"), strict=True)
        )
        for stage, memory in estimate.memory.items():
            trained = memory["trained"] + memory["gradients"] + memory["optimizer"]
            parts = (memory["weights"], trained, memory["activations"], memory["total"], memory["host"])
            gpus = str(memory["fewest_gpus"] or "none")
            rows.append([name, titles[stage], *(digits(size / GB) for size in parts), gpus])
        hours = [
            f"{digits(stage['gpu_hours'])}{'' if stage['is_estimate'] else '*'}" for stage in estimate.time.values()
        ]
        state = estimate.generation
        sizes.append([
            name, *map(_count, estimate.parameters.values()), *hours, _size(estimate.disk_bytes),
            _size(state["state"]), f"{state['crossover']:,}",
        ])  # fmt: skip
    of = "1 GPU" if settings.gpus == 1 else f"each of {settings.gpus} GPUs"
    print_table(
        ["model", "", "frozen", "trained", "activations", "total", "host", "GPUs"],
        rows,
        title=f"Memory of {of} in GB ({settings.dtype}, {settings.batch_size} × {settings.sequence_length:,} tokens "
        f"per step{', gradient checkpointing' * settings.gradient_checkpointing})",
    )
    print_table(
        ["model", "weights", "stage 1", "stage 2", "hours 1", "hours 2", "disk", "state", "from"],
        sizes,
        title="Trained parameters and GPU hours of stages 1 and 2, disk space of blocks, and state of generation",
    )
    print(
        "trained: with gradients and AdamW's moments. host: main memory of all processes. GPUs: the fewest of "
        f"{settings.gpu_memory:g} GB that are enough; none: what is not sharded is too large. Time is for "
        f"{_count(settings.transfer_tokens)} + {_count(settings.lora_tokens)} tokens at {settings.flops_per_gpu:.1e} "
        "operations per second and GPU (*: at the measured rate). from: tokens from which on the state is smaller than "
        "the key-value cache. Memory and time are estimates (subquad.llm.planning.cost_estimate)."
    )


def _count(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{digits(number / size)} {letter}"
    return f"{number:,}"


def _size(number: int) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{digits(number / size)} {unit}"
    return f"{digits(number / 1e3)} kB"


def digits(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
