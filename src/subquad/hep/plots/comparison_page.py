"""Page that compares fitted taggers: metrics, paired differences on the same test jets, and settings that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.paired import accuracy_difference, auc_difference
from subquad.hep.metrics.predictions import Predictions, predictions_of_run
from subquad.hep.metrics.summary import uncertainty
from subquad.hep.plots.tables import accuracy_text, metrics_table, rejections_table
from subquad.reporting.page import Block, Section, Table, difference_text, page
from subquad.reporting.run_comparison import difference_tables, differing_settings, seeds_text
from subquad.reporting.statistics import Difference

__all__ = ["FittedRun", "check_comparable", "comparison_page"]

IGNORED_SETTINGS = ("data", "origin_fingerprint", "processes", "threads")


@dataclass(frozen=True, kw_only=True)
class FittedRun:
    """What the files of a finished run say."""

    config: Mapping[str, Any]
    """Content of `config.json`."""
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    scores: Mapping[str, np.ndarray] | None
    """Arrays of `test_scores.safetensors`, if the folder has it."""

    @property
    def tagger(self) -> Mapping[str, Any]:
        """Metrics of the tagger, with their spread."""
        return self.metrics["models"][0]

    def predictions(self, classes: list[str]) -> Predictions | None:
        """Return the predictions of the tagger for its test jets, with the classes in this order."""
        if self.scores is None:
            return None
        own = predictions_of_run(self.scores, {"net": "net", "boosting": "boosting"}, source="test jets")[0]
        order = [self.config["classes"].index(name) for name in classes]
        return replace(own, probabilities=own.probabilities[:, order], labels=np.argsort(order)[own.labels])


Runs = Mapping[str, FittedRun]
Gaps = Mapping[str, Mapping[str, Difference]]


def check_comparable(runs: Runs) -> None:
    """Check that taggers have the same classes.

    Args:
        runs: Finished runs by name.

    Raises:
        SubquadError: Their classes or their background class differ.
    """
    (first, one), *others = runs.items()
    for name, other in others:
        for what, a, b in (
            ("classes are", sorted(one.config["classes"]), sorted(other.config["classes"])),
            ("background is", [one.config["background"]], [other.config["background"]]),
        ):
            if a != b:
                raise SubquadError(
                    f"{name}: its {what} {', '.join(b)}, and in {first} {', '.join(a)}; only taggers of the same "
                    "classes and background can be compared"
                )


def comparison_page(runs: Runs) -> str:
    """Return the page that compares runs.

    Args:
        runs: At least two finished runs with the same classes, by name.
    """
    (name, first), *others = runs.items()
    gaps = {other: _gaps(first, run) for other, run in others}
    values = "; ".join(f"{own} {_accuracy(run)}" for own, run in runs.items())
    lead = f"Top-1 accuracy of the taggers: {values}. {' '.join(_verdict(name, runs, gaps))}"
    models = [{**run.tagger, "name": own} for own, run in runs.items()]
    # winners are named from paired differences, below
    caption = "Brackets after a number: half of the 68 % interval over jets, in its last digits."
    metrics = replace(metrics_table(models, None), caption=caption)
    return page(f"Comparison of {len(runs)} jet taggers", lead=lead, sections=[
        Section("Metrics", [metrics, rejections_table(models, first.config["background"])]),
        Section("Differences on the same test jets", _differences(name, runs, gaps)),
        Section("Runs", [_about(runs)]),
    ])  # fmt: skip


def _accuracy(run: FittedRun) -> str:
    return accuracy_text(run.metrics["test"]["net"]["accuracy"], uncertainty(run.tagger, "accuracy"))


def _paired(one: FittedRun, other: FittedRun) -> tuple[Predictions, Predictions] | None:
    """Return the predictions of two runs for the same jets; None if these differ or are not stored."""
    own, its = (run.predictions(one.config["classes"]) for run in (one, other))
    return (own, its) if own is not None and its is not None and own.is_on_jets_of(its) else None


def _gaps(one: FittedRun, other: FittedRun) -> dict[str, Difference]:
    """Return by how much the second tagger is higher, by metric; empty without a paired interval."""
    both = _paired(one, other)
    if both is None:
        return {}
    own, its = both
    found = {"accuracy": accuracy_difference(its, own), "auc_ovo": auc_difference(its, own)}
    return {name: gap for name, gap in found.items() if gap is not None}


def _gap_text(gap: Difference) -> str:
    """Return a difference with its interval, in percentage points."""
    return difference_text(*(100 * end for end in (gap.value, gap.low, gap.high)), digits=2)


def _verdict(first: str, runs: Runs, gaps: Gaps) -> list[str]:
    texts = []
    for other, own in gaps.items():
        if "accuracy" not in own:
            texts.append(f"{other} against {first}: no winner, since {_why(runs[first], runs[other])}.")
            continue
        gap = own["accuracy"]
        verdict = ("better" if gap.value > 0 else "worse") if gap.is_clear else "not told apart"
        texts.append(
            f"{other} against {first}: {verdict} ({_gap_text(gap)} percentage points, 95 % interval paired by jet)."
        )
    return [*texts, _seeds(runs)]


def _seeds(runs: Runs) -> str:
    return seeds_text([run.config["subquad"]["settings"] for run in runs.values()])


def _why(one: FittedRun, other: FittedRun) -> str:
    """Return why there is no paired interval."""
    if one.scores is None or other.scores is None:
        return "a run does not store the scores of its test jets, so that no paired interval is available"
    return "their test jets differ"


def _differences(first: str, runs: Runs, gaps: Gaps) -> list[Block]:
    blocks: list[Block] = [
        f"{other} against {first}: {_why(runs[first], runs[other])}. `subquad hep evaluate --files` scores the same "
        "jets with both."
        for other, own in gaps.items()
        if not own
    ]
    rows = [
        [f"{other} against {first}", METRICS[name], _gap_text(gap), _word(gap)]
        for other, own in gaps.items()
        for name, gap in own.items()
    ]
    caption = (
        "Differences in percentage points with their 95 % intervals, paired by jet: of the accuracy by Student's t, or "
        "by the exact binomial distribution where few jets tell the taggers apart; of the AUC by a jackknife over 20 "
        f"groups of jets. {_seeds(runs)} Another seed may move a difference further than its interval. Rejections have "
        "intervals of their own above, and no paired ones."
    )
    return [*blocks, *difference_tables(["metric", "difference", "verdict"], rows, caption=caption)]


def _word(gap: Difference) -> str:
    return ("higher" if gap.value > 0 else "lower") if gap.is_clear else "not told apart"


def _about(runs: Runs) -> Table:
    facts = {
        "jets for training / validation / test": lambda run: " / ".join(
            f"{run.metrics['jets'][part]:,}" for part in ("train", "validation", "test")
        ),
        "parameters": lambda run: f"{run.metrics['parameters']:,}",
        "seconds": lambda run: f"{run.metrics['seconds'].get('total', 0):,.0f}",
    }
    rows = [[fact, *(of(run) for run in runs.values())] for fact, of in facts.items()]
    settings = [run.config["subquad"]["settings"] for run in runs.values()]
    rows += differing_settings(settings, ignored=IGNORED_SETTINGS)
    return Table(["", *runs], rows, caption="What the runs are, and the settings in which they differ.")
