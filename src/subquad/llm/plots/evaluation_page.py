"""The page of an evaluation: every student beside its controls, with paired differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subquad.errors import counted
from subquad.llm.metrics import (
    CONTROLS,
    FINE_TUNED,
    LABELS,
    PERPLEXITY,
    STUDENT,
    TEACHER,
    WINDOW,
    WITHOUT_LINEAR,
    percent,
)
from subquad.llm.plots.figures import STYLES, by_position, passkey_maps, speed_curves
from subquad.llm.plots.linearize_page import DESCRIPTIONS
from subquad.reporting.metrics import Metric, value_text
from subquad.reporting.page import Block, Section, Table, page, picture, signed
from subquad.reporting.run_comparison import model_name, run_name
from subquad.reporting.statistics import THRESHOLDS, Difference

ACCURACY = Metric(title="Accuracy", threshold=THRESHOLDS["accuracy"], digits=3)
TASKS = {
    "piqa": "PIQA",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "mmlu": "MMLU",
}
FIRST_SHOWN = 16
"""Position from which on perplexities by position are drawn; the first words are hard for every model."""
CURVES = {
    "-": "Solid: fine-tuned.",
    "--": "Dashed: not fine-tuned.",
    ":": "Dotted: the student without its linear branch.",
}
"""What the dashes of `STYLES` mean."""
NO_CONTROL = "No control was fine-tuned on the student's training texts, which alone may explain a gain."


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measurement of a student and its controls."""

    title: str
    compared: Mapping[str, Any]
    """Result of `comparisons.compare`."""
    metric: Metric

    def value(self, role: str, *, between: str = "\n") -> str:
        """Return the value of a model with its interval."""
        estimate = self.compared["models"][role]
        return value_text(estimate["value"], _limits(estimate), between=between)

    def gap(self, role: str) -> Difference | None:
        """Return the student less a control; None without an interval."""
        estimate = self.compared["differences"][role]
        gap = None if _limits(estimate) is None else Difference.read(estimate)
        # differences of perplexities are measured in nats per token
        return percent(gap) if gap is not None and self.metric is PERPLEXITY else gap

    def against(self, role: str) -> str:
        """Return the student less a control, with interval and verdict."""
        gap = self.gap(role)
        if gap is not None:
            return f"{self.metric.difference(gap)}\n{self.metric.verdict(gap)}"
        value = self.compared["differences"][role]["value"]
        gap = percent(Difference(value, value, value)) if self.metric is PERPLEXITY else Difference(value, value, value)
        return f"{signed(gap.value, self.metric.digits)}{self.metric.unit}\nno interval"

    def closed(self) -> str | None:
        """Return the part of the gap between window and teacher that the student closes; None if it is not known."""
        estimate = self.compared["gap_closed"]
        return None if estimate["value"] is None else value_text(estimate["value"], _limits(estimate))


def _limits(estimate: Mapping[str, float | None]) -> list[float] | None:
    low, high = estimate["low"], estimate["high"]
    return None if low is None or high is None else [low, high]


def results_of(model: Mapping[str, Any]) -> list[Result]:
    """Return the measurements of a student: texts, tasks, those of their items beyond the window, and passkeys."""
    texts = model["perplexity"].items()
    results = [Result(title=f"perplexity, {name} ↓", compared=text, metric=PERPLEXITY) for name, text in texts]
    for task, measured in model["tasks"].items():
        columns = {
            f"{TASKS.get(task, task)}{' norm' if name == 'acc_norm' else ''}": compared
            for name, compared in measured["metrics"].items()
        }
        beyond = measured["beyond_window"]
        if 0 < beyond["items"] < measured["metrics"][measured["metric"]]["items"]:
            columns[f"{TASKS.get(task, task)}, beyond the window"] = beyond
        results += [Result(title=title, compared=compared, metric=ACCURACY) for title, compared in columns.items()]
    for length, compared in model["passkey"].items():
        results.append(Result(title=f"passkey, {int(length):,} tokens", compared=compared, metric=ACCURACY))
    return results


