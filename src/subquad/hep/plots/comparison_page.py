"""Comparison of fitted taggers: paired differences on the same test jets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.paired import accuracy_difference, auc_difference
from subquad.hep.metrics.predictions import Predictions, predictions_of_run
from subquad.reporting.run_comparison import ComparedRun, Gaps, comparison_page

IGNORED_SETTINGS = ("data", "origin_fingerprint", "processes", "threads")


@dataclass(frozen=True, kw_only=True)
class FittedRun:
    """Content of `config.json`, `metrics.json` and, if the folder has it, `test_scores.safetensors`."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    scores: Mapping[str, np.ndarray] | None


def compare(runs: Mapping[str, FittedRun]) -> str:
    """Return the page that compares runs, by name.

    Raises:
        SubquadError: Their classes or their background class differ.
    """
    first = next(iter(runs.values())).config
    classes, background = first["classes"], first["background"]
    for name, run in runs.items():
        if (sorted(run.config["classes"]), run.config["background"]) != (sorted(classes), background):
            raise SubquadError(f"{name}: other classes, {', '.join(run.config['classes'])}, or another background")

    def predictions(name: str) -> Predictions | None:
        run = runs[name]
        if run.scores is None:
            return None
        net = predictions_of_run(run.scores, {"net": "net", "boosting": "boosting"}, source="test jets")[0]
        order = [run.config["classes"].index(label) for label in classes]
        return replace(net, probabilities=net.probabilities[:, order], labels=np.argsort(order)[net.labels])

    def gaps(name: str, other: str) -> Gaps | str:
        ours, theirs = predictions(name), predictions(other)
        if ours is None or theirs is None:
            return "a run does not hold the scores of its test jets"
        if not ours.is_on_jets_of(theirs):
            return "their test jets differ; score the same jets with both by `subquad hep evaluate`"
        accuracy, auc = accuracy_difference(ours, theirs), auc_difference(ours, theirs)
        return {METRICS["accuracy"].title: accuracy, METRICS["auc_ovo"].title: auc}

    shown = {metric.title: (key, metric) for key, metric in METRICS.items() if key != "auc_ovr"}
    compared = {
        name: ComparedRun(
            values={
                row: (run.metrics["test"]["net"].get(key), run.metrics["intervals"]["test"]["net"].get(key))
                for row, (key, _) in shown.items()
            },
            settings=run.config["subquad"]["settings"],
            facts={
                "training / validation / test jets": " / ".join(
                    f"{run.metrics['jets'][part]:,}" for part in ("train", "validation", "test")
                ),
                "parameters": f"{run.metrics['parameters']:,}",
                "intervals of the metrics": "68 %",
            },
        )
        for name, run in runs.items()
    }
    metrics = {row: metric for row, (_, metric) in shown.items()}
    return comparison_page("jet taggers", compared, metrics, gaps, ignored=IGNORED_SETTINGS)
