"""Results of many runs: means over seeds, and comparisons of the network with the baselines."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from subquad.bio.benchmark.jobs import Job, metrics_of, outcome_of
from subquad.bio.benchmark.tasks import Task
from subquad.bio.metrics.compared_models import names_of
from subquad.bio.metrics.scores import MAIN_METRIC, MIN_TEST_ROWS
from subquad.runs.storage import read_json

__all__ = ["MODELS", "STATES", "result_rows", "summarize", "task_entries"]

MODELS = (*reversed(names_of("network")), *names_of("baseline"), *names_of("stack"))
"""Models in the order of the tables."""
STATES = {
    "scored": "scored",
    "small": f"fewer than {MIN_TEST_ROWS} test rows: run, but not counted",
    "no training rows": "no training rows",
    "failed": "failed",
}
"""State of a task, and its description."""
PUBLISHED_METRICS = {
    "spearman": ("spearman",),
    "pearson": ("pearson",),
    "r2": ("r2",),
    "auroc": ("auroc",),
    "ap": ("average_precision",),
    "accuracy": ("accuracy",),
    "mcc": ("mcc",),
    "f1": ("f1", "f1_macro"),
    "fmax": ("f1_max",),
    "rmse": ("rmse",),
}
"""Metric as named in publications, and the keys of `metrics.json` that match it."""


def task_entries(tasks: Iterable[Task], jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return one entry per task, in the order of the tasks, with the runs of all seeds and their means."""
    entries = []
    for task in tasks:
        runs = {str(job["seed"]): _run(job) for job in jobs if job["id"] == task.id}
        finished = [run for run in runs.values() if "test" in run]
        entry: dict[str, Any] = {
            "id": task.id,
            "family": task.family,
            "task_type": task.task_type,
            "main": MAIN_METRIC[task.task_type],
            "metric": task.metric,
            "published": task.published,
            "train_on": task.train_on,
            "state": _state(task, finished),
            "seeds": runs,
            "messages": list(dict.fromkeys(run["message"] for run in runs.values() if run.get("message"))),
        }
        entries.append(entry | _means(entry, finished) if finished else entry)
    return entries


def result_rows(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per task, seed, model and metric: the contents of `results.csv`."""
    rows = []
    for entry in entries:
        for seed, run in entry["seeds"].items():
            for model, metrics in run.get("test", {}).items():
                for name, value in metrics.items():
                    low, high = run["intervals"].get(model, {}).get(name, (None, None))
                    rows.append(
                        {
                            "id": entry["id"],
                            "family": entry["family"],
                            "task_type": entry["task_type"],
                            "seed": int(seed),
                            "model": model,
                            "metric": name,
                            "is_main": name == entry["main"],
                            "value": value,
                            "low": low,
                            "high": high,
                            "test_rows": run["rows"]["test"],
                            "model_seconds": run["seconds"].get(model),
                            "memory_mb": run["memory_mb"],
                        }
                    )
    return rows


def summarize(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the counts of each family and of `all`: tasks by state, and comparisons of those scored.

    Keys of a comparison (`paper`, `baseline`, `stack`): `tasks`, and in how many of them the network is `higher`,
    `significantly_higher` and `not_significantly_lower`; for `stack`, the stack against the best single model.
    """
    families = dict.fromkeys(entry["family"] for entry in entries)
    groups = {name: [entry for entry in entries if entry["family"] == name] for name in families}
    return {name: _counts(own) for name, own in {**groups, "all": list(entries)}.items()}


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {state: sum(entry["state"] == state for entry in entries) for state in STATES}
    scored = [entry for entry in entries if entry["state"] == "scored"]
    for name in ("paper", "baseline", "stack"):
        gaps = [entry[f"versus_{name}"] for entry in scored if entry.get(f"versus_{name}")]
        counts[name] = {
            "tasks": len(gaps),
            "higher": sum(gap["value"] > 0 for gap in gaps),
            "significantly_higher": sum(gap["low"] > 0 for gap in gaps),
            "not_significantly_lower": sum(gap["high"] >= 0 for gap in gaps),
        }
    return counts


def _run(job: Job) -> dict[str, Any]:
    path, outcome = metrics_of(job), outcome_of(job)
    if not path.is_file():
        return {"message": outcome.get("message") or "not finished"}
    metrics = read_json(path)
    models = sorted(metrics["test"], key=MODELS.index)
    return {
        "test": {name: metrics["test"][name] for name in models},
        "intervals": metrics.get("intervals", {}).get("test", {}),
        "differences": metrics.get("differences", {}),
        "stack": metrics.get("stack_versus_best"),
        "rows": metrics["rows"],
        "seconds": metrics.get("seconds", {}),
        "task_seconds": outcome.get("seconds"),
        "memory_mb": outcome.get("memory_mb") or metrics.get("memory_mb"),
        "parameters": metrics.get("parameters"),
    }


def _state(task: Task, finished: Sequence[Mapping[str, Any]]) -> str:
    if not task.has_training:
        return "no training rows"
    if not finished:
        return "failed"
    return "small" if min(run["rows"]["test"] for run in finished) < MIN_TEST_ROWS else "scored"


def _means(entry: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    main, models = entry["main"], list(runs[0]["test"])
    other = _published_metric(entry["metric"], main, runs[0]["test"]["net"])
    differences = {
        name: _mean_gap([run["differences"][name] for run in runs])
        for name in models
        if all(name in run["differences"] for run in runs)
    }
    values = {name: fmean(run["test"][name][main] for run in runs) for name in models}
    best = max((name for name in names_of("baseline") if name in values), key=values.__getitem__, default=None)
    stacks = [run["stack"] for run in runs if run["stack"]]
    memory = [run["memory_mb"] for run in runs if run["memory_mb"]]
    return {
        "rows": runs[0]["rows"],
        "values": values,
        "std": {name: _std([run["test"][name][main] for run in runs]) for name in models},
        "published_metric": other,
        "published_values": {name: fmean(run["test"][name][other] for run in runs) for name in models} if other else {},
        "differences": differences,
        "best_baseline": best,
        "versus_baseline": None if best is None else differences.get(best),
        "versus_paper": differences.get("paper"),
        "versus_stack": _mean_gap(stacks) if stacks else None,
        "seconds": fmean(run["task_seconds"] or run["seconds"].get("total", 0.0) for run in runs),
        "memory_mb": max(memory, default=None),
    }


def _mean_gap(gaps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(gap[name] for gap in gaps) for name in ("value", "low", "high")}


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _published_metric(text: str, main: str, metrics: Mapping[str, float]) -> str | None:
    """Return the metric that a task is published with, if it differs from the main one here."""
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower().replace("r²", "r2")) if word in PUBLISHED_METRICS]
    known = [[name for name in PUBLISHED_METRICS[word] if name in metrics] for word in words]
    if any(main in names for names in known[:1]):
        return None
    return next((name for names in known for name in names if name != main and math.isfinite(metrics[name])), None)
