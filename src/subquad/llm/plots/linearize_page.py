"""The HTML page and the model card of a linearized model, from the files of its run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.attention import attention_layers
from subquad.llm.models.model_card import card_metadata
from subquad.llm.plots.evaluation_tables import LABELS as VARIANTS
from subquad.llm.plots.evaluation_tables import branch, perplexity_text
from subquad.llm.plots.linearize_figures import bars, curves, has_transfer, layer_choice, layer_errors
from subquad.llm.plots.perplexity_changes import change_text, perplexity_cell, perplexity_change, perplexity_interval
from subquad.llm.training.controls import MODES, state_size
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.reporting.run_comparison import model_name
from subquad.reporting.statistics import Difference
from subquad.runs.folder import METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import read_json

__all__ = ["LABELS", "card", "describe_attention", "labels", "linearize_page", "sections", "training_blocks"]

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
    first, *others = _sections(metrics, notes, read_history(directory))
    return [Section(first.title, [_verdict(metrics, notes), *first.blocks]), *others]


def linearize_page(metrics: Mapping[str, Any], notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a run.

    Args:
        metrics: Content of `metrics.json`.
        notes: Content of `evaluations.json`.
        history: Entries of `history.jsonl`.
    """
    return page(
        _title(notes["about"]),
        lead=_verdict(metrics, notes),
        sections=_sections(metrics, notes, history),
    )


