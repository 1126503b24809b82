"""Embeddings and scores of all rows of a table: each distinct sequence once, in shards that survive an interruption.

Costs one pass of the model over the letters, and one over the wild type for each mutated position. All results are in
memory at the end; with a vector per letter these are twice the size of the file.

Axes: n rows, m distinct sequences, D numbers of a vector, A letters of the alphabet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from subquad.bio.data.embeddings import Embeddings, model_text
from subquad.bio.data.table import Table
from subquad.bio.language_models.checkpoint import LanguageModel
from subquad.errors import SubquadError, raise_errors
from subquad.progress import track
from subquad.runs.storage import read_tensors, write_tensors

__all__ = ["EmbeddingTask", "check_task", "embed_rows", "score_variants"]

SHARD_TOKENS = 16_384
"""Number of tokens after which what was computed is written to disk."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask:
    """What is computed of which sequences."""

    texts: list[str]
    """Distinct sequences, the shortest first."""
    index: np.ndarray
    """`(n,)`: which of them each row has."""
    batch_tokens: int
    has_residues: bool

    @classmethod
    def of_rows(cls, sequences: Sequence[str], *, batch_tokens: int, has_residues: bool) -> "EmbeddingTask":
        """Return the task of embedding the sequences of a table."""
        rows = [model_text(sequence) for sequence in sequences]
        texts = sorted(dict.fromkeys(rows), key=len)
        place = {text: k for k, text in enumerate(texts)}
        index = np.array([place[text] for text in rows], dtype=np.int64)
        return cls(texts=texts, index=index, batch_tokens=batch_tokens, has_residues=has_residues)

    def shards(self) -> list[list[slice]]:
        """Return the batches of each shard, as parts of `texts`; they depend on the sequences alone."""
        shards, tokens = [[]], 0
        for batch in _batches([len(text) for text in self.texts], self.batch_tokens):
            if tokens >= SHARD_TOKENS:
                shards.append([])
                tokens = 0
            shards[-1].append(batch)
            tokens += (batch.stop - batch.start) * max(len(self.texts[batch.stop - 1]), 1)
        return shards


def check_task(task: EmbeddingTask, model: LanguageModel, read: Table, *, with_scores: bool) -> None:
    """Check that a model can do what is asked of it, before anything is computed.

    Raises:
        SubquadError: Sequences are too long; vectors of letters or scores are asked of a model whose tokens are several
            letters; or scores of rows that are not variants of a wild type.
    """
    if (task.has_residues or with_scores) and not model.is_letterwise:
        raise SubquadError(f"{model.name}: its tokens are of several letters, so that no letter has a vector or score")
    _check_lengths(task, model, read)
    if with_scores and (read.mutants is None or read.wild_type is None):
        raise SubquadError(f"{read.path}: scores need variants of a wild type, and these sequences are none")


def _check_lengths(task: EmbeddingTask, model: LanguageModel, read: Table) -> None:
    limit = model.max_letters
    if limit is None:
        return
    unit = "letters" if model.is_letterwise else "tokens"
    # a token is at least one letter, so that only these may be too long
    long = {text: len(text) for text in task.texts if len(text) > limit}
    if not model.is_letterwise:
        counted = {text: model.count_tokens(text) for text in long}
        long = {text: count for text, count in counted.items() if count > limit}
    raise_errors(
        f"{read.path}: sequences longer than the {limit:,} {unit} that {model.name} reads",
        [f"row {row + 1}: {long[task.texts[k]]:,} {unit}" for row, k in enumerate(task.index) if task.texts[k] in long],
    )


