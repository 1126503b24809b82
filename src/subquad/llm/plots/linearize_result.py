"""The result of a linearization in sentences: it stands at the top of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from subquad.errors import counted
from subquad.llm.plots.evaluation_tables import LABELS as VARIANTS
from subquad.llm.plots.evaluation_tables import branch, perplexity_text
from subquad.llm.plots.perplexity_changes import change_text, perplexity_change
from subquad.llm.training.controls import MODES
from subquad.reporting.page import difference_text
from subquad.reporting.statistics import Difference

__all__ = [
    "FEW_STEPS",
    "LABELS",
    "all_perplexities",
    "change_between",
    "few_steps",
    "labels",
    "perplexities",
    "trained_steps",
    "verdict",
]

FEW_STEPS = 4
"""Steps of a stage below which a page gives no verdict; a convention."""
STAGES = {"transfer": "attention transfer", "lora": "fine-tuning"}
LABELS = {
    "teacher": "teacher",
    **{role: name for role, name in VARIANTS.items() if role.endswith("_fine_tuned")},
    "window": "window only, untrained",
    "cache": "window and cache, untrained",
    "untrained": "student, untrained",
    "transferred": "student, after attention transfer",
    "restored": "student, with softmax attention in chosen layers",
    "earlier": "student, after the earlier run",
    "fine_tuned": "student, fine-tuned",
    "fine_tuned_without_linear": "student, without linear branch",
}


def labels(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the models that a run may measure."""
    return {**LABELS, "fine_tuned_without_linear": f"student, without {branch(about)}"}


def perplexities(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the perplexity of each model that was measured, if it is finite."""
    return {name: value for name, value in all_perplexities(metrics).items() if value is not None}


def all_perplexities(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the perplexity of each model that was measured; None if it is not finite."""
    return {name: metrics["test"][name]["perplexity"] for name in LABELS if name in metrics["test"]}


def trained_steps(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of steps of each stage, of a block if attention transfer went block by block."""
    steps: dict[str, int] = {}
    for entry in history:
        if (stage := stage_of(entry["part"])) in STAGES:
            steps[stage] = max(steps.get(stage, 0), entry["step"])
    return steps


def stage_of(part: str) -> str:
    """Return the stage of a part of the history; block-wise transfer has one part per block, `transfer-0` and so on."""
    return part.split("-", maxsplit=1)[0]


def change_between(notes: Mapping[str, Any], name: str, other: str) -> Difference | None:
    """Return by how many percent the perplexity of a model is above that of another; None without a paired interval."""
    losses = notes.get("losses", {})
    return perplexity_change(losses[name], losses[other]) if {name, other} <= set(losses) else None


def verdict(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the result in sentences; a control is called better or worse only if its paired interval says so.

    Args:
        metrics: Content of `metrics.json`.
        notes: Content of `evaluations.json`.
        history: Entries of `history.jsonl`; without them the number of steps is not known.
    """
    values = perplexities(metrics)
    student, teacher, window = (perplexity_text(values.get(name)) for name in ("fine_tuned", "teacher", "window"))
    found = f"The fine-tuned model has perplexity {student}; teacher {teacher}; window only, untrained {window}."
    few = few_steps(trained_steps(history))
    if few is not None:
        return f"{few} {found}"
    return f"{found} {_without_branch(notes, values)}{_against_controls(notes, values)}"


def few_steps(steps: Mapping[str, int]) -> str | None:
    """Return a warning of a run whose training says little; None if a stage of few steps is not known."""
    if not any(count < FEW_STEPS for count in steps.values()):
        return None
    trained = " and ".join(
        f"{counted(steps[stage], 'step')} of {name}" for stage, name in STAGES.items() if stage in steps
    )
    return (
        f"Trained on {trained}, too few to judge the student by: a stage needs at least {FEW_STEPS}. Give more "
        "`--minutes`, or more `--transfer-tokens` and `--lora-tokens`."
    )


def _without_branch(notes: Mapping[str, Any], values: Mapping[str, float]) -> str:
    """Return what the model loses without its linear branch; empty if it has none."""
    if "fine_tuned_without_linear" not in values:
        return ""
    change = change_between(notes, "fine_tuned_without_linear", "fine_tuned")
    if change is None:
        ratio = values["fine_tuned_without_linear"] / values["fine_tuned"]
        off = f"{difference_text(100 * (ratio - 1), digits=1, unit=' %')} (no interval)"
    elif change.is_clear:
        off = f"{'higher' if change.value > 0 else 'lower'}: {change_text(change)}"
    else:
        off = f"not told apart from it: {change_text(change)}"
    return f"Without its {branch(notes['about'])} it is {off}. "


def _against_controls(notes: Mapping[str, Any], values: Mapping[str, float]) -> str:
    """Return how the student compares with the best control, or that there is none."""
    controls = {name: values[name] for name in MODES if name in values}
    if not controls:
        advice = "" if notes["about"].get("from") else ": compare it with controls (`--controls`)"
        return (
            "No control was fine-tuned with the same budget. A model fine-tuned with a window alone may do as well, "
            f"and fine-tuning also adapts a model to the style of the text{advice}."
        )
    tuned = controls.pop("teacher_fine_tuned", None)
    if not controls:
        return "No control without a linear branch has a finite perplexity."
    best, name = min((value, name) for name, value in controls.items())
    change = change_between(notes, "fine_tuned", name)
    if change is None:
        result = "on one sequence no difference has an interval, so that neither is called better"
    elif not change.is_clear:
        result = f"the two are not told apart on this text (student against control: {change_text(change)})"
    else:
        is_better = "better" if change.value < 0 else "worse"
        result = f"on this text the student is {is_better} ({change_text(change)}); training seeds were not varied"
    return (
        f"With as many tokens of the same texts the teacher reaches {perplexity_text(tuned)}, and the best control "
        f"without a linear branch {perplexity_text(best)} ({LABELS[name]}): {result}."
    )
