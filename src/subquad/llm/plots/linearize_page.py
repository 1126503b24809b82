"""The HTML page and the model card of a linearized model, from the files of its run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.modeling_utils import PreTrainedModel

from subquad.errors import counted
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.model_card import card_metadata
from subquad.llm.plots.evaluation_tables import branch, perplexity_text
from subquad.llm.plots.linearize_figures import (
    curves,
    has_transfer,
    is_smoothed,
    layer_choice,
    layer_errors,
    losses_by_part,
    perplexity_dots,
)
from subquad.llm.plots.linearize_result import (
    FEW_STEPS,
    LABELS,
    STAGES,
    all_perplexities,
    change_between,
    few_steps,
    labels,
    perplexities,
    stage_of,
    trained_steps,
    verdict,
)
from subquad.llm.plots.perplexity_changes import change_text, perplexity_cell, perplexity_interval
from subquad.llm.training.controls import state_size
from subquad.reporting.page import Picture, Section, Table, Verbatim, page, picture, show
from subquad.reporting.run_comparison import model_name
from subquad.reporting.statistics import FEWEST_ITEMS
from subquad.runs.folder import METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import read_json

__all__ = ["LABELS", "card", "describe_attention", "labels", "linearize_page", "sections", "training_blocks"]

DESCRIPTIONS = {
    "teacher": "the original model",
    "teacher_fine_tuned": "control: LoRA updates of the teacher, on the same texts and as many tokens as both stages",
    "window_fine_tuned": "control: the same with softmax attention over the window alone",
    "wide_window_fine_tuned": "control: the same with a sliding window that takes as much memory as the state",
    "cache_fine_tuned": "control: the same with the window and a larger cache that take as much memory as the state",
    "window": "the teacher's weights with softmax attention over the window alone",
    "cache": "the same with the sparse cache beside the window",
    "untrained": "the student before training",
    "transferred": "stage 1: the attention's own parameters trained to reproduce the teacher's attention outputs",
    "restored": "the same with softmax attention again in the layers that matter most; this model is fine-tuned",
    "earlier": "the adapter that this run continues",
    "fine_tuned": "stage 2: LoRA updates of the weights; this model is saved",
}

Block = str | Table | Picture


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's page, from its folder; the first can be shown alone."""
    directory = Path(directory)
    metrics, notes = (read_json(directory / name) for name in (METRICS, "evaluations.json"))
    history = read_history(directory)
    first, *others = _sections(metrics, notes, history)
    return [Section(first.title, [verdict(metrics, notes, history), *first.blocks]), *others]


