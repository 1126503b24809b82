"""Labelled jets with the probabilities that a tagger gave them, whoever wrote them: we, or another program as ROOT.

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.metrics.scores import normalised

__all__ = ["Model", "Scored", "foreign", "grouped"]

OBSERVERS = {"pt": "jet_pt", "sdmass": "jet_sdmass", "particles": "jet_nparticles"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one training of a model says about jets."""

    model: str
    """Name of the model; trainings of one name are one model, and their differences its spread."""
    source: str
    """The folder or file that this comes from."""
    seed: int | None = None
    """Of the training, where it is known."""
    probabilities: np.ndarray
    """[J, C], each row adding up to 1."""
    labels: np.ndarray
    """[J] int64, the true classes."""
    pt: np.ndarray | None = None
    """[J] GeV."""
    sdmass: np.ndarray | None = None
    """[J] GeV, the soft-drop mass."""
    particles: np.ndarray | None = None
    """[J], how many particles a jet has."""
    batches: np.ndarray | None = None
    """[batches, 3]: mean number of particles, jets, seconds of the net, where it was timed."""

    @property
    def accuracy(self) -> float:
        """The top-1 accuracy."""
        return float((self.probabilities.argmax(1) == self.labels).mean())


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model: one training of it or several."""

    name: str
    """As the tables and legends call it."""
    trainings: Sequence[Scored]
    """At least one."""

    @property
    def shown(self) -> Scored:
        """The training of median accuracy, which stands for all in pictures of one training."""
        order = sorted(self.trainings, key=lambda training: training.accuracy)
        return order[(len(order) - 1) // 2]


def grouped(scored: Sequence[Scored]) -> list[Model]:
    """Return the models, in the order in which they come first."""
    names = dict.fromkeys(training.model for training in scored)
    return [Model(name=name, trainings=[one for one in scored if one.model == name]) for name in names]


def foreign(path: Path, name: str, *, classes: Sequence[str] | None = None) -> tuple[Scored, tuple[str, ...]]:
    """Return what another program wrote of labelled jets, and its classes.

    The file holds one tree, or one called `Events`, with the branches `score_<class>` and `label_<class>` in any
    order; weaver's `score_label_<class>` is known too. Observers (`jet_pt`, `jet_sdmass`, `jet_nparticles`) are taken
    where they are there.

    Args:
        path: the ROOT file.
        name: what the model is called.
        classes: the order of the columns; without it that of the file's labels.

    Raises:
        SubquadError: no ROOT file, no such tree, a branch that lacks, scores that are no numbers.
    """
    uproot = require("uproot", extra="hep")
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    try:
        with uproot.open(path) as file:
            kinds = {key.split(";")[0]: kind for key, kind in file.classnames().items()}
            trees = [key for key, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
            tree = "Events" if "Events" in trees else trees[0] if len(trees) == 1 else None
            if tree is None:
                there = f"it has {', '.join(trees)}" if trees else "it has none"
                raise SubquadError(f"{path}: no tree 'Events' in it, nor one alone ({there})")
            branches = list(file[tree].keys(recursive=False))
            names = classes or tuple(b.removeprefix("label_") for b in branches if b.startswith("label_"))
            wanted = _wanted(f"{path}: tree {tree!r}", branches, names)
            table = file[tree].arrays(list(wanted.values()), library="np")
    except (OSError, ValueError, EOFError) as error:
        raise SubquadError(f"{path}: is no ROOT file, or is damaged or cut short ({error})") from error
    columns = {what: table[branch].astype(np.float64) for what, branch in wanted.items()}
    scores = np.stack([columns[f"score {name}"] for name in names], axis=1)
    marks = np.stack([columns[f"label {name}"] for name in names], axis=1)
    _check(f"{path}", scores, marks)
    observers = {what: columns[what].astype(np.float32) for what in OBSERVERS if what in columns}
    scored = Scored(model=name, source=str(path), probabilities=normalised(scores), labels=marks.argmax(1), **observers)
    return scored, tuple(names)


def _wanted(place: str, branches: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return which branch holds what."""
    if not classes:
        raise SubquadError(f"{place} has no branch label_*, so nobody knows what its jets are")
    wanted, lacking = {}, []
    for name in classes:
        for what, known in (
            (f"score {name}", (f"score_{name}", f"score_label_{name}")),
            (f"label {name}", (f"label_{name}",)),
        ):
            there = [branch for branch in known if branch in branches]
            if there:
                wanted[what] = there[0]
            else:
                lacking.append(known[0])
    if lacking:
        raise SubquadError(
            f"{place} lacks the branch{'es' * (len(lacking) > 1)} {', '.join(lacking)}; every class needs its score "
            "and its label"
        )
    return wanted | {what: branch for what, branch in OBSERVERS.items() if branch in branches}


def _check(place: str, scores: np.ndarray, marks: np.ndarray) -> None:
    mistakes = []
    for what, bad in (
        ("a score is no number, or below 0", ~(np.isfinite(scores) & (scores >= 0)).all(1)),
        ("all scores are 0", scores.sum(1) == 0),
        ("not exactly one label is 1", ((marks == 1).sum(1) != 1) | ((marks != 0).sum(1) != 1)),
    ):
        if bad.any():
            more = f" (and {int(bad.sum()) - 1} more jets like it)" if bad.sum() > 1 else ""
            mistakes.append(f"{place}: entry {int(bad.argmax())}: {what}{more}")
    if not len(scores):
        mistakes.append(f"{place}: holds no jet")
    raise_errors("Some scores cannot be used:", mistakes)


def with_observers(scored: Scored, of: Scored) -> Scored:
    """Return the scores with the observers that they lack, where `of` has the same jets: as many, labelled alike."""
    if len(of.labels) != len(scored.labels) or (of.labels != scored.labels).any():
        return scored
    lacking = {name: getattr(of, name) for name in OBSERVERS if getattr(scored, name) is None}
    return replace(scored, **lacking)
