"""Cost estimates as tables for the terminal."""

from collections.abc import Mapping

from subquad.llm.planning.cost_estimate import CONTEXTS, GB, STAGES, CostEstimate
from subquad.llm.planning.settings import PlanSettings
from subquad.reporting.tables import print_table

__all__ = ["digits", "print_costs"]

Estimates = Mapping[str, CostEstimate]


def print_costs(estimates: Estimates, settings: PlanSettings) -> None:
    """Print sizes and time, memory, and the cost of generation of each model."""
    _print_sizes(estimates)
    _print_memory(estimates, settings)
    _print_generation(estimates)
    print(_notes(estimates, settings))


def _print_sizes(estimates: Estimates) -> None:
    rows = []
    for name, estimate in estimates.items():
        counts = [_count(estimate.parameters[key]) for key in ("model", "trained_in_transfer", "trained_in_lora")]
        hours = [f"{digits(t['gpu_hours'])}{'' if t['is_estimate'] else '*'}" for t in estimate.time.values()]
        rows.append([name, *counts, *hours, _size(estimate.disk_bytes)])
    print_table(
        ["model", "weights", "stage 1", "stage 2", "hours 1", "hours 2", "disk"],
        rows,
        title="Trained parameters and GPU hours of stages 1 and 2, and disk space of block-wise transfer",
    )


def _print_memory(estimates: Estimates, settings: PlanSettings) -> None:
    rows = []
    for name, estimate in estimates.items():
        rows.append([name, *[""] * 7])
        titles: dict[str, str] = dict(
            zip(STAGES, ("stage 1", f"1 of {estimate.blocks} blocks", "stage 2"), strict=True)
        )
        for stage, own in estimate.memory.items():
            training = own["trained"] + own["gradients"] + own["optimizer"]
            cells = [digits(size / GB) for size in (own["weights"], training, own["activations"], own["total"])]
            fits, gpus = "yes" if own["fits"] else "no", str(own["fewest_gpus"] or "none")
            rows.append([titles[stage], *cells, fits, gpus, digits(own["host"] / GB)])
    of = "1 GPU" if settings.gpus == 1 else f"each of {settings.gpus} GPUs"
    print_table(
        ["", "frozen", "trained", "activations", "total", "fits", "GPUs", "host"],
        rows,
        title=f"Memory of {of} in GB ({settings.dtype}, {settings.batch_size} × {settings.sequence_length:,} tokens "
        f"per step{', gradient checkpointing' * settings.gradient_checkpointing})",
    )


def _print_generation(estimates: Estimates) -> None:
    rows = []
    for name, estimate in estimates.items():
        caches = [_size(estimate.generation["cache_bytes"][str(context)]) for context in CONTEXTS]
        rows.append([name, *[""] * (len(CONTEXTS) + 1)])
        for heads, state in estimate.generation["state"].items():
            rows.append([f"state, {heads}", f"{state['crossover']:,}", *[_size(state["bytes"])] * len(CONTEXTS)])
        rows.append(["cache", "", *caches])
    print_table(
        ["", "from", *(f"{context // 1024}k" for context in CONTEXTS)],
        rows,
        title="Generation: memory of one sequence by context length",
    )


def _notes(estimates: Estimates, settings: PlanSettings) -> str:
    is_measured = (settings.tokens_per_second_transfer or settings.tokens_per_second_lora) is not None
    of_state = "a feature map per query head or per key-value head (--attention.feature-heads)"
    if settings.attention.has_moments:
        of_state = "window, sinks, cache and moments"
    elif not settings.attention.has_linear:
        of_state = "window, sinks and cache"
    lines = [
        "Counts, disk space and states are exact if all layers are linearized. Memory and time are estimates; see "
        "subquad.llm.planning.cost_estimate for the formulas.",
        "trained: weights, gradients and AdamW's moments of what is trained. total: with CUDA's own memory, and with "
        f"several GPUs (--shard) the layers that each gathers. fits: within {settings.gpu_memory:g} GB. GPUs: the "
        "smallest number that is enough. host: main memory of all processes together.",
        f"state: with {of_state}. from: number of tokens from which on it is smaller than the key-value cache.",
        f"Time is for {_count(settings.transfer_tokens)} + {_count(settings.lora_tokens)} tokens at "
        f"{settings.flops_per_gpu:.1e} operations per second and GPU (--flops)"
        + (", * at the measured rate." if is_measured else "; prefer a measured rate."),
    ]
    for name, estimate in estimates.items():
        if estimate.memory["lora"]["fits"] or not estimate.memory.get("transfer_in_blocks", {}).get("fits"):
            continue
        lines.append(f"{name}: a block fits, but stage 2, which follows in the same process, does not.")
    fewest = [own["fewest_gpus"] for estimate in estimates.values() for own in estimate.memory.values()]
    if None in fewest:
        smaller = "a smaller --batch-size or --sequence-length"
        remedy = smaller if settings.gradient_checkpointing else f"--gradient-checkpointing, or {smaller}"
        lines.append(
            f"none: the memory that is not sharded exceeds --gpu-memory {settings.gpu_memory:g} GB; try {remedy}."
        )
    return "\n".join(lines)


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
