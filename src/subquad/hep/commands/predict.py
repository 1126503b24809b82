"""`subquad hep predict`: score jets in files with a trained tagger, chunk by chunk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.fit_files import training_note
from subquad.hep.data.formats import Files, expand_files, file_of
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.models.networks import logits_and_targets, predict_outputs
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import PredictSettings
from subquad.progress import say
from subquad.runs.storage import atomic, check_output
from subquad.train.distributed import processes


def predict(
    run: Path | str,
    files: Files,
    settings: PredictSettings | None = None,
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Score the jets of files, write the scores as one ROOT file, and return its path.

    Its tree `Events` has one entry per jet, in the order of the files and their entries: `score_<class>`, which sum to
    1, `predicted_<target>` for regression targets, the jet's observers and those that the settings name, and labels if
    all files have them, which are all 0 for a jet without a label. If the tagger was fitted with a data card, the card
    saved with it selects the jets and their inputs.

    Args:
        run: Folder that `subquad hep fit` wrote.
        files: Files like those that the tagger was fitted on.
        settings: Batch size and tree; defaults if None.
        out: The ROOT file to write.
        force: Overwrite an existing file.
        quiet: Print no progress.

    Raises:
        SubquadError: There is no such model, files cannot be used, or `out` exists and `force` is off.
    """
    settings = settings or PredictSettings()
    tagger, paths = TrainedTagger.load(run), expand_files(files)
    if Path(out).resolve() in {file_of(path).resolve() for path in paths}:
        raise SubquadError(f"{out}: is one of the files to read; choose another output")
    out = check_output(out, force=force)
    note = training_note(tagger.path, tagger.config, paths)
    if note:
        say(f"Warning: {note}", quiet=quiet)
    tagger.net.to(processes().device)
    uproot = require("uproot", extra="hep")
    with atomic(out) as temporary, uproot.recreate(temporary) as file:
        tree, types, scores = None, {}, {f"score_{name}": np.dtype(np.float32) for name in tagger.classes}
        place = f"{paths[0]}{' …' * (len(paths) > 1)}"
        options = {"observers": settings.observers, "tree": settings.tree, "quiet": quiet}
        for chunk in tagger.read_chunks(paths, needs_labels=False, **options):
            # of a chunk of which the card selects nothing, not all columns are known
            if not len(chunk.labels):
                continue
            outputs = predict_outputs(tagger.net, tagger.dataset(chunk), settings.batch_size)
            logits, targets = logits_and_targets(tagger.net, outputs)
            columns = _columns(logits.softmax(-1).numpy(), tagger.classes, chunk, tagger.targets.predicted(targets))
            if tree is None:
                types = {name: column.dtype for name, column in columns.items()}
                tree = file.mktree("Events", types)
            tree.extend({name: _typed(column, types[name], f"{place}: {name}") for name, column in columns.items()})
        if tree is None:
            say("Warning: no jet is selected; the tree has no entries", quiet=quiet)
            file.mktree("Events", scores)
    return out


def _typed(column: np.ndarray, kind: np.dtype, place: str) -> np.ndarray:
    """Return a column in the type of its branch, which uproot would convert to silently.

    Raises:
        SubquadError: The type cannot hold the values; rounding between types of real numbers is no error.
    """
    with np.errstate(invalid="ignore"):
        typed = column.astype(kind)
    differs = typed != column
    if differs.any() and not kind.kind == column.dtype.kind == "f":
        raise SubquadError(f"{place} is {kind} at first and {column.dtype} later; give this branch one type")
    return typed


def _columns(
    probabilities: np.ndarray, classes: Sequence[str], chunk: JetChunk, targets: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    # classes that are numbers have no names in the files
    numbers = {name: int(name) for name in classes} if not chunk.classes and (chunk.labels >= 0).all() else {}
    labels = {name: i for i, name in enumerate(chunk.classes)} or numbers
    return {
        **{f"score_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(classes)},
        **{f"predicted_{name}": values for name, values in targets.items()},
        **chunk.observers,
        **{f"label_{name}": (chunk.labels == number).astype(np.int32) for name, number in labels.items()},
    }
