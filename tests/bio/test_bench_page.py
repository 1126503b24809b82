import json

import numpy as np
import pytest

from subquad.bio.benchmark.jobs import make_jobs
from subquad.bio.benchmark.page import markdown, render, summary_lines
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.summary import result_rows, summarize, task_entries
from subquad.bio.benchmark.tasks import Task


def fake_entry(name, random, *, baselines=("ridge", "boosting"), rows=211, seeds=(0,)):
    """Return a run's metrics such as a fit leaves."""
    models = ("net", "paper", *baselines, "stack")
    base = random.uniform(0.4, 0.9)
    runs = {}
    for seed in seeds:
        values = {model: base + random.normal(0, 0.03) for model in models}
        values["stack"] = max(values.values()) + random.normal(0.003, 0.004)
        best = max((v, k) for k, v in values.items() if k != "stack")[1]
        half = 0.6 / rows**0.5

        def gap(model, other, values=values, half=half):
            value = values[model] - values[other]
            return {"value": value, "low": value - half, "high": value + half}

        runs[seed] = {
            "test": {
                model: {"spearman": v, "pearson": v + 0.013, "r2": v**2, "accuracy": v, "f1": v}
                for model, v in values.items()
            },
            "intervals": {"test": {model: {"spearman": [v - half, v + half]} for model, v in values.items()}},
            "differences": {model: gap("net", model) for model in models[1:]},
            "stack_versus_best": {"best": best, **gap("stack", best)},
            "rows": {"train": 1009, "validation": 101, "test": rows},
            "seconds": dict.fromkeys(models, random.uniform(1, 60)),
            "memory_mb": int(random.uniform(300, 900)),
            "parameters": 47169,
        }
    return name, runs


def written(folder, entries, kinds):
    tasks, settings = [], BenchSettings(seeds=tuple(entries[0][1]))
    (folder / "t.csv").write_text("sequence,target\nAC,1\n")
    for (name, runs), task_type in zip(entries, kinds, strict=True):
        tasks.append(
            Task(
                id=name,
                table=folder / "t.csv",
                task_type=task_type,
                metric="Pearson (paper)",
                published="Transformer 0.68",
            )
        )
        for seed, metrics in runs.items():
            out = folder / "runs" / name / str(seed)
            out.mkdir(parents=True)
            (out / "metrics.json").write_text(json.dumps(metrics))
    return tasks, make_jobs(tasks, settings, folder, force=False)


def test_comparisons_are_counted_with_their_intervals(tmp_path):
    random = np.random.default_rng(3)
    entries = [fake_entry(f"a/{k}", random, seeds=(0, 1, 2)) for k in range(5)]
    entries[4] = fake_entry("a/4", random, rows=19, seeds=(0, 1, 2))
    gaps = [(0.05, 0.01, 0.09), (0.02, -0.01, 0.05), (-0.02, -0.05, 0.01), (-0.05, -0.09, -0.01)]
    for (_, runs), (value, low, high) in zip(entries, gaps, strict=False):
        for seed, run in runs.items():
            for model, figures in run["test"].items():
                figures["spearman"] = {"ridge": 0.6, "boosting": 0.7, "paper": 0.8}.get(model, 0.7 + value)
                figures["spearman"] += 0.01 * seed
            run["differences"] = {
                "ridge": {"value": 1.0, "low": 1.0, "high": 1.0},
                "boosting": {"value": value, "low": low, "high": high},
                "paper": {"value": -value, "low": -high, "high": -low},
            }
            run["stack_versus_best"] = {"best": "net", "value": -value, "low": -high, "high": -low}
    tasks, jobs = written(tmp_path, entries, ["regression"] * 5)
    found = task_entries(
        [*tasks, Task(id="b/none", table=tmp_path / "t.csv", task_type="pairs", has_training=False)], jobs
    )
    counts = summarize(found)
    expected = {"tasks": 4, "higher": 2, "significantly_higher": 1, "not_significantly_lower": 3}
    assert counts["a"]["baseline"] == expected
    assert counts["all"]["paper"] == expected
    assert counts["all"]["stack"] == expected
    assert (counts["all"]["scored"], counts["all"]["small"], counts["all"]["no training rows"]) == (4, 1, 1)
    assert counts["b"]["baseline"]["tasks"] == 0
    first = found[0]
    assert first["best_baseline"] == "boosting"
    assert first["values"]["net"] == pytest.approx(0.76)
    assert first["std"]["net"] == pytest.approx(0.01)
    # the task is published with Pearson, so that is shown too
    assert first["published_metric"] == "pearson"
    assert len(result_rows(found)) == 5 * 3 * 5 * 5


def test_the_page_and_the_text_hold_every_task(tmp_path):
    random = np.random.default_rng(5)
    entries = [fake_entry(f"dms/task_{k}", random) for k in range(3)]
    entries += [
        fake_entry("rna/fold", random, baselines=("vienna", "vienna_bpp")),
        fake_entry("rna/few", random, rows=7),
    ]
    tasks, jobs = written(tmp_path, entries, ["regression"] * 3 + ["pairs", "multiclass"])
    found = task_entries(tasks, jobs)
    results = {
        "tasks_file": "tasks.json",
        "date": "2026-01-01T00:00",
        "machine": {"processor": "a processor", "cores": 2, "memory_gb": 7.5, "system": "Linux"},
        "versions": {"python": "3.11"},
        "settings": {
            "presets": ["auto", "paper"],
            "train_rows": 20000,
            "tokens": 31,
            "boosting_iterations": 7,
            "seeds": [0],
        },
        "core_hours": 0.25,
        "summary": summarize(found),
        "failed": [],
        "tasks": found,
    }
    html, text = render(results), markdown(results)
    for word in ("task_0", "task_2", "fold", "rna/few", "ViennaRNA MFE", "Transformer 0.68", "fewer than 20 test rows"):
        assert word in html, word
        assert word in text, word
    assert html.count("<img") == 3
    assert "http" not in html.replace("http-equiv", "")
    lead = "4 of 5 tasks are scored; network (preset auto) is higher than the published network in "
    assert text.startswith(f"# tasks.json: 5 tasks\n\n{lead}")
    assert summary_lines(results)[-1].startswith("all: 4 scored; higher than the published network in ")
