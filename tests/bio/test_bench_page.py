import json

import numpy as np
import pytest

from subquad.bio.benchmark.jobs import make_jobs
from subquad.bio.benchmark.page import markdown, render, summary_lines
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.summary import (
    COMPARISONS,
    MAX_LOSS,
    _after_holm,
    _interval,
    result_rows,
    summarize,
    task_entries,
)
from subquad.bio.benchmark.tasks import Task
from subquad.errors import SubquadError
from subquad.reporting.statistics import CLEARLY_BETTER, NOT_CLEAR, VERDICTS

BASELINES = ("ridge", "boosting")
SAMPLES = 201


def models_with(baselines):
    return (*baselines, "lyra-paper", "lyra-additive", "lyra", "ensemble-without-lyra", "ensemble")


def fake_run(values, samples, *, rows=211, **more):
    """Return metrics and bootstrap samples such as a fit leaves."""
    members = [name for name in values if not name.startswith(("ensemble", "lyra-"))]
    metrics = {
        "test": {
            model: {"spearman": v, "pearson": v + 0.013, "r2": v**2, "accuracy": v, "f1": v}
            for model, v in values.items()
        },
        "intervals": {"test": {model: {"spearman": [v - 0.04, v + 0.04]} for model, v in values.items()}},
        "rows": {"train": 1009, "validation": 101, "test": rows},
        "weights": {"ensemble": dict.fromkeys(members, 1 / len(members))},
        "cpu_seconds": dict.fromkeys(values, 17.3),
        "memory_mb": 431,
    }
    return metrics | more, {model: list(own) for model, own in samples.items()}


def fake_entry(name, random, *, baselines=BASELINES, rows=211, seeds=(0,)):
    """Return a task with a run for each seed, whose models differ at random."""
    runs, base = {}, random.uniform(0.4, 0.9)
    for seed in seeds:
        values = {model: base + random.normal(0, 0.03) for model in models_with(baselines)}
        samples = {model: v + random.normal(0, 0.6 / rows**0.5, SAMPLES) for model, v in values.items()}
        runs[seed] = fake_run(values, samples, rows=rows)
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
        for seed, (metrics, bootstrap) in runs.items():
            out = folder / "runs" / name / str(seed)
            out.mkdir(parents=True)
            (out / "metrics.json").write_text(json.dumps(metrics))
            (out / "bootstrap.json").write_text(json.dumps(bootstrap))
    return tasks, make_jobs(tasks, settings, folder, force=False)


def entries_of(folder, entries, kinds=None):
    folder.mkdir(exist_ok=True)
    return task_entries(*written(folder, entries, kinds or ["regression"] * len(entries)))


# difference, lowest and highest sample of it: of Lyra to boosting, and of the ensemble to the better of the two
ABOVE, TIE, BELOW = (0.05, 0.01, 0.09), (0.02, -0.01, 0.05), (-0.05, -0.09, -0.01)
GAPS = [
    (ABOVE, (0.03, 0.01, 0.05)),
    (TIE, (-MAX_LOSS / 2, -0.02, 0.01)),
    ((-0.02, -0.05, 0.01), (-2 * MAX_LOSS, -0.05, 0.01)),
    (BELOW, (-MAX_LOSS / 2, -0.008, -0.002)),
]


def with_gaps(lyra, ensemble, random, *, seeds=(0, 1, 2)):
    """Return the runs of a task with these differences; the metrics themselves vary much more than the differences."""
    common = random.normal(0.7, 0.3, SAMPLES)
    gap_of_lyra, gap_of_ensemble = (np.linspace(low, high, SAMPLES) for _, low, high in (lyra, ensemble))
    is_better = lyra[0] > 0
    values = {"ridge": 0.6, "boosting": 0.7, "lyra-paper": 0.7, "lyra-additive": 0.7 + lyra[0], "lyra": 0.7 + lyra[0]}
    values["ensemble-without-lyra"] = values["ensemble"] = 0.7 + is_better * lyra[0] + ensemble[0]
    samples = {"ridge": common - 0.1, "boosting": common, "lyra-paper": common}
    samples["lyra-additive"] = samples["lyra"] = common + gap_of_lyra
    samples["ensemble-without-lyra"] = samples["ensemble"] = common + is_better * gap_of_lyra + gap_of_ensemble
    return {
        seed: fake_run(
            {model: v + 0.01 * seed for model, v in values.items()},
            {model: own + 0.01 * seed for model, own in samples.items()},
        )
        for seed in seeds
    }


