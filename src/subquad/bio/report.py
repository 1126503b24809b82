"""The report and the card of a fitted model, from the figures that the run left. Plots only, no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subquad.bio.metrics import MAIN
from subquad.report import Picture, Section, Table, page, picture
from subquad.train.artifact import HISTORY, load_config, read_json

__all__ = ["WORDS", "card", "read_history", "render", "sections", "winner"]

WORDS = {"net": "net (Lyra)", "ridge": "ridge", "boosting": "gradient boosting"}
COLOURS = {"net": "#1f6f54", "ridge": "#8a94a6", "boosting": "#c08a3e"}
TITLES = {"spearman": "Spearman", "pearson": "Pearson", "r2": "R²", "auroc": "AUROC", "ap": "average precision"}
TITLES |= {"accuracy": "accuracy", "mcc": "Matthews"}


def winner(metrics: Mapping[str, Any]) -> str:
    """Return who has the best Spearman or AUROC on the test rows; the simpler one where two are level."""
    main = next(name for name in MAIN.values() if name in metrics["test"]["net"])
    return max(("ridge", "boosting", "net"), key=lambda name: metrics["test"][name][main])


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's history."""
    import json

    path = directory / HISTORY
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's report, from its folder; the first holds the result."""
    directory = Path(directory)
    config = load_config(directory, "bio")
    facts = {**config, "settings": config["subquad"]["settings"]}
    frame = pd.read_csv(directory / "test.csv")
    return _sections(read_json(directory / "metrics.json"), facts, frame, read_history(directory))


