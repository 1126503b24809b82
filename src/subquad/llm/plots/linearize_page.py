"""The page and the model card of a linearized model, from the files of its run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.errors import counted
from subquad.llm.metrics import (
    CONTROLS,
    LABELS,
    PERPLEXITY,
    STUDENT,
    TEACHER,
    WINDOW,
    WITHOUT_LINEAR,
    perplexity_change,
)
from subquad.llm.models.model_card import card_metadata
from subquad.llm.plots.figures import layer_choice, layer_errors, perplexity_dots, training_curves
from subquad.reporting.metrics import metrics_table, value_text
from subquad.reporting.page import Block, Section, Table, Verbatim, page, picture
from subquad.reporting.run_comparison import model_name
from subquad.reporting.statistics import FEWEST_ITEMS, Difference
from subquad.runs.folder import METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import read_json

NOTES = "evaluations.json"
FEW_STEPS = 4
"""Steps of a stage below which a page gives no verdict; a convention."""
STAGES = {"transfer": "attention transfer", "lora": "fine-tuning"}
UPDATES = "the teacher's weights with LoRA updates, for as many tokens of the same texts as both stages"
DESCRIPTIONS = {
    TEACHER: "the original model, with softmax attention",
    "teacher_fine_tuned": f"control: {UPDATES}; softmax attention",
    "window_fine_tuned": f"control: {UPDATES}; the student's window alone",
    "wide_window_fine_tuned": f"control: {UPDATES}; a sliding window that takes as much memory as the student's state",
    "cache_fine_tuned": f"control: {UPDATES}; window and cache that take as much memory as the student's state",
    WINDOW: "the teacher's weights with softmax attention over the window alone",
    "cache": "the teacher's weights with softmax attention over window and cache",
    "untrained": "the student before training",
    "transferred": "after stage 1, which trains the attention's own parameters to reproduce the teacher's outputs",
    "restored": "the same with softmax attention again in the layers that matter most",
    "earlier": "the adapter that this run continues",
    WITHOUT_LINEAR: "the student with its linear branch switched off",
    STUDENT: "the saved model, after stage 2: LoRA updates of the weights",
}


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's page, from its folder; the first can be shown alone."""
    metrics, notes = (read_json(Path(directory) / name) for name in (METRICS, NOTES))
    history = read_history(Path(directory))
    first, *others = _sections(metrics, notes, history)
    return [Section(first.title, [verdict(metrics, notes, history), *first.blocks]), *others]


