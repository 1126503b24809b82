"""One part of a problem as rows that simple models learn from: rows of the table, or single residues.

Axes: n rows, T positions, m residues, K columns.
"""

from dataclasses import dataclass, replace

import numpy as np

from subquad.bio.data.dataset import Dataset, Inputs, Target

__all__ = ["Part", "part_of"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is known of one part of the rows, a residue as a row where each has a value."""

    inputs: Inputs
    target: Target
    """Of the rows, or of the known residues: its kind is one of rows then, and it has m of them."""
    residues: tuple[np.ndarray, ...]
    """Rows of `inputs` and positions of the residues, each `(m,)`; nothing where a row has one value."""
    weight: np.ndarray | None
    """`(n,)` or `(m,)`."""

    def take(self, chosen: np.ndarray) -> "Part":
        """Return some of the rows or residues."""
        return replace(
            self,
            inputs=self.inputs if self.residues else self.inputs.take(chosen),
            target=self.target.take(chosen),
            residues=tuple(places[chosen] for places in self.residues),
            weight=None if self.weight is None else self.weight[chosen],
        )

    def column(self, k: int) -> tuple[np.ndarray, "Part"]:
        """Return the rows where one column of measurements or labels is known, and them with it alone."""
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
    """Return one part of a problem; of the known residues at most so many, drawn at random."""
    inputs, target = dataset.part(name)
    weight = None if dataset.weight is None else dataset.weight[dataset.split[name]]
    if not target.is_residue:
        return Part(inputs=inputs, target=target, residues=(), weight=weight)
    is_known = np.isfinite(target.y) if target.task_type == "residue_regression" else target.y >= 0
    rows, positions = np.nonzero(is_known)
    y = target.y[rows, positions]
    weight = None if weight is None else weight[rows]
    if len(rows) > most:
        # figures are of what there is, so only learning sees rare classes more often
        is_class = name == "train" and target.task_type != "residue_regression"
        drawn, times = _drawn(y, most, seed=seed, is_class=is_class)
        rows, positions, y = rows[drawn], positions[drawn], y[drawn]
        weight = times if weight is None else times * weight[drawn]
    task_type = target.task_type.removeprefix("residue_")
    flat = replace(target, task_type=task_type, y=y[:, None] if task_type == "regression" else y.astype(np.int64))
    return Part(inputs=inputs, target=flat, residues=(rows, positions), weight=weight)


def _drawn(y: np.ndarray, most: int, *, seed: int, is_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return which are drawn, in order, and how much each counts, 1 on average: rare classes are kept whole."""
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == k) for k in np.unique(y)] if is_class else [np.arange(len(y))]
    left, drawn, times = most, [], []
    for number, group in enumerate(sorted(groups, key=len)):
        count = min(len(group), left // (len(groups) - number))
        drawn.append(random.choice(group, count, replace=False))
        times.append(np.full(count, len(group) / count * most / len(y)))
        left -= count
    drawn, times = np.concatenate(drawn), np.concatenate(times)
    order = np.argsort(drawn)
    return drawn[order], times[order]
