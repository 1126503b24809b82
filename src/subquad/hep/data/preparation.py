"""The files of a fit, their layout, and the store that one process writes from them while the others wait."""

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from subquad.errors import SubquadError, unknown
from subquad.hep.data.card import LAYOUT_PREFIX, Card, card_of, read_card
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.fit_files import FitFiles, digest_of
from subquad.hep.data.formats import Source, inspect_file
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.jets import LABEL
from subquad.hep.data.layout import Layout, layout_of, with_event_weights, with_targets
from subquad.hep.data.public_layouts import LAYOUTS, layout_card, layout_of_source, missing_inputs
from subquad.hep.data.store import JetDataset, open_store, write_store
from subquad.hep.settings import FitSettings, NetSettings, Reweighting, reweighting_of
from subquad.progress import say
from subquad.runs.folder import WORK
from subquad.runs.storage import fingerprint, plain, sync
from subquad.train.distributed import broadcast_object, processes, wait_for

JETS = f"{WORK}/jets"
"""Folder of the store in a run that is not finished."""


@dataclass(frozen=True, kw_only=True)
class FitSource:
    """The files of a fit and how they are read."""

    files: FitFiles
    tree: str
    """Name of the tree in ROOT files."""
    digests: Sequence[str]
    """Size and fingerprint of each file for training and validation."""
    layout: Layout
    """Columns to keep."""
    reweighting: Reweighting | None
    """Reweighting by the card or by `--reweight-vars`; None without it."""
    data: str
    """Fingerprint of the contents of the files and of the card, wherever they are."""

    @property
    def key(self) -> str:
        """Fingerprint of everything that the store depends on."""
        layout, names = self.layout, ("particles", "jet_features", "observers")
        card = None if layout.card is None else plain(layout.card.options)
        parts = [plain(getattr(self.files, part)) for part in ("train", "validation", "test")]
        columns = [list(getattr(layout, name)) for name in names]
        return fingerprint(json.dumps([7, self.data, self.tree, parts, card, layout.event_weights, *columns]))

    def open(self, folder: Path) -> JetDataset | None:
        """Return the dataset in a folder; None if it is not complete."""
        return open_store(folder, self.key, self.layout)

    def write(self, folder: Path, *, quiet: bool) -> None:
        """Read all files and write the store."""
        chunks = {"train": self._read(self.files.train, is_training=True, title="reading jets", quiet=quiet)}
        for part in ("validation", "test"):
            if files := getattr(self.files, part):
                title = f"reading {part} jets"
                # validation jets are selected as training jets are
                chunks[part] = self._read(files, is_training=part == "validation", title=title, quiet=quiet)
        write_store(folder, self.layout, chunks, key=self.key, quiet=quiet)

    def _read(self, files: Sequence[Path], *, is_training: bool, title: str, quiet: bool) -> Iterator[JetChunk]:
        return read_chunks(files, self.layout, tree=self.tree, is_training=is_training, title=title, quiet=quiet)


def source_of(
    files: FitFiles, net: NetSettings, settings: FitSettings, *, default: Card | None = None, quiet: bool = True
) -> FitSource:
    """Return how the files of a fit are read, and log their layout.

    Args:
        files: The files.
        net: Settings of the network.
        settings: Settings of the fit.
        default: Data card of files for which neither a card nor a layout is given.
        quiet: Print no progress.

    Raises:
        SubquadError: The card, the layout, the background or the observers of the reweighting cannot be used, or a file
            is to be fitted on and tested on.
    """
    reweighting = reweighting_of(settings.reweight_vars)
    if files.folders:
        say(f"folders: {files.folders}", quiet=quiet)
    is_default = default is not None and settings.card is None and settings.layout is None
    card = default if is_default else _card(files.train, settings, quiet=quiet)
    _check_background(files.train, card, settings)
    # the first process reads the files for the others
    digests = broadcast_object(list(map(digest_of, files.all())) if processes().is_main_process else [])
    _check_apart(files, digests, card, quiet=quiet)
    if card is not None and card.reweighting is not None:
        if reweighting is not None:
            raise SubquadError(f"{card.name} and the settings both define a reweighting; remove one of them")
        reweighting = card.reweighting
    layout = layout_of(net, card)
    if settings.event_weights is not None:
        if layout.event_weights:
            raise SubquadError(f"the event weights {layout.event_weights} are defined already; remove one of them")
        layout = with_event_weights(layout, settings.event_weights)
    layout = with_targets(layout, settings.target)
    needed = () if reweighting is None else tuple(reweighting.bins)
    for name in needed if settings.decorrelate is None else (*needed, settings.decorrelate):
        if name not in layout.observers:
            raise unknown("observer", name, layout.observers)
    return FitSource(
        files=files,
        tree=settings.tree,
        layout=layout,
        reweighting=reweighting,
        digests=digests[: len(files.fitted())],
        data=fingerprint(json.dumps(digests), *([Path(settings.card)] if settings.card else [])),
    )


