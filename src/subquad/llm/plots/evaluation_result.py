"""The result of an evaluation in one sentence, with intervals: it stands at the top of its page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subquad.llm.plots.evaluation_tables import FINE_TUNED, TEACHER, estimate_text, headlines, labels
from subquad.reporting.run_comparison import run_name

__all__ = ["result_sentence"]

Result = tuple[str, Mapping[str, Any], Callable[[float], str]]


def result_sentence(models: Sequence[Mapping[str, Any]]) -> str:
    """Return what each student reaches on the first text, the first task and the first passkey length."""
    return f"{'; '.join(_result(model) for model in models)}. Brackets: 95 % intervals."


def _result(model: Mapping[str, Any]) -> str:
    name, clauses = run_name(model["about"]["folder"]), []
    by_kind: dict[str, Result] = {}
    for kind, title, result, write in headlines(model):
        by_kind.setdefault(kind, (title, result, write))
    for title, result, write in by_kind.values():
        gap = result["gap_closed"]
        if gap.get("value") is not None and gap.get("low") is not None:
            closed = estimate_text(gap, lambda value: f"{100 * value:.0f} %")
            clauses.append(f"closes {closed} of the gap between window and teacher in {title}")
        elif clause := _against_teacher(title, result, write, labels(model["about"])):
            clauses.append(clause)
    return f"{name} {' and '.join(clauses)}" if clauses else f"{name} was measured for speed and memory only"


def _against_teacher(
    title: str, result: Mapping[str, Any], write: Callable[[float], str], names: Mapping[str, str]
) -> str | None:
    """Return the difference from the teacher, with its interval; None if no teacher was measured."""
    differences = result["differences"]
    role = next((role for role in (FINE_TUNED[TEACHER], TEACHER) if role in differences), None)
    if role is None:
        return None
    found = differences[role]
    text = f"({estimate_text(found, write)} {'nats per token' if title.startswith('loss') else 'points'})"
    if found["low"] is None:
        return f"differs from {names[role]} in {title} by an amount without interval {text}"
    if found["low"] <= 0 <= found["high"]:
        return f"is not told apart from {names[role]} in {title} {text}"
    return f"is {'above' if found['value'] > 0 else 'below'} {names[role]} in {title} {text}"
