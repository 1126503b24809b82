"""Scores that another program, such as weaver, wrote for labelled jets as a ROOT file.

Axes: J jets, C classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.metrics.classification import normalized
from subquad.hep.metrics.predictions import OBSERVERS, Predictions

__all__ = ["read_external_scores"]


def read_external_scores(
    path: Path, name: str, *, classes: Sequence[str] | None = None
) -> tuple[Predictions, tuple[str, ...]]:
    """Read the scores of labelled jets and return them with the names of their classes.

    The file holds one tree, or one named `Events`, with the branches `score_<class>` (or weaver's
    `score_label_<class>`) and `label_<class>` in any order. The observers `jet_pt`, `jet_sdmass` and `jet_nparticles`
    are read if present.

    Args:
        path: ROOT file.
        name: Name of the model.
        classes: Order of the columns; by default the order of the label branches in the file.

    Raises:
        SubquadError: The file is missing, is not a ROOT file, has no such tree, lacks a branch or holds invalid scores.
    """
    with _open_tree(path) as tree:
        branches = list(tree.keys(recursive=False))
        names = tuple(classes or [b.removeprefix("label_") for b in branches if b.startswith("label_")])
        columns = _columns(f"{path}: tree {tree.name!r}", branches, names)
        table = tree.arrays(list(columns.values()), library="np")
    values = {column: table[branch].astype(np.float64) for column, branch in columns.items()}
    scores = np.stack([values[f"score_{name}"] for name in names], axis=1)
    labels = np.stack([values[f"label_{name}"] for name in names], axis=1)
    _check(path, scores, labels)
    observers = {key: values[key].astype(np.float32) for key in OBSERVERS if key in values}
    predictions = Predictions(
        model=name, source=str(path), probabilities=normalized(scores), labels=labels.argmax(1), **observers
    )
    return predictions, names


@contextmanager
def _open_tree(path: Path) -> Iterator[Any]:
    uproot = require("uproot", extra="hep")
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    try:
        with uproot.open(path) as file:
            kinds = {key.split(";")[0]: kind for key, kind in file.classnames().items()}
            trees = [key for key, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
            tree = "Events" if "Events" in trees else trees[0] if len(trees) == 1 else None
            if tree is None:
                there = f"its trees are {', '.join(trees)}" if trees else "it has no tree"
                raise SubquadError(f"{path}: needs a tree named 'Events' or a single tree ({there})")
            yield file[tree]
    except (OSError, ValueError, EOFError) as error:
        raise SubquadError(f"{path}: not a ROOT file, damaged or truncated ({error})") from error


def _columns(place: str, branches: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return the branch of each score, label and observer."""
    if not classes:
        raise SubquadError(f"{place} has no branch label_*, so the classes of its jets are unknown")
    columns, missing = {}, []
    for name in classes:
        for column, known in (
            (f"score_{name}", (f"score_{name}", f"score_label_{name}")),
            (f"label_{name}", (f"label_{name}",)),
        ):
            found = next((branch for branch in known if branch in branches), None)
            if found is None:
                missing.append(column)
            else:
                columns[column] = found
    if missing:
        raise SubquadError(
            f"{place} has no branch{'es' * (len(missing) > 1)} {', '.join(missing)}; every class needs a score and a "
            "label"
        )
    return columns | {key: branch for key, branch in OBSERVERS.items() if branch in branches}


def _check(path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    errors = []
    for what, is_bad in (
        ("a score is negative or not finite", ~(np.isfinite(scores) & (scores >= 0)).all(1)),
        ("all scores are 0", scores.sum(1) == 0),
        ("not exactly one label is 1", ((labels == 1).sum(1) != 1) | ((labels != 0).sum(1) != 1)),
    ):
        if is_bad.any():
            others = int(is_bad.sum()) - 1
            errors.append(
                f"{path}: entry {int(is_bad.argmax())}: {what}{f' (and {others:,} more jets)' * (others > 0)}"
            )
    if not len(scores):
        errors.append(f"{path}: the tree is empty")
    raise_errors("Some scores cannot be used:", errors)
