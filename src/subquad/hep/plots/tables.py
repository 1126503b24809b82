"""Tables of taggers: metrics by model, and background rejections by signal, each with its uncertainty.

A model is a mapping with `name`, `trainings` (metrics as `classification_metrics` returns them) and `spread`.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.mass_shape import EFFICIENCIES, inverse_jsd
from subquad.hep.metrics.summary import errors_over_jets
from subquad.reporting.page import Table

__all__ = ["accuracy_text", "mass_shapes_table", "metrics_table", "rejections_table", "unvaried_seeds"]

UNSCALED = "calibration_error_unscaled"


def accuracy_text(value: float, error: float | None) -> str:
    """Return an accuracy in per cent with its error, as `81.7 ± 0.3 %`; a small error gets more decimals than one."""
    if error is None:
        return f"{100 * value:.1f} %"
    digits = next((more for more in (1, 2, 3) if round(100 * error, more)), 1)
    return f"{100 * value:.{digits}f} ± {100 * error:.{digits}f} %"


def unvaried_seeds(models: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the models with a single training; empty if all have several."""
    single = [model["name"] for model in models if len(model["trainings"]) == 1]
    if len(single) == len(models):
        return "Training seeds were not varied."
    return f"Training seeds of {'; '.join(single)} were not varied." if single else ""


def metrics_table(models: Sequence[Mapping[str, Any]], wins: str | None, *, not_compared: str | None = None) -> Table:
    """Return the metrics over all classes, one row per model; the model that `wins`, if any, is marked.

    `not_compared` says why no differences between the models were tested.
    """
    names = [model["name"] for model in models]
    has_times = any(one.get("milliseconds_per_jet") for model in models for one in model["trainings"])
    has_several = any(len(model["trainings"]) > 1 for model in models)
    # a column without any value is left out
    names_of = {
        name: title
        for name, title in METRICS.items()
        if name != UNSCALED and any(name in model["spread"] for model in models)
    }
    classes = 1 + len(models[0]["trainings"][0]["rejection"])
    error = "0.7417(52) means 0.7417 ± 0.0052, half the 68 % interval over jets (all of one that ends at the value)"
    if has_several:
        error += (
            "; 0.7417(52)(31) is the mean over several trainings, whose 68 % interval by Student's t has the "
            "half-width 0.0031"
        )
    # as a column it would make the table wider than the page
    unscaled = [f"{model['name']} {_with_error(model, UNSCALED)}" for model in models if UNSCALED in model["spread"]]
    if unscaled:
        error += f". Calibration error before temperature scaling: {', '.join(unscaled)}"
    alone = [f"{model['name']} {_time(model, 'latency_milliseconds')} ms" for model in models if _times(model)]
    if alone:
        error += f". A jet that is scored alone takes: {', '.join(alone)}"
    result = "" if len(models) == 1 else f" {_result_text(models, wins, not_compared)}"
    return Table(
        ["model", *(["trainings"] if has_several else []), *names_of.values(), *(["ms per jet"] if has_times else [])],
        [
            [
                model["name"],
                *([len(model["trainings"])] if has_several else []),
                *(_with_error(model, name) for name in names_of),
                *([_time(model, "milliseconds_per_jet")] if has_times else []),
            ]
            for model in models
        ],
        caption=f"{error}. One-vs-rest accuracy is what the PCN "
        f"paper calls accuracy; a tagger that assigns jets to no class reaches {1 - 1 / classes:.3g}.{result}",
        winner=names.index(wins) if wins in names else None,
    )


def _result_text(models: Sequence[Mapping[str, Any]], wins: str | None, not_compared: str | None) -> str:
    if not_compared:
        return f"The models were not compared: {not_compared}."
    how = "top-1 accuracy (95 % intervals of the differences from all others, paired by jet"
    if wins is None:
        return f"No model has a significantly better {how})."
    return f"The marked model has the significantly best {how}). {unvaried_seeds(models)}".rstrip()


