"""The HTML page and the model card of a linearized model, from the files of its run."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.attention import attention_layers
from subquad.llm.models.model_card import card_metadata
from subquad.llm.plots.evaluation_tables import branch
from subquad.llm.training.controls import MODES, state_size
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.runs.folder import METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import read_json

__all__ = ["LABELS", "card", "describe_attention", "labels", "linearize_page", "sections", "training_blocks"]

LABELS = {
    "teacher": "teacher (softmax)",
    "teacher_fine_tuned": "teacher, fine-tuned",
    "window_fine_tuned": "window only, fine-tuned",
    "wide_window_fine_tuned": "sliding window of the state's size, fine-tuned",
    "cache_fine_tuned": "window and cache of the state's size, fine-tuned",
    "window": "window only, untrained",
    "cache": "window and cache, untrained",
    "untrained": "hybrid, untrained",
    "transferred": "hybrid, after attention transfer",
    "restored": "hybrid, with softmax attention in chosen layers",
    "earlier": "hybrid, after the earlier run",
    "fine_tuned": "hybrid, fine-tuned",
    "fine_tuned_without_linear": "fine-tuned, without linear branch",
}
DESCRIPTIONS = {
    "teacher": "the original model",
    "teacher_fine_tuned": "control: LoRA updates of the teacher, on the same texts and as many tokens as both stages",
    "window_fine_tuned": "control: the same with softmax attention over the window alone",
    "wide_window_fine_tuned": "control: the same with a sliding window that takes as much memory as the state",
    "cache_fine_tuned": "control: the same with the window and a larger cache that take as much memory as the state",
    "window": "the teacher's weights with softmax attention over the window alone",
    "cache": "the same with the sparse cache beside the window",
    "untrained": "hybrid attention before training",
    "transferred": "stage 1: the attention's own parameters trained to reproduce the teacher's attention outputs",
    "restored": "the same with softmax attention again in the layers that matter most; this model is fine-tuned",
    "earlier": "the adapter that this run continues",
    "fine_tuned": "stage 2: LoRA updates of the weights; this model is saved",
}
TRANSFER_LOSSES = {
    "mse": "mean squared error",
    "relative": "squared error relative to the teacher's mean square",
    "attention_weights": "squared error and cross-entropy",
}
COLOURS = {"teacher": "#5b6474", "teacher_fine_tuned": "#5b6474", "fine_tuned": "#1f6f54"}
GREY, GREEN = "#b9c4d4", "#1f6f54"
SMOOTHED = 50
"""Points of a curve from which on a running mean is drawn."""

Block = str | Table | Picture


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's page, from its folder; the first can be shown alone."""
    directory = Path(directory)
    metrics, notes = (read_json(directory / name) for name in (METRICS, "evaluations.json"))
    first, *others = _sections(metrics, notes, read_history(directory))
    return [Section(first.title, [_verdict(_perplexities(metrics), notes["about"]), *first.blocks]), *others]