def results_table(model: Mapping[str, Any]) -> Table:
    """Return a row per model and a column per measurement."""
    results, roles = results_of(model), model["about"]["roles"]
    rows = [["items", *(result.compared["items"] for result in results)]]
    rows += [[LABELS[role], *(result.value(role) for result in results)] for role in roles]
    caption = (
        "Perplexities over sequences (lower is better), and accuracies with lm-eval's prompts; norm divides the "
        "log-likelihood of an answer by its length. With 95 % intervals."
    )
    return Table(["model", *(result.title for result in results)], rows, caption=caption, winner=len(rows) - 1)


def differences_table(model: Mapping[str, Any]) -> Table:
    """Return the student less each control, on the same items."""
    results, about = results_of(model), model["about"]
    roles = [role for role in about["roles"] if role != STUDENT]
    rows: list[list[str | None]] = [[LABELS[role], *(result.against(role) for result in results)] for role in roles]
    closed = [result.closed() for result in results]
    caption = f"Paired differences with 95 % intervals: changes of the perplexity (up to {PERPLEXITY.threshold:g} % do "
    caption += f"not matter), and differences of accuracies (up to {ACCURACY.threshold:g})."
    if any(closed):
        rows.append(["gap closed", *closed])
        caption += f" Gap closed: 1 equals {_end(about, TEACHER)}, 0 {_end(about, WINDOW)}, in loss or accuracy."
    return Table(["student against", *(result.title for result in results)], rows, caption=caption)


def _end(about: Mapping[str, Any], role: str) -> str:
    """Return the name of an end of the gap."""
    are_tuned = all(name in about["roles"] for name in FINE_TUNED.values())
    return LABELS[FINE_TUNED[role] if are_tuned else role]


def evaluation_page(evaluation: Mapping[str, Any]) -> str:
    """Return the page of what `evaluation.json` contains."""
    models = evaluation["models"]
    names = ", ".join(run_name(model["about"]["folder"]) for model in models)
    sections = [section for model in models for section in _sections(model, evaluation, is_alone=len(models) == 1)]
    lead = " ".join(text for model in models for text in _verdict(model))
    return page(f"Evaluation of {names}", lead=lead, sections=sections)


def _verdict(model: Mapping[str, Any]) -> list[str]:
    """Return how a student compares with its teacher and with itself without its linear branch, by the first result."""
    about, results = model["about"], results_of(model)
    name = run_name(about["folder"])
    if not results:
        return [f"{name} was measured for speed and memory only."]
    first, roles = results[0], about["roles"]
    texts = [f"{name}, {first.title.removesuffix(' ↓')}: {first.value(STUDENT, between=' ')}."]
    if closed := first.closed():
        texts.append(f"It closes {closed} of the gap between {_end(about, WINDOW)} and {_end(about, TEACHER)}.")
    teacher = FINE_TUNED[TEACHER] if FINE_TUNED[TEACHER] in roles else TEACHER
    controls = [role for role in CONTROLS[1:] if role in roles]
    best = sorted(controls, key=lambda role: first.compared["differences"][role]["value"])
    best = best[-1:] if first.metric is PERPLEXITY else best[:1]
    for role in [teacher, *best, *([WITHOUT_LINEAR] if WITHOUT_LINEAR in roles else [])]:
        texts.append(first.metric.compare(LABELS[STUDENT].capitalize(), LABELS[role], first.gap(role)))
    return [*texts, "Training seeds were not varied." if any(role in roles for role in CONTROLS) else NO_CONTROL]


def _sections(model: Mapping[str, Any], evaluation: Mapping[str, Any], *, is_alone: bool) -> list[Section]:
    about, results = model["about"], results_of(model)
    learned = [trained_on(name) for name in about.get("trained_texts", ())]
    sections = {
        "Student and controls": [*learned, results_table(model), differences_table(model)] if results else [],
        "Perplexity by position": [_positions(name, text, about) for name, text in model["perplexity"].items()],
        "Passkey retrieval": _passkeys(model["passkey"]),
        "Speed and memory": _speed(model["speed"], evaluation),
        "Method": _method(model, evaluation),
    }
    prefix = "" if is_alone else f"{run_name(about['folder'])}: "
    return [Section(prefix + title, blocks) for title, blocks in sections.items() if blocks]


