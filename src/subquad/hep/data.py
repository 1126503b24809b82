"""Jets from ROOT files in JetClass's branch layout (arXiv:2202.03772), read in pieces: about 2.6 kB of memory per jet.

A whole file is never in memory as awkward arrays; what a net needs of it is kept, as flat float32 columns. So a million
jets take about 2.6 GB, which is the limit of this reader.

Axes: J jets, C particles of all jets, one jet after the other.
"""

import glob
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_mistakes, require
from subquad.progress import track

__all__ = ["OBSERVERS", "PARTICLES", "Jets", "expand", "read", "read_pieces", "selected"]

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


@dataclass(frozen=True, kw_only=True)
class Jets:
    """Jets as flat columns; the particles of jet j are the rows `first[j]:first[j + 1]`, hardest first."""

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
    def lengths(self) -> np.ndarray:
        """[J]: the number of particles of each jet."""
        return np.diff(self.first)


def selected(jets: Jets, rows: np.ndarray) -> Jets:
    """Return some of the jets, in the order of `rows`."""
    lengths = jets.lengths[rows]
    first = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(jets.first[rows] - first[:-1], lengths) + np.arange(first[-1])
    return Jets(
        particles=jets.particles[places],
        first=first,
        observers=jets.observers[rows],
        labels=jets.labels[rows],
        classes=jets.classes,
    )


def expand(patterns: Iterable[Path | str]) -> list[Path]:
    """Return the files that the names and glob patterns stand for, each once, in the given order.

    Raises:
        SubquadError: a name or pattern stands for no file; all are listed.
    """
    files: list[Path] = []
    mistakes = []
    for pattern in map(str, patterns):
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        found = [name for name in found if Path(name).is_file()]
        if not found:
            has_wildcard = any(letter in pattern for letter in "*?[")
            what = "no file has such a name" if has_wildcard else "no such file"
            mistakes.append(f"{pattern}: {what}; looked in {Path(pattern).absolute().parent}")
        files += [Path(name) for name in found]
    raise_mistakes("Some files are not there:", mistakes)
    if not files:
        raise SubquadError("no files were given; name ROOT files, or a pattern such as 'jets/*.root'")
    return list(dict.fromkeys(files))


def read(
    files: Sequence[Path], *, tree: str = "tree", needs_labels: bool = True, title: str = "reading", quiet: bool = True
) -> Jets:
    """Return all jets of the files.

    Raises:
        SubquadError: a file without the tree or a branch, cut short, or with values that no jet has; all are listed.
    """
    pieces = list(read_pieces(files, tree=tree, needs_labels=needs_labels, title=title, quiet=quiet))
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
    tree: str = "tree",
    needs_labels: bool = True,
    title: str = "reading",
    quiet: bool = True,
) -> Iterator[Jets]:
    """Yield the jets of the files piece by piece, at most 10,000 at a time; the checks of `read` hold."""
    classes, entries = _checked(files, tree, needs_labels)
    mistakes: list[str] = []
    with track(title, sum(entries), quiet=quiet) as advance:
        for file in files:
            begin = 0
            for arrays in _arrays(file, tree, [*PARTICLES, *OBSERVERS, *(LABEL + name for name in classes)]):
                jets = _jets(arrays, classes, f"{file}", begin, mistakes)
                begin += len(arrays)
                advance(len(arrays))
                if not mistakes:
                    yield jets
    raise_mistakes("Some jets cannot be used:", mistakes)


def _checked(files: Sequence[Path], tree: str, needs_labels: bool) -> tuple[tuple[str, ...], list[int]]:
    """Look into every file, before any is read; return the classes and the entries of each file."""
    mistakes: list[str] = []
    entries = []
    seen: list[tuple[str, ...]] = []
    for file in files:
        try:
            with require("uproot", extra="hep").open(file) as root:
                names = {name.split(";")[0]: kind for name, kind in root.classnames().items()}
                trees = [name for name, kind in names.items() if kind == "TTree"]
                if tree not in trees:
                    there = f"its trees are {', '.join(trees)}; name one with --tree" if trees else "it has no tree"
                    mistakes.append(f"{file}: no tree {tree!r} in it; {there}")
                    continue
                table = root[tree]
                branches = table.keys(recursive=False)
                entries.append(table.num_entries)
        except _DAMAGE as error:
            mistakes.append(_damaged(file, error))
            continue
        lacking = [name for name in (*PARTICLES, *OBSERVERS) if name not in branches]
        if lacking:
            mistakes.append(
                f"{file}: tree {tree!r} lacks the branch{'es' * (len(lacking) > 1)} {', '.join(lacking)}; "
                "the layout must be that of JetClass"
            )
        labels = tuple(name.removeprefix(LABEL) for name in branches if name.startswith(LABEL))
        if needs_labels and not labels:
            mistakes.append(f"{file}: tree {tree!r} has no branch label_*, so nobody knows what its jets are")
        if needs_labels and labels and seen and set(labels) != set(seen[0]):
            differing = sorted(set(labels) ^ set(seen[0]))
            mistakes.append(
                f"{file}: its label branches are not those of {files[0]} ({', '.join(differing)}); "
                "give files of one kind"
            )
        seen.append(labels)
        if not entries[-1]:
            mistakes.append(f"{file}: tree {tree!r} is empty; leave this file out")
    raise_mistakes("Some files cannot be used:", mistakes)
    # where labels are only taken along, all files must have the same
    return seen[0] if needs_labels or all(labels == seen[0] for labels in seen) else (), entries


