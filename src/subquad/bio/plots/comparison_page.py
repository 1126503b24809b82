"""Comparison of finished runs of one target: paired differences on the same test rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from subquad.bio.compared_models import COMPARED_MODELS, label_of
from subquad.bio.metrics.scores import METRICS
from subquad.bio.models.finished_run import FinishedRun, no_comparison
from subquad.errors import SubquadError
from subquad.reporting.run_comparison import ComparedRun, Gaps, comparison_page
from subquad.reporting.statistics import Difference

IGNORED_SETTINGS = ("fingerprint", "processes", "table")
SHOWN = "model of `predict`"
"""Row of the model that `predict` uses by default."""


def compare(runs: Mapping[str, FinishedRun], bootstraps: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Return the page that compares runs, by name, with the contents of their `bootstrap.json`.

    Raises:
        SubquadError: Runs differ in their task type or target.
    """
    first = next(iter(runs.values()))
    for name, run in runs.items():
        if (run.task_type, run.names) != (first.task_type, first.names):
            raise SubquadError(f"{name}: predicts another target, {', '.join(run.names)} ({run.task_type})")
    models = {
        name: {SHOWN: run.shown, **{label_of(model): model for model in COMPARED_MODELS if model in run.models}}
        for name, run in runs.items()
    }

    def gaps(name: str, other: str) -> Gaps | str:
        run, its = runs[name], runs[other]
        if not _are_paired(run, its):
            return "their test rows differ, so that small differences mean nothing"
        if reason := no_comparison(run.metrics):
            return reason
        found = {}
        for row in models[name].keys() & models[other].keys():
            ours, theirs = models[name][row], models[other][row]
            # equal test rows have equal bootstrap samples, so that the differences are paired
            drawn = pd.Series(bootstraps[name][ours], dtype=float) - pd.Series(bootstraps[other][theirs], dtype=float)
            value = run.metrics["test"][ours][run.main] - its.metrics["test"][theirs][run.main]
            found[row] = Difference(value, *map(float, np.nanquantile(drawn, [0.025, 0.975])))
        return {row: found[row] for row in models[name] if row in found}

    compared = {
        name: ComparedRun(
            values={
                row: (run.metric(model, run.main), run.interval(model, run.main)) for row, model in models[name].items()
            },
            settings=run.config["settings"],
            facts={
                "table": run.config["file"],
                "training / validation / test rows": " / ".join(
                    f"{run.metrics['rows'][part]:,}" for part in ("train", "validation", "test")
                ),
                "split": run.config["split"]["how"],
            },
        )
        for name, run in runs.items()
    }
    rows = dict.fromkeys((row for own in models.values() for row in own), METRICS[first.main])
    return comparison_page(f"fits of {', '.join(first.names[:3])}", compared, rows, gaps, ignored=IGNORED_SETTINGS)


def _are_paired(run: FinishedRun, other: FinishedRun) -> bool:
    """Return whether two runs have the same test rows in the same order, which are resampled in the same units."""
    if run.config["settings"]["split_by"] != other.config["settings"]["split_by"]:
        return False
    if run.config["inputs"]["group"] != other.config["inputs"]["group"]:
        return False
    frames = (pd.DataFrame(run.rows), pd.DataFrame(other.rows))
    columns = [name for name in frames[0] if str(name).startswith(("sequence", "measured", "partner", "group"))]
    return set(columns) <= set(frames[1]) and frames[0][columns].equals(frames[1][columns])
