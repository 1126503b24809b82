"""Jets in JetClass's layout (arXiv:2202.03772), from ROOT and the other formats, piece by piece.

`read` keeps them all, 2.6 kB of memory per jet; `read_pieces` 10,000 jets at a time, however many there are.

Axes: J jets, C particles of all jets, one jet after the other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.columns import Place, jet_table, label_numbers, particle_table
from subquad.hep.data.formats import Source, chunks, expand, look
from subquad.progress import track

__all__ = [
    "OBSERVERS",
    "PARTICLES",
    "Jets",
    "as_jets",
    "expand",
    "jets_of",
    "look_into",
    "read",
    "read_pieces",
    "stream",
]

Piece = TypeVar("Piece")

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
ENTRIES_AT_A_TIME = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Jets:
    """Jets as flat columns; the particles of jet j are the rows `first[j]:first[j + 1]`, hardest first.

    `jets[rows]` are some of them, in the order of `rows`: numbers, a slice, or one bool per jet.
    """

    particles: np.ndarray
    """[C, 16] float32, columns as `PARTICLES`."""
    first: np.ndarray
    """[J + 1] int64."""
    observers: np.ndarray
    """[J, 10] float32, columns as `OBSERVERS`."""
    labels: np.ndarray
    """[J] int64, index into `classes`; -1 where the file has no labels."""
    classes: tuple[str, ...]
    """Names of the label branches, without `label_`, in the file's order."""

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def shape(self) -> tuple[int]:
        """Number of jets, as scikit-learn asks of what it takes rows of."""
        return (len(self),)

    @property
    def lengths(self) -> np.ndarray:
        """[J]: the number of particles of each jet."""
        return np.diff(self.first)

    @property
    def class_names(self) -> np.ndarray:
        """[J]: the name of each jet's class.

        Raises:
            SubquadError: jets without labels.
        """
        if not self.classes:
            raise SubquadError("these jets have no labels (branches label_*)")
        return np.array(self.classes)[self.labels]

    def __getitem__(self, rows: Any) -> "Jets":
        # scikit-learn says by an ellipsis that it means rows
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
        )


def read(
    files: Path | str | Iterable[Path | str],
    *,
    tree: str | None = "tree",
    needs_labels: bool = True,
    title: str = "reading",
    quiet: bool = True,
) -> Jets:
    """Return all jets of the files: names, or patterns such as `jets/*.root`.

    Raises:
        SubquadError: a file without the tree or a branch, cut short, or with values that no jet has; all are listed.
    """
    files = [files] if isinstance(files, str | Path) else files
    pieces = list(read_pieces(expand(files), tree=tree, needs_labels=needs_labels, title=title, quiet=quiet))
    first = np.concatenate([[0], np.cumsum(np.concatenate([piece.lengths for piece in pieces]))])
    return Jets(
        particles=np.concatenate([piece.particles for piece in pieces]),
        first=first,
        observers=np.concatenate([piece.observers for piece in pieces]),
        labels=np.concatenate([piece.labels for piece in pieces]),
        classes=pieces[0].classes,
    )


def read_pieces(
    files: Sequence[Path],
    *,
    tree: str | None = "tree",
    needs_labels: bool = True,
    title: str = "reading",
    quiet: bool = True,
) -> Iterator[Jets]:
    """Yield the jets of the files piece by piece, at most 10,000 at a time; the checks of `read` hold."""
    sources, mistakes = look_into(files, tree)
    classes = _classes(sources, mistakes, needs_labels)
    names = [*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes)]

    def piece(columns: Mapping[str, Any], source: Source, place: Place) -> Jets:
        return jets_of(columns, classes, place)

    yield from stream(sources, lambda source: names, piece, title=title, quiet=quiet)


def look_into(files: Sequence[Path], tree: str | None, *, otherwise: str = "tree") -> tuple[list[Source], list[str]]:
    """Return what is in the files, before any is read, and what is wrong with those that cannot be used."""
    mistakes, sources = [], []
    for file in files:
        try:
            sources.append(look(file, tree, otherwise=otherwise))
        except SubquadError as error:
            mistakes.append(str(error))
            continue
        if not sources[-1].entries:
            mistakes.append(f"{file}: {sources[-1].words} is empty; leave this file out")
    return sources, mistakes


