"""One part of a dataset as training rows of the baselines: rows of the table, or single residues.

Axes: n rows, T positions, m residues, K columns.
"""

from dataclasses import dataclass, replace

import numpy as np

from subquad.bio.data.dataset import Dataset, Inputs, Target

__all__ = ["Part", "part_of"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs, target and weights of one part; with one value per residue, each known residue is a row."""

    inputs: Inputs
    target: Target
    """Target of the rows, or of the m known residues (with the task type of rows)."""
    residues: tuple[np.ndarray, ...]
    """Rows of `inputs` and positions of the residues, `(m,)` each; empty if there is one value per row."""
    weight: np.ndarray | None
    """`(n,)` or `(m,)`."""

    def take(self, chosen: np.ndarray) -> "Part":
        """Return the given rows or residues."""
        return replace(
            self,
            inputs=self.inputs if self.residues else self.inputs.take(chosen),
            target=self.target.take(chosen),
            residues=tuple(places[chosen] for places in self.residues),
            weight=None if self.weight is None else self.weight[chosen],
        )

    def column(self, k: int) -> tuple[np.ndarray, "Part"]:
        """Return the rows where target column k is known, and the part with these rows and this column only."""
        target = self.target
        if target.task_type not in ("regression", "multilabel"):
            return np.arange(len(target)), self
        y, names = target.y[:, k], (target.names[k],)
        rows = np.flatnonzero(np.isfinite(y))
        own = self if len(rows) == len(y) else self.take(rows)
        if target.task_type == "regression":
            return rows, replace(own, target=replace(target, y=y[rows, None], names=names))
        classes = ("0", "1")
        return rows, replace(
            own, target=Target(task_type="binary", y=y[rows].astype(np.int64), classes=classes, names=names)
        )


def part_of(dataset: Dataset, name: str, *, most: int, seed: int) -> Part:
    """Return `train` or `validation` of a dataset, residues as rows.

    Args:
        dataset: Inputs, targets and split; n rows are in the part.
        name: Name of the part.
        most: Maximum number m of known residues, drawn at random.
        seed: Seed of the draw.

    Returns:
        The part, whose target and weights have n rows, or m if they are those of residues.
    """
    inputs, target = dataset.part(name)
    weight = None if dataset.weight is None else dataset.weight[dataset.split[name]]
    if not target.is_residue:
        return Part(inputs=inputs, target=target, residues=(), weight=weight)
    rows, positions = np.nonzero(target.is_known)
    y = target.y[rows, positions]
    weight = None if weight is None else weight[rows]
    if len(rows) > most:
        # metrics need the natural frequencies, so only the training set oversamples rare classes
        is_class = name == "train" and target.task_type != "residue_regression"
        drawn, times = _sample(y, most, seed=seed, is_class=is_class)
        rows, positions, y = rows[drawn], positions[drawn], y[drawn]
        weight = times if weight is None else times * weight[drawn]
    task_type = target.task_type.removeprefix("residue_")
    flat = replace(target, task_type=task_type, y=y[:, None] if task_type == "regression" else y.astype(np.int64))
    return Part(inputs=inputs, target=flat, residues=(rows, positions), weight=weight)


def _sample(y: np.ndarray, most: int, *, seed: int, is_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a sorted sample that keeps rare classes whole, and its weights with mean 1."""
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == k) for k in np.unique(y)] if is_class else [np.arange(len(y))]
    left, chosen, weights = most, [], []
    for number, group in enumerate(sorted(groups, key=len)):
        count = min(len(group), left // (len(groups) - number))
        chosen.append(random.choice(group, count, replace=False))
        weights.append(np.full(count, len(group) / count * most / len(y)))
        left -= count
    drawn = np.concatenate(chosen)
    order = np.argsort(drawn)
    return drawn[order], np.concatenate(weights)[order]
