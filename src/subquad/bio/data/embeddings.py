"""Files of embeddings: one vector per row of a table, and optionally one per letter and a score per row.

Reading costs one pass over the file; its contents are then in memory.

Axes: n rows, D numbers of an embedding, L letters of all sequences together.
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad import __version__
from subquad.bio.data.dataset import ROW_TASK_TYPES, EmbeddingSchema, Inputs, InputSchema
from subquad.bio.data.residue_vectors import ResidueVectors
from subquad.errors import SubquadError, raise_errors
from subquad.runs.damage import damage_as_error
from subquad.runs.hdf5 import datasets_of, open_hdf5
from subquad.runs.storage import read_tensors_and_metadata, write_tensors
from subquad.runs.unpacking import array_header, bytes_of_array, check_expansion

__all__ = [
    "Embeddings",
    "add_embeddings",
    "add_embeddings_like",
    "model_text",
    "read_embeddings",
    "sequences_fingerprint",
    "write_embeddings",
]

KIND, FORMAT = "bio embeddings", 1
"""What the header of our files says, and the newest format that is read."""
TENSORS = {"mean", "scores", "residues", "lengths"}
"""Arrays that our files may hold; see `subquad.bio.commands.embed`."""
ENDINGS = ".safetensors (of `subquad bio embed`), .npy, .npz or .h5"
HDF5 = (".h5", ".hdf5", ".hdf")
WIDEST = 100_000
"""Numbers of an embedding; those of language models have up to some thousands."""
MOST_EXPANDED = 1000
"""Bytes of an array per byte of it in its file: sparse counts are packed well, and its shape is that of the table."""
UNCOMPRESSED = "uncompressed (`np.savez` or `np.save`)"
"""How to write an array that is refused, for messages."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Embeddings of the rows of one table."""

    mean: np.ndarray
    """`(n, D)` float32: the mean over the letters of each row."""
    scores: np.ndarray | None = None
    """`(n,)` float32: masked-marginal score of each row: log-likelihood ratio of the variant to the wild
    type; NaN with a stop codon or an ambiguous letter."""
    residues: np.ndarray | None = None
    """`(L, D)` float16: the vector of each letter, one row of the table after the other."""
    lengths: np.ndarray | None = None
    """`(n,)` int64: number of letters of each row in `residues`."""
    model: str | None
    """Name of the language model; None for an array that does not say."""


def model_text(sequence: str) -> str:
    """Return the letters of a row that a language model reads: those before a stop codon, and of a pair the second."""
    return sequence.rpartition("|")[2].partition("*")[0]


