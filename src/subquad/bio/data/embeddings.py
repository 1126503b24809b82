"""Files of embeddings: one vector per row of a table, and optionally one per letter and a score per row.

Reading costs one pass over the file; its contents are then in memory.

Axes: n rows, D numbers of an embedding, L letters of all sequences together.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad import __version__
from subquad.bio.data.dataset import ROW_TASK_TYPES, EmbeddingSchema, Inputs, InputSchema
from subquad.bio.data.residue_vectors import ResidueVectors
from subquad.errors import SubquadError, raise_errors, reading, require
from subquad.runs.hdf5 import datasets_of
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

__all__ = [
    "Embeddings",
    "add_embeddings",
    "add_embeddings_like",
    "model_text",
    "read_embeddings",
    "sequences_fingerprint",
    "write_embeddings",
]

HDF5 = (".h5", ".hdf5", ".hdf")


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
    header = {"version": __version__, "model": embeddings.model or ""}
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
    ending = path.suffix.lower()
    with reading(path, "embeddings"):
        if ending == ".safetensors":
            found = _of_subquad(path, sequences, table)
        elif ending in (".npy", ".npz"):
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                found = Embeddings(mean=_matrix(loaded if ending == ".npy" else _single(loaded)), model=None)
        elif ending in HDF5:
            with require("h5py", extra="embed").File(path, "r") as file:
                datasets, elsewhere = datasets_of(file, extra="embed")
                for name, reason in elsewhere.items():
                    raise SubquadError(f"{path}: {name}: {reason}")
                found = Embeddings(mean=_matrix(_single(datasets)[()]), model=None)
        else:
            raise SubquadError(f"{path}: embeddings end in .safetensors (of `subquad bio embed`), .npy, .npz or .h5")
    if len(found.mean) != len(sequences):
        raise SubquadError(f"{path}: has {len(found.mean):,} rows, but {table} has {len(sequences):,}")
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
    if task_type == "pairs" or (task_type not in ROW_TASK_TYPES and found.residues is None):
        needs = "no embeddings" if task_type == "pairs" else "one vector per letter (`embed --residues`)"
        raise SubquadError(f"{path}: the task {task_type} takes {needs}")
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
    if (expected is None) != (path is None):
        with_what = "without embeddings" if expected is None else f"with {expected.title}; name their file"
        raise SubquadError(f"{table}: the model was trained {with_what}")
    if expected is None or path is None:
        return inputs
    found = read_embeddings(path, sequences, table=table)
    size = found.mean.shape[1]
    is_other = expected.model and found.model and Path(expected.model).name != Path(found.model).name
    is_less = (expected.has_scores and found.scores is None) or (expected.has_vectors and found.residues is None)
    if size != expected.dimensions or is_other or is_less:
        has = EmbeddingSchema(
            model=found.model,
            dimensions=size,
            has_vectors=found.residues is not None,
            median_score=None if found.scores is None else 0.0,
        )
        raise SubquadError(f"{path}: {has.title}, but the model was trained with {expected.title}")
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


def _of_subquad(path: Path, sequences: Sequence[str], table: Path | str) -> Embeddings:
    tensors, header = read_tensors_and_metadata(path)
    if header["sequences"] != sequences_fingerprint(sequences):
        raise SubquadError(f"{path}: embeddings of another table: its sequences are not those of {table}, row by row")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    found = Embeddings(**{**arrays, "mean": _matrix(arrays["mean"])}, model=header["model"])
    if found.residues is not None and (
        found.lengths is None or len(found.lengths) != len(found.mean) or found.lengths.sum() != len(found.residues)
    ):
        raise ValueError("the lengths of the rows do not fit the vectors of letters")
    return found


def _single(arrays: Mapping[str, Any]) -> Any:
    if len(arrays) != 1:
        raise ValueError(f"it has {len(arrays)} arrays, and one is needed")
    return next(iter(arrays.values()))


def _matrix(values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.shape[1]:
        raise ValueError(f"it has the shape {values.shape} and the type {values.dtype}, not numbers (rows, numbers)")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_finite(path: Path, found: Embeddings) -> None:
    is_wrong = np.array(~np.isfinite(found.mean).all(1))
    if found.scores is not None:
        # NaN stands for a variant without a score
        is_wrong |= np.isinf(found.scores)
    if found.residues is not None and found.lengths is not None:
        letters = np.flatnonzero(~np.isfinite(found.residues).all(1))
        is_wrong[np.searchsorted(found.lengths.cumsum(), letters, side="right")] = True
    rows = [f"row {row + 1}" for row in np.flatnonzero(is_wrong)]
    raise_errors(f"{path}: rows with values that are not finite numbers; remove or replace them", rows)
