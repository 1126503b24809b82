"""Rows of items made into figures: means of each model, differences on the same items, and the gap that is closed."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from subquad.llm.evaluation.comparisons import compare
from subquad.llm.evaluation.measurements import Part
from subquad.llm.evaluation.model_variants import Subject
from subquad.llm.evaluation.probes import bins
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import Row

__all__ = ["METRIC", "ByRole", "Rows", "summary"]

METRIC = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm"}
"""The metric that papers report of a task, where it is not plain accuracy: it weighs an answer by its length."""

ByRole = Mapping[str, list[tuple[Part, list[Row]]]]
"""By role, the parts with their rows."""

Rows = Mapping[str, ByRole]
"""The same by kind of figure."""


def summary(subject: Subject, rows: Rows, settings: EvaluateSettings) -> dict[str, Any]:
    """Return all figures of one model and its controls."""
    return {
        "about": {**subject.about, "shown": subject.shown, "longest": subject.longest},
        "perplexity": _perplexities(rows.get("perplexity", {}), settings),
        "tasks": _tasks(rows.get("tasks", {}), subject, settings),
        "passkey": _passkeys(rows.get("passkey", {}), subject, settings),
        "speed": {role: [row for _, own in parts for row in own] for role, parts in rows.get("speed", {}).items()},
    }


def _perplexities(rows: ByRole, settings: EvaluateSettings) -> dict[str, Any]:
    edges = bins(settings.length)
    widths = [high - low for low, high in pairwise(edges)]
    result = {}
    for place, (part, _) in enumerate(next(iter(rows.values()), [])):
        losses = {role: [row["losses"] for row in parts[place][1]] for role, parts in rows.items()}
        whole = {role: [sum(sums) / sum(widths) for sums in own] for role, own in losses.items()}
        positions = []
        for at, (low, width) in enumerate(zip(edges, widths, strict=False)):
            own = {role: [sums[at] / width for sums in table] for role, table in losses.items()}
            positions.append({"from": low, "to": low + width - 1, **_as_perplexity(own, settings)})
        result[part.name] = {
            **_as_perplexity(whole, settings),
            "tokens": part.total * settings.length,
            "positions": positions,
        }
    return result


def _as_perplexity(losses: Mapping[str, Sequence[float]], settings: EvaluateSettings) -> dict[str, Any]:
    """Return what `compare` says of mean losses, the models' as perplexities; differences stay in nats."""
    found = compare(losses, resamples=settings.resamples)
    found["models"] = {
        role: {name: None if value is None else math.exp(value) for name, value in estimate.items()}
        for role, estimate in found["models"].items()
    }
    return found


def _tasks(rows: ByRole, subject: Subject, settings: EvaluateSettings) -> dict[str, Any]:
    items: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for role, parts in rows.items():
        for part, own in parts:
            items[part.name][role] += own
    result = {}
    for task, own in items.items():
        first = next(iter(own.values()))
        beyond = [index for index, row in enumerate(first) if row["tokens"] > subject.shown]
        metric = METRIC.get(task, "acc")
        result[task] = {
            "metric": metric,
            "metrics": {
                name: compare(
                    {role: [row[name] for row in table] for role, table in own.items()}, resamples=settings.resamples
                )
                for name in ("acc", "acc_norm")
                if name in first[0]
            },
            "beyond_window": {"items": len(beyond), "share": len(beyond) / len(first)},
            "tokens": sorted(row["tokens"] for row in first)[len(first) // 2],
        }
        if beyond:
            result[task]["beyond_window"] |= compare(
                {role: [table[index][metric] for index in beyond] for role, table in own.items()},
                resamples=settings.resamples,
            )
    return result


def _passkeys(rows: ByRole, subject: Subject, settings: EvaluateSettings) -> dict[str, Any]:
    result = {}
    for place, (part, first) in enumerate(next(iter(rows.values()), [])):
        right = {role: [row["right"] for row in parts[place][1]] for role, parts in rows.items()}
        by_depth = {
            role: {
                str(depth): _mean([row["right"] for row in parts[place][1] if row["depth"] == depth])
                for depth in settings.depths
            }
            for role, parts in rows.items()
        }
        result[part.name] = {
            **compare(right, resamples=settings.resamples),
            "tokens_read": max(row["read"] for row in first),
            "is_beyond_training": bool(subject.longest and max(row["read"] for row in first) > subject.longest),
            "by_depth": by_depth,
        }
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