def _check_apart(files: FitFiles, digests: Sequence[str], card: Card | None, *, quiet: bool) -> None:
    """Check that no two files to fit on have one content, and that no file to test on has that of one of them."""
    fitted = len(files.fitted())
    for number, path in enumerate(files.all()):
        place = digests.index(digests[number])
        if place == number or place >= fitted:
            continue
        message = f"{path}: has the same jets as {files.all()[place]}, which is a file to fit on"
        # the selections of a card may take different jets of one file
        if number < fitted or card is None or card.test_selection == card.selection:
            raise SubquadError(message)
        say(f"Warning: {message}; the selections of {card.name} have to keep their jets apart", quiet=quiet)


def _check_background(files: Sequence[Path], card: Card | None, settings: FitSettings) -> None:
    """Check that the background is a class, if the classes are known before the jets are read."""
    if settings.background is None:
        return
    columns = () if card is not None else _first_source(files, settings.tree).columns
    classes = [name.removeprefix(LABEL) for name in columns if name.startswith(LABEL)] if card is None else card.classes
    if classes and settings.background not in classes:
        raise unknown("class", settings.background, classes)


def _card(files: Sequence[Path], settings: FitSettings, *, quiet: bool) -> Card | None:
    """Return the data card that is given, or that of the layout of the files; None for JetClass's branches.

    Raises:
        SubquadError: The card cannot be used, or the files are not in the layout that is asked for.
    """
    if settings.card is not None:
        if settings.layout is not None:
            raise SubquadError("a data card describes the layout too; omit the layout")
        return read_card(settings.card)
    source = _first_source(files, settings.tree)
    recognized = layout_of_source(source)
    name = settings.layout or recognized
    if name in ("", "jetclass"):
        # missing branches are reported when the files are read
        if recognized == "jetclass":
            say(_layout_line(name, source.columns), quiet=quiet)
        return None
    if not recognized or LAYOUTS[name].content != LAYOUTS[recognized].content:
        raise SubquadError(f"{source.path}: is not in the layout {name} ({LAYOUTS[name].content})")
    say(_layout_line(name, source.columns), quiet=quiet)
    return card_of(layout_card(name, source.columns), f"{LAYOUT_PREFIX}{name}")


def _first_source(files: Sequence[Path], tree: str) -> Source:
    """Return the content of the first file that is not empty, or else of the last one."""
    sources = [inspect_file(files[0], None, default=tree)]
    while not sources[-1].entries and len(sources) < len(files):
        sources.append(inspect_file(files[len(sources)], None, default=tree))
    return sources[-1]


def _layout_line(name: str, columns: Sequence[str]) -> str:
    """Return which layout was recognized, how its labels are read, and what it lacks."""
    layout, missing = LAYOUTS[name], missing_inputs(columns)
    labels = [f"{layout.column} = {i} is {label}" for i, label in enumerate(layout.classes)]
    parts = [f"layout {name} ({layout.title})", *([", ".join(labels)] if labels else [])]
    if missing:
        parts.append(f"without {', '.join(missing)}: jet-level features are computed from the momenta")
    return "; ".join(parts)


@contextmanager
def temporary_store(source: FitSource, out: Path, *, force: bool, quiet: bool) -> Iterator[Path]:
    """Yield the folder of the store: that of an interrupted run in `out`, or a temporary one beside `out`.

    Args:
        source: Files and layout.
        out: Folder of the run.
        force: Take no store in `out`, since what is in the folder will be removed.
        quiet: Print no progress.
    """
    begun, beside = out / JETS, out.absolute().parent / f".subquad-{out.name}.jets"
    group = processes()
    if not force and source.open(begun) is not None:
        if group.is_main_process:
            # of a process that was killed after it had copied it
            shutil.rmtree(beside, ignore_errors=True)
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


def move_store(folder: Path, target: Path) -> None:
    """Move a complete store, also to another file system, such as one that is mounted at the run's folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # under another name until it is complete
        partial = target.with_name(f".{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        for written in [*partial.rglob("*"), partial]:
            sync(written)
        partial.rename(target)