def rejections_table(models: Sequence[Mapping[str, Any]], background: str) -> Table:
    """Return the background rejections, one row per signal."""
    signals = models[0]["trainings"][0]["rejection"]
    has_several = any(len(model["trainings"]) > 1 for model in models)
    of_several = "median over trainings with their range, or of a single training " * has_several
    return Table(
        ["signal", "efficiency", *(model["name"] for model in models)],
        [
            [name, f"{100 * entry['efficiency']:g} %", *(_rejection(model, name) for model in models)]
            for name, entry in signals.items()
        ],
        caption=f"Rejection of {background}, the inverse of its efficiency, at fixed signal efficiency: {of_several}"
        "the value with its 68 % interval over jets of both classes. After “>” stands the lower limit of this interval "
        "where no jet of the background passes: with 84 % confidence the rejection is larger.",
    )


def mass_shapes_table(models: Sequence[Mapping[str, Any]], background: str) -> Table | None:
    """Return 1/JSD of the background's mass before and after cuts, one row per signal and efficiency; None without."""
    signals = [
        name
        for name in models[0]["trainings"][0]["rejection"]
        if any(one["mass_shapes"].get(name) for model in models for one in model["trainings"])
    ]
    rows = [
        [name, f"{100 * efficiency:g} %", *(_mass_shape(model, name, efficiency) for model in models)]
        for name in signals
        for efficiency in EFFICIENCIES
    ]
    if not rows:
        return None
    return Table(
        ["signal", "efficiency", *(model["name"] for model in models)],
        rows,
        caption=f"Inverse of the Jensen–Shannon divergence between the mass of {background} before and after a cut at "
        "fixed signal efficiency; larger is better. In brackets: the inverse of the mean divergence of as many jets "
        "drawn at random, beyond which no difference from the mass before the cut can be measured. Of several "
        "trainings the median. A dash: fewer than ten jets pass.",
    )


def _mass_shape(model: Mapping[str, Any], signal: str, efficiency: float) -> str:
    known = inverse_jsd(model["trainings"], signal, efficiency)
    if not known:
        return "–"
    cuts = [
        cut
        for one in model["trainings"]
        for cut in one["mass_shapes"].get(signal, ())
        if cut["efficiency"] == efficiency
    ]
    return f"{_round(median(known))}  ({_round(median([cut['by_chance'] or np.inf for cut in cuts]))})"


def _with_error(model: Mapping[str, Any], name: str) -> str:
    """Return a metric with its uncertainties in the last digits: over jets and, of several trainings, over these."""
    around = model["spread"].get(name)
    if around is None:
        return "–"
    errors = errors_over_jets(model, name)
    text = f"{around['mean']:.4f}" + (f"({1e4 * np.mean(errors):.0f})" if errors else "")
    if around.get("interval") is None:
        return text
    low, high = around["interval"]
    return text + ("" if errors else "(–)") + f"({1e4 * (high - low) / 2:.0f})"


def _rejection(model: Mapping[str, Any], signal: str) -> str:
    one = model["trainings"][0]["rejection"][signal]
    around = model["spread"]["rejection"].get(signal)
    if around is None:
        return "–"
    if len(model["trainings"]) == 1:
        if one["value"] is None:
            return f"> {one['low']:,.0f}"
        return f"{_round(one['value'])}  [{_round(one['low'])}, {_limit(one['high'])}]"
    if around["median"] is None:
        return f"> {_round(min(one['rejection'][signal]['low'] for one in model['trainings']))}"
    return f"{_round(around['median'])}  [{_round(around['min'])}, {_limit(around['max'])}]"


def _limit(value: float | None) -> str:
    return "∞" if value is None else _round(value)


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _times(model: Mapping[str, Any], name: str = "latency_milliseconds") -> list[float]:
    return [one[name] for one in model["trainings"] if one.get(name)]


def _time(model: Mapping[str, Any], name: str) -> str:
    times = _times(model, name)
    return f"{np.mean(times):.3g}" if times else "–"