def linearize_page(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a run.

    Args:
        metrics: Content of `metrics.json`.
        notes: Content of `evaluations.json`.
        history: Entries of `history.jsonl`.
    """
    return page(
        _title(notes["about"]),
        lead=verdict(metrics, notes, history),
        sections=_sections(metrics, notes, history),
    )


def _title(about: Mapping[str, Any]) -> str:
    return f"{model_name(about['model'])} with {_replacement(about)}"


def _replacement(about: Mapping[str, Any]) -> str:
    """Return what takes the place of attention to all tokens."""
    if not about.get("has_linear", True):
        return "a window and a sparse cache" if about.get("cache") else "a window"
    return "moments" if about.get("has_moments") else "linear attention"


def describe_attention(model: PreTrainedModel) -> dict[str, Any]:
    """Return what the page says of the attention of a converted model and of its size."""
    layers = attention_layers(model)
    hybrid, (state_numbers, state_tokens) = layers[0].hybrid, state_size(model)
    return {
        "layers": len(layers),
        "all_layers": model.config.num_hidden_layers,
        "window": hybrid.window,
        "window_shape": hybrid.window_shape,
        "sinks": hybrid.sinks,
        "cache": hybrid.cache,
        "has_moments": hybrid.has_moments,
        "has_linear": hybrid.has_linear,
        "state_numbers": state_numbers,
        "state_as_tokens": state_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def training_blocks(directory: Path) -> list[Block]:
    """Return the training curves of a run; an empty list for a folder that `save_pretrained` wrote."""
    notes = directory / "evaluations.json"
    history = read_history(directory)
    return _training(read_json(notes), history) if notes.is_file() and history else []


def card(metrics: Mapping[str, Any], about: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the model card, the `README.md` of the folder.

    Args:
        metrics: Content of `metrics.json`.
        about: Entry `about` of `evaluations.json`.
        history: Entries of `history.jsonl`; without them the number of steps is not known.
    """
    names = labels(about)
    rows = "\n".join(
        f"| {names[name]} | {perplexity_text(value)} |" for name, value in all_perplexities(metrics).items()
    )
    teacher = about.get("teacher_card", {})
    licence = teacher.get("license_name", teacher.get("license"))
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    stated = f": {licence}" if licence else "; its model card or file header names none"
    few = few_steps(trained_steps(history))
    return f"""{card_metadata(about["model"], teacher)}
# {_title(about)}

{f"{few} " if few else ""}{_lead(about)}

| attention | perplexity |
|---|---|
{rows}

Perplexity on {about["evaluation_tokens"]:,} tokens of {about["held_out"]}, in sequences of {about["length"]:,} tokens.
{_limits(about)} {_budget(metrics, about)}

```python
import subquad.llm

model, tokenizer = subquad.llm.load("path/to/this/folder")
```

`report.html` has the figures. Method: LoLCATs, arXiv:2410.10254.
The licence of the weights is that of {about["model"]}{stated}.
"""


def _sections(
    metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> list[Section]:
    about, values = notes["about"], perplexities(metrics)
    names = labels(about)
    off = f"the saved model with its {branch(about)} switched off"
    descriptions = {**DESCRIPTIONS, "fine_tuned_without_linear": off}
    rows = [
        [names[name], perplexity_cell(metrics, name), _against_saved(name, notes), descriptions[name]]
        for name in all_perplexities(metrics)
    ]
    header = ["attention", "perplexity", "against the saved model", "description"]
    intervals = {name: perplexity_interval(metrics, name) for name in values}
    brackets = (
        "Brackets: 95 % intervals over sequences; those of the changes against the saved model are paired by sequence "
        "(Student's t), and narrower where texts differ more than models. Training seeds were not varied."
    )
    sequences = max(map(len, notes["losses"].values()), default=1) if "losses" in notes else 1
    if sequences == 1:
        brackets = "There is one sequence, which gives no intervals."
        header, rows = [header[0], header[1], header[3]], [[row[0], row[1], row[3]] for row in rows]
    elif not any(intervals.values()):
        brackets = (
            f"{sequences} sequences are too few for intervals of the perplexities (fewer than {FEWEST_ITEMS}). Those "
            "of the changes against the saved model are paired by sequence (Student's t). Training seeds were not "
            "varied."
        )
    table = Table(
        header,
        rows,
        caption=f"Lower is better. All models on the same {about['evaluation_tokens']:,} held-out tokens: "
        f"{about['held_out']}. The highlighted row is the saved model. {brackets}",
        winner=list(all_perplexities(metrics)).index("fine_tuned"),
    )
    perplexity = [
        _lead(about),
        _budget(metrics, about),
        table,
        picture(
            perplexity_dots(values, names, intervals),
            "Perplexity on a logarithmic axis; lower is better. Vertical dotted line: the saved model."
            + " Lines through the dots: 95 % intervals over sequences." * any(intervals.values()),
        ),
        _limits(about),
    ]
    return [
        Section("Perplexity", perplexity),
        Section("Training", _training(notes, history)),
        Section("Sample", _sample(notes["samples"], about)),
        Section("Method", _method(metrics, about)),
    ]


def _lead(about: Mapping[str, Any]) -> str:
    linear, layers = about["layers"], about.get("all_layers", about["layers"])
    others = [f"to {_first_tokens(about['sinks'])} of the text"] if about.get("sinks") else []
    if about.get("cache"):
        others.append(f"to {counted(about['cache'], 'earlier token')} that each key head keeps")
    besides = f" and {' and '.join(others)}" if others else ""
    size = counted(about["window"], "token")
    window = f"softmax attention in a window of {size} ({about['window_shape']}){besides}"
    by = "moments of earlier keys and values" if about.get("has_moments") else "linear attention"
    by = f"{by} {'without a window' if about['window_shape'] == 'none' else f'plus {window}'}"
    by = by if about.get("has_linear", True) else window
    where = (
        f"{linear} of {layers} layers" if linear != layers else "all layers" if layers == 1 else f"all {layers} layers"
    )
    return (
        f"Softmax attention in {where} was replaced by {by}. "
        f"{'Each layer' if linear == layers else 'Each of these layers'} keeps a state of "
        f"{counted(about['state_numbers'], 'number')}, the size of a key-value cache of "
        f"{counted(about['state_as_tokens'], 'token')}"
        f"{'; time and memory per token do not grow with the context' if linear == layers else ''}."
    )


def _first_tokens(count: int) -> str:
    return "the first token" if count == 1 else f"the first {count} tokens"


def _limits(about: Mapping[str, Any]) -> str:
    return (
        f"Measured to {about['length']:,} tokens, the length of the training sequences, on {about['held_out']}. Use "
        "`subquad llm evaluate --text` to measure it on texts of another kind, and `--sequence-length` on longer ones."
    )


def _budget(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    tokens, trained = metrics["tokens"], metrics["trainable_parameters"]
    early = [STAGES[stage] for stage, is_early in metrics.get("stopped_early", {}).items() if is_early]
    stopped = f" Stopped early, since validation did not improve: {', '.join(early)}." if early else ""
    transfer = f"continuing {about['from']} with " if about.get("from") else ""
    if "transfer" in tokens:
        transfer = (
            f"{tokens['transfer']:,} tokens of attention transfer ({trained['transfer']:,} of "
            f"{counted(about['parameters'], 'parameter')}) and "
        )
    return (
        f"Trained on {about['text']} in sequences of {about['length']:,} tokens: {transfer}"
        f"{tokens['lora']:,} tokens of fine-tuning with LoRA ({counted(trained['lora'], 'parameter')}).{stopped}"
    )


def _against_saved(name: str, notes: Mapping[str, Any]) -> str | None:
    """Return by how much a perplexity is above that of the saved model, with its interval."""
    change = None if name == "fine_tuned" else change_between(notes, name, "fine_tuned")
    return None if change is None else change_text(change)


def _training(notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Block]:
    about, blocks = notes["about"], list[Block]()
    # a model that was copied without its history has none
    losses = losses_by_part(history)
    drawn = [stage for stage in STAGES if any(len(own) > 1 for part, own in losses.items() if stage_of(part) == stage)]
    if drawn:
        blocks.append(picture(curves(about, history, drawn), _curves_caption(history, losses, drawn)))
    for stage, name in STAGES.items():
        values = [loss for part, own in losses.items() if stage_of(part) == stage for _, loss in own]
        if values and stage not in drawn:
            ends = " to ".join(dict.fromkeys(map(show, (min(values), max(values)))))
            where = "" if len(values) == 1 else " in each block of layers"
            blocks.append(
                f"{name.capitalize()} took a single step{where}, with a training loss of {ends}; one point makes no "
                "curve."
            )
    # without attention transfer there are none
    if errors := notes.get("errors"):
        blocks.append(_layer_errors(errors, labels(about), trained_steps(history).get("transfer")))
    if choice := notes.get("softmax_layers"):
        blocks.append(
            picture(
                layer_choice(choice),
                "Divergence of the student's next-token probabilities from the teacher's, on training text, when one "
                "layer gets its softmax attention back; the layers that keep it are green.",
            )
        )
    return blocks


def _curves_caption(
    history: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[Any]], drawn: Sequence[str]
) -> str:
    caption = "Training loss of each stage" if len(drawn) > 1 else f"Training loss of {STAGES[drawn[0]]}"
    caption += "; each value is a mean over the steps since the last one."
    if any(is_smoothed(own) for part, own in losses.items() if stage_of(part) in drawn):
        caption += " Dark line: running mean over a fifth of the values."
    if any("validation_loss" in entry for entry in history if stage_of(entry["part"]) in drawn):
        caption += " Dots: loss on the validation sequences."
    return caption


def _layer_errors(errors: Mapping[str, Sequence[float]], names: Mapping[str, str], steps: int | None) -> Block:
    meaning = (
        "of each layer's attention output, given the teacher's hidden states: squared error relative to the squared "
        "norm, on one held-out sequence."
    )
    if any(len(own) < 2 for own in errors.values()):
        values = "; ".join(f"{names[name]} {show(own[0])}" for name, own in errors.items() if own)
        return f"Error {meaning} The model has one layer, which makes no curve: {values}."
    short = (
        ""
        if steps is None or steps >= FEW_STEPS
        else f" The student was trained for {counted(steps, 'step')}, too few to judge it by."
    )
    return picture(layer_errors(errors, names), f"Error {meaning}{short}")


def _sample(samples: Mapping[str, str], about: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [
        f"Teacher and student continue the same held-out text with the same seed ({about['sample']}). One sample shows "
        "style, not quality."
    ]
    for name, key in (("Prompt", "prompt"), ("Teacher", "teacher"), ("Student", "fine_tuned")):
        blocks += [f"{name}:", Verbatim(samples[key])]
    return blocks


def _method(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> list[Block]:
    targets = about.get("lora_targets", [])
    where = "all linear layers" if targets == ["all-linear"] else ", ".join(targets) or "some layers"
    maps = "the parameters of the moments" if about.get("has_moments") else "feature maps"
    is_trained = about.get("has_linear", True) and about.get("feature_map_learning_rate")
    also = f" and continues to train {maps}" if is_trained else ""
    weight = about.get("distillation_weight", 0.0)
    loss = "next-token loss"
    if weight:
        loss = f"{1 - weight:.0%} next-token loss and {weight:.0%} KL divergence from the teacher's probabilities"
    products = "bfloat16" if "bfloat16" in (about.get("dtype"), about["precision"]) else "float32"
    first = (
        "Stage 1, attention transfer, compares each layer's attention outputs with the teacher's, before the output "
        f"projection and on the teacher's hidden states, and trains {maps} and mixing terms only. Stage 2 trains"
    )
    if about.get("from"):
        first = f"The run continues the fine-tuning of the adapter {about['from']}. It trains"
    elif not has_transfer(about):
        first = "Without a linear branch there is no attention transfer. Fine-tuning trains"
    windows = " ".join(map(str, about.get("random_windows") or ()))
    drawn = f" Each of its training sequences has a window drawn from {windows} tokens." if windows else ""
    return [
        f"{first} LoRA updates of {where}{also} by {loss}; the updates are merged into the saved weights.{drawn}",
        Table(
            ["step", "seconds"],
            [[name, value] for name, value in metrics["seconds"].items()],
            caption=f"On {about['machine']}; weights in {about.get('dtype', 'float32')}, matrix products of training "
            f"in {products}.",
        ),
    ]
