"""Jets in JetClass's branches (arXiv:2202.03772), read from ROOT, Parquet, HDF5 and NPZ files.

`read` keeps all jets, 2.6 kB of memory each; `iterate_jets` 10,000 jets at a time.

Axes: J jets, C particles of all jets, one jet after the other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.columns import Place, class_indices, jet_table, observers_of, particle_table
from subquad.hep.data.file_chunks import check_columns, inspect_files, iterate_chunks
from subquad.hep.data.formats import Files, Source, expand_files
from subquad.hep.data.momentum_checks import check_momenta, check_points

PARTICLES = (
    *("part_px", "part_py", "part_pz", "part_energy", "part_deta", "part_dphi"),
    *("part_d0val", "part_d0err", "part_dzval", "part_dzerr", "part_charge"),
    *("part_isChargedHadron", "part_isNeutralHadron", "part_isPhoton", "part_isElectron", "part_isMuon"),
)
"""Branches with one number per particle."""

OBSERVERS = (
    *("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_nparticles", "jet_sdmass"),
    *("jet_tau1", "jet_tau2", "jet_tau3", "jet_tau4"),
)
"""Branches with one number per jet."""

LABEL = "label_"


@dataclass(frozen=True, kw_only=True, eq=False)
class Jets:
    """Jets as flat columns; the particles of jet j are the rows `first[j]:first[j + 1]`, by descending pT.

    `jets[rows]` selects jets, in the order of `rows`: indices, a slice, or one bool per jet.
    """

    particles: np.ndarray
    """[C, 16] float32, columns as `PARTICLES`."""
    first: np.ndarray
    """[J + 1] int64."""
    observers: np.ndarray
    """[J, 10] float32, columns as `OBSERVERS`."""
    labels: np.ndarray
    """[J] int64, index into `classes`; -1 for jets without a label."""
    classes: tuple[str, ...]
    """Names of the label branches, without `label_`, in the file's order."""
    weights: np.ndarray | None = None
    """[J] float32: event weights; None if they are not read."""
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[J] each, by their branches: regression targets as float32, and further observers in their own types."""

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def shape(self) -> tuple[int]:
        """Number of jets; scikit-learn needs it to select rows."""
        return (len(self),)

    @property
    def lengths(self) -> np.ndarray:
        """[J]: number of particles of each jet."""
        return np.diff(self.first)

    @property
    def class_names(self) -> np.ndarray:
        """[J]: name of each jet's class.

        Raises:
            SubquadError: Some jets have no label.
        """
        if not self.classes or (self.labels < 0).any():
            raise SubquadError("these jets have no labels (branches label_*)")
        return np.array(self.classes)[self.labels]

    def __getitem__(self, rows: Any) -> "Jets":
        # scikit-learn selects rows as X[rows, ...]
        if isinstance(rows, tuple):
            if len(rows) != 2 or rows[1] is not Ellipsis:
                raise IndexError("jets have one axis")
            rows = rows[0]
        rows = np.atleast_1d(np.arange(len(self))[rows])
        lengths = self.lengths[rows]
        first = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.first[rows] - first[:-1], lengths) + np.arange(first[-1])
        return Jets(
            particles=self.particles[places],
            first=first,
            observers=self.observers[rows],
            labels=self.labels[rows],
            classes=self.classes,
            weights=None if self.weights is None else self.weights[rows],
            others={name: column[rows] for name, column in self.others.items()},
        )


def read(
    files: Files,
    *,
    tree: str | None = "tree",
    needs_labels: bool = True,
    title: str = "reading jets",
    quiet: bool = True,
) -> Jets:
    """Return all jets of files in JetClass's branches.

    Args:
        files: Names, patterns such as `jets/*.root`, folders, or `example:jets`.
        tree: Name of the tree in ROOT files; None takes the only one.
        needs_labels: Refuse files without labels.
        title: Title of the progress bar.
        quiet: Print no progress.

    Raises:
        SubquadError: A file has no such tree or branch, is cut short, or has values that no jet has.
    """
    chunks = list(iterate_jets(expand_files(files), tree=tree, needs_labels=needs_labels, title=title, quiet=quiet))
    return Jets(
        particles=np.concatenate([chunk.particles for chunk in chunks]),
        first=np.concatenate([[0], np.cumsum(np.concatenate([chunk.lengths for chunk in chunks]))]),
        observers=np.concatenate([chunk.observers for chunk in chunks]),
        labels=np.concatenate([chunk.labels for chunk in chunks]),
        classes=chunks[0].classes,
    )


def iterate_jets(
    files: Sequence[Path],
    *,
    tree: str | None = "tree",
    needs_labels: bool = True,
    event_weights: str = "",
    needs_weights: bool = True,
    targets: Sequence[str] = (),
    observers: Sequence[str] = (),
    title: str = "reading jets",
    quiet: bool = True,
) -> Iterator[Jets]:
    """Yield the jets of the files, at most 10,000 at a time, with the checks of `read`.

    Args:
        files: Files of jets.
        tree: Name of the tree in ROOT files; None takes the only one.
        needs_labels: Refuse files without labels.
        event_weights: Branch with event weights; empty for none.
        needs_weights: Refuse files without this branch; otherwise it is read if all files have it.
        targets: Branches with regression targets.
        observers: Further branches with one number per jet.
        title: Title of the progress bar.
        quiet: Print no progress.
    """
    sources = inspect_files(files, tree, quiet=quiet)
    has_weights = needs_weights or all(event_weights in source.columns for source in sources)
    weights = [event_weights] if event_weights and has_weights else []
    classes = check_branches(sources, needs_labels)
    more = dict.fromkeys(weights, "event weights") | dict.fromkeys(observers, "observers")
    more |= dict.fromkeys(targets, "regression targets")
    for source in sources:
        check_columns(source, more)
    names = list(dict.fromkeys([*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes), *more]))

    def chunk(columns: Mapping[str, Any], source: Source, place: Place) -> Jets:
        jets = jets_of(columns, classes, place, needs_labels=needs_labels)
        named = {f"the regression target {name}": columns[name] for name in targets}
        true = dict(zip(targets, jet_table(named, list(named), place).T, strict=True))
        found = jet_table(columns, weights, place)[:, 0] if weights else None
        return replace(jets, weights=found, others={**observers_of(columns, observers, place), **true})

    yield from iterate_chunks(sources, lambda source: names, chunk, title=title, quiet=quiet)


def check_branches(sources: Sequence[Source], needs_labels: bool) -> tuple[str, ...]:
    """Check that all files have the branches of JetClass, and return the classes; see `read`."""
    labels: list[tuple[str, ...]] = []
    for source in sources:
        if not {*PARTICLES, *OBSERVERS} & {*source.columns}:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(source.refused.items())[:3])
            columns = f"{', '.join(source.columns[:8])}{' …' * (len(source.columns) > 8)}"
            raise SubquadError(
                f"{source.path}: unknown layout: {columns or reasons}; describe the columns by a data card"
            )
        check_columns(source, dict.fromkeys((*PARTICLES, *OBSERVERS), "the layout of JetClass"))
        labels.append(tuple(name.removeprefix(LABEL) for name in source.columns if name.startswith(LABEL)))
        if needs_labels and (not labels[-1] or "" in labels[-1]):
            raise SubquadError(f"{source.path}: {source.description} has no branches label_<class>")
        if needs_labels and {*labels[-1]} != {*labels[0]}:
            raise SubquadError(f"{source.path}: its label branches are not those of {sources[0].path}")
    # optional labels are copied only if all files have the same
    return labels[0] if all({*own} == {*labels[0]} for own in labels) else ()


def as_jets(data: Any) -> Jets:
    """Return jets from an awkward array or a mapping of JetClass's branches.

    Args:
        data: Such as `uproot.open(file)["tree"].arrays()`; labels are optional.

    Raises:
        SubquadError: Branches are missing, or jets cannot be used.
    """
    if isinstance(data, Jets):
        return data
    fields = getattr(data, "fields", data)
    if isinstance(data, str | list | tuple | np.ndarray) or not isinstance(fields, Iterable):
        what = type(data).__name__
        raise SubquadError(f"jets cannot be made from {what}; give an awkward array, or what subquad.hep.read returns")
    names = list(fields)
    missing = [name for name in (*PARTICLES, *OBSERVERS) if name not in names]
    if missing:
        raise SubquadError(f"some branches of JetClass are missing: {', '.join(missing)}")
    ak = require("awkward", extra="hep")
    classes = tuple(name.removeprefix(LABEL) for name in names if name.startswith(LABEL))
    columns = {name: ak.Array(data[name]) for name in (*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes))}
    return jets_of(columns, classes, Place(file="the array", entries=np.arange(len(columns["jet_pt"]))))


def jets_of(
    columns: Mapping[str, Any],
    classes: Sequence[str],
    place: Place,
    *,
    needs_labels: bool = True,
    may_be_padded: bool = False,
) -> Jets:
    """Return jets from columns with JetClass's names."""
    particles, lengths = particle_table(columns, PARTICLES, place)
    observers = jet_table(columns, OBSERVERS, place)
    if not may_be_padded:
        # the first observer is pT
        check_momenta(particles[:, :4], lengths, place, jet_pt=observers[:, 0])
        check_points(particles[:, 4:6], particles[:, :4], lengths, PARTICLES[4:6], place)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    labels, no_labels = [LABEL + name for name in classes], np.full(len(lengths), -1)
    # by descending pT, so that truncation keeps the hardest particles and the order in the file does not matter
    order = np.lexsort((-np.hypot(particles[:, 0], particles[:, 1]), jet))
    return Jets(
        particles=particles[order],
        first=np.concatenate([[0], np.cumsum(lengths)]),
        observers=observers,
        labels=class_indices(columns, labels, place, needs_labels=needs_labels) if labels else no_labels,
        classes=tuple(classes),
    )
