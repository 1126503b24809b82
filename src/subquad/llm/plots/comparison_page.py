"""Page that compares linearized models of one teacher: perplexities, paired differences, and settings that differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.llm.plots.evaluation_tables import STUDENT, TEACHER, perplexity_text
from subquad.llm.plots.linearize_result import labels
from subquad.llm.plots.perplexity_changes import change_text, perplexity_cell, perplexity_change
from subquad.reporting.page import Block, Section, Table, page
from subquad.reporting.run_comparison import difference_tables, differing_settings, model_name, seeds_text
from subquad.reporting.statistics import Difference

__all__ = ["LinearizedRun", "check_comparable", "comparison_page"]

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


Runs = Mapping[str, LinearizedRun]
Changes = Mapping[str, Mapping[str, Difference]]


def check_comparable(runs: Runs) -> None:
    """Check that runs have the same teacher.

    Args:
        runs: Finished runs by name.

    Raises:
        SubquadError: Their teachers differ.
    """
    (first, one), *others = runs.items()
    for name, other in others:
        if one.settings.get("model_fingerprint") != other.settings.get("model_fingerprint"):
            raise SubquadError(
                f"{name}: its teacher is {other.settings.get('model')}, that of {first} is "
                f"{one.settings.get('model')}, with other weights or tokens; only perplexities of students of the same "
                "teacher can be compared"
            )


def comparison_page(runs: Runs) -> str:
    """Return the page that compares runs.

    Args:
        runs: At least two finished runs of the same teacher, by name.
    """
    (name, first), *others = runs.items()
    changes = {other: _changes(first, run) for other, run in others}
    values = "; ".join(f"{own} {_value(run)}" for own, run in runs.items())
    lead = f"Perplexity of the fine-tuned model: {values}. {' '.join(_verdict(name, runs, changes))}"
    return page(f"Comparison of {len(runs)} linearized models", lead=lead, sections=[
        Section("Perplexity", [_perplexities(runs)]),
        Section("Differences on the same sequences", _differences(name, runs, changes)),
        Section("Runs", [_about(runs)]),
    ])  # fmt: skip


def _value(run: LinearizedRun) -> str:
    return perplexity_text(run.metrics["test"][STUDENT]["perplexity"])


def _are_paired(one: LinearizedRun, other: LinearizedRun) -> bool:
    """Return whether two runs were measured on the same tokens: those on which their teacher has the same losses."""
    own, its = one.losses.get(TEACHER), other.losses.get(TEACHER)
    return own is not None and its is not None and len(own) == len(its) and np.allclose(own, its, rtol=TOLERANCE)


def _changes(one: LinearizedRun, other: LinearizedRun) -> dict[str, Difference]:
    """Return by how many percent the second run is higher, by the models of both; empty without a paired interval."""
    if not _are_paired(one, other):
        return {}
    found = {name: perplexity_change(other.losses[name], one.losses[name]) for name in _models(one, other)}
    return {name: change for name, change in found.items() if change is not None and name != TEACHER}


def _models(*runs: LinearizedRun) -> list[str]:
    return [name for name in labels({}) if all(name in run.losses for run in runs)]


def _verdict(first: str, runs: Runs, changes: Changes) -> list[str]:
    texts = []
    for other, own in changes.items():
        if STUDENT not in own:
            texts.append(f"{other} against {first}: no winner, since {_why(runs[first], runs[other])}.")
            continue
        change = own[STUDENT]
        verdict = ("better" if change.value < 0 else "worse") if change.is_clear else "not told apart"
        texts.append(f"{other} against {first}: {verdict} ({change_text(change)}, 95 % interval paired by sequence).")
    return [*texts, _seeds(runs)]


def _seeds(runs: Runs) -> str:
    return seeds_text([run.settings for run in runs.values()])


def _why(one: LinearizedRun, other: LinearizedRun) -> str:
    """Return why there is no paired interval."""
    if not one.losses or not other.losses:
        return "a run has no losses of single sequences (evaluations.json), so that no paired interval is available"
    if not _are_paired(one, other):
        return "their held-out texts differ"
    return "they were measured on one sequence, which gives no interval"


def _perplexities(runs: Runs) -> Table:
    names = _names(runs)
    rows = [
        [title, *(perplexity_cell(run.metrics, name) for run in runs.values())]
        for name, title in names.items()
        if any(name in run.metrics["test"] for run in runs.values())
    ]
    caption = "Lower is better. Perplexity on each run's held-out text, with 95 % intervals over sequences."
    return Table(["attention", *runs], rows, caption=caption)


def _names(runs: Runs) -> dict[str, str]:
    """Return the names of the models; students with moments and with feature maps share the general name."""
    abouts = [run.notes["about"] for run in runs.values() if run.notes is not None]
    own = {bool(about.get("has_moments")) for about in abouts}
    return labels({"has_moments": own == {True}})


def _differences(first: str, runs: Runs, changes: Changes) -> list[Block]:
    names = _names(runs)
    rows = [
        [f"{other} against {first}", names[name], change_text(change), _word(change)]
        for other, own in changes.items()
        for name, change in own.items()
    ]
    missing = [
        f"{other} against {first}: {_why(runs[first], runs[other])}." for other, own in changes.items() if not own
    ]
    if missing:
        missing.append(
            "Linearize both with the same `--eval-text`, `--sequence-length` and `--evaluation-tokens` to compare them "
            "sequence by sequence."
        )
    caption = (
        f"Change of the perplexity, with its 95 % interval, paired by sequence (Student's t). {_seeds(runs)} Another "
        "seed may move a difference further than its interval."
    )
    header = ["attention", "change of the perplexity", "verdict"]
    return [*missing, *difference_tables(header, rows, caption=caption)]


def _word(change: Difference) -> str:
    return ("lower" if change.value < 0 else "higher") if change.is_clear else "not told apart"


def _about(runs: Runs) -> Table:
    facts = {
        "teacher": lambda run: model_name(str(run.settings.get("model", "–"))),
        "training tokens": lambda run: " + ".join(f"{count:,}" for count in run.metrics["tokens"].values()),
        "seconds": lambda run: f"{run.metrics['seconds'].get('total', 0):,.0f}",
    }
    rows = [[fact, *(of(run) for run in runs.values())] for fact, of in facts.items()]
    rows += differing_settings([run.settings for run in runs.values()], ignored=IGNORED_SETTINGS)
    return Table(["", *runs], rows, caption="What the runs are, and the settings in which they differ.")
