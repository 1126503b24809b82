"""`embed`: embeddings of the sequences of a table by a language model, as one file for `fit` and `predict`."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.data.embeddings import Embeddings, sequences_fingerprint, write_embeddings
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.names import file_of
from subquad.bio.data.table import read_sequences
from subquad.bio.language_models.checkpoint import checkpoint_fingerprint, open_language_model
from subquad.bio.language_models.embedding import EmbeddingTask, check_task, embed_rows, score_variants
from subquad.bio.language_models.settings import EmbedSettings
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.folder import CONFIG, Run, open_run
from subquad.runs.lock import LOCK, lock_folder
from subquad.runs.storage import check_files_not_inside, check_not_inside, check_output, fingerprint

KIND = "bio embed"
"""What the `config.json` of a folder of shards says."""


def embed(
    table: Path | str,
    settings: EmbedSettings,
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> Embeddings:
    """Write the embeddings of the sequences of a table, and return them.

    The table is read as by `fit`: columns are inferred, and variants of a wild type become full sequences. Of a pair,
    the sequence is embedded and not its partner; of a protein with a stop codon, the letters before it. Special tokens
    and padding are not part of the mean. An interrupted command resumes from a hidden folder next to OUT.

    Args:
        table: CSV, TSV, Excel, Parquet or FASTA, plain or gzipped; or `example:NAME`. It needs no measurements.
        settings: Language model, columns, and what to compute.
        out: Output file, which ends in `.safetensors`: `mean` (n, D) float32; with `residues` also the vector of each
            letter, `residues` (L, D) float16, and the `lengths` (n,) of the rows; with `scores` also `scores` (n,).
        force: Overwrite the output, and start anew where an interrupted command had other settings.
        quiet: Print no progress and no remarks.

    Raises:
        SubquadError: The table or the checkpoint cannot be read, the model does not suit the sequences, or the output
            exists; nothing has been written then.
    """
    partial = Path(out).with_name(f".subquad-{Path(out).name}.partial")
    out, path = check_output(out, suffixes=(".safetensors",), force=force), resolve_table(table)
    _check_inputs(path, settings, out, partial)
    read = read_sequences(
        path,
        sequence=settings.sequence,
        mutant=settings.mutant,
        wild_type=settings.wild_type,
        offset=settings.offset,
        alphabet=settings.alphabet,
    )
    for remark in read.remarks:
        say(remark, quiet=quiet)
    task = EmbeddingTask.of_rows(read.sequences, batch_tokens=settings.batch_tokens, has_residues=settings.residues)
    model = open_language_model(
        settings.model,
        task.texts[-1],
        alphabet=read.schema.alphabet,
        device=settings.device,
        precision=settings.precision,
        with_head=settings.scores,
    )
    check_task(task, model, read, with_scores=settings.scores)
    identity = {
        **asdict(settings),
        "table": path.name,
        "fingerprint": sequences_fingerprint(read.sequences),
        "fingerprint_model": checkpoint_fingerprint(settings.model),
    }
    with lock_folder(partial):
        # another process may have written it while the model was opened
        check_output(out, force=force)
        run = _open_partial(partial, identity, force=force)
        if run.is_resumed:
            say(f"{run.directory}: resuming an unfinished command", quiet=quiet)
        found = embed_rows(task, model, run.directory, quiet=quiet)
        if settings.scores:
            scores = score_variants(read, model, run.directory, batch_tokens=settings.batch_tokens, quiet=quiet)
            found, absent = replace(found, scores=scores), int(np.isnan(scores).sum())
            if absent:
                say(f"{absent:,} variants have no score: they have a stop codon or an ambiguous letter", quiet=quiet)
        write_embeddings(out, found, read.sequences, settings=_fingerprint(run.settings))
        _remove(run.directory)
    return found


def _check_inputs(path: Path, settings: EmbedSettings, out: Path, partial: Path) -> None:
    """Check that neither the output nor the folder of its shards replaces a file that is read."""
    if Path(settings.model).resolve() in out.resolve().parents:
        raise SubquadError(f"{out}: lies in the folder of the model; choose another output")
    for place in (out, partial):
        check_not_inside(place, file_of(path))
        check_files_not_inside(place, settings, "model", "wild_type")


def _remove(partial: Path) -> None:
    """Remove the folder of the shards; the file that shows whose folder it is goes last."""
    for path in partial.iterdir():
        if path.name not in (CONFIG, LOCK):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(partial)


def _fingerprint(settings: Any) -> str:
    return fingerprint(json.dumps(settings, sort_keys=True))


def _open_partial(folder: Path, identity: dict[str, Any], *, force: bool) -> Run:
    """Return the folder of the shards; with `force` too, those of the same settings are kept."""
    try:
        return open_run(folder, kind=KIND, settings=identity)
    except SubquadError:
        if not force:
            raise
        return open_run(folder, kind=KIND, settings=identity, force=True)
