"""The files of a fit, and the store that one process writes from them while the others wait."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from subquad.errors import SubquadError, unknown
from subquad.hep.data.card import read_card
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.formats import file_of
from subquad.hep.data.layout import Layout, layout_of
from subquad.hep.data.store import JetDataset, open_store, write_store
from subquad.hep.settings import FitSettings, NetSettings, Reweighting, reweighting_of
from subquad.runs.storage import fingerprint, plain
from subquad.train.distributed import processes

__all__ = ["JETS", "FitSource", "source_of", "temporary_store", "wait_for"]

JETS = "jets"
"""Folder of the store in a run that is not finished."""


@dataclass(frozen=True, kw_only=True)
class FitSource:
    """The files of a fit and how they are read."""

    files: Sequence[Path]
    """Files to fit on."""
    test: Sequence[Path]
    """Files to test on; empty if a fraction of the others is held out."""
    tree: str
    """Name of the tree in ROOT files."""
    layout: Layout
    """Columns to keep."""
    reweighting: Reweighting | None
    """Reweighting by the card or by `--reweight-vars`; None without it."""
    data: str
    """Fingerprint of the files and the card."""

    @property
    def key(self) -> str:
        """Fingerprint of everything that the store depends on."""
        layout, names = self.layout, ("particles", "jet_features", "observers")
        card = None if layout.card is None else plain(layout.card.options)
        return fingerprint(json.dumps([2, self.data, card, *(list(getattr(layout, name)) for name in names)]))

    def open(self, folder: Path) -> tuple[JetDataset, int] | None:
        """Return the dataset in a folder and how many of its jets are to fit on; None if it is not complete."""
        return open_store(folder, self.key, self.layout)

    def write(self, folder: Path, *, quiet: bool) -> None:
        """Read all files and write the store."""
        fitted = read_chunks(self.files, self.layout, tree=self.tree, is_training=True, quiet=quiet)
        test = read_chunks(self.test, self.layout, tree=self.tree, title="reading test jets", quiet=quiet)
        write_store(folder, self.layout, fitted, test if self.test else (), key=self.key)


def source_of(files: Sequence[Path], test: Sequence[Path], net: NetSettings, settings: FitSettings) -> FitSource:
    """Return how the files of a fit are read.

    Raises:
        SubquadError: The card, or the observers of the reweighting, cannot be used, or a file is to be fitted on and
            tested on.
    """
    reweighting = reweighting_of(settings.reweight_vars)
    card = None if settings.card is None else read_card(settings.card)
    twice = sorted({file_of(path).resolve() for path in files} & {file_of(path).resolve() for path in test})
    # the selections of a card may take different jets of one file
    if twice and (card is None or card.test_selection == card.selection):
        raise SubquadError(f"--test: {twice[0]} is also among the files to fit on; test on jets of other files")
    if card is not None and card.weights is not None:
        if reweighting is not None:
            raise SubquadError(f"--reweight-vars: {card.name} defines weights too; remove one of them")
        reweighting = card.weights if isinstance(card.weights, Reweighting) else None
    layout = layout_of(net, card)
    for name in reweighting.bins if reweighting is not None else ():
        if name not in layout.observers:
            raise SubquadError(f"--reweight-vars: {unknown('observer', name, layout.observers)}")
    contents = [file_of(path) for path in (*files, *test)] + ([Path(settings.card)] if settings.card else [])
    return FitSource(
        files=files,
        test=test,
        tree=settings.tree,
        layout=layout,
        reweighting=reweighting,
        data=fingerprint(*contents),
    )


@contextmanager
def temporary_store(source: FitSource, out: Path, *, quiet: bool) -> Iterator[Path]:
    """Yield the folder of the store: that of an interrupted run in `out`, or a temporary one beside `out`."""
    begun, beside = out / JETS, out.absolute().parent / f".{out.name}.{JETS}"
    group = processes()
    if source.open(begun) is not None:
        yield begun
        return
    try:
        if group.is_main_process and source.open(beside) is None:
            source.write(beside, quiet=quiet)
        wait_for(lambda: source.open(beside) is not None)
        yield beside
    finally:
        if group.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)


def wait_for(is_done: Callable[[], bool]) -> None:
    """Return when the first process has written something; a barrier would time out after some minutes."""
    while not is_done():
        time.sleep(0.2)
