"""The result of an evaluation in one sentence, with intervals: it stands at the top of its page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subquad.errors import counted
from subquad.llm.plots.evaluation_tables import (
    FINE_TUNED,
    STUDENT,
    TEACHER,
    Estimate,
    branch,
    closed_text,
    headlines,
    labels,
)
from subquad.llm.training.controls import MODES
from subquad.reporting.run_comparison import run_name

__all__ = ["NOT_MEASURED", "NO_CONTROL", "missing_control", "result_sentence"]

NO_CONTROL = (
    "No control that was fine-tuned with the same budget lies beside it, so a part of what the student gains may come "
    "from training on its texts alone; `subquad llm linearize --controls` trains such controls."
)
NOT_MEASURED = (
    "The controls that were fine-tuned with the same budget are not measured here (--variants), so a part of what the "
    "student gains may come from training on its texts alone."
)

Result = tuple[str, Mapping[str, Any], Callable[[Estimate], str]]


def result_sentence(models: Sequence[Mapping[str, Any]]) -> str:
    """Return what each student reaches on the first text, the first task and the first passkey length."""
    sentences = [sentence for model in models for sentence in (_result(model), _contribution(model)) if sentence]
    if any("[" in sentence for sentence in sentences):
        sentences.append("Brackets: 95 % intervals.")
    compared = [model["about"] for model in models if headlines(model)]
    for remark in (NO_CONTROL, NOT_MEASURED):
        without = [run_name(about["folder"]) for about in compared if missing_control(about) == remark]
        if without:
            sentences.append(f"{', '.join(without)}: {remark}" if len(without) < len(models) else remark)
    return " ".join(sentences)


def missing_control(about: Mapping[str, Any]) -> str | None:
    """Return what it means that no control was measured that was fine-tuned on the texts of the student, if so."""
    if any(role in MODES for role in about["roles"]):
        return None
    return NOT_MEASURED if about.get("controls") else NO_CONTROL


def _first_results(model: Mapping[str, Any]) -> list[Result]:
    """Return the first text, the first task and the first passkey length, as far as they were measured."""
    by_kind: dict[str, Result] = {}
    for kind, title, result, write in headlines(model):
        by_kind.setdefault(kind, (title, result, write))
    return list(by_kind.values())


def _result(model: Mapping[str, Any]) -> str:
    about, closed, clauses = model["about"], list[str](), list[str]()
    for title, result, write in _first_results(model):
        gap = result["gap_closed"]
        if gap.get("value") is not None and gap.get("low") is not None:
            of = "it" if closed else f"the gap between {_gap_ends(about)}"
            closed.append(f"{closed_text(gap)} of {of} in {title}")
        elif clause := _against_teacher(title, result, write, labels(about)):
            clauses.append(clause)
    name, clauses = run_name(about["folder"]), [f"closes {' and '.join(closed)}"] * bool(closed) + clauses
    return f"{name} {' and '.join(clauses)}." if clauses else f"{name} was measured for speed and memory only."


def _gap_ends(about: Mapping[str, Any]) -> str:
    """Return the two models whose gap is closed: without the student's training or with as much of it."""
    if all(role in about["roles"] for role in FINE_TUNED.values()):
        return "the fine-tuned wide window and the fine-tuned teacher"
    size = "" if about["window_shape"] == "none" else f" of {counted(about['window'], 'token')}"
    return f"the untrained window{size} and the untrained teacher"


def _contribution(model: Mapping[str, Any]) -> str:
    """Return by how much the student differs from itself without moments; empty if that was not measured."""
    about, role = model["about"], "fine_tuned_without_linear"
    parts = [
        f"{title} {_with_unit(title, result['differences'][role], write)}"
        for title, result, write in _first_results(model)
        if role in result["differences"]
    ]
    difference = f"{labels(about)[STUDENT]} − {labels(about)[role]}"
    return f"Contribution of its {branch(about)} ({difference}): {', '.join(parts)}." if parts else ""


def _with_unit(title: str, found: Estimate, write: Callable[[Estimate], str]) -> str:
    text = f"{write(found)} {'nats per token' if title.startswith('loss') else 'points'}"
    return text if found["low"] is not None else f"{text} (no interval)"


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
