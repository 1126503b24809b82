"""Section of the report on the split: how rows were held out, leakage, and distances of test rows to training rows."""

from collections.abc import Mapping
from typing import Any

from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots.figures import histograms
from subquad.reporting.page import Block, Picture, Table, picture

LEAK_LABELS = {
    "exact": "Test rows with the same sequence, or the same pair, as a training or validation row",
    "near_duplicates": "Test rows that are near-duplicates of a training or validation row: {definition}",
    "removed": "Of these, removed from the test set",
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
    counts = [[text.format(**leaks), leaks[key]] for key, text in LEAK_LABELS.items() if leaks.get(key)]
    if counts:
        found.append(Table(["leakage", "rows"], counts))
    elif leaks:
        found.append("No test sequence occurs in training or validation, and no sequence has several rows.")
    if leaks.get("near_duplicates") and leaks.get("kept_because"):
        found.append(f"Near-duplicates stay in the test set: {leaks['kept_because']}.")
    if leaks.get("not_compared"):
        total = leaks["not_compared"] + leaks["compared"]
        found.append(
            f"Near-duplicates were searched for in a random sample of {leaks['compared']:,} of {total:,} rows."
        )
    if leaks.get("homologs"):
        found.append("Rows with homologs in training are easier to predict than new families.")
    if audit.get("unseen"):
        found.append(
            f"{audit['unseen']:,} of {rows['test']:,} test rows have only substitutions that no training row has."
        )
    if nearest := audit.get("nearest"):
        found.append(_nearest(nearest))
    if groups := audit.get("groups"):
        largest = ", ".join(f"{name} ({count:,})" for name, count in groups["largest"])
        found.append(f"{groups['count']:,} groups; the largest are {largest}.")
    return found


def _nearest(nearest: Mapping[str, Any]) -> Picture:
    is_integer = nearest["measure"] == "substitutions"
    text = "substitutions to the nearest training row" if is_integer else "k-mers missing from the nearest training row"
    panel = {"edges": nearest["edges"], "counts": {"rows": nearest["counts"]}, "label": text, "is_integer": is_integer}
    caption = (
        f"Distance of {nearest['rows']:,} test rows to the nearest training row (median {nearest['median']:.3g}). "
        "Metrics apply to new sequences at similar distances."
    )
    return picture(histograms([panel]), caption, is_half=True)