def linearize_page(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a run.

    Args:
        metrics: Content of `metrics.json`.
        notes: Content of `evaluations.json`.
        history: Entries of `history.jsonl`.
    """
    return page(
        _title(notes["about"]),
        lead=_verdict(_perplexities(metrics), notes["about"]),
        sections=_sections(metrics, notes, history),
    )


def labels(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the models that a run may measure."""
    return {**LABELS, "fine_tuned_without_linear": f"fine-tuned, without {branch(about)}"}


def _title(about: Mapping[str, Any]) -> str:
    return f"{about['model']} with {'moments' if about.get('has_moments') else 'linear attention'}"


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
        "state_numbers": state_numbers,
        "state_as_tokens": state_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def training_blocks(directory: Path) -> list[Block]:
    """Return the training curves of a run; an empty list for a folder that `save_pretrained` wrote."""
    notes = directory / "evaluations.json"
    history = read_history(directory)
    return _training(read_json(notes), history) if notes.is_file() and history else []


def card(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return the model card, the `README.md` of the folder."""
    names = labels(about)
    rows = "\n".join(f"| {names[name]} | {value:.2f} |" for name, value in _perplexities(metrics).items())
    teacher = about.get("teacher_card", {})
    licence = teacher.get("license_name", teacher.get("license"))
    return f"""{card_metadata(about["model"], teacher)}
# {_title(about)}

{_lead(about)}

| attention | perplexity |
|---|---|
{rows}

Perplexity on {about["evaluation_tokens"]:,} tokens of {about["held_out"]}, in sequences of {about["length"]:,} tokens.
{_limits(about)} {_budget(metrics, about)}

```python
import subquad.llm

model, tokenizer = subquad.llm.load("this folder")
```

`report.html` has the figures. Method: LoLCATs, arXiv:2410.10254.
The licence of the weights is that of {about["model"]}{f": {licence}" if licence else ""}.
"""


def _perplexities(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: metrics["test"][name]["perplexity"] for name in LABELS if name in metrics["test"]}


def _sections(
    metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> list[Section]:
    about, values = notes["about"], _perplexities(metrics)
    names = labels(about)
    off = f"the saved model with its {branch(about)} switched off"
    descriptions = {**DESCRIPTIONS, "fine_tuned_without_linear": off}
    table = Table(
        ["attention", "perplexity", "description"],
        [[names[name], value, descriptions[name]] for name, value in values.items()],
        caption=f"Lower is better. All models on the same {about['evaluation_tokens']:,} held-out tokens: "
        f"{about['held_out']}. The highlighted row is the saved model.",
        winner=list(values).index("fine_tuned"),
    )
    perplexity = [
        _lead(about),
        _budget(metrics, about),
        table,
        picture(_bars(values, names), "Perplexity on a logarithmic axis."),
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
    others = [f"to the first {about['sinks']} tokens of the text"] if about.get("sinks") else []
    if about.get("cache"):
        others.append(f"to {about['cache']} earlier tokens that each key head keeps")
    besides = f" and {' and '.join(others)}" if others else ""
    window = f"softmax attention in a window of {about['window']} tokens ({about['window_shape']}){besides}"
    return (
        f"Softmax attention in {'all' if linear == layers else f'{linear} of'} {layers} layers was replaced by "
        f"{'moments of earlier keys and values' if about.get('has_moments') else 'linear attention'} "
        f"{'without a window' if about['window_shape'] == 'none' else f'plus {window}'}. "
        f"{'Each layer' if linear == layers else 'Each of these layers'} keeps a state of {about['state_numbers']:,} "
        f"numbers, the size of a key-value cache of {about['state_as_tokens']:,} tokens"
        f"{'; time and memory per token do not grow with the context' if linear == layers else ''}."
    )


def _limits(about: Mapping[str, Any]) -> str:
    return (
        f"Measured to {about['length']:,} tokens, the length of the training sequences, on text in the style of the "
        "training text. What it is worth on longer texts and on texts of another kind, measure with `subquad llm "
        "evaluate --sequence-length`."
    )


def _budget(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    tokens, trained = metrics["tokens"], metrics["trainable_parameters"]
    stages = {"transfer": "attention transfer", "lora": "fine-tuning"}
    early = [stages[stage] for stage, is_early in metrics.get("stopped_early", {}).items() if is_early]
    stopped = f" Stopped early, since validation did not improve: {', '.join(early)}." if early else ""
    transfer = f"continuing {about.get('from')} with "
    if "transfer" in tokens:
        transfer = (
            f"{tokens['transfer']:,} tokens of attention transfer ({trained['transfer']:,} of "
            f"{about['parameters']:,} parameters) and "
        )
    return (
        f"Trained on {about['text']} in sequences of {about['length']:,} tokens: {transfer}"
        f"{tokens['lora']:,} tokens of fine-tuning with LoRA ({trained['lora']:,} parameters).{stopped}"
    )


def _verdict(values: Mapping[str, float], about: Mapping[str, Any]) -> str:
    student, teacher, window = values["fine_tuned"], values["teacher"], values["window"]
    change = 100 * (values["fine_tuned_without_linear"] / student - 1)
    found = (
        f"The fine-tuned model has perplexity {student:.3g}; teacher {teacher:.3g}, window only, untrained "
        f"{window:.3g}. Without its {branch(about)} it is {abs(change):.1f} % {'higher' if change > 0 else 'lower'}"
    )
    controls = {name: values[name] for name in MODES if name in values}
    if not controls:
        return (
            f"{found}. A model fine-tuned with a window alone may do as well, and fine-tuning also adapts a model to "
            "the style of the text: compare it with controls (--controls)."
        )
    tuned = controls.pop("teacher_fine_tuned")
    best, name = min((value, name) for name, value in controls.items())
    verdict = "better" if student < best else "no better"
    return f"{found}. With as many tokens of the same texts the teacher reaches {tuned:.3g}, and the best control " + (
        f"without a linear branch {best:.3g} ({LABELS[name]}): on this text the student is {verdict}."
    )


def _bars(values: Mapping[str, float], names: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(7.5, 3.1))
    axes = figure.subplots()
    order = list(values)[::-1]
    axes.barh(
        [names[name] for name in order],
        [values[name] for name in order],
        color=[COLOURS.get(name, GREY) for name in order],
    )
    for place, name in enumerate(order):
        axes.annotate(
            f"{values[name]:.3g}", (values[name], place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(values.values()) / 1.6, max(values.values()) * 1.6)
    axes.set_xlabel("perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _training(notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = [
        picture(
            _curves(notes["about"], history),
            "Training loss of each stage; each point is a mean over the steps since the last point, and the dark line "
            "a running mean over a fifth of the points.",
        )
    ]
    # a run that continues an earlier one has no attention transfer
    if errors := notes.get("errors"):
        blocks.append(
            picture(
                _layer_errors(errors),
                "Error of each layer's attention output, given the teacher's hidden states: squared error relative to "
                "the squared norm, on one held-out sequence.",
            )
        )
    if choice := notes.get("softmax_layers"):
        blocks.append(
            picture(
                _layer_choice(choice),
                "Divergence of the student's next-token probabilities from the teacher's, on training text, when one "
                "layer gets its softmax attention back; the layers that keep it are green.",
            )
        )
    return blocks


def _layer_choice(choice: Mapping[str, Any]) -> Figure:
    values = {int(layer): value for layer, value in choice["divergences"].items()}
    without = values.pop(-1)
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    # points, since the axis does not begin at 0
    colours = [GREEN if layer in choice["chosen"] else GREY for layer in values]
    axes.scatter([*values], [*values.values()], color=colours)
    axes.axhline(without, color="#5b6474", linestyle="--", label="all layers linearized")
    axes.set_xlabel("layer with softmax attention")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("nats per token")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(about: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Figure:
    loss = "next-token loss and distillation" if about.get("distillation_weight") else "next-token loss"
    stages = [
        ("transfer", f"attention transfer: {TRANSFER_LOSSES[about.get('transfer_loss', 'mse')]}"),
        ("lora", f"fine-tuning: {loss}"),
    ]
    if about.get("from"):
        del stages[0]
    figure = Figure(figsize=(4.5 * len(stages), 3))
    for axes, (stage, title) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        # block-wise transfer has one curve per block: transfer-0, transfer-1, …
        parts = dict.fromkeys(entry["part"] for entry in history if entry["part"].split("-")[0] == stage)
        for part, (key, shape) in itertools.product(parts, (("loss", "-"), ("validation_loss", "o"))):
            points = [(entry["step"], entry[key]) for entry in history if entry["part"] == part and key in entry]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            is_noisy = key == "loss" and len(values) >= SMOOTHED
            # a line needs two points
            axes.plot(steps, values, "o" if len(steps) == 1 else shape, color=GREY if is_noisy else GREEN)
            if is_noisy:
                width = len(values) // 10
                means = [fmean(values[max(0, place - width) : place + width + 1]) for place in range(len(values))]
                axes.plot(steps, means, color=GREEN)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    if len(stages) > 1:
        figure.axes[0].set_yscale("log")
    figure.tight_layout()
    return figure


def _layer_errors(errors: Mapping[str, Sequence[float]]) -> Figure:
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    for name, colour in (("untrained", GREY), ("transferred", GREEN)):
        axes.plot(range(len(errors[name])), errors[name], "o-", color=colour, label=LABELS[name], markersize=4)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("relative error")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _sample(samples: Mapping[str, str], about: Mapping[str, Any]) -> list[Block]:
    return [
        f"Teacher and student continue the same held-out text with the same seed ({about['sample']}). One sample shows "
        "style, not quality.",
        f"Prompt: {samples['prompt']}",
        f"Teacher: {samples['teacher']}",
        f"Student: {samples['fine_tuned']}",
    ]


def _method(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> list[Block]:
    targets = about.get("lora_targets", [])
    where = "all linear layers" if targets == ["all-linear"] else ", ".join(targets) or "some layers"
    maps = "the parameters of the moments" if about.get("has_moments") else "feature maps"
    also = f" and continues to train {maps}" if about.get("feature_map_learning_rate") else ""
    weight = about.get("distillation_weight", 0.0)
    loss = "next-token loss"
    if weight:
        loss = f"{1 - weight:.0%} next-token loss and {weight:.0%} KL divergence from the teacher's probabilities"
    products = "bfloat16" if "bfloat16" in (about.get("dtype"), about["precision"]) else "float32"
    first = (
        f"The run continues the fine-tuning of the adapter {about['from']}. It trains"
        if about.get("from")
        else "Stage 1, attention transfer, compares each layer's attention outputs with the teacher's, before the "
        "output projection and on the teacher's hidden states, and trains "
        f"{maps} and mixing terms only. Stage 2 trains"
    )
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
