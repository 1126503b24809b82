"""The result of an evaluation in one sentence, with intervals: it stands at the top of its page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subquad.llm.plots.evaluation_tables import FINE_TUNED, TEACHER, Estimate, closed_text, headlines, labels
from subquad.reporting.run_comparison import run_name

__all__ = ["NO_CONTROL", "has_control", "result_sentence"]

NO_CONTROL = (
    "No control was fine-tuned with the same budget, so a part of what the student gains may come from training on "
    "its texts alone; `subquad llm linearize --controls` trains such controls."
)

Result = tuple[str, Mapping[str, Any], Callable[[Estimate], str]]


def result_sentence(models: Sequence[Mapping[str, Any]]) -> str:
    """Return what each student reaches on the first text, the first task and the first passkey length."""
    sentences = [f"{'; '.join(_result(model) for model in models)}."]
    compared = [model["about"] for model in models if headlines(model)]
    if compared:
        sentences.append("Brackets: 95 % intervals.")
    without = [run_name(about["folder"]) for about in compared if not has_control(about)]
    if without:
        sentences.append(f"{', '.join(without)}: {NO_CONTROL}" if len(without) < len(models) else NO_CONTROL)
    return " ".join(sentences)


def has_control(about: Mapping[str, Any]) -> bool:
    """Return whether a control was fine-tuned on the texts of the student, and measured."""
    return any(role.endswith("_fine_tuned") for role in about["roles"])


def _result(model: Mapping[str, Any]) -> str:
    name, clauses = run_name(model["about"]["folder"]), []
    by_kind: dict[str, Result] = {}
    for kind, title, result, write in headlines(model):
        by_kind.setdefault(kind, (title, result, write))
    for title, result, write in by_kind.values():
        gap = result["gap_closed"]
        if gap.get("value") is not None and gap.get("low") is not None:
            clauses.append(f"closes {closed_text(gap)} of the gap between window and teacher in {title}")
        elif clause := _against_teacher(title, result, write, labels(model["about"])):
            clauses.append(clause)
    return f"{name} {' and '.join(clauses)}" if clauses else f"{name} was measured for speed and memory only"


def _against_teacher(
    title: str, result: Mapping[str, Any], write: Callable[[Estimate], str], names: Mapping[str, str]
) -> str | None:
    """Return the difference from the teacher, with its interval; None if no teacher was measured."""
    differences = result["differences"]
    role = next((role for role in (FINE_TUNED[TEACHER], TEACHER) if role in differences), None)
    if role is None:
        return None
    found = differences[role]
    text = f"({write(found)} {'nats per token' if title.startswith('loss') else 'points'})"
    if found["low"] is None:
        return f"differs from {names[role]} in {title} by an amount without interval {text}"
    if found["low"] <= 0 <= found["high"]:
        return f"is not told apart from {names[role]} in {title} {text}"
    return f"is {'above' if found['value'] > 0 else 'below'} {names[role]} in {title} {text}"