def test_a_damaged_outcome_of_a_run_is_refused(tmp_path):
    tasks, jobs = written(
        tmp_path, [("a/0", with_gaps(TIE, (0.0, -0.001, 0.001), np.random.default_rng(3)))], ["regression"]
    )
    (tmp_path / "runs" / "a" / "0" / "0.done.json").write_text('{"seconds": 1.0, "memory_mb": null}')
    with pytest.raises(SubquadError, match=r"0\.done\.json: cannot be read .*message"):
        task_entries(tasks, jobs)


def counts_of(*numbers):
    return dict(zip(VERDICTS, numbers, strict=True))


def test_the_ensemble_is_compared_with_the_model_that_the_validation_rows_of_each_seed_choose(tmp_path):
    entry = ("a/0", with_gaps(TIE, (0.0, -0.001, 0.001), np.random.default_rng(3), seeds=(0, 1)))
    tasks, jobs = written(tmp_path, [entry], ["regression"])
    assert "ensemble_selected" not in task_entries(tasks, jobs)[0]["comparisons"]
    for seed, boosting in ((0, 0.61), (1, 0.9)):
        # networks have one entry each; a control and an undefined value are never chosen
        selected = {
            "ridge": {"validation": float("nan")},
            "boosting": {"validation": boosting},
            "mlp-more": [{"validation": 0.99}],
            "lyra": [{"validation": 0.6}, {"validation": 0.64}],
        }
        (tmp_path / "runs" / "a/0" / str(seed) / "config.json").write_text(json.dumps({"selected": selected}))
    gap = task_entries(tasks, jobs)[0]["comparisons"]["ensemble_selected"]
    assert gap["second"] == "lyra, boosting"
    # the ensemble equals Lyra, which is 0.02 above boosting
    assert gap["value"] == pytest.approx((0.0 + 0.02) / 2)
    assert gap["low"] < 0.01 < gap["high"]


def test_comparisons_are_counted_with_their_intervals(tmp_path):
    random = np.random.default_rng(3)
    entries = [(f"a/{k}", with_gaps(*gaps, random)) for k, gaps in enumerate(GAPS)]
    entries.append(fake_entry("a/4", random, rows=19, seeds=(0, 1, 2)))
    tasks, jobs = written(tmp_path, entries, ["regression"] * 5)
    found = task_entries(
        [*tasks, Task(id="b/none", table=tmp_path / "t.csv", task_type="pairs", has_training=False)], jobs
    )
    counts = summarize(found)
    # at p values near 0.01 the correction for four comparisons leaves no verdict
    assert counts["all"]["lyra_baseline"]["after_holm"] == counts_of(0, 4, 0)
    for one in counts.values():
        for name in COMPARISONS:
            one[name].pop("after_holm", None)
    expected = {
        "tasks": 4,
        **counts_of(1, 2, 1),
        "at_least": 2,
        "close": 2,
    }
    assert counts["a"]["lyra_baseline"] == expected
    assert counts["all"]["lyra_paper"] == expected
    # of the two ties one is lower by more than the loss that still counts as equal, and what is clearly below is not
    # close, however near it is
    assert counts["all"]["ensemble_single"] == {**expected, "at_least": 1, "close": 2}
    # equal models are a tie, and each is at least as high
    equal = {"tasks": 4, **counts_of(0, 4, 0), "at_least": 4, "close": 4}
    assert counts["all"]["lyra_additive"] == counts["all"]["ensemble_without"] == equal
    assert (counts["all"]["scored"], counts["all"]["small"], counts["all"]["no training rows"]) == (4, 1, 1)
    assert [counts["b"][name]["tasks"] for name in COMPARISONS] == [0] * len(COMPARISONS)
    first = found[0]
    assert first["best_baseline"] == "boosting"
    assert first["values"]["lyra"] == pytest.approx(0.76)
    assert first["std"]["lyra"] == pytest.approx(0.01)
    assert first["weights"] == pytest.approx({"ridge": 1 / 3, "boosting": 1 / 3, "lyra": 1 / 3})
    gap = first["comparisons"]["lyra_baseline"]
    assert (gap["first"], gap["second"], gap["verdict"]) == ("lyra", "boosting", "clearly better")
    assert gap["value"] == pytest.approx(0.05)
    assert [gap["low"], gap["high"]] == pytest.approx([0.012, 0.088], abs=1e-3)
    # the best single model is Lyra where it is better than boosting
    assert [entry["comparisons"]["ensemble_single"]["second"] for entry in found[:4]] == ["lyra"] * 2 + ["boosting"] * 2
    # the task is published with Pearson, so that is shown too
    assert first["published_metric"] == "pearson"
    rows = result_rows(found)
    assert len(rows) == 5 * 3 * 7 * 5
    assert {(row["model"], row["weight"]) for row in rows} >= {("lyra", 1 / 3), ("lyra-paper", None)}
    assert {row["cpu_seconds"] for row in rows} == {17.3}


