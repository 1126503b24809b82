"""Tables of an evaluation, for its page and for the terminal: names of models and tasks, values with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subquad.reporting.page import LARGE, difference_text, show

__all__ = [
    "FINE_TUNED",
    "LABELS",
    "NONE",
    "STUDENT",
    "TEACHER",
    "WINDOW",
    "branch",
    "closed_text",
    "columns",
    "estimate_text",
    "gap_rows",
    "has_gap",
    "headlines",
    "labels",
    "perplexity_rows",
    "perplexity_text",
    "reasons",
    "task_rows",
]

NONE = "–"
"""What stands in place of a value that is not known."""
TEACHER, WINDOW, STUDENT = "teacher", "window", "fine_tuned"
FINE_TUNED = {TEACHER: "teacher_fine_tuned", WINDOW: "wide_window_fine_tuned"}
"""Controls that take the place of the untrained ones in the gap if they were trained."""
LABELS = {
    TEACHER: "teacher",
    "teacher_fine_tuned": "teacher, fine-tuned",
    WINDOW: "window only",
    "cache": "window and cache",
    "window_fine_tuned": "window, fine-tuned",
    "wide_window_fine_tuned": "wide window, fine-tuned",
    "cache_fine_tuned": "window and cache, fine-tuned",
    "fine_tuned_without_linear": "student without linear",
    STUDENT: "student",
}
"""The model variants and their names: the student always stands beside its controls."""
TASKS = {
    "piqa": "PIQA",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "mmlu": "MMLU",
}

Estimate = Mapping[str, float | None]
"""A `value` with the limits of its 95 % interval, `low` and `high`."""


def branch(about: Mapping[str, Any]) -> str:
    """Return the name of what a model has for the tokens before its window."""
    return "moments" if about.get("has_moments") else "linear branch"


def labels(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the model variants of one model."""
    without = "student without moments" if about.get("has_moments") else LABELS["fine_tuned_without_linear"]
    return {**LABELS, "fine_tuned_without_linear": without}


def columns(about: Mapping[str, Any]) -> list[str]:
    """Return the headers of the columns of a model's variants."""
    return [labels(about)[role] for role in about["roles"]]


def estimate_text(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Return a value with its interval."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return NONE
    return write(value) if low is None or high is None else f"{write(value)} [{write(low)}, {write(high)}]"


def perplexity_text(value: float | None) -> str:
    """Return a perplexity with at least three digits and at most two decimals; from a million on, with an exponent."""
    if value is None:
        return "not finite"
    if value >= LARGE:
        return show(float(value))
    # limits of what is rounded up to the next power of ten
    return f"{value:,.0f}" if value >= 999.95 else f"{value:.1f}" if value >= 99.995 else f"{value:.2f}"


def closed_text(gap: Estimate) -> str:
    """Return the part of a gap that is closed, in per cent."""
    return estimate_text(gap, lambda value: f"{100 * value:,.0f} %".replace("-", "−"))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def perplexity_rows(texts: Mapping[str, Any]) -> list[list[str | int]]:
    """Return a row per text: its name, its tokens, and each model's perplexity."""
    return [
        [name, text["tokens"], *(estimate_text(estimate, perplexity_text) for estimate in text["models"].values())]
        for name, text in texts.items()
    ]


def _task_name(task: str, metric: str) -> str:
    return TASKS.get(task, task) + (" norm" if metric == "acc_norm" else "")


def task_rows(model: Mapping[str, Any]) -> list[list[str | int]]:
    """Return a row per task and metric, and per passkey length: items, fraction beyond the window, each model."""
    rows: list[list[str | int]] = []
    for task, own in model["tasks"].items():
        beyond = f"{100 * own['beyond_window']['fraction']:.0f} %"
        rows += [
            [_task_name(task, metric), result["items"], beyond, *_accuracies(result)]
            for metric, result in own["metrics"].items()
        ]
    for length, result in model["passkey"].items():
        rows.append([f"passkey {int(length):,}", result["items"], NONE, *_accuracies(result)])
    return rows


def _accuracies(result: Mapping[str, Any]) -> list[str]:
    return [estimate_text(estimate, _percent) for estimate in result["models"].values()]


def headlines(model: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any], Callable[[Estimate], str]]]:
    """Return each main result: its kind, its name, the comparison of the models, and how to write a difference."""

    def nats(found: Estimate) -> str:
        return _difference_text(found, 1, digits=3)

    def points(found: Estimate) -> str:
        return _difference_text(found, 100, digits=1)

    found = [("text", f"loss on {name}", text, nats) for name, text in model["perplexity"].items()]
    for task, own in model["tasks"].items():
        name, result, beyond = _task_name(task, own["metric"]), own["metrics"][own["metric"]], own["beyond_window"]
        found.append(("task", name, result, points))
        if 0 < beyond["items"] < result["items"]:
            found.append(("task", f"{name}, beyond the window", beyond, points))
    return found + [("passkey", f"passkey {int(length):,}", own, points) for length, own in model["passkey"].items()]


def _difference_text(found: Estimate, scale: float, *, digits: int) -> str:
    value, low, high = (None if end is None else scale * end for end in (found["value"], found["low"], found["high"]))
    return NONE if value is None else difference_text(value, low, high, digits=digits)


def gap_rows(model: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per headline result: the gap that is closed, and the student minus each control."""
    rows = []
    for _, name, result, write in headlines(model):
        rows.append([name, closed_text(result["gap_closed"]), *map(write, result["differences"].values())])
    return rows


def has_gap(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a row of `gap_rows` has a value for the gap."""
    return any(row[1] != NONE for row in rows)


def reasons(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why some gaps have no value, each reason once."""
    gaps = [result["gap_closed"] for model in models for _, _, result, _ in headlines(model)]
    return list(dict.fromkeys(gap["reason"] for gap in gaps if "reason" in gap))