# what uproot raises for a file that is cut short, overwritten or no ROOT file at all
_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError),
    *(struct.error, zlib.error, RuntimeError, OverflowError, MemoryError, AssertionError),
)


def _damaged(file: Path, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{file}: is no ROOT file, or is damaged or cut short ({reason[:160]}); copy it anew"


def _arrays(file: Path, tree: str, branches: Sequence[str]) -> Iterator[Any]:
    uproot = require("uproot", extra="hep")
    begin = 0
    try:
        with uproot.open(file) as root:
            for arrays in root[tree].iterate(list(branches), step_size=ENTRIES_AT_A_TIME, library="ak"):
                begin += len(arrays)
                yield arrays
    except _DAMAGE as error:
        raise SubquadError(f"{_damaged(file, error)}; the entries before {begin} could be read") from error


def _jets(arrays: Any, classes: Sequence[str], file: str, begin: int, mistakes: list[str]) -> Jets:
    ak = require("awkward", extra="hep")
    lengths = ak.to_numpy(ak.num(arrays["part_px"], axis=1)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    particles = np.empty((first[-1], len(PARTICLES)), np.float32)
    jet = np.repeat(np.arange(len(lengths)), lengths)
    for column, name in enumerate(PARTICLES):
        sizes = ak.to_numpy(ak.num(arrays[name], axis=1))
        if (sizes != lengths).any():
            j = int(np.argmax(sizes != lengths))
            mistakes.append(
                f"{file}: entry {begin + j}: {name} has {sizes[j]} particles and part_px has {lengths[j]}; "
                "they must be of one length"
            )
            continue
        particles[:, column] = ak.to_numpy(ak.flatten(arrays[name], axis=1))
        bad = ~np.isfinite(particles[:, column])
        if bad.any():
            i = int(np.argmax(bad))
            place = f"entry {begin + jet[i]}: {name} of particle {i - first[jet[i]]}"
            mistakes.append(_not_finite(file, place, particles[i, column], len(np.unique(jet[bad]))))
    observers = np.stack([ak.to_numpy(arrays[name]).astype(np.float32) for name in OBSERVERS], axis=1)
    for column, name in enumerate(OBSERVERS):
        bad = ~np.isfinite(observers[:, column])
        if bad.any():
            j = int(np.argmax(bad))
            mistakes.append(_not_finite(file, f"entry {begin + j}: {name}", observers[j, column], int(bad.sum())))
    if (lengths == 0).any():
        j, count = int(np.argmax(lengths == 0)), int((lengths == 0).sum())
        mistakes.append(f"{file}: entry {begin + j}: the jet has no particles{_more(count)}; drop such jets")
    # hardest first, so that a cut keeps the hardest and the order in the file does not matter
    order = np.lexsort((-np.hypot(particles[:, 0], particles[:, 1]), jet))
    return Jets(
        particles=particles[order],
        first=first,
        observers=observers,
        labels=_labels(arrays, classes, file, begin, mistakes),
        classes=tuple(classes),
    )


def _labels(arrays: Any, classes: Sequence[str], file: str, begin: int, mistakes: list[str]) -> np.ndarray:
    if not classes:
        return np.full(len(arrays), -1)
    ak = require("awkward", extra="hep")
    table = np.stack([ak.to_numpy(arrays[LABEL + name]).astype(np.float64) for name in classes], axis=1)
    bad = (table == 1).sum(1) != 1
    bad |= (table != 0).sum(1) != 1
    if bad.any():
        j = int(np.argmax(bad))
        given = {LABEL + classes[i]: table[j, i].item() for i in np.flatnonzero(table[j])}
        what = ", ".join(f"{name} = {value:g}" for name, value in given.items()) or "no label is 1"
        mistakes.append(
            f"{file}: entry {begin + j}: {what}{_more(int(bad.sum()))}; exactly one label of a jet must be 1"
        )
    return table.argmax(1)


def _not_finite(file: str, place: str, value: float, count: int) -> str:
    return f"{file}: {place} is {value}{_more(count)}; drop such jets"


def _more(count: int) -> str:
    return f" (and {count - 1} more jets like it)" if count > 1 else ""
