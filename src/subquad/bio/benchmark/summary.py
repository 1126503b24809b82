"""The figures of many runs as one table: means over seeds, and how often who wins, with intervals."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from subquad.bio.benchmark.jobs import Job, outcome_of
from subquad.bio.benchmark.tasks import Task
from subquad.bio.metrics.scores import MAIN_METRIC, MIN_TEST_ROWS
from subquad.runs.storage import read_json

__all__ = ["MODELS", "STATES", "rows_of", "summary", "table"]

MODELS = ("net", "auto", "paper", "ridge", "boosting", "vienna", "vienna_bpp", "stack")
"""In the order of the tables."""

RIVALS = ("ridge", "boosting", "vienna", "vienna_bpp")
"""What a net has to beat; the two of ViennaRNA take the place of the other two where base pairs are predicted."""

STATES = {
    "scored": "scored",
    "small": f"fewer than {MIN_TEST_ROWS} test rows: run, not counted",
    "no training rows": "no training rows",
    "failed": "failed",
}
"""What became of a task, and in words."""

WORDS = {
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
"""What people call a figure, and what it may be called here."""


def table(tasks: Iterable[Task], jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return one entry a task, in the order of the tasks, with all seeds and their means."""
    result = []
    for task in tasks:
        own = [job for job in jobs if job["id"] == task.id]
        runs = {str(job["seed"]): _run(job) for job in own}
        whole = [run for run in runs.values() if "test" in run]
        entry: dict[str, Any] = {
            "id": task.id,
            "family": task.family,
            "task_type": task.task_type,
            "main": MAIN_METRIC[task.task_type],
            "metric": task.metric,
            "published": task.published,
            "train_on": task.train_on,
            "state": _state(task, whole),
            "seeds": runs,
        }
        entry["messages"] = list(dict.fromkeys(run["message"] for run in runs.values() if run.get("message")))
        if whole:
            entry |= _means(entry, whole)
        result.append(entry)
    return result


def rows_of(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each task, seed, model and figure, as they stand in `results.csv`."""
    rows = []
    for entry in entries:
        for seed, run in entry["seeds"].items():
            for model, figures in run.get("test", {}).items():
                for name, value in figures.items():
                    low, high = run["intervals"].get(model, {}).get(name, (None, None))
                    rows.append(
                        {
                            "id": entry["id"],
                            "family": entry["family"],
                            "task_type": entry["task_type"],
                            "seed": int(seed),
                            "model": model,
                            "figure": name,
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


def summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the counts of each family and of `all`: tasks by state, and of those scored who wins."""
    families = dict.fromkeys(entry["family"] for entry in entries)
    groups = {name: [entry for entry in entries if entry["family"] == name] for name in families}
    return {name: _counts(own) for name, own in {**groups, "all": list(entries)}.items()}


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {state: sum(entry["state"] == state for entry in entries) for state in STATES}
    scored = [entry for entry in entries if entry["state"] == "scored"]
    for name in ("paper", "rival"):
        gaps = [entry[f"above_{name}"] for entry in scored if entry.get(f"above_{name}")]
        counts[name] = {
            "of": len(gaps),
            "above": sum(gap["value"] > 0 for gap in gaps),
            "clearly_above": sum(gap["low"] > 0 for gap in gaps),
            "within_or_above": sum(gap["high"] >= 0 for gap in gaps),
        }
    gaps = [entry["stack"] for entry in scored if entry.get("stack")]
    counts["stack"] = {
        "of": len(gaps),
        "above": sum(gap["value"] > 0 for gap in gaps),
        "within_or_above": sum(gap["high"] >= 0 for gap in gaps),
    }
    return counts


def _run(job: Job) -> dict[str, Any]:
    path, outcome = Path(job["out"]) / "metrics.json", outcome_of(job)
    if not path.is_file():
        return {"message": outcome.get("message") or "not finished"}
    metrics = read_json(path)
    models = sorted(metrics["test"], key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))
    return {
        "test": {name: metrics["test"][name] for name in models},
        "intervals": metrics.get("intervals", {}).get("test", {}),
        "above": metrics.get("differences", {}),
        "stack": metrics.get("stack_versus_best"),
        "rows": metrics["rows"],
        "seconds": metrics.get("seconds", {}),
        "task_seconds": outcome.get("seconds"),
        "memory_mb": outcome.get("memory_mb") or metrics.get("memory_mb"),
        "parameters": metrics.get("parameters"),
    }


def _state(task: Task, whole: Sequence[Mapping[str, Any]]) -> str:
    if not task.has_training:
        return "no training rows"
    if not whole:
        return "failed"
    return "small" if min(run["rows"]["test"] for run in whole) < MIN_TEST_ROWS else "scored"


def _means(entry: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    main = entry["main"]
    models = list(runs[0]["test"])
    other = _other(entry["metric"], main, runs[0]["test"]["net"])
    gaps = {
        name: _gap([run["above"][name] for run in runs]) for name in models if all(name in run["above"] for run in runs)
    }
    values = {name: fmean(run["test"][name][main] for run in runs) for name in models}
    rivals = [name for name in RIVALS if name in values]
    best = max(rivals, key=values.__getitem__, default=None)
    stacks = [run["stack"] for run in runs if run["stack"]]
    seconds = [run["task_seconds"] or run["seconds"].get("total", 0.0) for run in runs]
    memory = [run["memory_mb"] for run in runs if run["memory_mb"]]
    return {
        "rows": runs[0]["rows"],
        "values": values,
        "spread": {name: _spread([run["test"][name][main] for run in runs]) for name in models},
        "other": other,
        "other_values": {name: fmean(run["test"][name][other] for run in runs) for name in models} if other else {},
        "above": gaps,
        "best_rival": best,
        "above_rival": gaps.get(best),
        "above_paper": gaps.get("paper"),
        "stack": _gap(stacks) if stacks else None,
        "seconds": fmean(seconds),
        "memory_mb": max(memory, default=None),
    }


def _gap(gaps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(gap[name] for gap in gaps) for name in ("value", "low", "high")}


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _other(words: str, main: str, figures: Mapping[str, float]) -> str | None:
    """Return the figure that a task is measured by elsewhere, where that is not the main one here."""
    asked = re.findall(r"[a-z0-9]+", words.lower().replace("r²", "r2"))
    known = [[name for name in WORDS[word] if name in figures] for word in asked if word in WORDS]
    if any(main in names for names in known[:1]):
        return None
    return next((name for names in known for name in names if name != main and math.isfinite(figures[name])), None)