def seeds_with(gaps, noise):
    """Return a task with a run per seed, in which Lyra is above boosting by the gap of the seed."""
    runs = {}
    for seed, gap in enumerate(gaps):
        values = {"boosting": 0.6, "lyra": 0.6 + gap, "ensemble": 0.6 + gap}
        samples = {model: np.full(SAMPLES, v) for model, v in values.items()} | {"lyra": 0.6 + gap + noise}
        runs[seed] = fake_run(values, samples)
    return "a/one", runs


def test_an_interval_of_several_seeds_is_wider_only_where_seeds_differ(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.005, SAMPLES)
    cases = {"one": (0.04,), "equal": (0.04, 0.04, 0.04), "different": (-0.01, 0.04, 0.09)}
    found = {
        name: entries_of(tmp_path / name, [seeds_with(gaps, noise)])[0]["comparisons"]["lyra_baseline"]
        for name, gaps in cases.items()
    }
    assert [gap["value"] for gap in found.values()] == pytest.approx([0.04] * 3)
    widths = {name: gap["high"] - gap["low"] for name, gap in found.items()}
    assert widths["one"] == pytest.approx(2 * 1.96 * 0.005, rel=0.15)
    assert widths["equal"] == pytest.approx(widths["one"], rel=0.02)
    assert widths["different"] > 3 * widths["one"]
    assert [gap["verdict"] for gap in found.values()] == ["clearly better", "clearly better", "no clear difference"]
    rows_alone = entries_of(tmp_path / "rows", [seeds_with((-0.01, 0.04, 0.09), np.zeros(SAMPLES))])[0]
    gap = rows_alone["comparisons"]["lyra_baseline"]
    # Student's t of two degrees of freedom, if the rows add nothing
    half = 4.302653 * 0.05 / 3**0.5
    assert [gap["low"], gap["high"]] == pytest.approx([0.04 - half, 0.04 + half])


@pytest.mark.parametrize("of_seeds", [0.0, 1.0, 30.0])
def test_intervals_over_three_seeds_contain_the_truth_in_95_percent(of_seeds):
    random, inside = np.random.default_rng(7), 0
    for _ in range(400):
        # the error of the test rows is common to all seeds
        value = random.normal() + of_seeds * random.normal(size=3)
        gaps = value[:, None] + random.normal(size=SAMPLES)
        found = _interval(gaps, float(value.mean()))
        inside += found["low"] <= 0 <= found["high"]
    assert 0.92 <= inside / 400 <= 0.99


def test_holm_keeps_only_verdicts_that_many_comparisons_leave():
    gaps = [{"p": p, "verdict": CLEARLY_BETTER} for p in (0.001, 0.02, 0.03)] + [{"p": 0.9, "verdict": NOT_CLEAR}]
    # 0.001 * 4, then 0.02 * 3 is above 0.05
    assert _after_holm(gaps) == counts_of(1, 3, 0)
    assert _after_holm(gaps[:1]) == counts_of(1, 0, 0)


