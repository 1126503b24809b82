"""From measured rows to results: means of each model variant, paired differences, and the gap that is closed."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from subquad.llm.evaluation.comparisons import compare
from subquad.llm.evaluation.measurements import MeasuredRows, Measurement
from subquad.llm.evaluation.model_variants import EvaluatedModel
from subquad.llm.evaluation.probes import position_bins
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import Row
from subquad.llm.models.exact_lengths import seen_exactly

METRIC = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm"}
"""The metric that papers report for a task, if it is not the first: log-likelihoods divided by answer length."""

RowsByRole = Mapping[str, list[tuple[Measurement, list[Row]]]]


def summarize(model: EvaluatedModel, rows: MeasuredRows, settings: EvaluateSettings) -> dict[str, Any]:
    """Return all results of one model and its controls."""

    def rates(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        return compare(values, is_rate=True, resamples=settings.resamples)

    return {
        "about": {**model.about, "visible": seen_exactly(model.attention), "longest": model.longest},
        "perplexity": _perplexities(rows.get("perplexity", {}), settings),
        "tasks": _tasks(rows.get("tasks", {}), model, rates),
        "passkey": _passkeys(rows.get("passkey", {}), settings, rates),
        "speed": {role: [row for _, own in found for row in own] for role, found in rows.get("speed", {}).items()},
    }


def _perplexities(rows: RowsByRole, settings: EvaluateSettings) -> dict[str, Any]:
    edges = position_bins(settings.sequence_length)
    widths = [high - low for low, high in pairwise(edges)]

    def perplexity(losses: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        # the models' results as perplexities; differences stay in nats per token
        found = compare(losses, is_rate=False, resamples=settings.resamples)
        found["models"] = {
            role: {name: None if value is None else math.exp(value) for name, value in estimate.items()}
            for role, estimate in found["models"].items()
        }
        return found

    result = {}
    for place, (measurement, _) in enumerate(next(iter(rows.values()), [])):
        losses = {role: [row["losses"] for row in found[place][1]] for role, found in rows.items()}
        positions = []
        for index, (low, width) in enumerate(zip(edges, widths, strict=False)):
            own = {role: [sums[index] / width for sums in table] for role, table in losses.items()}
            positions.append({"from": low, "to": low + width - 1, **perplexity(own)})
        result[measurement.name] = {
            **perplexity({role: [sum(sums) / sum(widths) for sums in own] for role, own in losses.items()}),
            "tokens": measurement.total * settings.sequence_length,
            "positions": positions,
        }
    return result


def _tasks(
    rows: RowsByRole, model: EvaluatedModel, rates: Callable[[Mapping[str, Sequence[float]]], dict[str, Any]]
) -> dict[str, Any]:
    items: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for role, found in rows.items():
        for measurement, own in found:
            items[measurement.name][role] += [item for row in own for item in row["items"]]
    result = {}
    for task, own in items.items():
        first = next(iter(own.values()))
        names = [name for name in first[0] if name != "tokens"]
        metric = METRIC.get(task, names[0])
        beyond = [index for index, row in enumerate(first) if row["tokens"] > seen_exactly(model.attention)]
        result[task] = {
            "metric": metric,
            "metrics": {
                name: rates({role: [row[name] for row in table] for role, table in own.items()}) for name in names
            },
            "beyond_window": {"items": len(beyond), "fraction": len(beyond) / len(first)},
            "tokens": sorted(row["tokens"] for row in first)[len(first) // 2],
        }
        if beyond:
            values = {role: [table[index][metric] for index in beyond] for role, table in own.items()}
            result[task]["beyond_window"] |= rates(values)
    return result


def _passkeys(
    rows: RowsByRole,
    settings: EvaluateSettings,
    rates: Callable[[Mapping[str, Sequence[float]]], dict[str, Any]],
) -> dict[str, Any]:
    result = {}
    for place, (measurement, first) in enumerate(next(iter(rows.values()), [])):
        own = {role: found[place][1] for role, found in rows.items()}
        longest = max(row["read"] for row in first)
        result[measurement.name] = {
            **rates({role: [row["right"] for row in table] for role, table in own.items()}),
            "tokens_read": longest,
            "by_depth": {
                role: {
                    str(depth): sum(row["right"] for row in table if row["depth"] == depth) / settings.passkey_trials
                    for depth in settings.passkey_depths
                }
                for role, table in own.items()
            },
        }
    return result
