"""Jets in JetClass's branches (arXiv:2202.03772), read from ROOT, Parquet, HDF5 and NPZ files.

`read` keeps all jets, 2.6 kB of memory each; `iterate_jets` 10,000 jets at a time.

Axes: J jets, C particles of all jets, one jet after the other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.columns import (
    ChunkErrors,
    add_particles,
    check_energies,
    class_indices,
    jet_table,
    observers_of,
    particle_table,
)
from subquad.hep.data.file_chunks import inspect_files, iterate_chunks
from subquad.hep.data.formats import Files, Source, expand_files
from subquad.hep.data.momentum_checks import check_momenta
from subquad.hep.data.value_notes import WeightSums
from subquad.hep.data.variations import Variation, vary
from subquad.progress import say

__all__ = [
    "OBSERVERS",
    "PARTICLES",
    "Jets",
    "as_jets",
    "check_branches",
    "iterate_jets",
    "jets_of",
    "read",
]

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
        SubquadError: A file has no such tree or branch, is cut short, or has values that no jet has; all are listed.
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
    variation: Variation | None = None,
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
        variation: Systematic variation of the momenta, which changes the observers too.
        title: Title of the progress bar.
        quiet: Print no progress.
    """
    sources, errors = inspect_files(files, tree, quiet=quiet)
    without = [source for source in sources if event_weights and event_weights not in source.columns]
    if needs_weights:
        errors += [
            f"{one.path}: {one.description} has no branch {event_weights} with event weights; name another one with "
            "--event-weights"
            for one in without
        ]
    advice = dict.fromkeys(observers, "; name another one with --observers")
    advice |= dict.fromkeys(targets, " with a regression target; name another one with --target")
    errors += [
        f"{one.path}: {one.description} has no branch {name}{remedy}"
        for one in sources
        for name, remedy in advice.items()
        if name not in one.columns
    ]
    weights = [event_weights] if event_weights and not without else []
    classes = check_branches(sources, errors, needs_labels)
    sums = WeightSums()
    names = list(dict.fromkeys([*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes), *weights, *advice]))

    def chunk(columns: Mapping[str, Any], source: Source, errors: ChunkErrors) -> Jets:
        if variation is not None:
            generator = variation.generator(source.path.name, int(errors.entries[0]))
            columns = vary(columns, variation, _momenta, generator, jets=OBSERVERS)
        jets = jets_of(columns, classes, errors, needs_labels=needs_labels)
        named = {f"the regression target {name}": columns[name] for name in targets}
        found = jet_table(columns, weights, errors)[:, 0] if weights else None
        if found is not None:
            sums.add(found, errors)
        others = dict(zip(targets, jet_table(named, list(named), errors).T, strict=True))
        return replace(
            jets,
            weights=found,
            others={**observers_of(columns, observers, errors), **others},
        )

    yield from iterate_chunks(sources, lambda source: names, chunk, title=title, quiet=quiet)
    for note in sums.notes(event_weights):
        say(note, quiet=quiet)


