"""Chunks of jets as a layout has them, read from JetClass's branches or by a data card.

Axes: J jets, C particles of all jets, V columns of the table of particles.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import reading
from subquad.hep.data.card import WEIGHT_COLUMN
from subquad.hep.data.card_reader import CardReader
from subquad.hep.data.columns import Place
from subquad.hep.data.features import jet_features, particle_features
from subquad.hep.data.file_chunks import inspect_files, iterate_chunks
from subquad.hep.data.formats import iterate_columns
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.jets import (
    OBSERVERS,
    PARTICLES,
    Jets,
    check_branches,
    iterate_jets,
    jets_of,
)
from subquad.hep.data.layout import Layout, check_names


def read_chunks(
    files: Sequence[Path],
    layout: Layout,
    *,
    tree: str = "tree",
    is_training: bool = False,
    needs_labels: bool = True,
    needs_weights: bool = True,
    needs_targets: bool = True,
    observers: Sequence[str] = (),
    title: str = "reading jets",
    quiet: bool = True,
) -> Iterator[JetChunk]:
    """Yield the jets of the files in chunks.

    Args:
        files: Files of jets.
        layout: Columns to keep.
        tree: Name of the tree in ROOT files, unless the card names one.
        is_training: Apply the card's `selection` and read what its reweighting needs; otherwise its
            `test_time_selection`.
        needs_labels: Refuse files without labels.
        needs_weights: Refuse files without the layout's event weights.
        needs_targets: Read the layout's regression targets, which files must have then.
        observers: Further branches with one number per jet, beside the observers of the layout.
        title: Title of the progress bar.
        quiet: Print no progress.

    Raises:
        SubquadError: Files or jets cannot be used.
    """
    check_names(observers, layout.event_weights, "column of --observers")
    if layout.card is None:
        for jets in iterate_jets(
            files,
            tree=tree,
            needs_labels=needs_labels,
            event_weights=layout.event_weights,
            needs_weights=needs_weights,
            targets=layout.targets if needs_targets else (),
            observers=[name for name in observers if name not in OBSERVERS],
            title=title,
            quiet=quiet,
        ):
            yield chunk_of(jets, layout)
        return
    card = replace(layout.card, observers=tuple(dict.fromkeys((*layout.card.observers, *observers))))
    card = card if needs_targets else replace(card, targets={})
    reader = CardReader(layout, card, is_training=is_training, needs_labels=needs_labels, needs_weights=needs_weights)
    sources = reader.inspect(files, tree, quiet=quiet)
    yield from iterate_chunks(sources, reader.branches, reader.chunk, title=title, quiet=quiet)
    reader.say_replaced(quiet=quiet)


def first_jets(
    files: Sequence[Path], layout: Layout, count: int, *, tree: str = "tree"
) -> tuple[dict[str, Any], JetChunk]:
    """Return the branches of the first jets of the first file, and these jets as `read_chunks` gives them.

    A card's `test_time_selection` is applied, and files with one entry per event are flattened to jets.

    Args:
        files: Files of jets; all are checked.
        layout: Columns to keep.
        count: Number of entries to read.
        tree: Name of the tree in ROOT files, unless the card names one.

    Raises:
        SubquadError: Files or jets cannot be used.
    """
    card = layout.card
    if card is None:
        sources = inspect_files(files, tree)
        check_branches(sources, needs_labels=False)
        reader, names = None, [*PARTICLES, *OBSERVERS]
    else:
        # jet-level features of JetClass's branches are computed from observers
        observers = tuple(name for name in card.observers if layout.has_jetclass_features and name in OBSERVERS)
        card = replace(card, targets={}, observers=observers)
        own = replace(layout, card=card, observers=observers)
        reader = CardReader(own, card, is_training=False, needs_labels=False, needs_weights=False)
        sources = reader.inspect(files, tree)
        reader.has_labels = reader.has_weights = False
        names = reader.branches(sources[0])
    with closing(iterate_columns(sources[0], names, count)) as chunks:
        columns = next(chunks)
    place = Place(file=str(sources[0].path), entries=np.arange(len(next(iter(columns.values())))))
    with reading(sources[0].path, "a table of jets"):
        if reader is None:
            return dict(columns), chunk_of(jets_of(columns, (), place), layout)
        return dict(reader.selected(columns, sources[0], place)[0]), reader.chunk(columns, sources[0], place)


def chunk_of(jets: Jets, layout: Layout) -> JetChunk:
    """Return jets in JetClass's branches in the columns of a layout of JetClass."""
    table = particle_features(jets, layout.features.names)
    # features without momenta are followed by these
    rest = len(layout.particles) - table.shape[1]
    weights = {} if jets.weights is None or not layout.event_weights else {WEIGHT_COLUMN: jets.weights}
    return JetChunk(
        particles=np.concatenate([table, jets.particles[:, :rest]], axis=1),
        lengths=jets.lengths,
        jet_features=jet_features(jets, layout.jet_features),
        observers={**{name: jets.observers[:, i] for i, name in enumerate(OBSERVERS)}, **jets.others, **weights},
        labels=jets.labels,
        classes=jets.classes,
    )