def labels(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the models that a run may measure."""
    return {**LABELS, "fine_tuned_without_linear": f"student, without {branch(about)}"}


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


def card(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return the model card, the `README.md` of the folder."""
    names = labels(about)
    rows = "\n".join(f"| {names[name]} | {perplexity_text(value)} |" for name, value in _perplexities(metrics).items())
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

model, tokenizer = subquad.llm.load("path/to/this/folder")
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
        ["attention", "perplexity", "against the saved model", "description"],
        [
            [names[name], perplexity_cell(metrics, name), _against_saved(name, notes), descriptions[name]]
            for name in values
        ],
        caption=f"Lower is better. All models on the same {about['evaluation_tokens']:,} held-out tokens: "
        f"{about['held_out']}. The highlighted row is the saved model. Brackets: 95 % intervals over sequences; those "
        "of the changes against the saved model are paired by sequence (Student's t), and narrower where texts differ "
        "more than models. Training seeds were not varied.",
        winner=list(values).index("fine_tuned"),
    )
    perplexity = [
        _lead(about),
        _budget(metrics, about),
        table,
        picture(
            bars(values, names, {name: perplexity_interval(metrics, name) for name in values}),
            "Perplexity on a logarithmic axis, with 95 % intervals over sequences.",
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
    others = [f"to the first {about['sinks']} tokens of the text"] if about.get("sinks") else []
    if about.get("cache"):
        others.append(f"to {about['cache']} earlier tokens that each key head keeps")
    besides = f" and {' and '.join(others)}" if others else ""
    window = f"softmax attention in a window of {about['window']} tokens ({about['window_shape']}){besides}"
    by = "moments of earlier keys and values" if about.get("has_moments") else "linear attention"
    by = f"{by} {'without a window' if about['window_shape'] == 'none' else f'plus {window}'}"
    by = by if about.get("has_linear", True) else window
    return (
        f"Softmax attention in {'all' if linear == layers else f'{linear} of'} {layers} layers was replaced by {by}. "
        f"{'Each layer' if linear == layers else 'Each of these layers'} keeps a state of {about['state_numbers']:,} "
        f"numbers, the size of a key-value cache of {about['state_as_tokens']:,} tokens"
        f"{'; time and memory per token do not grow with the context' if linear == layers else ''}."
    )


def _limits(about: Mapping[str, Any]) -> str:
    return (
        f"Measured to {about['length']:,} tokens, the length of the training sequences, on text in the style of the "
        "training text. Use `subquad llm evaluate --sequence-length` to measure it on longer texts and on texts of "
        "another kind."
    )


def _budget(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    tokens, trained = metrics["tokens"], metrics["trainable_parameters"]
    stages = {"transfer": "attention transfer", "lora": "fine-tuning"}
    early = [stages[stage] for stage, is_early in metrics.get("stopped_early", {}).items() if is_early]
    stopped = f" Stopped early, since validation did not improve: {', '.join(early)}." if early else ""
    transfer = f"continuing {about['from']} with " if about.get("from") else ""
    if "transfer" in tokens:
        transfer = (
            f"{tokens['transfer']:,} tokens of attention transfer ({trained['transfer']:,} of "
            f"{about['parameters']:,} parameters) and "
        )
    return (
        f"Trained on {about['text']} in sequences of {about['length']:,} tokens: {transfer}"
        f"{tokens['lora']:,} tokens of fine-tuning with LoRA ({trained['lora']:,} parameters).{stopped}"
    )


def _against_saved(name: str, notes: Mapping[str, Any]) -> str | None:
    """Return by how much a perplexity is above that of the saved model, with its interval."""
    change = None if name == "fine_tuned" else _change(notes, name, "fine_tuned")
    return None if change is None else change_text(change)


def _change(notes: Mapping[str, Any], name: str, other: str) -> Difference | None:
    losses = notes.get("losses", {})
    return perplexity_change(losses[name], losses[other]) if {name, other} <= set(losses) else None


def _verdict(metrics: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """Return the result in sentences; a control is called better or worse only if its paired interval says so."""
    about, values = notes["about"], _perplexities(metrics)
    student, teacher, window = values["fine_tuned"], values["teacher"], values["window"]
    found = (
        f"The fine-tuned model has perplexity {student:.3g}; teacher {teacher:.3g}, window only, untrained {window:.3g}"
    )
    if without := values.get("fine_tuned_without_linear"):
        change = _change(notes, "fine_tuned_without_linear", "fine_tuned")
        off = f"Without its {branch(about)} it is "
        if change is None:
            off += f"{100 * (without / student - 1):+.1f} % (no interval)".replace("-", "−")
        elif change.is_clear:
            off += f"{'higher' if change.value > 0 else 'lower'}: {change_text(change)}"
        else:
            off += f"not told apart from it: {change_text(change)}"
        found = f"{found}. {off}"
    controls = {name: values[name] for name in MODES if name in values}
    if not controls:
        return (
            f"{found}. A model fine-tuned with a window alone may do as well, and fine-tuning also adapts a model to "
            "the style of the text: compare it with controls (--controls)."
        )
    tuned = controls.pop("teacher_fine_tuned")
    best, name = min((value, name) for name, value in controls.items())
    change = _change(notes, "fine_tuned", name)
    if change is None:
        verdict = "on one sequence no difference has an interval, so that neither is called better"
    elif not change.is_clear:
        verdict = f"the two are not told apart on this text (student against control: {change_text(change)})"
    else:
        is_better = "better" if change.value < 0 else "worse"
        verdict = f"on this text the student is {is_better} ({change_text(change)}); training seeds were not varied"
    return (
        f"{found}. With as many tokens of the same texts the teacher reaches {tuned:.3g}, and the best control without "
        f"a linear branch {best:.3g} ({LABELS[name]}): {verdict}."
    )


def _training(notes: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Block]:
    caption = (
        "Training loss of each stage; each point is a mean over the steps since the last point, and the dark line a "
        "running mean over a fifth of the points."
    )
    # a model that was copied without its history has none
    blocks: list[Block] = [picture(curves(notes["about"], history), caption)] if history else []
    # without attention transfer there are none
    if errors := notes.get("errors"):
        blocks.append(
            picture(
                layer_errors(errors, labels(notes["about"])),
                "Error of each layer's attention output, given the teacher's hidden states: squared error relative to "
                "the squared norm, on one held-out sequence.",
            )
        )
    if choice := notes.get("softmax_layers"):
        blocks.append(
            picture(
                layer_choice(choice),
                "Divergence of the student's next-token probabilities from the teacher's, on training text, when one "
                "layer gets its softmax attention back; the layers that keep it are green.",
            )
        )
    return blocks


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
