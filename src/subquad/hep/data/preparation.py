"""From files to what a fit takes: all jets in a store on the disk, split, weighted and scaled.

One process reads; the others wait, and map what it wrote.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError, unknown
from subquad.hep.data.card import WEIGHT_COLUMN, read_card
from subquad.hep.data.card_weights import Reweighting
from subquad.hep.data.chunks import pieces
from subquad.hep.data.expressions import Expression
from subquad.hep.data.layout import Layout, layout_of, layout_of_card
from subquad.hep.data.reweighting import class_weights, kinematic_weights, normalised
from subquad.hep.data.store import Store, open_store, write_store
from subquad.hep.models.tagger import Inputs, Scale
from subquad.hep.settings import FitSettings, NetSettings, reweighting_of
from subquad.runs.storage import fingerprint, plain
from subquad.train.distributed import processes

__all__ = ["Plan", "Prepared", "plan_of", "prepare", "put_aside", "split", "wait_for"]

JETS = "jets"
"""The store in the folder of a run that is not finished."""

LEAST_JETS = 5
"""Of one class: fewer cannot be split into three parts."""

JETS_OF_SCALE = 500_000
JETS_OF_STANDARD = 50_000
"""Jets to learn from that a scale is taken of, and medians and quantiles of their particles."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read for a fit, known before a file is."""

    files: Sequence[Path]
    test: Sequence[Path]
    net: NetSettings
    layout: Layout
    reweighting: Reweighting | None
    data: str
    """Fingerprint of the files and of the card."""

    @property
    def key(self) -> str:
        """Changes with all that the store depends on."""
        layout, names = self.layout, ("particles", "jet_features", "observers")
        card = None if layout.card is None else plain(layout.card.options)
        return fingerprint(json.dumps([1, self.data, card, *(list(getattr(layout, name)) for name in names)]))


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The jets of a fit."""

    layout: Layout
    """With all centers and scales found."""
    classes: tuple[str, ...]
    parts: dict[str, Inputs]
    """`train`, `validation` and `test`."""
    store: Store

    def columns(self, part: str, name: str) -> np.ndarray | None:
        """Return [J] of an observer of the part's jets, or None where there is no such one."""
        if name not in self.layout.observers:
            return None
        return self.store.observers[self.parts[part].place, self.layout.observers.index(name)].numpy()


def plan_of(files: Sequence[Path], test: Sequence[Path], net: NetSettings, settings: FitSettings) -> Plan:
    """Return what is read for a fit.

    Raises:
        SubquadError: the card, or the variables of the reweighting, cannot be used.
    """
    layout, reweighting = layout_of(net), reweighting_of(settings.reweight_vars)
    if settings.card is not None:
        card = read_card(settings.card)
        if reweighting is not None and card.weights is not None:
            raise SubquadError(
                f"--reweight-vars: {card.name} says already how jets are weighted; leave one of them out"
            )
        net = replace(net, most_particles=card.length)
        layout = layout_of_card(card, net)
        reweighting = card.weights if isinstance(card.weights, Reweighting) else reweighting
    for name in reweighting.bins if reweighting is not None else ():
        if name not in layout.observers:
            raise SubquadError(f"--reweight-vars: {unknown('observer', name, layout.observers)}")
    card_files = [] if settings.card is None else [Path(settings.card)]
    return Plan(
        files=files,
        test=test,
        net=net,
        layout=layout,
        reweighting=reweighting,
        data=fingerprint(*files, *test, *card_files),
    )


@contextmanager
def put_aside(plan: Plan, settings: FitSettings, out: Path, *, quiet: bool) -> Iterator[Path]:
    """Yield the folder with the store: that of an earlier start, or one beside `out`, which is removed on failure."""
    begun, beside = out / JETS, out.absolute().parent / f".{out.name}.{JETS}"
    group = processes()
    if open_store(begun, plan.key) is not None:
        yield begun
        return
    try:
        if group.is_main_process and open_store(beside, plan.key) is None:
            _write(beside, plan, settings, quiet=quiet)
        wait_for(lambda: open_store(beside, plan.key) is not None)
        yield beside
    finally:
        if group.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)


def wait_for(is_there: Callable[[], bool]) -> None:
    """Return when the first process has written something; a barrier would give up after some minutes."""
    while not is_there():
        time.sleep(0.2)


def _write(folder: Path, plan: Plan, settings: FitSettings, *, quiet: bool) -> None:
    how: dict[str, Any] = {"features": plan.net.features, "tree": settings.tree, "quiet": quiet}
    fitted = pieces(plan.files, plan.layout, is_training=True, title="reading jets", **how)
    measured = (
        pieces(plan.test, plan.layout, is_training=False, title="reading test jets", **how) if plan.test else iter(())
    )
    write_store(folder, plan.layout, fitted, measured, key=plan.key)