def trained_on(name: str) -> str:
    """Return a remark on a text of the student's training."""
    return f"The student was trained on {name}, so that its perplexity on it says little about other texts."


def _positions(name: str, text: Mapping[str, Any], about: Mapping[str, Any]) -> Block:
    later = [place for place in text["positions"] if place["from"] >= FIRST_SHOWN]
    positions = later if len(later) > 1 else text["positions"]
    meanings = {
        "--": ("dashed", about["visible"], "up to here every token lies in the window"),
        ":": ("dotted", about["trained_length"], "length of the training sequences"),
    }
    shown = {
        dashes: meaning
        for dashes, meaning in meanings.items()
        if meaning[1] is not None and positions[0]["from"] < meaning[1] < positions[-1]["to"]
    }
    roles = [role for role in LABELS if role in positions[0]["models"]]
    lines = "; ".join(f"{style}, at {place:,}: {meaning}" for style, place, meaning in shown.values())
    dashes = {STYLES[role][1] for role in roles}
    caption = " ".join(
        [
            f"{name}: perplexity by position in the sequence, on logarithmic axes, with 95 % intervals.",
            *(meaning for key, meaning in CURVES.items() if key in dashes),
            *([f"Vertical lines: {lines}."] if lines else []),
        ]
    )
    return picture(by_position(positions, roles, {key: meaning[1] for key, meaning in shown.items()}), caption)


def _passkeys(lengths: Mapping[str, Any]) -> list[Block]:
    caption = (
        "Five-digit passkeys that are reproduced, in per cent, by length of the prompt and depth (0: start, 1: end)."
    )
    return [picture(passkey_maps(lengths), caption)] if lengths else []


def _speed(speed: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Block]:
    rows = [
        [
            LABELS[role],
            row["tokens"],
            round(row["prefill_per_second"]),
            round(row["decoded_per_second"], 1),
            round(row["bytes"] / 2**20, 2),
        ]
        for role in (TEACHER, STUDENT)
        for row in speed.get(role, ())
    ]
    if not rows:
        return []
    dtype = evaluation["subquad"]["settings"]["dtype"]
    caption = (
        f"One sequence on {evaluation['machine']}, in {dtype}. Prefill reads the whole context at once; decoding "
        "follows it, one token at a time. Memory: key-value cache of the teacher, states of the student, of all layers."
    )
    header = ["model", "context", "prefill, tokens/s", "decoding, tokens/s", "memory, MiB"]
    figure = picture(speed_curves(speed), "Speed and memory by length of the context.")
    return [figure, Table(header, rows, caption=caption)]


def _method(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Block]:
    about, settings = model["about"], evaluation["subquad"]["settings"]
    trained = " + ".join(f"{count:,}" for count in (about["tokens"] or {}).values()) or "an unknown number of"
    names = {TEACHER: model_name(about["teacher"]), STUDENT: f"trained on {trained} tokens"}
    rows = [
        [LABELS[role], f"{DESCRIPTIONS[role]} ({names[role]})" if role in names else DESCRIPTIONS[role]]
        for role in about["roles"]
    ]
    limit = f" Each task has its first {counted(settings['limit'], 'item')}." if settings["limit"] else ""
    visible = counted(about["visible"], "token")
    return [
        f"The student sees each token of a text of up to {visible} exactly, and differs from its teacher on longer "
        f"ones.{limit} Intervals: {counted(settings['resamples'], 'bootstrap resample')} of losses (few sequences: "
        "Student's t and Fieller), Wilson for rates and Newcombe for their paired differences.",
        Table(["model", "description"], rows),
    ]