def embed_rows(task: EmbeddingTask, model: LanguageModel, directory: Path, *, quiet: bool) -> Embeddings:
    """Return the embeddings of all rows; shards that the folder has already are not computed again.

    Raises:
        SubquadError: A vector is not finite, or the tokens of a sequence are not its letters.
    """
    shards = task.shards()
    paths = [_shard(directory, "embeddings", number) for number in range(len(shards))]
    counts = [sum(batch.stop - batch.start for batch in batches) for batches in shards]
    left = [number for number, path in enumerate(paths) if not path.is_file()]
    done = len(task.texts) - sum(counts[number] for number in left)
    with track("embeddings", len(task.texts), done=done, quiet=quiet) as advance:
        for number in left:
            write_tensors(paths[number], _embed(task, model, shards[number]))
            advance(counts[number])
    found = [read_tensors(path) for path in paths]
    mean = torch.cat([own["mean"] for own in found]).numpy()[task.index]
    if not task.has_residues:
        return Embeddings(mean=mean, model=model.name)
    lengths = np.array([len(text) for text in task.texts], dtype=np.int64)
    ends = lengths.cumsum()
    each = torch.cat([own["residues"] for own in found]).numpy()
    residues = np.empty((int(lengths[task.index].sum()), each.shape[1]), dtype=np.float16)
    place = 0
    for k in task.index:
        residues[place : place + lengths[k]] = each[ends[k] - lengths[k] : ends[k]]
        place += int(lengths[k])
    return Embeddings(mean=mean, residues=residues, lengths=lengths[task.index], model=model.name)


def score_variants(read: Table, model: LanguageModel, directory: Path, *, batch_tokens: int, quiet: bool) -> np.ndarray:
    """Return the masked-marginal score of each row, `(n,)` float32.

    That is the sum over the substitutions of log p(new letter) − log p(old letter), with the position masked in the
    wild type (Meier et al. 2021); 0 for the wild type itself, and NaN for stop codons and ambiguous letters.

    Raises:
        SubquadError: A score is not finite for another reason.
    """
    assert read.mutants is not None
    assert read.wild_type is not None
    wild, letters = model_text(read.wild_type), read.schema.letters.replace("*", "")
    changes = [[(m[0], int(m[1:-1]) - 1, m[-1]) for m in mutant.split(":") if m] for mutant in read.mutants]
    # a protein may end with a stop codon, which the model does not read
    positions = sorted({t for row in changes for a, t, b in row if t < len(wild) and "*" not in (a, b)})
    count = max(batch_tokens // max(len(wild), 1), 1)
    table = {}
    with track("scores", len(positions), quiet=quiet) as advance:
        for number, begin in enumerate(range(0, len(positions), count)):
            some, path = positions[begin : begin + count], _shard(directory, "scores", number)
            if not path.is_file():
                logs = model.masked_log_probabilities(wild, some, letters)
                if not np.isfinite(logs).all():
                    raise SubquadError(f"{model.name}: its probabilities are not finite")
                write_tensors(path, {"logs": torch.from_numpy(logs)})
            logs = read_tensors(path)["logs"].double().numpy()
            table |= {
                (place, a): value
                for place, row in zip(some, logs, strict=True)
                for a, value in zip(letters, row, strict=True)
            }
            advance(len(some))
    # stop codons and ambiguous letters are in no table
    scores = np.array(
        [sum(table.get((t, b), np.nan) - table.get((t, a), np.nan) for a, t, b in row) for row in changes]
    )
    return scores.astype(np.float32)


def _batches(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield parts of ascending lengths whose number times the longest is at most `most`, or that are a single one."""
    begin = 0
    for end, length in enumerate(lengths):
        if end > begin and (end - begin + 1) * length > most:
            yield slice(begin, end)
            begin = end
    yield slice(begin, len(lengths))


def _embed(task: EmbeddingTask, model: LanguageModel, batches: Sequence[slice]) -> dict[str, torch.Tensor]:
    """Return the vectors of one shard."""
    means, residues = [], []
    for batch in batches:
        texts = task.texts[batch]
        for text, own in zip(texts, model.vectors(texts), strict=True):
            is_finite = bool(np.isfinite(own).all())
            if not is_finite or (model.is_letterwise and len(own) != len(text)):
                what = f"{len(own)} tokens of {len(text)} letters" if is_finite else "vectors that are not finite"
                row = np.flatnonzero(task.index == task.texts.index(text))[0] + 1
                raise SubquadError(f"{model.name}: makes {what} in row {row}")
            # nothing precedes a stop codon at the first position
            means.append(own.mean(0) if len(own) else np.zeros(own.shape[1], dtype=np.float32))
            residues.append(own.astype(np.float16))
    found = {"mean": torch.from_numpy(np.stack(means))}
    return found | ({"residues": torch.from_numpy(np.concatenate(residues))} if task.has_residues else {})


def _shard(directory: Path, name: str, number: int) -> Path:
    return directory / f"{name}-{number:05}.safetensors"
