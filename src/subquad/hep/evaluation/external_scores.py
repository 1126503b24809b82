"""Scores that another program, such as weaver, wrote for labelled jets.

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.columns import Place, class_indices, jet_table
from subquad.hep.data.file_chunks import check_columns
from subquad.hep.data.formats import inspect_file, iterate_columns
from subquad.hep.metrics.classification import normalized
from subquad.hep.metrics.predictions import OBSERVERS, Predictions


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
    columns = {*source.columns}
    labelled = [name.removeprefix("label_") for name in source.columns if name.startswith("label_")]
    scored = [name for name in labelled if {f"score_{name}", f"score_label_{name}"} & columns]
    names = tuple(classes or scored or labelled)
    if not source.entries or not names:
        raise SubquadError(f"{path}: has no jets, or no branches label_<class>")
    branches = {f"label_{name}": f"label_{name}" for name in names}
    # weaver writes the names of labels
    branches |= {f"score_{name}": f"score_{name}" for name in names}
    branches |= {f"score_{name}": f"score_label_{name}" for name in names if f"score_label_{name}" in columns}
    branches |= {key: branch for key, branch in OBSERVERS.items() if branch in columns}
    if event_weights is not None:
        branches.pop("weights", None)
        branches |= {"weights": event_weights} if needs_weights or event_weights in columns else {}
    check_columns(source, dict.fromkeys(branches.values(), "scores of another tagger"))
    chunks = list(iterate_columns(source, list(branches.values()), source.entries))
    concatenate = require("awkward", extra="hep").concatenate
    table = {column: concatenate([chunk[branch] for chunk in chunks]) for column, branch in branches.items()}
    place = Place(file=str(path), entries=np.arange(source.entries))
    labels = class_indices(table, [f"label_{name}" for name in names], place)
    jet_table(table, [key for key in dict.fromkeys(("weights", *OBSERVERS)) if key in table], place)
    scores = jet_table(table, [f"score_{name}" for name in names], place).astype(np.float64)
    place.refuse((scores < 0).any(1) | (scores == 0).all(1), "scores must be 0 or more, and not all 0")
    scores = np.stack([np.asarray(table[f"score_{name}"], np.float64) for name in names], axis=1)
    observers: dict[str, Any] = {key: np.asarray(table[key], np.float32) for key in OBSERVERS if key in table}
    predictions = Predictions(
        model=name, source=str(path), probabilities=normalized(scores), labels=labels, **observers
    )
    return predictions, names