def prepare(folder: Path, plan: Plan, settings: FitSettings, seed: int) -> Prepared:
    """Return the jets of the store, split, weighted and scaled.

    Raises:
        SubquadError: fewer than two classes, too few jets, or weights that cannot be made.
    """
    store = open_store(folder, plan.key)
    assert store is not None
    labels, classes = _classes_there(store, plan.files)
    rows = split(labels, store.fitted, settings, seed, has_test=bool(plan.test), classes=len(classes))
    learnt = rows["train"]
    scale = None
    if plan.net.has_observers:
        scale = Scale.of(store.jet_features[_some(learnt, JETS_OF_SCALE)].numpy())
    layout = _standardised(plan, store, learnt)
    everything = Inputs(
        layout=layout,
        particles=store.particles,
        first=store.first,
        lengths=store.lengths.clamp(max=plan.net.most_particles),
        jet_features=store.jet_features,
        place=torch.arange(len(labels)),
        scale=scale,
        labels=torch.from_numpy(labels),
        weights=torch.ones(len(labels)),
    )
    parts = {name: everything.part(of_part) for name, of_part in rows.items()}
    both = torch.cat([learnt, rows["validation"]])
    weights = _weights(plan, settings, store, both, labels[both.numpy()], classes=len(classes))
    weights = torch.from_numpy(normalised(weights, len(learnt)))
    parts["train"] = replace(parts["train"], weights=weights[: len(learnt)])
    parts["validation"] = replace(parts["validation"], weights=weights[len(learnt) :])
    return Prepared(layout=layout, classes=classes, parts=parts, store=store)


def _some(rows: Tensor, most: int) -> Tensor:
    """Return at most so many of the rows, evenly."""
    return rows[:: -(-len(rows) // most)]


def _classes_there(store: Store, files: Sequence[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Keep the classes that the jets have; those of the test must be among them."""
    labels, names = store.labels.numpy(), store.classes
    counts = np.bincount(labels[: store.fitted], minlength=len(names))
    there = [name for name, count in zip(names, counts, strict=True) if count]
    if len(there) < 2:
        raise SubquadError(
            f"all {store.fitted} jets of {files[0]} … are {there[0]}; a tagger needs two classes or more"
        )
    few = [f"{name} has {count}" for name, count in zip(names, counts, strict=True) if 0 < count < LEAST_JETS]
    if few:
        raise SubquadError(f"too few jets: {', '.join(few)}; a class needs {LEAST_JETS} or more, or none")
    new = sorted({names[i] for i in np.unique(labels[store.fitted :])} - set(there))
    if new:
        raise SubquadError(f"the test files have jets of {', '.join(new)}, and the files to fit on have none")
    # numbered in their order where the classes are numbers
    there = sorted(there, key=int) if all(name.isdigit() for name in there) else there
    index = np.array([there.index(name) if name in there else -1 for name in names])
    return index[labels], tuple(there)


def split(
    labels: np.ndarray, fitted: int, settings: FitSettings, seed: int, *, has_test: bool, classes: int
) -> dict[str, Tensor]:
    """Return the rows of train, validation and test: of each class the same parts, drawn by the seed."""
    generator = np.random.default_rng(seed)
    part = np.full(len(labels), 2, np.int8)
    part[:fitted] = 0
    for label in range(classes):
        rows = generator.permutation(np.flatnonzero(labels[:fitted] == label))
        test = 0 if has_test else max(1, round(settings.test_part * len(rows)))
        part[rows[:test]] = 2
        part[rows[test : test + max(1, round(settings.validation_part * len(rows)))]] = 1
    return {name: torch.from_numpy(np.flatnonzero(part == i)) for i, name in enumerate(("train", "validation", "test"))}


def _standardised(plan: Plan, store: Store, learnt: Tensor) -> Layout:
    """Return the layout with all centers and scales: the median, and the farther one of the 16 % and 84 % points."""
    card = plan.layout.card
    if card is None or not card.has_automatic:
        return plan.layout
    some = _some(learnt, JETS_OF_STANDARD)
    first, lengths = store.first[some], store.lengths[some]
    places = torch.repeat_interleave(first - (lengths.cumsum(0) - lengths), lengths) + torch.arange(int(lengths.sum()))
    found = {}
    for variable in (*card.features, *card.points, *card.vectors):
        if variable.is_automatic:
            column = store.particles[places, plan.layout.particles.index(variable.name)].numpy()
            low, center, high = np.percentile(column[np.isfinite(column)], [16, 50, 84])
            width = max(high - center, center - low)
            found[variable.name] = (float(center), float(1 / width) if width > 0 else 1.0)
    return layout_of_card(card.standardised(found), plan.net)


def _weights(
    plan: Plan, settings: FitSettings, store: Store, rows: Tensor, labels: np.ndarray, *, classes: int
) -> np.ndarray:
    """Return [J]: the weights of these rows."""
    observers, card, reweighting = plan.layout.observers, plan.layout.card, plan.reweighting

    def column(name: str) -> np.ndarray:
        return store.observers[rows, observers.index(name)].numpy().astype(np.float64)

    weights = np.ones(len(rows))
    if card is not None and isinstance(card.weights, Expression):
        weights = column(WEIGHT_COLUMN)
    if reweighting is not None:
        base = [reweighting.base] if reweighting.base else []
        columns = {name: column(name) for name in (*reweighting.bins, *reweighting.classes, *base)}
        weights = kinematic_weights(reweighting, columns, labels, classes)
    return class_weights(weights, labels, classes) if settings.reweight == "class" else weights