def sequences_fingerprint(sequences: Sequence[str]) -> str:
    """Return the SHA-256 (64 hex digits) of sequences in their order; U and T are the same letter."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(f"{model_text(sequence).replace('U', 'T')}\n".encode())
    return digest.hexdigest()


def write_embeddings(path: Path | str, embeddings: Embeddings, sequences: Sequence[str], *, settings: str = "") -> None:
    """Write embeddings as safetensors; the header has the fingerprint of the sequences, the model and the format.

    Args:
        path: The file.
        embeddings: One row per sequence.
        sequences: The sequences of the table, in its order.
        settings: Fingerprint of the settings that they were computed with, for the header.
    """
    from torch import from_numpy

    names = ("mean", "scores", "residues", "lengths")
    # torch takes writable arrays; others are copied
    arrays = {
        name: np.require(x, requirements=["C", "W"]) for name in names if (x := getattr(embeddings, name)) is not None
    }
    header = {"kind": KIND, "format": str(FORMAT), "version": __version__, "model": embeddings.model or ""}
    header |= {"sequences": sequences_fingerprint(sequences), "settings": settings}
    write_tensors(path, {name: from_numpy(array) for name, array in arrays.items()}, header)


def read_embeddings(path: Path | str, sequences: Sequence[str], *, table: Path | str) -> Embeddings:
    """Read the embeddings of a table's rows.

    Args:
        path: File of `subquad bio embed`; or `.npy`, `.npz` with one array or `.h5` with one data set, `(n, D)`.
        sequences: The sequences of the table, in its order.
        table: The table, for messages.

    Raises:
        SubquadError: The file cannot be read, belongs to another table, has another number of rows than it, or a value
            that is not a finite number.
    """
    path = Path(path)

    def check_rows(count: int) -> None:
        if count != len(sequences):
            raise SubquadError(
                f"{path}: has {count:,} rows, but {table} has {len(sequences):,}; embeddings need one row for each row "
                "of the table, in its order"
            )

    readers = {".npy": _numpy, ".npz": _numpy, **dict.fromkeys(HDF5, _hdf5)}
    ending = path.suffix.lower()
    if not path.is_file():
        raise SubquadError(f"{path}: no such file (--embeddings)")
    if ending == ".safetensors":
        found = _own(path, sequences, table)
    elif ending in readers:
        found = Embeddings(mean=_matrix(path, readers[ending](path, check_rows)), model=None)
    else:
        raise SubquadError(f"{path}: embeddings end in {ENDINGS}; convert the file")
    check_rows(len(found.mean))
    _check_finite(path, found)
    return found


def add_embeddings(
    path: Path | str,
    inputs: Inputs,
    schema: InputSchema,
    sequences: Sequence[str],
    task_type: str,
    *,
    table: Path | str,
) -> tuple[Inputs, InputSchema, list[str]]:
    """Return the inputs of a training table with the embeddings of a file, their schema, and a remark.

    Scores become the last covariate.

    Raises:
        SubquadError: As `read_embeddings`; or the task has no use for embeddings, or needs a vector per letter.
    """
    found = read_embeddings(path, sequences, table=table)
    if task_type == "pairs":
        raise SubquadError("--embeddings: base pairs have no use for embeddings; leave it out")
    if task_type not in ROW_TASK_TYPES and found.residues is None:
        raise SubquadError(
            f"{path}: has one vector per row, but a task of type {task_type} has values along the sequence and needs "
            "one per letter; write the file with `subquad bio embed --residues`"
        )
    remarks, median = [], None
    if found.scores is not None:
        known = found.scores[~np.isnan(found.scores)]
        median, count = float(np.median(known)) if len(known) else 0.0, len(found.scores) - len(known)
        if count:
            remarks = [f"{path}: {count:,} variants without a score (stop codons) get the median, {median:.4g}"]
    own = EmbeddingSchema(
        model=found.model,
        dimensions=found.mean.shape[1],
        has_vectors=found.residues is not None,
        median_score=median,
    )
    remarks.insert(0, f"{path}: {own.title} are inputs of the models")
    constant = int((found.mean == found.mean[:1]).all(0).sum())
    if constant and len(found.mean) > 1:
        remarks.append(f"{path}: {constant:,} of {own.dimensions:,} numbers are the same in all rows and are not used")
    return _with(inputs, found, own), replace(schema, embedding=own), remarks


def add_embeddings_like(
    path: Path | str | None, inputs: Inputs, schema: InputSchema, sequences: Sequence[str], *, table: Path | str
) -> Inputs:
    """Return the inputs of a table to predict with embeddings like those of the training table.

    Raises:
        SubquadError: As `read_embeddings`; or the file is missing, not needed, or of another language model.
    """
    expected = schema.embedding
    if expected is None:
        if path is not None:
            raise SubquadError("the model was trained without embeddings; leave out --embeddings")
        return inputs
    if path is None:
        flags = " --residues" * expected.has_vectors + " --scores" * expected.has_scores
        made = f"`subquad bio embed {table} --model {expected.model}{flags} --out FILE`"
        how = f"write those of this table with {made}, and name" if expected.model else "name"
        raise SubquadError(f"{table}: the model was trained with {expected.title}; {how} the file with --embeddings")
    found = read_embeddings(path, sequences, table=table)
    size = found.mean.shape[1]
    is_other = expected.model and found.model and Path(expected.model).name != Path(found.model).name
    if size != expected.dimensions or is_other:
        given = replace(expected, model=found.model, dimensions=size, has_vectors=False, median_score=None)
        raise SubquadError(f"{path}: {given.title}, but the model was trained with {expected.title}")
    if expected.has_scores and found.scores is None:
        raise SubquadError(f"{path}: has no scores, with which the model was trained; write it with --scores")
    if expected.has_vectors and found.residues is None:
        raise SubquadError(
            f"{path}: has no vectors of letters, with which the model was trained; write it with --residues"
        )
    return _with(inputs, found, expected)


def _with(inputs: Inputs, found: Embeddings, schema: EmbeddingSchema) -> Inputs:
    covariates = inputs.covariates
    if schema.median_score is not None:
        scores = np.asarray(found.scores, dtype=np.float64)
        covariates = np.column_stack([covariates, np.where(np.isnan(scores), schema.median_score, scores)])
    vectors = None
    if schema.has_vectors and found.residues is not None and found.lengths is not None:
        vectors = ResidueVectors.of_rows(found.residues, found.lengths)
    return replace(inputs, covariates=covariates, embedding=found.mean, vectors=vectors)


def _own(path: Path, sequences: Sequence[str], table: Path | str) -> Embeddings:
    tensors, header = read_tensors_and_metadata(path)
    if header.get("kind") != KIND:
        raise SubquadError(f"{path}: not written by `subquad bio embed`; give such a file, or an array as {ENDINGS}")
    if header.get("format") not in [str(number) for number in range(FORMAT + 1)]:
        raise SubquadError(
            f"{path}: format {header.get('format')} is newer than this subquad {__version__} reads (up to {FORMAT}); "
            "upgrade subquad"
        )
    if header.get("sequences") != sequences_fingerprint(sequences):
        raise SubquadError(
            f"{path}: embeddings of another table: its sequences are not those of {table}, row by row; run "
            f"`subquad bio embed {table}` with the same columns"
        )
    if not {"mean"} <= set(tensors) <= TENSORS or "model" not in header:
        raise SubquadError(
            f"{path}: damaged: has the arrays {', '.join(sorted(tensors)) or 'none'}; write the file again"
        )
    with damage_as_error(f"{path}: damaged; write the file again"):
        found = {name: x.numpy() for name, x in tensors.items()}
        found["mean"] = _matrix(path, found["mean"])
    residues, lengths = found.get("residues"), found.get("lengths")
    if (residues is None) != (lengths is None) or (
        residues is not None
        and lengths is not None
        and (residues.ndim != 2 or lengths.shape != found["mean"].shape[:1] or lengths.sum() != len(residues))
    ):
        raise SubquadError(f"{path}: the lengths of the rows do not fit the vectors of letters; write the file again")
    return Embeddings(**found, model=header["model"])


def _numpy(path: Path, check_rows: Callable[[int], None]) -> np.ndarray:
    """Return the array of an `.npy` file, or the only one of an `.npz` file; its shape is checked before it is read."""
    with damage_as_error(f"{path}: not a NumPy array of numbers, or cut short"), ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        packed = path.stat().st_size
        if zipfile.is_zipfile(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            _check_single(path, "arrays", [name.removesuffix(".npy") for name in archive.namelist()])
            (entry,) = archive.infolist()
            file, packed = stack.enter_context(archive.open(entry)), entry.compress_size
        file.seek(0)
        shape, _, dtype = array_header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        _check_matrix(path, shape, dtype)
        check_rows(shape[0])
        size = bytes_of_array(shape, dtype)
        check_expansion(path, f"the array of shape {shape}", size, packed, most=MOST_EXPANDED, remedy=UNCOMPRESSED)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _hdf5(path: Path, check_rows: Callable[[int], None]) -> np.ndarray:
    """Return the only data set of an HDF5 file; a small file can say any shape, which is checked before it is read."""
    with damage_as_error(f"{path}: not an HDF5 file, or cut short"), open_hdf5(path, path, extra="embed") as file:
        datasets, elsewhere = datasets_of(file, extra="embed")
        if elsewhere and not datasets:
            name, reason = next(iter(elsewhere.items()))
            raise SubquadError(f"{path}: {name} is not read, as {reason}")
        # with one in another file too, it is unknown which of them is meant
        _check_single(path, "data sets", [*datasets, *elsewhere])
        ((name, found),) = datasets.items()
        # an empty data set has no shape
        shape: Any = found.shape or ()
        _check_matrix(path, shape, found.dtype)
        check_rows(shape[0])
        packed = found.id.get_storage_size()
        sizes = {f"data set {name!r} of shape {shape}": bytes_of_array(shape, found.dtype)}
        if found.chunks:
            chunk = f"a chunk of data set {name!r}, of shape {found.chunks},"
            sizes[chunk] = bytes_of_array(found.chunks, found.dtype)
        for what, size in sizes.items():
            check_expansion(path, what, size, packed, most=MOST_EXPANDED, remedy=UNCOMPRESSED)
        return found[()]


def _check_single(path: Path, what: str, names: Sequence[str]) -> None:
    if len(names) != 1:
        shown = ", ".join(names[:10]) or "none"
        raise SubquadError(f"{path}: has {len(names)} {what} ({shown}); keep one, with a row for each row of the table")


def _check_matrix(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 2 or dtype.kind not in "fiu" or not shape[1]:
        raise SubquadError(
            f"{path}: has the shape {shape} and the type {dtype}; embeddings are numbers with one row for each row of "
            "the table: shape (rows, numbers)"
        )
    if shape[1] > WIDEST:
        raise SubquadError(
            f"{path}: has the shape {shape}; embeddings have at most {WIDEST:,} numbers: check how the file was made"
        )


def _matrix(path: Path, values: Any) -> np.ndarray:
    values = np.asarray(values)
    _check_matrix(path, values.shape, values.dtype)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_finite(path: Path, found: Embeddings) -> None:
    is_wrong = ~np.isfinite(found.mean)
    rows = np.flatnonzero(is_wrong.any(1))
    # the first one of each row
    columns = is_wrong[rows].argmax(1)
    errors = [f"row {r + 1}, column {c + 1}: {found.mean[r, c]}" for r, c in zip(rows, columns, strict=True)]
    if found.scores is not None:
        # NaN stands for a variant without a score
        errors += [f"row {row + 1}, score: {found.scores[row]}" for row in np.flatnonzero(np.isinf(found.scores))]
    if found.residues is not None and found.lengths is not None and not np.isfinite(found.residues).all():
        letters = np.flatnonzero(~np.isfinite(found.residues).all(1))
        ends = found.lengths.cumsum()
        rows = np.searchsorted(ends, letters, side="right")
        places = letters - (ends - found.lengths)[rows] + 1
        errors += [f"row {row + 1}, letter {place}" for row, place in zip(rows, places, strict=True)]
    raise_errors(f"{path}: values that are not finite numbers; remove or replace them", errors)