def linearize_page(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a run.

    Args:
        metrics: Content of `metrics.json`.
        notes: Content of `evaluations.json`.
        history: Entries of `history.jsonl`; without them the number of steps is not known.
    """
    lead = verdict(metrics, notes, history)
    return page(_title(notes["about"]), lead=lead, sections=_sections(metrics, notes, history))


def card(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the model card, the `README.md` of the folder; arguments as those of `linearize_page`."""
    about = notes["about"]
    teacher = about.get("teacher_card", {})
    licence = teacher.get("license_name", teacher.get("license"))
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    stated = f": {licence}" if licence else "; its model card or file header names none"
    return f"""{card_metadata(about["model"], teacher)}
# {_title(about)}

{verdict(metrics, notes, history)} {_attention(about)}

{_perplexities(metrics, notes).as_markdown()}

{_budget(metrics, about)}

```python
import subquad.llm

model, tokenizer = subquad.llm.load("path/to/this/folder")
```

`report.html` has the figures. Method: LoLCATs, arXiv:2410.10254.
The licence of the weights is that of {about["model"]}{stated}.
"""


def trained_steps(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of steps of each stage, of a block if attention transfer went block by block."""
    steps: dict[str, int] = {}
    for entry in history:
        if (stage := entry["part"].split("-")[0]) in STAGES:
            steps[stage] = max(steps.get(stage, 0), entry["step"])
    return steps


def verdict(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the perplexities of student, teacher and window, and how the student compares with its controls."""
    test, limits = metrics["test"], metrics.get("intervals", {}).get("test", {})
    shown = [name for name in (STUDENT, TEACHER, WINDOW) if name in test]
    values = "; ".join(
        f"{LABELS[name]} {value_text(test[name]['perplexity'], limits.get(name, {}).get('perplexity'))}"
        for name in shown
    )
    text, steps = f"Perplexity on held-out text: {values}.", trained_steps(history)
    if any(count < FEW_STEPS for count in steps.values()):
        trained = " and ".join(f"{counted(count, 'step')} of {STAGES[stage]}" for stage, count in steps.items())
        return f"{text} Trained for {trained}, too few to judge the student by (at least {FEW_STEPS} of each)."
    controls = {name: test[name]["perplexity"] for name in CONTROLS[1:] if name in test}
    measured = {name: value for name, value in controls.items() if value is not None}
    others = [name for name in (WITHOUT_LINEAR,) if name in test]
    others += [min(measured, key=lambda name: measured[name])] if measured else []
    compared = [PERPLEXITY.compare(LABELS[STUDENT].capitalize(), LABELS[name], _change(notes, name)) for name in others]
    if not controls:
        compared.append("No control was fine-tuned on the same texts, which alone may explain a gain.")
    return " ".join([text, *compared, "Training seeds were not varied."])


def _change(notes: Mapping[str, Any], name: str) -> Difference | None:
    """Return by how many per cent the student's perplexity is above that of a model."""
    losses = notes.get("losses", {})
    return perplexity_change(losses[STUDENT], losses[name]) if {name, STUDENT} <= losses.keys() else None


def _title(about: Mapping[str, Any]) -> str:
    attention = "linear attention" if about["has_linear"] else "a window and a sparse cache"
    return f"{model_name(about['model'])} with {attention if about['has_linear'] or about['cache'] else 'a window'}"


def _attention(about: Mapping[str, Any]) -> str:
    """Return what takes the place of softmax attention, and the size of the state."""
    layers, count = about["layers"], about["all_layers"]
    branch = "moments of earlier keys and values plus " if about["has_moments"] else "linear attention plus "
    parts = [f"a window of {counted(about['window'], 'token')} ({about['window_shape']})"]
    parts += [f"the first {counted(about['sinks'], 'token')}"] * bool(about["sinks"])
    parts += [f"{counted(about['cache'], 'earlier token')} that each key head keeps"] * bool(about["cache"])
    seen = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    growth = ", however long the text" if layers == count else "; the other layers keep a cache that grows"
    return (
        f"In {layers} of {counted(count, 'layer')}, softmax attention to all tokens was replaced by "
        f"{branch if about['has_linear'] else ''}softmax attention to {seen}. The state of such a layer "
        f"is as large as a cache of {counted(about['state_as_tokens'], 'token')}{growth}."
    )


def _budget(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    tokens, trained = metrics["tokens"], metrics["trainable_parameters"]
    stages = [
        f"{counted(tokens[stage], 'token')} of {name} ({counted(trained[stage], 'parameter')})"
        for stage, name in STAGES.items()
        if stage in tokens
    ]
    before = f"after the run {about['from']}, " if about.get("from") else ""
    early = [STAGES[stage] for stage, is_early in metrics.get("stopped_early", {}).items() if is_early]
    stopped = f" Stopped early, since validation did not improve: {', '.join(early)}." if early else ""
    return (
        f"Trained on {about['text']}, in sequences of {counted(about['length'], 'token')}: {before}"
        f"{' and '.join(stages)}, of {counted(about['parameters'], 'parameter')} in all.{stopped}"
    )


def _perplexities(metrics: Mapping[str, Any], notes: Mapping[str, Any]) -> Table:
    about, models = notes["about"], {name: label for name, label in LABELS.items() if name in metrics["test"]}
    gaps = {name: _change(notes, name) for name in models if name != STUDENT}
    cells = {
        name: f"{PERPLEXITY.difference(gap)}\n{PERPLEXITY.verdict(gap)}"
        for name, gap in gaps.items()
        if gap is not None
    }
    intervals = "95 % intervals over sequences, those of differences paired by sequence"
    if not cells:
        intervals = f"fewer than {FEWEST_ITEMS} sequences, which give no intervals"
    return metrics_table(
        metrics,
        {"perplexity": "perplexity ↓"},
        models,
        more={**({"student against it": cells} if cells else {}), "description": DESCRIPTIONS},
        caption=f"On {counted(about['evaluation_tokens'], 'token')} of {about['held_out']}; {intervals}. "
        f"Differences up to {PERPLEXITY.threshold:g} % do not matter.",
        winner=STUDENT,
    )


def _sections(
    metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> list[Section]:
    about, limits = notes["about"], metrics.get("intervals", {}).get("test", {})
    values = {name: metrics["test"][name]["perplexity"] for name in LABELS if name in metrics["test"]}
    dots = perplexity_dots(
        {name: value for name, value in values.items() if value is not None},
        {name: entry.get("perplexity") for name, entry in limits.items()},
    )
    perplexity = [
        _attention(about),
        _perplexities(metrics, notes),
        picture(dots, "Perplexity, on a logarithmic axis, with 95 % intervals; lower is better. Dotted: the student."),
    ]
    return [
        Section("Perplexity", perplexity),
        Section("Training", [_budget(metrics, about), *_training(notes, history)]),
        Section("Sample", _sample(notes["samples"], about)),
        Section("Method", _method(metrics, about)),
    ]


def _training(notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks, weight = list[Block](), notes["about"].get("distillation_weight", 0.0)
    titles = {
        "transfer": "attention transfer: mean squared error",
        "lora": "fine-tuning: loss with distillation" if weight else "fine-tuning: next-token loss",
    }
    # a model that was copied without its history has none
    if history:
        caption = "Loss of each stage; a dark line is a running mean, dots are validations."
        blocks.append(picture(training_curves(history, titles), caption))
    # without attention transfer there are none
    if errors := notes.get("errors"):
        caption = (
            "Squared error of each layer's attention output, relative to its squared norm, on one held-out sequence "
            "and the teacher's hidden states."
        )
        blocks.append(picture(layer_errors(errors), caption))
    if choice := notes.get("softmax_layers"):
        caption = (
            "Divergence of the student's predictions from the teacher's, on training text, when one layer gets its "
            "softmax attention back. Green: the layers that keep it."
        )
        blocks.append(picture(layer_choice(choice), caption))
    return blocks


def _sample(samples: Mapping[str, str], about: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [
        f"Teacher and student continue the same held-out text with the same seed ({about['sample']}). One sample shows "
        "style, not quality."
    ]
    for name, key in (("Prompt", "prompt"), ("Teacher", TEACHER), ("Student", STUDENT)):
        blocks += [f"{name}:", Verbatim(samples[key])]
    return blocks


def _method(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> list[Block]:
    targets = about.get("lora_targets", [])
    where = "all linear layers" if targets == ["all-linear"] else ", ".join(targets) or "some layers"
    weight, windows = about.get("distillation_weight", 0.0), about.get("random_windows") or ()
    details = [f"LoRA updates of {where}, merged into the saved weights"]
    if about["has_linear"]:
        details.append("stage 2 also trains the linear branch" if about.get("feature_map_learning_rate") else "")
    if weight:
        details.append(f"{weight:.0%} of the loss of stage 2 is the KL divergence from the teacher's probabilities")
    if windows:
        details.append(f"windows of {', '.join(map(str, windows))} tokens drawn for each training sequence")
    products = "bfloat16" if "bfloat16" in (about.get("dtype"), about["precision"]) else "float32"
    rows = [[name, value] for name, value in metrics["seconds"].items()]
    caption = f"On {about['machine']}; weights in {about.get('dtype', 'float32')}, products of training in {products}."
    return [f"LoLCATs: {'; '.join(filter(None, details))}.", Table(["step", "seconds"], rows, caption=caption)]
