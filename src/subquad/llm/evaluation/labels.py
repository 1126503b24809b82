"""What pages and terminals say of the figures: names of models and tasks, numbers with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from subquad.llm.evaluation.comparisons import ROLES, STUDENT

__all__ = ["MODELS", "NOT_TRAINED", "columns", "gap_rows", "perplexity_cell", "reasons", "show", "task_rows"]

MODELS = {
    "softmax": "softmax",
    "window_only": "window only",
    "window_tuned": "window tuned",
    "tuned_without_linear": "no linear",
    "tuned": "hybrid",
}
NOT_TRAINED = "not trained"
TASKS = {
    "piqa": "PIQA",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "mmlu": "MMLU",
}


def columns() -> list[str]:
    """Return the heads of the models' columns, the student last."""
    return [MODELS[role] for role in ROLES]


def perplexity_cell(estimate: Mapping[str, float | None] | None) -> str:
    """Return a perplexity with half its interval's width."""
    return _figure(estimate, _short, "")


def _percent(estimate: Mapping[str, float | None] | None) -> str:
    return _figure(estimate, lambda value: f"{100 * value:.1f}", "")


def _figure(estimate: Mapping[str, float | None] | None, write: Callable[[float], str], sign: str) -> str:
    """Return a figure with half its interval's width; what was not trained has none."""
    if estimate is None:
        return NOT_TRAINED
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "–"
    shown = (sign if value >= 0 else "") + write(value)
    return shown if low is None or high is None else f"{shown} ± {write((high - low) / 2)}"


def task_rows(tasks: Mapping[str, Any]) -> list[list[str | int]]:
    """Return a row for each task and metric: items, share beyond the window, and each model's percent."""
    rows: list[list[str | int]] = []
    for task, figures in tasks.items():
        for metric, compared in figures["metrics"].items():
            name = TASKS[task] + (" norm" if metric == "acc_norm" else "")
            rows.append(
                [
                    name,
                    compared["items"],
                    f"{100 * figures['beyond_window']['share']:.0f} %",
                    *(_percent(compared["models"].get(role)) for role in ROLES),
                ]
            )
    return rows


def _compared(model: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], float, int]]:
    """Return each headline figure: its name, what `compare` said of it, and the scale and digits to show it with."""
    found: list[tuple[str, Mapping[str, Any], float, int]] = [
        (f"loss on {name}", figures, 1, 3) for name, figures in model["perplexity"].items()
    ]
    for task, figures in model["tasks"].items():
        metric = figures["metric"]
        suffix = " norm" if metric == "acc_norm" else ""
        found.append((TASKS[task] + suffix, figures["metrics"][metric], 100, 1))
        beyond = figures["beyond_window"]
        if 0 < beyond["items"] < figures["metrics"][metric]["items"]:
            found.append((f"{TASKS[task]}{suffix}, beyond the window", beyond, 100, 1))
    found += [(f"passkey {int(name):,}", figures, 100, 1) for name, figures in model["passkey"].items()]
    return found


def gap_rows(model: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each headline figure: the share of the gap it closes, and the student less each control."""
    rows = []
    for name, compared, scale, digits in _compared(model):

        def write(value: float, scale: float = scale, digits: int = digits) -> str:
            return f"{scale * value:.{digits}f}"

        gap = compared["gap_closed"]
        closed = "–" if gap["value"] is None else _figure(gap, lambda value: f"{100 * value:.0f}", "") + " %"
        differences = [_figure(compared["differences"].get(role), write, "+") for role in ROLES if role != STUDENT]
        rows.append([name, closed, *differences])
    return rows


def reasons(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why some gaps have no number, each reason once."""
    found = [gap["why"] for model in models for _, c, _, _ in _compared(model) if "why" in (gap := c["gap_closed"])]
    return list(dict.fromkeys(found))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def show(evaluation: Mapping[str, Any], out: Path) -> None:
    """Print the tables of an evaluation."""
    console = Console()
    for model in evaluation["models"]:
        folder = model["about"]["folder"]
        if model["perplexity"]:
            table = _table(f"{folder}: perplexity (lower is better)", ["text", *columns()])
            for name, figures in model["perplexity"].items():
                table.add_row(name, *(perplexity_cell(figures["models"].get(role)) for role in ROLES))
            console.print(table)
        if model["tasks"] or model["passkey"]:
            table = _table(f"{folder}: percent right", ["task", "items", "beyond", *columns()])
            for row in task_rows(model["tasks"]):
                table.add_row(*map(str, row))
            for name, figures in model["passkey"].items():
                cells = (_percent(figures["models"].get(role)) for role in ROLES)
                table.add_row(f"passkey {int(name):,}", str(figures["items"]), "–", *cells)
            console.print(table)
        table = _table(f"{folder}: gap closed, from window only to softmax", ["figure", "percent"])
        for row in gap_rows(model):
            table.add_row(row[0], row[1])
        if table.row_count:
            console.print(table)
    for reason in reasons(evaluation["models"]):
        console.print(f"–: {reason}", soft_wrap=True)
    console.print(f"Wrote {out}; look at {out / 'report.html'}.", soft_wrap=True)


def _table(title: str, heads: Sequence[str]) -> RichTable:
    table = RichTable(title=title)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table
