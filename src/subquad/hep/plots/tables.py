"""The tables of taggers: models with their figures, signals with their rejections, each with its uncertainty.

A model is a mapping with a `name`, its `trainings` as `metrics.scores_of` gives them, and their `metrics.spread`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.hep.metrics.scores import FIGURES
from subquad.reporting.page import Table

__all__ = ["figures_table", "rejections_table"]


def figures_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """Return the figures over all classes, a model a row; the best top-1 accuracy stands out."""
    best = max(range(len(models)), key=lambda k: models[k]["spread"]["accuracy"]["mean"])
    has_times = any(one.get("milliseconds_per_jet") for model in models for one in model["trainings"])
    has_several = any(len(model["trainings"]) > 1 for model in models)
    classes = 1 + len(models[0]["trainings"][0]["rejection"])
    brackets = "the standard deviation over trainings; of a single one, half" if has_several else "half of"
    return Table(
        ["model", *(["trainings"] if has_several else []), *FIGURES.values(), *(["ms per jet"] if has_times else [])],
        [
            [
                model["name"],
                *([len(model["trainings"])] if has_several else []),
                *(_with_error(model, name) for name in FIGURES),
                *([_time(model)] if has_times else []),
            ]
            for model in models
        ],
        caption=f"0.7417(52) is 0.7417 ± 0.0052: {brackets} the 68 % interval over jets. The PCN paper calls accuracy "
        f"what is here accuracy, ovr: each class against the rest, where answering no has {1 - 1 / classes:.3g}.",
        winner=best if len(models) > 1 else None,
    )


def rejections_table(models: Sequence[Mapping[str, Any]], background: str) -> Table:
    """Return the rejections of the background, a signal a row."""
    signals = models[0]["trainings"][0]["rejection"]
    of_several = "of several trainings the median with the least and the most, " * any(
        len(model["trainings"]) > 1 for model in models
    )
    return Table(
        ["signal", "efficiency", *(model["name"] for model in models)],
        [
            [name, f"{100 * entry['efficiency']:g} %", *(_rejection(model, name) for model in models)]
            for name, entry in signals.items()
        ],
        caption=f"Rejection of {background}, 1/ε_B, more is better: {of_several}of one the 68 % interval over jets.",
    )


def _with_error(model: Mapping[str, Any], name: str) -> str:
    """Return a figure, in brackets its uncertainty in the last digits: over trainings, or, of a single one, jets."""
    around = model["spread"].get(name)
    if around is None:
        return "–"
    error, interval = around["deviation"], model["trainings"][0].get("intervals", {}).get(name)
    if error is None and interval:
        error = (interval[1] - interval[0]) / 2
    return f"{around['mean']:.4f}" + ("" if error is None else f"({1e4 * error:.0f})")


def _rejection(model: Mapping[str, Any], signal: str) -> str:
    one = model["trainings"][0]["rejection"][signal]
    around = model["spread"]["rejection"].get(signal)
    if around is None:
        return "–"
    if len(model["trainings"]) == 1:
        if one["value"] is None:
            return f"> {one['low']:,.0f}"
        return f"{_round(one['value'])}  [{_round(one['low'])}, {_round(one['high'])}]"
    if around["median"] is None:
        return f"> {_round(min(one['rejection'][signal]['low'] for one in model['trainings']))}"
    most = "∞" if around["most"] is None else _round(around["most"])
    return f"{_round(around['median'])}  [{_round(around['least'])}, {most}]"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _time(model: Mapping[str, Any]) -> str:
    times = [one["milliseconds_per_jet"] for one in model["trainings"] if one.get("milliseconds_per_jet")]
    return f"{np.mean(times):.3g}" if times else "–"
