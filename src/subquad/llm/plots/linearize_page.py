"""The report and the card of a linearized model, from the figures that the run left. Plots only, no model."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.runs.storage import read_json

__all__ = ["WORDS", "card", "history", "sections", "whole_page"]

WORDS = {
    "softmax": "softmax (the model as it was)",
    "window_only": "window only, untrained",
    "swapped": "linear + window, untrained",
    "transferred": "after attention transfer",
    "tuned": "after low-rank tuning",
    "tuned_without_linear": "tuned, linear branch removed",
}
MEANINGS = {
    "softmax": "all pairs: the teacher, and the mark to reach",
    "window_only": "softmax over the window alone: what forgetting all else costs",
    "swapped": "new attention with maps as they start",
    "transferred": "stage 1: maps trained to give the teacher's attention outputs",
    "tuned": "stage 2: low-rank updates of the weights; this model is saved",
    "tuned_without_linear": "the saved model without its linear branch: what that branch does",
}
LOSSES = {
    "mse": "mean squared error",
    "relative": "squared error over squared size",
    "weights": "squared error and cross-entropy",
}
COLOURS = {"softmax": "#5b6474", "tuned": "#1f6f54"}
OTHER_COLOUR = "#b9c4d4"
SMOOTHED = 50
"""Points of a curve from which on a running mean is drawn too."""


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's report, from its folder; the first stands by itself."""
    directory = Path(directory)
    metrics, facts = (read_json(directory / name) for name in ("metrics.json", "evaluations.json"))
    return _sections(metrics, facts, history(directory))


