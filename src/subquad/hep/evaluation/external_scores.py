"""Scores that another program, such as weaver, wrote for labelled jets.

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.columns import ChunkErrors, class_indices, jet_table
from subquad.hep.data.formats import Source, inspect_file, iterate_columns
from subquad.hep.metrics.classification import normalized
from subquad.hep.metrics.predictions import OBSERVERS, Predictions

__all__ = ["read_external_scores"]


def read_external_scores(
    path: Path,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    event_weights: str | None = None,
    needs_weights: bool = True,
) -> tuple[Predictions, tuple[str, ...]]:
    """Read the scores of labelled jets and return them with the names of their classes.

    The file holds one tree, or one named `Events`, with the branches `score_<class>` (or weaver's
    `score_label_<class>`) and `label_<class>` in any order. The observers `jet_pt`, `jet_sdmass` and `jet_nparticles`
    are read if present.

    Args:
        path: ROOT file, or another format of `subquad.hep.data.formats`.
        name: Name of the model.
        classes: Order of the columns; by default the order of the label branches in the file that have a score.
        event_weights: Branch with event weights; by default `event_weight`, if present.
        needs_weights: Refuse a file without the branch `event_weights`; otherwise its jets have no weights.

    Raises:
        SubquadError: The file is damaged, has no such tree, lacks a branch or holds invalid scores.
    """
    source = inspect_file(path, None, default="Events")
    if not source.entries:
        raise SubquadError(f"{path}: {source.description} is empty")
    labelled = [b.removeprefix("label_") for b in source.columns if b.startswith("label_")]
    scored = [one for one in labelled if {f"score_{one}", f"score_label_{one}"} & {*source.columns}]
    names = tuple(classes or scored or labelled)
    # files may have labels of classes that a tagger was not fitted on
    others = [one for one in labelled if one not in names]
    branches = _branches(source, names) | {f"label_{one}": f"label_{one}" for one in others}
    if event_weights is not None:
        branches.pop("weights", None)
        if event_weights in source.columns:
            branches["weights"] = event_weights
        elif needs_weights:
            raise SubquadError(
                f"{path}: {source.description} has no branch {event_weights} with event weights; name another one with "
                "--event-weights"
            )
    chunks = list(iterate_columns(source, list(branches.values()), source.entries))
    concatenate = require("awkward", extra="hep").concatenate
    columns = {column: concatenate([chunk[branch] for chunk in chunks]) for column, branch in branches.items()}
    errors = ChunkErrors(file=str(path), entries=np.arange(source.entries), errors=[], is_selectable=False)
    jet_table(columns, [f"score_{name}" for name in names], errors)
    labels = class_indices(columns, [f"label_{name}" for name in names], errors, needs_labels=False)
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        own = [name for name in others if columns[f"label_{name}"][first] == 1]
        if own:
            errors.add(labels < 0, f"the jet is {own[0]}, which has no score")
        else:
            errors.add(labels < 0, "no label is 1", advice="exactly one label of a jet must be 1")
    jet_table(columns, [key for key in dict.fromkeys(("weights", *OBSERVERS)) if key in columns], errors)
    raise_errors("Some scores cannot be used:", errors.errors)
    scores = np.stack([np.asarray(columns[f"score_{name}"], np.float64) for name in names], axis=1)
    for is_bad, what in (((scores < 0).any(1), "a score is negative"), ((scores == 0).all(1), "all scores are 0")):
        if np.any(is_bad):
            errors.add(np.asarray(is_bad), what)
    raise_errors("Some scores cannot be used:", errors.errors)
    observers: dict[str, Any] = {key: np.asarray(columns[key], np.float32) for key in OBSERVERS if key in columns}
    predictions = Predictions(
        model=name, source=str(path), probabilities=normalized(scores), labels=labels, **observers
    )
    return predictions, names


def _branches(source: Source, classes: Sequence[str]) -> dict[str, str]:
    """Return the branch of each score, label and observer."""
    place = f"{source.path}: {source.description}"
    if not classes:
        raise SubquadError(f"{place} has no branch label_*, so the classes of its jets are unknown")
    wanted = {
        **{f"score_{name}": (f"score_{name}", f"score_label_{name}") for name in classes},
        **{f"label_{name}": (f"label_{name}",) for name in classes},
    }
    found = {
        column: next((branch for branch in known if branch in source.columns), None) for column, known in wanted.items()
    }
    missing = [column for column, branch in found.items() if branch is None]
    if missing:
        raise SubquadError(
            f"{place} has no branch{'es' * (len(missing) > 1)} {', '.join(missing)}; every class needs a score and a "
            "label"
        )
    known = {column: branch for column, branch in found.items() if branch is not None}
    return known | {key: branch for key, branch in OBSERVERS.items() if branch in source.columns}