def stream(
    sources: Sequence[Source],
    names: Callable[[Source], Sequence[str]],
    piece: Callable[[Mapping[str, Any], Source, Place], Piece],
    *,
    title: str,
    quiet: bool,
) -> Iterator[Piece]:
    """Yield what `piece` makes of the columns of at most 10,000 jets at a time, file by file.

    Nothing more is yielded once a mistake was found, but all files are read, so that all mistakes are told.

    Raises:
        SubquadError: files that are cut short, or jets that cannot be used; all are listed.
    """
    mistakes: list[str] = []
    with track(title, sum(source.entries for source in sources), quiet=quiet) as advance:
        for source in sources:
            begin = 0
            try:
                for columns in chunks(source, names(source), ENTRIES_AT_A_TIME):
                    count = len(next(iter(columns.values())))
                    place = Place(file=f"{source.path}", entries=np.arange(begin, begin + count), mistakes=mistakes)
                    begin += count
                    made = piece(columns, source, place)
                    advance(count)
                    if not mistakes:
                        yield made
            except SubquadError as error:
                mistakes.append(str(error))
    raise_errors("Some jets cannot be used:", mistakes)


def _classes(sources: Sequence[Source], mistakes: list[str], needs_labels: bool) -> tuple[str, ...]:
    """Check that all files have what is needed; return the classes."""
    seen: list[tuple[str, ...]] = []
    for source in sources:
        lacking = [name for name in (*PARTICLES, *OBSERVERS) if name not in source.columns]
        if lacking:
            mistakes.append(
                f"{source.path}: {source.words} lacks the branch{'es' * (len(lacking) > 1)} {', '.join(lacking)}; "
                "the layout must be that of JetClass, or one that --card tells"
            )
        labels = tuple(name.removeprefix(LABEL) for name in source.columns if name.startswith(LABEL))
        if needs_labels and not labels:
            mistakes.append(f"{source.path}: {source.words} has no branch label_*, so nobody knows what its jets are")
        if needs_labels and labels and seen and set(labels) != set(seen[0]):
            differing = sorted(set(labels) ^ set(seen[0]))
            mistakes.append(
                f"{source.path}: its label branches are not those of {sources[0].path} ({', '.join(differing)}); "
                "give files of one kind"
            )
        seen.append(labels)
    raise_errors("Some files cannot be used:", mistakes)
    # where labels are only taken along, all files must have the same
    return seen[0] if needs_labels or all(labels == seen[0] for labels in seen) else ()


def as_jets(given: Any) -> Jets:
    """Return jets from what is in memory: an awkward array, or a mapping, of JetClass's branches.

    Such is `uproot.open(file)["tree"].arrays()`. Labels are not asked for, but checked where they are there.

    Raises:
        SubquadError: branches that lack, or jets that cannot be used; all are listed.
    """
    if isinstance(given, Jets):
        return given
    fields = getattr(given, "fields", given)
    if isinstance(given, str | list | tuple | np.ndarray) or not isinstance(fields, Iterable):
        raise SubquadError(
            f"jets cannot be made of {type(given).__name__}; give what subquad.hep.read returns, or an awkward array "
            "of JetClass's branches (subquad.hep.as_jets makes jets of it, which scikit-learn can divide)"
        )
    there = list(fields)
    lacking = [name for name in (*PARTICLES, *OBSERVERS) if name not in there]
    raise_errors("Some branches of JetClass are not there; read files of another layout with a --card:", lacking)
    ak = require("awkward", extra="hep")
    classes = tuple(name.removeprefix(LABEL) for name in there if name.startswith(LABEL))
    names = [*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes)]
    columns = {name: ak.Array(given[name]) for name in names}
    place = Place(file="the array", entries=np.arange(len(columns["jet_pt"])), mistakes=[])
    jets = jets_of(columns, classes, place)
    raise_errors("Some jets cannot be used:", place.mistakes)
    return jets


def jets_of(columns: Mapping[str, Any], classes: Sequence[str], place: Place) -> Jets:
    """Return jets from columns with JetClass's names; what is wrong is noted."""
    particles, lengths = particle_table(columns, PARTICLES, place)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    labels = [LABEL + name for name in classes]
    # hardest first, so that a cut keeps the hardest and the order in the file does not matter
    order = np.lexsort((-np.hypot(particles[:, 0], particles[:, 1]), jet))
    return Jets(
        particles=particles[order],
        first=np.concatenate([[0], np.cumsum(lengths)]),
        observers=jet_table(columns, OBSERVERS, place),
        labels=label_numbers(columns, labels, place) if labels else np.full(len(lengths), -1),
        classes=tuple(classes),
    )
