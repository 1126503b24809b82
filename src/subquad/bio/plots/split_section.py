"""Section of the report on the split: how rows were held out, leakage, and distances of test rows to training rows."""

from collections.abc import Mapping
from typing import Any

from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots.figures import histograms
from subquad.reporting.page import Block, Picture, Table, picture

__all__ = ["LEAK_LABELS", "blocks"]

LEAK_LABELS = {
    "exact": "Test rows with the same sequence, or the same pair, as a training or validation row",
    "near_duplicates": "Other test rows that are near-duplicates of a training or validation row: {definition}",
    "removed": "Of both, removed from the test set",
    "homologs": "Remaining test rows with a homolog in training or validation: {homology}",
    "known_sequences": "Remaining test rows whose first sequence occurs in training or validation, in other pairs",
    "known_partners": "Remaining test rows whose partner sequence occurs in training or validation, in other pairs",
    "marked": "Rows that the table itself marks as duplicates of test rows",
    "validation_exact": "Validation rows with the same sequence as a training row",
    "replicated": "Sequences with several rows",
    "conflicts": "Of these, with different measurements",
    "unused": "Measured rows in no part of the split",
}
"""Counts of a split, and their description."""


def blocks(run: FinishedRun) -> list[Block]:
    """Return how rows were held out, the counts of leakage, and the distances of test rows to training rows."""
    audit, rows, leaks = run.metrics.get("audit") or {}, run.metrics["rows"], run.metrics.get("leakage") or {}
    found: list[Block] = [
        f"Split: {run.config['split']['how']}. {rows['train']:,} training rows, {rows['validation']:,} validation rows "
        f"for model selection, {rows['test']:,} held-out test rows."
    ]
    labels = dict(LEAK_LABELS)
    if not leaks.get("exact"):
        # without the first count there is nothing to distinguish from
        labels["near_duplicates"] = labels["near_duplicates"].replace("Other test", "Test")
        labels["removed"] = labels["removed"].replace("both", "these")
    counts = [[text.format(**leaks), leaks[key]] for key, text in labels.items() if leaks.get(key)]
    if counts:
        found.append(Table(["leakage", "rows"], counts))
    elif leaks:
        found.append("No test sequence occurs in training or validation, and no sequence has several rows.")
    is_clustered = run.config["settings"].get("split_by") == "homology"
    found += _near_duplicates(leaks, used=rows["train"] + rows["validation"], is_clustered=is_clustered)
    if audit.get("unseen"):
        found.append(_unseen(audit["unseen"], run))
    nearest = audit.get("nearest")
    if nearest:
        found.append(_nearest(nearest))
    groups = audit.get("groups")
    if groups:
        largest = ", ".join(f"{name} ({count:,})" for name, count in groups["largest"])
        found.append(f"{groups['count']:,} groups; the largest are {largest}.")
    return found


def _unseen(count: int, run: FinishedRun) -> str:
    text = f"{count:,} of {run.metrics['rows']['test']:,} test rows have only substitutions that no training row has. "
    inputs = run.config["inputs"]
    if inputs["alphabet"].startswith("protein") and inputs["alignment"] is None:
        return text + "Predictions of them rest on the features of the substitutions."
    return text + "One-hot letters do not tell these rows apart, and predictions of them are nearly constant."


def _nearest(nearest: Mapping[str, Any]) -> Picture:
    is_integer = nearest["measure"] == "substitutions"
    text = "substitutions to the nearest training row" if is_integer else "k-mers missing from the nearest training row"
    panel = {"edges": nearest["edges"], "counts": {"rows": nearest["counts"]}, "label": text, "is_integer": is_integer}
    unit = f"{nearest['measure']}" if is_integer else "of the k-mers missing"
    median = f"{nearest['median']:.3g} {unit}"
    caption = (
        f"Distance of {nearest['rows']:,} test rows to the nearest training row (median {median}). "
        "Metrics apply to new sequences at similar distances; nearer ones are easier to predict."
    )
    return picture(histograms([panel]), caption)


def _near_duplicates(leaks: Mapping[str, Any], *, used: int, is_clustered: bool) -> list[Block]:
    texts = []
    if leaks.get("near_duplicates") and leaks.get("kept_because"):
        texts.append(
            f"Near-duplicates are counted and stay in the test set: {leaks['kept_because']}. --leak-distance 1 removes "
            "them."
        )
    total = leaks.get("not_compared", 0) + leaks.get("compared", 0)
    if total > used:
        texts.append(
            f"Duplicates were searched for among all {total:,} measured rows outside the test set, of which "
            f"{used:,} are used (--train-rows), so that the test set does not depend on the number of training rows."
        )
    if leaks.get("not_compared"):
        texts.append(
            f"Near-duplicates were searched for in a random sample of {leaks['compared']:,} of {total:,} rows."
        )
    if leaks.get("homologs") == 0:
        texts.append(f"No test row has a homolog in training or validation ({leaks['homology']}).")
    if leaks.get("homologs"):
        remedy = "--split-by homology holds out whole clusters"
        if is_clustered:
            remedy = "a lower --identity separates more of them from training"
        texts.append(f"Rows with homologs are easier to predict than new families; {remedy}.")
    if leaks.get("homologs") is None and leaks.get("homology"):
        texts.append(f"{leaks['homology']}.".capitalize())
    return [" ".join(texts)] if texts else []
