"""Tables of taggers: metrics by model, background rejections by signal, mass decorrelation, and variations.

`metrics` are those of a run or of an evaluation, `metrics.json`.
"""

from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.mass_shape import EFFICIENCIES
from subquad.reporting.metrics import metrics_table
from subquad.reporting.page import Table

SHOWN = ("accuracy", "auc_ovo", "average_precision", "accuracy_ovr_macro", "calibration_error")
"""Metrics of the table of all models; the rest is in `metrics.json`."""
TIMES = {"milliseconds_per_jet": "ms per jet", "latency_milliseconds": "ms of a single jet"}


def seeds_text(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the models with a single training; empty if all have several."""
    single = [model["name"] for model in metrics["models"] if len(model["trainings"]) == 1]
    if len(single) == len(metrics["models"]):
        return "Training seeds were not varied."
    return f"Training seeds of {'; '.join(single)} were not varied." if single else ""


def models_table(metrics: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """Return the metrics over all classes, one row per model of `names`; the model that wins, if any, is marked."""
    trainings = {model["name"]: model["trainings"] for model in metrics["models"]}
    more = {}
    if any(len(own) > 1 for own in trainings.values()):
        more["trainings"] = {name: len(own) for name, own in trainings.items()}
    for key, title in TIMES.items():
        times = {name: [one[key] for one in own if one.get(key)] for name, own in trainings.items()}
        if any(times.values()):
            more[title] = {name: f"{fmean(own):.3g}" for name, own in times.items() if own}
    classes = 1 + len(metrics["models"][0]["trainings"][0]["rejection"])
    return metrics_table(
        metrics,
        {key: METRICS[key].title for key in SHOWN},
        names,
        more=more,
        caption="With 68 % intervals over jets and, of several trainings, over trainings. Accuracy, ovr, is what the "
        f"PCN paper calls accuracy: a tagger that assigns jets to no class reaches {1 - 1 / classes:.3g}.",
        winner=metrics["wins"],
    )


def rejections_table(metrics: Mapping[str, Any], names: Mapping[str, str], background: str) -> Table:
    """Return the background rejections, one row per signal."""
    limits = metrics["intervals"]["test"]
    signals = metrics["models"][0]["trainings"][0]["rejection"]

    def cell(model: str, signal: str) -> str:
        value = metrics["test"][model]["rejection"].get(signal)
        low, high = limits[model]["rejection"].get(signal, (None, None))
        if value is None:
            return "–" if low is None else f"> {_round(low)}"
        return f"{_round(value)}\n[{_round(low)}, {'∞' if high is None else _round(high)}]"

    return Table(
        ["signal", "efficiency", *names.values()],
        [
            [signal, f"{100 * entry['efficiency']:g} %", *(cell(model, signal) for model in names)]
            for signal, entry in signals.items()
        ],
        caption=f"Rejection of {background} at fixed signal efficiency, with its 68 % interval over jets, or of "
        "several trainings their median and range. >: no background jet passes; the lower limit with 84 % confidence.",
    )


def mass_shapes_table(metrics: Mapping[str, Any], background: str) -> Table | None:
    """Return 1/JSD of the background's mass before and after cuts, one row per signal and efficiency; None without."""
    models = metrics["models"]

    def cell(model: Mapping[str, Any], signal: str, efficiency: float) -> str:
        value = metrics["test"][model["name"]].get(f"inverse_jsd_{100 * efficiency:.0f}", {}).get(signal)
        cuts = [cut for one in model["trainings"] for cut in one["mass_shapes"].get(signal, ())]
        chance = [cut["by_chance"] for cut in cuts if cut["efficiency"] == efficiency and cut["by_chance"]]
        return "–" if value is None else f"{_round(value)}\n({_round(median(chance)) if chance else '∞'})"

    rows = [
        [signal, f"{100 * efficiency:g} %", *(cell(model, signal, efficiency) for model in models)]
        for signal in models[0]["trainings"][0]["rejection"]
        if any(one["mass_shapes"].get(signal) for model in models for one in model["trainings"])
        for efficiency in EFFICIENCIES
    ]
    if not rows:
        return None
    return Table(
        ["signal", "efficiency", *(model["name"] for model in models)],
        rows,
        caption=f"1 / Jensen–Shannon divergence of the mass of {background} before and after a cut; larger is better. "
        "In brackets: as many jets drawn at random, beyond which nothing can be measured.",
    )


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