def test_samples_that_define_no_metric_are_left_out_of_the_interval(tmp_path):
    name, runs = seeds_with((0.04,), np.linspace(-0.01, 0.01, SAMPLES))
    runs[0][1]["boosting"][100:] = [None] * (SAMPLES - 100)
    gap = entries_of(tmp_path / "some", [(name, runs)])[0]["comparisons"]["lyra_baseline"]
    assert 0.03 < gap["low"] < gap["high"] < 0.04
    runs[0][1]["boosting"] = [None] * SAMPLES
    gap = entries_of(tmp_path / "all", [(name, runs)])[0]["comparisons"]["lyra_baseline"]
    assert gap["low"] == gap["high"] == gap["value"]


def test_a_task_whose_test_rows_do_not_define_the_metric_is_not_counted(tmp_path):
    entries = [fake_entry(f"a/{k}", np.random.default_rng(k)) for k in range(2)]
    entries[1][1][0][0]["undefined"] = {"spearman": "a single value"}
    found = entries_of(tmp_path / "tasks", entries)
    assert [entry["state"] for entry in found] == ["scored", "undefined"]
    counts = summarize(found)["all"]
    assert (counts["scored"], counts["undefined"], counts["lyra_baseline"]["tasks"]) == (1, 1, 1)
    text = markdown(results_of(found))
    assert "main metric undefined on the test rows: run, but not counted" in text
    assert text.splitlines()[[line.startswith("| all |") for line in text.splitlines()].index(True)].endswith("| 1 |")


def results_of(entries, *, seeds=(0,)):
    return {
        "tasks_file": "tasks.json",
        "date": "2026-01-01T00:00",
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux"},
        "versions": {"python": "3.11"},
        "settings": {"train_rows": 20000, "tokens": 31, "boosting_iterations": 7, "seeds": list(seeds)},
        "core_hours": 0.25,
        "summary": summarize(entries),
        "failed": [],
        "tasks": entries,
    }


def test_the_page_and_the_text_hold_every_task(tmp_path):
    random = np.random.default_rng(5)
    entries = [fake_entry(f"dms/task_{k}", random, baselines=(*BASELINES, "mlp-more")) for k in range(3)]
    entries += [
        fake_entry("rna/fold", random, baselines=("vienna", "vienna_bpp")),
        fake_entry("rna/few", random, rows=7),
    ]
    tasks, jobs = written(tmp_path, entries, ["regression"] * 3 + ["pairs", "multiclass"])
    results = results_of(task_entries(tasks, jobs))
    html, text = render(results), markdown(results)
    assert "baselines (ridge, ViennaRNA MFE, ViennaRNA pair probabilities, gradient boosting)" in text
    for word in ("task_0", "task_2", "fold", "rna/few", "ViennaRNA MFE", "Transformer 0.68", "fewer than 20 test rows"):
        assert word in html, word
        assert word in text, word
    assert html.count("<figure") == 3
    assert "http" not in html.replace("http-equiv", "")
    lead = "4 of 5 tasks are scored; Lyra against the best baseline: clearly better "
    assert text.startswith(f"# tasks.json: 5 tasks\n\n{lead}")
    last = summary_lines(results)[-1]
    assert last.startswith("all: 4 scored; Lyra against the best baseline: clearly better ")
    # no run has the choices of its validation rows
    shown = [title for name, title in COMPARISONS.items() if name != "ensemble_selected"]
    assert all(f"; {title}: clearly better " in last for title in shown)


def test_comparisons_without_their_models_are_left_out(tmp_path):
    values = {"ridge": 0.5, "lyra-paper": 0.6}
    run = fake_run(values, {model: np.full(SAMPLES, v) for model, v in values.items()}, weights={})
    (entry,) = entries_of(tmp_path / "two", [("a/one", {0: run})])
    assert entry["comparisons"] == entry["weights"] == {}
    results = results_of([entry])
    assert summary_lines(results) == ["a: 1 scored", "all: 1 scored"]
    assert "| one | 211 | 0.500 | 0.600 | – | – | – |" in markdown(results)
    assert "Lyra as published" in render(results)