def whole_page(metrics: Mapping[str, Any], facts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        metrics: Contents of `metrics.json`.
        facts: Contents of `evaluations.json`.
        lines: Lines of `history.jsonl`.
    """
    return page(
        f"{facts['about']['model']} with linear attention",
        lead=_lead(metrics, facts["about"]),
        sections=_sections(metrics, facts, lines),
    )


def _sections(
    metrics: Mapping[str, Any], facts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> list[Section]:
    about, values = facts["about"], metrics["perplexity"]
    names = list(WORDS)
    table = Table(
        ["attention", "perplexity", "what it is"],
        [[WORDS[name], values[name], MEANINGS[name]] for name in names],
        caption=f"Lower is better. All on the same {about['evaluation_tokens']:,} tokens: {about['held_out']}, "
        "never trained on. The marked row is the model that is saved.",
        winner=names.index("tuned"),
    )
    return [
        Section(
            "Perplexity",
            [
                _how(metrics, about),
                _verdict(values, about),
                table,
                picture(_bars(values), "Perplexity, logarithmic axis."),
            ],
        ),
        Section("Training", _training(facts, lines)),
        Section("A sample", _sample(facts["samples"], about)),
        Section("How it was done", _method(metrics, about)),
    ]


def history(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `history.jsonl`."""
    path = directory / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def card(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return the `README.md` of the model folder."""
    rows = "\n".join(f"| {WORDS[name]} | {value:.2f} |" for name, value in metrics["perplexity"].items())
    return f"""# {about["model"]} with linear attention

{_lead(metrics, about)}

| attention | perplexity |
|---|---|
{rows}

Perplexity on {about["evaluation_tokens"]:,} tokens of {about["held_out"]}.
{_how(metrics, about)}

```python
import subquad.llm

model, tokenizer = subquad.llm.load("this folder")
```

`report.html` shows the figures. Method: LoLCATs, arXiv:2410.10254.
The licence of the weights is that of {about["model"]}.
"""


def _lead(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    linear, layers = about["layers"], about.get("all_layers", about["layers"])
    window = f"a softmax window of {about['window']} tokens ({about['window_shape']})"
    cost = "A new token costs the same however long the text is: each"
    return (
        f"Softmax attention in {'all' if linear == layers else f'{linear} of'} {layers} layers was replaced by linear "
        f"attention with {'no softmax window' if about['window_shape'] == 'none' else window}. "
        f"{cost if linear == layers else 'Each of these'} layer{'' if linear == layers else 's'} keeps "
        f"{about['state_numbers']:,} numbers, as much as a key-value cache of {about['state_as_tokens']:,} tokens."
    )


def _verdict(values: Mapping[str, float], about: Mapping[str, Any]) -> str:
    if about.get("tune_mode") == "window":
        return (
            "This model is a control: it was tuned with its window alone, so the last row is what was tuned "
            f"(perplexity {values['tuned_without_linear']:.1f}, against {values['softmax']:.1f} with softmax)."
        )
    tuned, window = values["tuned"], values["window_only"]
    is_better = "below" if tuned < window else "not below"
    does = "worse" if values["tuned_without_linear"] > tuned else "no worse"
    return (
        f"The tuned model has perplexity {tuned:.1f}, against {values['softmax']:.1f} with softmax: "
        f"{is_better} the {window:.1f} of the window alone. Without its linear branch it is {does} "
        f"({values['tuned_without_linear']:.1f}), so the branch "
        f"{'carries what lies before the window' if does == 'worse' else 'carries nothing on this text'}. "
        "Tuning also fits the model to the text, which the untuned rows have not had."
    )


def _bars(values: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(7.5, 3.1))
    axes = figure.subplots()
    names = list(WORDS)[::-1]
    axes.barh(
        [WORDS[name] for name in names],
        [values[name] for name in names],
        color=[COLOURS.get(name, OTHER_COLOUR) for name in names],
    )
    for place, name in enumerate(names):
        axes.annotate(
            f"{values[name]:.1f}", (values[name], place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min(values.values()), max(values.values())
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.set_xlabel("perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _training(facts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> list[str | Table | Picture]:
    about = facts["about"]
    loss = LOSSES[about.get("transfer_loss", "mse")]
    words = "next-token loss and distance" if about.get("distill") else "next-token loss"
    stages = (("transfer", f"attention transfer: {loss}"), ("tune", f"tuning: {words}"))
    figure = Figure(figsize=(9, 3))
    for axes, (stage, title) in zip(figure.subplots(1, 2), stages, strict=True):
        # block by block there are `transfer-0`, `transfer-1` and so on, a curve each
        parts = dict.fromkeys(line["part"] for line in lines if line["part"].split("-")[0] == stage)
        for part, (key, shape) in itertools.product(parts, (("loss", "-"), ("validation_loss", "o"))):
            points = [(line["step"], line[key]) for line in lines if line["part"] == part and key in line]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            is_noisy = key == "loss" and len(values) >= SMOOTHED
            # a single point has no line
            style = "o" if len(steps) == 1 else shape
            axes.plot(steps, values, style, color=OTHER_COLOUR if is_noisy else "#1f6f54", label=key.replace("_", " "))
            if is_noisy:
                wide = len(values) // 10
                smooth = [fmean(values[max(0, place - wide) : place + wide + 1]) for place in range(len(values))]
                axes.plot(steps, smooth, color="#1f6f54")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_yscale("log")
    figure.tight_layout()
    return [
        picture(
            figure,
            "Loss of the two stages, each point a mean over the steps since the last; the dark line is the mean over a "
            "fifth of the points around.",
        ),
        picture(
            _layers(facts["errors"]),
            "How far each layer's attention output is from the teacher's, given the teacher's inputs: squared error "
            "over squared size, on one held-out sequence. 0 is perfect.",
        ),
    ]


def _layers(errors: Mapping[str, Sequence[float]]) -> Figure:
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    for name, colour in (("swapped", OTHER_COLOUR), ("transferred", "#1f6f54")):
        axes.plot(range(len(errors[name])), errors[name], "o-", color=colour, label=WORDS[name], markersize=4)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("relative error")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _sample(samples: Mapping[str, str], about: Mapping[str, Any]) -> list[str | Table | Picture]:
    return [
        f"Both continue the same held-out text, {about['sample']}, with the same seed. "
        "One sample shows style, not quality.",
        f"Prompt: {samples['prompt']}",
        f"Softmax: {samples['softmax']}",
        f"Linear: {samples['tuned']}",
    ]


def _method(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> list[str | Table | Picture]:
    seconds = metrics["seconds"]
    return [
        "Stage 1 compares attention outputs before the output projection, layer by layer, on the softmax model's own "
        f"hidden states, and trains the feature maps and mixing terms alone. {_second_stage(about)}",
        Table(
            ["part", "seconds"],
            [[name, value] for name, value in seconds.items()],
            caption=f"On {about['machine']}, {_types(about)}.",
        ),
    ]


def _types(about: Mapping[str, Any]) -> str:
    if about.get("weights") == "bfloat16":
        return "weights and products in bfloat16"
    return f"matrix products of training in {'bfloat16' if about['precision'] == 'bf16' else 'float32'}"


def _second_stage(about: Mapping[str, Any]) -> str:
    targets = about.get("lora_targets", [])
    where = "all linear layers" if targets == ["all-linear"] else ", ".join(targets) or "some layers"
    maps = " and goes on with the feature maps" if about.get("feature_rate") else ""
    return (
        f"Stage 2 trains low-rank updates of {where}{maps}, by {_tuning_loss(about)}; the updates are merged into the "
        "saved weights."
    )


def _tuning_loss(about: Mapping[str, Any]) -> str:
    share = about.get("distill", 0.0)
    if not share:
        return "next-token loss"
    distance = "distance to the softmax model's words"
    return distance if share == 1 else f"{1 - share:.0%} next-token loss, {share:.0%} {distance}"


def _how(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    tokens, trained = metrics["tokens"], metrics["trainable_parameters"]
    names = {"transfer": "attention transfer", "lora": "low-rank tuning"}
    early = [names[stage] for stage, is_early in metrics.get("stopped_early", {}).items() if is_early]
    words = f" Ended before its last step, since validation got no better: {', '.join(early)}." if early else ""
    return (
        f"Trained on {about['text']} in sequences of {about['length']:,} tokens: {tokens['transfer']:,} tokens of "
        f"attention transfer ({trained['transfer']:,} of {about['parameters']:,} parameters) and "
        f"{tokens['lora']:,} tokens of low-rank tuning ({trained['lora']:,} parameters).{words}"
    )
