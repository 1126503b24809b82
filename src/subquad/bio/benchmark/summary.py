"""Results of many runs: means over seeds, and comparisons of Lyra and the ensemble with the other models.

A difference between two models has a 95 % interval from bootstrap samples of the test rows and, with several seeds, of
the seeds: each sample averages the differences of as many randomly drawn runs, on the same resampled rows if all seeds
have the same test rows.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student

from subquad.bio.benchmark.jobs import Job, bootstrap_of, metrics_of, outcome_of, selected_model
from subquad.bio.benchmark.tasks import Task
from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE, WITHOUT_LYRA, names_of
from subquad.bio.metrics.scores import MAIN_METRIC, METRICS, MIN_TEST_ROWS, verdict_of
from subquad.reporting.statistics import CLEARLY_WORSE, NOT_CLEAR, VERDICTS
from subquad.runs.storage import read_json

__all__ = ["COMPARISONS", "MAX_LOSS", "STATES", "result_rows", "summarize", "task_entries"]

STATES = {
    "scored": "scored",
    "small": f"fewer than {MIN_TEST_ROWS} test rows: run, but not counted",
    "undefined": "main metric undefined on the test rows: run, but not counted",
    "no training rows": "no training rows",
    "failed": "failed",
}
"""State of a task, and its description."""
COMPARISONS = {
    "lyra_baseline": "Lyra against the best baseline",
    "lyra_additive": "Lyra against its additive path",
    "lyra_paper": "Lyra against Lyra as published",
    "ensemble_baseline": "ensemble against the best baseline",
    "without_baseline": "ensemble without Lyra against the best baseline",
    "ensemble_single": "ensemble against the best single model",
    "ensemble_selected": "ensemble against the single model that the validation rows choose",
    "ensemble_without": "ensemble against the ensemble without Lyra",
}
"""Comparisons of a task, and their titles. The best model is chosen on the test rows, to the disadvantage of the first
one."""
MAX_LOSS = 0.01
"""Largest loss of the ensemble to the best single model that still counts as equal."""
PUBLISHED_METRICS = {
    info.published: [name for name, own in METRICS.items() if own.published == info.published]
    for info in METRICS.values()
    if info.published
}
"""Metric as named in publications, and the keys of `metrics.json` that match it."""


def task_entries(tasks: Iterable[Task], jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return one entry per task, in the order of the tasks, with the runs of all seeds, means and comparisons."""
    entries = []
    for task in tasks:
        own = [job for job in jobs if job["id"] == task.id]
        runs = {str(job["seed"]): _run(job) for job in own}
        finished = [job for job in own if "test" in runs[str(job["seed"])]]
        entry: dict[str, Any] = {
            "id": task.id,
            "family": task.family,
            "task_type": task.task_type,
            "main": MAIN_METRIC[task.task_type],
            "metric": task.metric,
            "published": task.published,
            "train_on": task.train_on,
            "state": _state(task, [runs[str(job["seed"])] for job in finished]),
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
                            "weight": run["weights"].get(model),
                            "cpu_seconds": run["cpu_seconds"].get(model),
                            "memory_mb": run["memory_mb"],
                        }
                    )
    return rows


