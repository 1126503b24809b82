"""Comparison of linearized models of one teacher: perplexities, and paired differences on the same sequences."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.llm.metrics import LABELS, PERPLEXITY, STUDENT, TEACHER, perplexity_change
from subquad.reporting.run_comparison import ComparedRun, Gaps, comparison_page, model_name

IGNORED_SETTINGS = ("model", "model_fingerprint", "text_fingerprint", "from_fingerprint", "processes")
TOLERANCE = 1e-3
"""Relative difference to which the losses of one teacher agree on the same tokens, whatever the machine."""


@dataclass(frozen=True, kw_only=True)
class LinearizedRun:
    """What the files of a finished run say."""

    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    notes: Mapping[str, Any] | None
    """Content of `evaluations.json`, if the folder has it."""

    @property
    def losses(self) -> Mapping[str, Any]:
        """Loss on each held-out sequence by model; empty if unknown."""
        return {} if self.notes is None else self.notes["losses"]


def compare(runs: Mapping[str, LinearizedRun]) -> str:
    """Return the page that compares runs, by name.

    Raises:
        SubquadError: Their teachers differ.
    """
    first = next(iter(runs.values())).settings
    for name, run in runs.items():
        if run.settings.get("model_fingerprint") != first.get("model_fingerprint"):
            raise SubquadError(f"{name}: its teacher is {run.settings.get('model')}, not {first.get('model')}")

    def gaps(name: str, other: str) -> Gaps | str:
        ours, theirs = runs[name].losses, runs[other].losses
        if not ours or not theirs:
            return "a run does not hold the losses of single sequences"
        if len(ours[TEACHER]) != len(theirs[TEACHER]) or not np.allclose(
            ours[TEACHER], theirs[TEACHER], rtol=TOLERANCE
        ):
            return "their held-out texts differ; linearize both with the same one"
        return {
            LABELS[model]: perplexity_change(ours[model], theirs[model])
            for model in (STUDENT, *LABELS)
            if model != TEACHER and model in ours and model in theirs
        }

    measured = [model for model in LABELS if any(model in run.metrics["test"] for run in runs.values())]
    # the first row is the result
    shown = {LABELS[model]: model for model in (STUDENT, *measured)}
    compared = {
        name: ComparedRun(
            values={row: _value(run.metrics, model) for row, model in shown.items()},
            settings=run.settings,
            facts={
                "teacher": model_name(str(run.settings.get("model", "–"))),
                "training tokens": " + ".join(f"{count:,}" for count in run.metrics["tokens"].values()),
                "seconds": f"{run.metrics['seconds'].get('total', 0):,.0f}",
            },
        )
        for name, run in runs.items()
    }
    metrics = dict.fromkeys(shown, PERPLEXITY) | {
        LABELS[STUDENT]: replace(PERPLEXITY, title="Perplexity of the student")
    }
    return comparison_page("linearized models", compared, metrics, gaps, ignored=IGNORED_SETTINGS)


def _value(metrics: Mapping[str, Any], model: str) -> tuple[float | None, Any]:
    limits = metrics.get("intervals", {}).get("test", {}).get(model, {})
    return metrics["test"].get(model, {}).get("perplexity"), limits.get("perplexity")