def _momenta(columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the four-momenta [C, 4] and the numbers of particles [J]."""
    ak = require("awkward", extra="hep")
    flat = [ak.to_numpy(ak.flatten(columns[name])).astype(np.float64) for name in PARTICLES[:4]]
    return np.stack(flat, axis=1), ak.to_numpy(ak.num(columns["part_px"]))


def check_branches(sources: Sequence[Source], errors: list[str], needs_labels: bool) -> tuple[str, ...]:
    """Check that all files have the branches of JetClass, and return the classes; see `read`."""
    found: list[tuple[str, ...]] = []
    for source in sources:
        missing = [name for name in (*PARTICLES, *OBSERVERS) if name not in source.columns]
        if len(missing) == len(PARTICLES) + len(OBSERVERS):
            errors.append(_unknown_layout(source))
            found.append(())
            continue
        if missing:
            reasons = [f"{name} is not read, as {source.refused[name]}" for name in missing if name in source.refused]
            advice = "give files in JetClass's layout, or fit a tagger on this layout with --card"
            if len(missing) > len(source.columns):
                # perhaps the particles lie in records, which are one branch
                advice = f"it has {', '.join(source.columns)}; {advice}"
            errors.append(
                f"{source.path}: {source.description} has no branch{'es' * (len(missing) > 1)} {', '.join(missing)}; "
                f"{'; '.join(reasons[:3]) or advice}"
            )
        labels = tuple(name.removeprefix(LABEL) for name in source.columns if name.startswith(LABEL))
        if "" in labels:
            errors.append(f"{source.path}: the branch {LABEL} names no class; rename it to label_<class>, or drop it")
        elif needs_labels and not labels:
            errors.append(
                f"{source.path}: {source.description} has no branch label_*, so its jets have no class; add a branch "
                "label_<class> for each class, or fit a tagger with a --card that describes the labels"
            )
        elif needs_labels and labels and found and set(labels) != set(found[0]):
            differing = sorted(set(labels) ^ set(found[0]))
            errors.append(
                f"{source.path}: its label branches are not those of {sources[0].path} ({', '.join(differing)}); "
                "give files with the same labels"
            )
        found.append(labels)
    raise_errors("Some files cannot be used:", errors)
    # optional labels are copied only if all files have the same
    return found[0] if needs_labels or all(set(labels) == set(found[0]) for labels in found) else ()


def _unknown_layout(source: Source) -> str:
    columns = f"{', '.join(source.columns[:8])}{' …' * (len(source.columns) > 8)}"
    reasons = [f"{name} is not read, as {reason}" for name, reason in source.refused.items()]
    return "; ".join(
        [
            f"{source.path}: unknown layout: the columns of {source.description} are {columns}",
            *reasons[:3],
            "describe them with --card, or give files in the layout of JetClass or another public data set (--layout)",
        ]
    )


def as_jets(data: Any) -> Jets:
    """Return jets from an awkward array or a mapping of JetClass's branches.

    Args:
        data: Such as `uproot.open(file)["tree"].arrays()`; labels are optional.

    Raises:
        SubquadError: Branches are missing, or jets cannot be used; all are listed.
    """
    if isinstance(data, Jets):
        return data
    fields = getattr(data, "fields", data)
    if isinstance(data, str | list | tuple | np.ndarray) or not isinstance(fields, Iterable):
        raise SubquadError(
            f"jets cannot be made from {type(data).__name__}; give what subquad.hep.read returns, or an awkward array "
            "of JetClass's branches (convert it with subquad.hep.as_jets for cross-validation in scikit-learn)"
        )
    names = list(fields)
    missing = [name for name in (*PARTICLES, *OBSERVERS) if name not in names]
    remedy = "fit files of another layout by subquad.hep.fit with FitSettings(card=…)"
    raise_errors(f"Some branches of JetClass are missing; {remedy}:", missing)
    ak = require("awkward", extra="hep")
    classes = tuple(name.removeprefix(LABEL) for name in names if name.startswith(LABEL))
    columns = {name: ak.Array(data[name]) for name in (*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes))}
    errors = ChunkErrors(file="the array", entries=np.arange(len(columns["jet_pt"])), errors=[], is_selectable=False)
    jets = jets_of(columns, classes, errors)
    raise_errors("Some files or jets cannot be used:", errors.errors)
    return jets


def jets_of(
    columns: Mapping[str, Any],
    classes: Sequence[str],
    errors: ChunkErrors,
    *,
    needs_labels: bool = True,
    may_be_padded: bool = False,
) -> Jets:
    """Return jets from columns with JetClass's names; what is wrong is added to `errors`."""
    before = len(errors.errors)
    particles, lengths = particle_table(columns, PARTICLES, errors)
    observers = jet_table(columns, OBSERVERS, errors)
    # columns with errors are 0
    if len(errors.errors) == before:
        energies, advice = particles[:, PARTICLES.index("part_energy")], errors.drop("ak.all(part_energy > 0, axis=1)")
        check_energies(energies, lengths, errors, advice=advice, may_be_zero=may_be_padded)
        _check_signs(particles, lengths, observers, errors)
    # the first observers are pT, η and φ
    check_momenta(particles[:, :4], particles[:, 4:6], lengths, observers[:, :3], errors)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    labels, no_labels = [LABEL + name for name in classes], np.full(len(lengths), -1)
    # by descending pT, so that truncation keeps the hardest particles and the order in the file does not matter
    order = np.lexsort((-np.hypot(particles[:, 0], particles[:, 1]), jet))
    return Jets(
        particles=particles[order],
        first=np.concatenate([[0], np.cumsum(lengths)]),
        observers=observers,
        labels=class_indices(columns, labels, errors, needs_labels=needs_labels) if labels else no_labels,
        classes=tuple(classes),
    )


def _check_signs(particles: np.ndarray, lengths: np.ndarray, observers: np.ndarray, errors: ChunkErrors) -> None:
    """Add errors for momenta of jets that are not positive, and for negative uncertainties."""
    for name in ("part_d0err", "part_dzerr"):
        values = particles[:, PARTICLES.index(name)]
        add_particles(values < 0, values, lengths, name, errors, advice="give 0 for particles without a track")
    for name in ("jet_pt", "jet_energy"):
        values = observers[:, OBSERVERS.index(name)]
        if (values <= 0).any():
            advice = errors.drop(f"{name} > 0")
            errors.add(values <= 0, f"{name} is {values[np.argmax(values <= 0)]}", advice=advice)