def summarize(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the counts of each family and of `all`: tasks by state, and verdicts of those scored.

    Each comparison of `COMPARISONS` has `tasks`, the number of each verdict, also after Holm's correction,
    `at_least`, in how many tasks the first model is at least as high, and `close`, in how many it is neither clearly
    worse nor more than 0.01 below.
    """
    families = dict.fromkeys(entry["family"] for entry in entries)
    groups = {name: [entry for entry in entries if entry["family"] == name] for name in families}
    return {name: _counts(own) for name, own in {**groups, "all": list(entries)}.items()}


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {state: sum(entry["state"] == state for entry in entries) for state in STATES}
    scored = [entry for entry in entries if entry["state"] == "scored"]
    for name in COMPARISONS:
        gaps = [entry["comparisons"][name] for entry in scored if name in entry["comparisons"]]
        counts[name] = {"tasks": len(gaps), **{one: sum(gap["verdict"] == one for gap in gaps) for one in VERDICTS}}
        counts[name]["at_least"] = sum(gap["value"] >= 0 for gap in gaps)
        counts[name]["after_holm"] = _after_holm(gaps)
        counts[name]["close"] = sum(gap["verdict"] != CLEARLY_WORSE and gap["value"] >= -MAX_LOSS for gap in gaps)
    return counts


def _run(job: Job) -> dict[str, Any]:
    path, outcome = metrics_of(job), outcome_of(job)
    if not path.is_file():
        return {"message": outcome.get("message") or "not finished"}
    metrics = read_json(path)
    return {
        "test": metrics["test"],
        "undefined": metrics.get("undefined", {}),
        "intervals": metrics.get("intervals", {}).get("test", {}),
        "rows": metrics["rows"],
        "weights": metrics["weights"].get(ENSEMBLE, {}),
        "cpu_seconds": metrics["cpu_seconds"],
        "task_seconds": outcome.get("seconds"),
        "memory_mb": outcome.get("memory_mb") or metrics.get("memory_mb"),
    }


def _state(task: Task, finished: Sequence[Mapping[str, Any]]) -> str:
    if not task.has_training:
        return "no training rows"
    if not finished:
        return "failed"
    if min(run["rows"]["test"] for run in finished) < MIN_TEST_ROWS:
        return "small"
    return "undefined" if any(MAIN_METRIC[task.task_type] in run["undefined"] for run in finished) else "scored"


def _means(entry: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    runs = [entry["seeds"][str(job["seed"])] for job in jobs]
    # some are fitted on small tables only, and training rows differ from seed to seed
    main, models = entry["main"], [name for name in runs[0]["test"] if all(name in run["test"] for run in runs)]
    other = _published_metric(entry["metric"], main, runs[0]["test"][models[0]])
    values = {name: fmean(run["test"][name][main] for run in runs) for name in models}
    memory = [run["memory_mb"] for run in runs if run["memory_mb"]]
    baseline = _best(values, "baseline")
    return {
        "rows": runs[0]["rows"],
        "values": values,
        "std": {name: _std([run["test"][name][main] for run in runs]) for name in models},
        "published_metric": other,
        "published_values": {name: fmean(run["test"][name][other] for run in runs) for name in models} if other else {},
        "best_baseline": baseline,
        "weights": {name: fmean(run["weights"].get(name, 0.0) for run in runs) for name in runs[0]["weights"]},
        "comparisons": _comparisons(main, values, baseline, [bootstrap_of(job, values) for job in jobs])
        | _against_selected(main, runs, jobs),
        "cpu_seconds": {name: fmean(run["cpu_seconds"].get(name, 0.0) for run in runs) for name in models},
        "seconds": fmean(run["task_seconds"] or 0.0 for run in runs),
        "memory_mb": max(memory, default=None),
    }


def _comparisons(
    main: str, values: Mapping[str, float], baseline: str | None, drawn: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """Return difference, interval and verdict of each comparison whose models were fitted."""
    pairs = {
        "lyra_baseline": ("lyra", baseline),
        "lyra_additive": ("lyra", "lyra-additive"),
        "lyra_paper": ("lyra", "lyra-paper"),
        "ensemble_baseline": (ENSEMBLE, baseline),
        "without_baseline": (WITHOUT_LYRA, baseline),
        "ensemble_single": (ENSEMBLE, _best(values, "baseline", "lyra")),
        "ensemble_without": (ENSEMBLE, WITHOUT_LYRA),
    }
    found = {}
    for name, (first, second) in pairs.items():
        if first in values and second is not None and second in values:
            value = values[first] - values[second]
            gaps = np.stack([run[first] - run[second] for run in drawn])
            gap = {"first": first, "second": second, "value": value, **_interval(gaps, value)}
            found[name] = gap | {"verdict": verdict_of(gap, main)}
    return found


def _against_selected(main: str, runs: Sequence[Mapping[str, Any]], jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Return the comparison of the ensemble with the single model of each seed that is best on the validation rows."""
    chosen = [name for name in map(selected_model, jobs) if name is not None]
    if ENSEMBLE not in runs[0]["test"] or len(chosen) < len(jobs):
        return {}
    pairs = list(zip(runs, jobs, chosen, strict=True))
    value = fmean(run["test"][ENSEMBLE][main] - run["test"][model][main] for run, _, model in pairs)
    drawn = [(bootstrap_of(job, (ENSEMBLE, model)), model) for _, job, model in pairs]
    gap = {"value": value, **_interval(np.stack([own[ENSEMBLE] - own[model] for own, model in drawn]), value)}
    second = ", ".join(dict.fromkeys(chosen))
    return {"ensemble_selected": {"first": ENSEMBLE, "second": second, **gap, "verdict": verdict_of(gap, main)}}


def _interval(gaps: np.ndarray, value: float) -> dict[str, float]:
    """Return the 95 % interval of differences `(seeds, samples of the rows)` over rows and seeds, and the p value.

    The bootstrap over the rows gives the interval of the mean of the seeds. It is widened by the variance between the
    seeds, with the quantile of Student's t at the degrees of freedom of Welch and Satterthwaite, since three seeds tell
    little of their variance.
    """
    seeds, means = len(gaps), gaps.mean(0)
    means = means[np.isfinite(means)]
    if not len(means):
        return {"low": value, "high": value, "p": 1.0}
    low, high = np.quantile(means, [0.025, 0.975])
    of_rows, of_seeds, freedom = float(means.var()), 0.0, math.inf
    if seeds > 1:
        of_seeds = float(np.nanmean(gaps, axis=1).var(ddof=1)) / seeds
    if of_seeds > 0:
        freedom = (seeds - 1) * ((of_rows + of_seeds) / of_seeds) ** 2
    error = math.sqrt(of_rows + of_seeds)
    p = 2 * float(student.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    half = float(student.ppf(0.975, freedom)) * error
    if of_rows > 0.01 * of_seeds > 0:
        # a wider interval, as asymmetric as that of the rows
        wider = half / (1.96 * math.sqrt(of_rows))
        low, high = value + wider * (low - value), value + wider * (high - value)
    elif of_seeds > 0:
        low, high = value - half, value + half
    return {"low": float(low), "high": float(high), "p": p}


def _after_holm(gaps: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of each verdict after Holm's correction for as many comparisons as there are differences."""
    order = sorted(gaps, key=lambda gap: gap["p"])
    kept = len(order)
    counts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
    for k, gap in enumerate(order):
        if gap["p"] * (len(order) - k) > 0.05:
            kept = k
            break
    for k, gap in enumerate(order):
        counts[gap["verdict"] if k < kept else NOT_CLEAR] += 1
    return counts


def _best(values: Mapping[str, float], *roles: Any) -> str | None:
    """Return the model of some roles with the highest value; of equal ones the simplest."""
    names = [name for name in COMPARED_MODELS if name in values and name in names_of(*roles)]
    return max(names, key=values.__getitem__, default=None)


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _published_metric(text: str, main: str, metrics: Mapping[str, float]) -> str | None:
    """Return the metric that a task is published with, if it differs from the main one here."""
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower().replace("r²", "r2")) if word in PUBLISHED_METRICS]
    known = [[name for name in PUBLISHED_METRICS[word] if name in metrics] for word in words]
    if any(main in names for names in known[:1]):
        return None
    return next((name for names in known for name in names if name != main and math.isfinite(metrics[name])), None)