def render(
    metrics: Mapping[str, Any], facts: Mapping[str, Any], frame: pd.DataFrame, history: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page.

    Args:
        metrics: contents of `metrics.json`.
        facts: contents of `config.json`, with the settings.
        frame: contents of `test.csv`: measured and predicted values of the test rows.
        history: lines of `history.jsonl`.
    """
    return page(
        f"{facts['target']} from {facts['sequence']}: {facts['table']}",
        lead=_verdict(metrics, facts),
        sections=_sections(metrics, facts, frame, history),
    )


def card(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the README of the saved folder."""
    names = list(metrics["test"]["net"])
    lines = [
        f"# {facts['target']} from {facts['sequence']} ({facts['table']})",
        "",
        _verdict(metrics, facts),
        "",
        "| model | " + " | ".join(TITLES[name] for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for model, figures in metrics["test"].items():
        lines.append(f"| {WORDS[model]} | " + " | ".join(f"{figures[name]:.3f}" for name in names) + " |")
    lines += [
        "",
        f"Figures of {metrics['rows']['test']:,} test rows; choices were made on {metrics['rows']['validation']:,} "
        f"validation rows, and {metrics['rows']['train']:,} rows were learned from.",
        "",
        "This folder holds the net. Use it with: `subquad bio predict FOLDER TABLE.csv --out predictions.csv`.",
        "",
        f"Alphabet {facts['alphabet']}, preset {facts['preset']}, seed {facts['seed']}, "
        f"data fingerprint {facts['fingerprint']}.",
        "",
    ]
    return "\n".join(lines)


def _verdict(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    best = winner(metrics)
    main = next(name for name in MAIN.values() if name in metrics["test"]["net"])
    values = {name: figures[main] for name, figures in metrics["test"].items()}
    others = ", ".join(f"{WORDS[name]} {value:.3f}" for name, value in values.items() if name != best)
    return (
        f"On {metrics['rows']['test']:,} test rows the winner is: {WORDS[best]}, "
        f"{TITLES[main]} {values[best]:.3f} ({others}). {_differences(facts, TITLES[main])}"
    )


def _differences(facts: Mapping[str, Any], title: str) -> str:
    said = []
    for name, gap in facts["net_above"].items():
        is_real = gap["low"] > 0 or gap["high"] < 0
        rest = "" if is_real else ", no clear difference"
        said.append(
            f"over {WORDS[name]} {gap['value']:+.4f} (95 % interval {gap['low']:+.4f} to {gap['high']:+.4f}{rest})"
        )
    return f"The net's lead in {title}: {'; '.join(said)}."


def _sections(
    metrics: Mapping[str, Any], facts: Mapping[str, Any], frame: pd.DataFrame, history: Sequence[Mapping[str, Any]]
) -> list[Section]:
    names, models = list(metrics["test"]["net"]), list(metrics["test"])
    table = Table(
        header=["model", *(TITLES[name] for name in names), "seconds"],
        rows=[
            [WORDS[model], *(metrics["test"][model][name] for name in names), metrics["seconds"][model]]
            for model in models
        ],
        caption="Figures on test rows, which no model and no choice has seen.",
        winner=models.index(winner(metrics)),
    )
    result: list[str | Table | Picture] = [_verdict(metrics, facts), table]
    if facts["task"] == "regression":
        result.append(_scatter(frame, facts["target"]))
    elif len(facts["classes"]) == 2:
        result.append(_histograms(frame, facts["classes"]))
    else:
        result.append(_confusion(frame, facts["classes"]))
    more: list[str | Table | Picture] = [_bars(metrics)]
    if any("loss" in line for line in history):
        more.append(_curves(history, MAIN[facts["task"]]))
    return [
        Section("Result", result),
        Section("Comparison and training", more),
        Section("What was done", [_data(metrics, facts), _choices(metrics, facts)]),
    ]


def _data(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    rows = metrics["rows"]
    split = f"as column {facts['split']} says" if facts["split"] else "at random, equal sequences in one part"
    length = f"{facts['length']} letters each" if facts["length"] else "padded and masked where lengths differ"
    varying = facts["positions"]
    cut = f", of which {len(varying)} vary and are looked at" if varying and len(varying) < facts["length"] else ""
    return (
        f"{rows['train']:,} rows were learned from, {rows['validation']:,} decided every choice, and {rows['test']:,} "
        f"were kept for the test, {split}. Sequences: {length}{cut}; alphabet {facts['alphabet']}. "
        f"Seed {facts['seed']}, data fingerprint {facts['fingerprint']}."
    )


def _choices(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    ridge, boosting = facts["chosen"]["ridge"], facts["chosen"]["boosting"]
    kept = ", ".join(f"step {net['best_step']:,} of {net['steps']:,}" for net in facts["net"])
    kept += (
        " (step 0: ridge itself, as no step did better)" if any(not net["best_step"] for net in facts["net"]) else ""
    )
    beside = "Lyra beside an additive path started from ridge, " if facts["preset"] == "auto" else "Lyra as published, "
    return (
        f"Chosen on the validation rows: ridge's penalty {ridge['penalty']:g}; boosting with {boosting['trees']} trees "
        f"of {boosting['leaves']} leaves; the net's weights of {kept}. The net is {beside}"
        f"with {metrics['parameters']:,} parameters."
    )


def _scatter(frame: pd.DataFrame, target: str) -> Picture:
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.add_subplot()
    x, y = frame["measured"].to_numpy(), frame["net"].to_numpy()
    axes.scatter(x, y, s=7, alpha=min(0.7, 60 / len(x) ** 0.6 + 0.05), color=COLOURS["net"], linewidths=0)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    axes.plot([low, high], [low, high], color="#1c2330", linewidth=0.8, linestyle="--")
    axes.set(xlabel=f"measured {target}", ylabel=f"predicted {target}")
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, "The net's predictions against the measurements, test rows; on the dashed line they agree.")


def _histograms(frame: pd.DataFrame, classes: Sequence[str]) -> Picture:
    figure = Figure(figsize=(5.8, 3.6))
    axes = figure.add_subplot()
    bins = np.linspace(0, 1, 31)
    measured = frame["measured"].astype(str)
    for name, colour in zip(classes, (COLOURS["ridge"], COLOURS["net"]), strict=True):
        values = frame.loc[measured == name, "net"]
        axes.hist(values, bins=bins, density=True, alpha=0.65, color=colour, label=f"measured {name} ({len(values):,})")
    axes.set(xlabel=f"the net's probability of {classes[1]}", ylabel="density")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, "What the net says of the test rows of each class; the further apart, the better.")


def _confusion(frame: pd.DataFrame, classes: Sequence[str]) -> Picture:
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.add_subplot()
    place = {name: k for k, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (frame["measured"].astype(str).map(place), frame["net"].astype(str).map(place)), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure.colorbar(axes.imshow(share, cmap="Greens", vmin=0, vmax=1), ax=axes, label="share of the measured class")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="measured")
    return picture(figure, "Measured and predicted classes of the test rows; on the diagonal they agree.")


def _bars(metrics: Mapping[str, Any]) -> Picture:
    names, models = list(metrics["test"]["net"]), list(metrics["test"])
    figure = Figure(figsize=(6.6, 3.2))
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for k, model in enumerate(models):
        values = [metrics["test"][model][name] for name in names]
        bars = axes.bar(
            np.arange(len(names)) + k * width, values, width * 0.92, color=COLOURS[model], label=WORDS[model]
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=7.5, padding=2)
    axes.set_xticks(np.arange(len(names)) + width * (len(models) - 1) / 2, [TITLES[name] for name in names])
    axes.margins(y=0.15)
    axes.axhline(0, color="#1c2330", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(models), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return picture(figure, "The three models on the same test rows; higher is better.")


def _curves(history: Sequence[Mapping[str, Any]], main: str) -> Picture:
    figure = Figure(figsize=(8.2, 3.2))
    left, right = figure.subplots(1, 2)
    for part in dict.fromkeys(line["part"] for line in history):
        own = [line for line in history if line["part"] == part]
        losses = np.array([(line["step"], line["loss"]) for line in own if "loss" in line])
        # single batches jump: a running mean shows where the loss goes
        near = max(1, len(losses) // 15)
        smooth = np.convolve(losses[:, 1], np.ones(near) / near, mode="valid")
        left.plot(losses[:, 0], losses[:, 1], color=COLOURS["net"], linewidth=0.6, alpha=0.3)
        left.plot(losses[near - 1 :, 0], smooth, color=COLOURS["net"], linewidth=1.6)
        values = [(line["step"], line[f"validation_{main}"]) for line in own if f"validation_{main}" in line]
        right.plot(*zip(*values, strict=True), color=COLOURS["net"], linewidth=1.2, marker=".")
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel=f"{TITLES[main]}, validation rows")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return picture(
        figure, "The net's training; the weights with the best value on the right are kept, or the start's, if better."
    )
