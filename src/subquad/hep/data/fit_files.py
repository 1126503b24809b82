"""The files of a fit by the part that they are for, and their contents, by which training jets are recognized."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.hep.data.card import read_card
from subquad.hep.data.formats import SUFFIXES, Files, expand_files, file_of, inspect_file, list_files, tree_of
from subquad.runs.folder import check_free
from subquad.runs.storage import fingerprint

PREFIXES = {"train": "train", "val": "validation", "test": "test"}
"""Beginnings of the names of folders, such as JetClass's train_100M, val_5M and test_20M, and their parts."""


@dataclass(frozen=True, kw_only=True)
class FitFiles:
    """The files of a fit."""

    train: Sequence[Path]
    """Files to fit on."""
    validation: Sequence[Path] = ()
    """Files for model selection; empty if a fraction of the others is held out."""
    test: Sequence[Path] = ()
    """Files to test on; empty if a fraction of the others is held out."""
    folders: str = ""
    """Which folders of a data set were taken for which part; empty if the files were named."""

    def all(self) -> list[Path]:
        """Return all files."""
        return [*self.fitted(), *self.test]

    def fitted(self) -> list[Path]:
        """Return the files for training and validation."""
        return [*self.train, *self.validation]


def fit_files(files: Files, test: Files = ()) -> FitFiles:
    """Return the files of a fit; of a folder with folders for training, validation and testing, these are the parts.

    Args:
        files: Files to fit on, or such a folder.
        test: Files to test on, in place of those of such a folder.

    Raises:
        SubquadError: A name matches no file, or a folder has several folders for one part.
    """
    found: dict[str, list[Path | str]] = {part: [] for part in PREFIXES.values()}
    # an iterator can be read only once
    test, taken = list_files(test), []
    for given in list_files(files):
        folders = _part_folders(Path(given))
        if "train" not in folders:
            found["train"].append(given)
            continue
        if test:
            folders.pop("test", None)
        for part, folder in folders.items():
            found[part].append(folder)
        taken.append(", ".join(f"{part} {folder}" for part, folder in folders.items()))
    named = test or found["test"]
    return FitFiles(
        train=expand_files(found["train"]),
        validation=expand_files(found["validation"]) if found["validation"] else (),
        test=expand_files(named) if named else (),
        folders="; ".join(taken),
    )


def digest_of(path: Path) -> str:
    """Return size and fingerprint of a file, and its tree if one is named, as `file.root:tree`."""
    file = file_of(path)
    status = file.stat()
    digest = f"{status.st_size}-{_fingerprint(file.resolve(), status.st_mtime_ns)}"
    return f"{digest}:{tree}" if (tree := tree_of(path)) else digest


@cache
def _fingerprint(file: Path, modified: int) -> str:
    """Return the fingerprint of a file, which is read once as long as it is not modified."""
    return fingerprint(file)


def training_note(run: Path | str, config: Mapping[str, Any], files: Iterable[Path]) -> str | None:
    """Return a warning that jets to score are among those that a tagger was fitted to; None if no file is.

    Args:
        run: Folder of the run.
        config: Its `config.json`.
        files: Files to score, of which those are read that are as large as a training file.
    """
    known = set(config.get("digests", ()))
    sizes = {digest.partition("-")[0] for digest in known}
    alike = [path for path in files if str(file_of(path).stat().st_size) in sizes]
    names = [path.name for path in alike if {digest_of(path), digest_of(file_of(path))} & known]
    if not names:
        return None
    listed = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    if config.get("is_marked"):
        return f"{run} was trained on those jets of {listed} that are marked for it; measure it on the others."
    return f"{run} was trained on jets of {listed}, so results are biased upwards; give other files."


def check_early(
    files: Sequence[str], test: Sequence[str], *, card: str | None, tree: str, out: Path, force: bool
) -> None:
    """Check what needs neither jets nor torch, whose import takes seconds; a fit checks it again.

    Raises:
        SubquadError: A local file or the card does not exist, the card or the first file cannot be read, or `out`
            cannot be written or holds a finished run.
    """
    own_tree = None if card is None else read_card(card).tree
    # remote files would be listed twice
    if not any("://" in name for name in (*files, *test)):
        inspect_file(fit_files(files, test).train[0], own_tree, default=tree)
    check_free(out, force=force)


def _part_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by their parts; none if it is no folder, or has files of jets itself."""
    if not folder.is_dir() or any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        return {}
    parts: dict[str, Path] = {}
    for path in sorted(filter(Path.is_dir, folder.iterdir())):
        for prefix, part in PREFIXES.items():
            if path.name.lower().startswith(prefix):
                if part in parts:
                    raise SubquadError(f"{folder}: {parts[part].name} and {path.name} are both for {part}; name one")
                parts[part] = path
    return {part: parts[part] for part in PREFIXES.values() if part in parts}
