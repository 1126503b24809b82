"""Text files as packed sequences of equal length for training, validation and evaluation.

6 bytes per token, 7 with a loss mask, in memory or in files.

Axes: N sequences, T positions, B sequences of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError, counted
from subquad.llm.data.mapped import stored
from subquad.llm.data.repeated_text import repeated_fraction
from subquad.llm.data.text_files import check_weights
from subquad.llm.data.tokens import TokenStream, TrainOn, tokenize

HOLDOUT_FRACTION = 0.1
VALIDATION_SEQUENCES = 8
BLOCK_TOKENS = 1 << 22
"""Tokens whose documents are numbered at a time."""
LAST_TENTH, END = "the last tenth of", "the end of"
MOST_REPEATED, MUCH_REPEATED = 0.5, 0.01
"""Fractions of a held-out text in the training text from which it is refused, and mentioned."""

NamedStream = tuple[str, TokenStream]
"""The names of some files and their tokens."""


@dataclass(frozen=True, kw_only=True)
class PackedSequences:
    """Sequences cut from concatenated documents."""

    ids: Int[Tensor, "N T"]
    """The tokens."""
    documents: Int[Tensor, "N T"]
    """Number of each token's document within its sequence, from 0."""
    loss_mask: Bool[Tensor, "N T"]
    """Whether a token counts in the loss: answers only, or all tokens."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> "PackedSequences":
        return PackedSequences(ids=self.ids[rows], documents=self.documents[rows], loss_mask=self.loss_mask[rows])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Proportions in which the training sequences of several files are sampled."""

    sizes: tuple[int, ...]
    """Number of training sequences of each file, in the order in which they are stored."""
    weights: tuple[float, ...]
    """Sampling weight of each file, in any unit."""


@dataclass(frozen=True, kw_only=True)
class TextDataset:
    """The sequences of a run."""

    training: PackedSequences
    """Training sequences."""
    validation: PackedSequences
    """Sequences from the end of the training text for model selection; empty if validation is off."""
    holdout: PackedSequences
    """Sequences on which perplexities are measured."""
    holdout_source: str
    """Where the held-out text comes from, for messages."""
    mixture: Mixture | None = None
    """How training sequences are sampled; None: uniformly."""
    descriptions: tuple[str, ...] = ()
    """How each file was read, for messages."""

    def check_fit(self, *, vocabulary: int, batch_size: int) -> None:
        """Check that the sequences fit a model and fill a training step.

        Args:
            vocabulary: Number of tokens in the model's vocabulary.
            batch_size: Sequences per step, over all processes.

        Raises:
            SubquadError: They do not.
        """
        count, length = self.training.ids.shape
        if count < batch_size:
            raise SubquadError(f"a step takes {batch_size} sequences of {length} tokens, but the text has {count}")
        parts = (self.training, self.validation, self.holdout)
        highest = max(int(part.ids.max()) for part in parts if part.ids.numel())
        if highest >= vocabulary:
            raise SubquadError(f"the tokenizer makes token {highest}, and the model has {vocabulary}: another model's")


def prepare_text(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    sequence_length: int,
    text_key: str = "text",
    has_validation: bool = False,
    weights: Sequence[float] = (),
    train_on: TrainOn = "all",
    folder: Path | None = None,
    quiet: bool = True,
) -> TextDataset:
    """Tokenize and pack text files.

    The holdout is the text of `evaluation_files`, otherwise the last tenth of the text by position: of all files
    together, or of each file if they have weights.

    Args:
        tokenizer: The model's tokenizer.
        files: Training text.
        evaluation_files: Text for evaluation.
        sequence_length: Tokens per sequence.
        text_key: Key or column of the text.
        has_validation: Reserve training sequences for validation.
        weights: Sampling weight of each file; without weights, files are sampled in proportion to their lengths.
        train_on: `answers` limits the loss to the answers of conversations.
        folder: Folder for files with the tokens, which memory then does not hold; they have no names.
        quiet: Show no progress bar.

    Raises:
        SubquadError: A file cannot be read, a part is shorter than one sequence, half of `evaluation_files` stands in
            the training text, or the loss is limited to answers and there are none.
    """
    check_weights(files, weights)
    read = partial(tokenize, tokenizer, text_key=text_key, train_on=train_on, folder=folder, quiet=quiet)
    pack = partial(_pack, sequence_length=sequence_length, folder=folder)
    # with weights each file is packed separately, so that a sequence comes from one file
    groups = [[path] for path in files] if weights else [list(files)]
    streams = [(_names(group), read(group)) for group in groups]
    file_weights = tuple(map(float, weights)) or (1.0,)
    if train_on == "answers" and not any(stream.has_answers for _, stream in streams):
        raise SubquadError(f"{_names(files)}: no conversations, so that there are no answers to train on")
    if evaluation_files:
        training_streams, holdout_streams = streams, [(_names(evaluation_files), read(evaluation_files))]
        holdout_source = holdout_streams[0][0]
        holdout_descriptions = holdout_streams[0][1].descriptions
    else:
        training_streams, holdout_streams = _split_holdout(streams, sequence_length)
        names = f"each of {_names(files)}" if len(streams) > 1 else _names(files)
        part = next((END for name, _ in holdout_streams if name.startswith(END)), LAST_TENTH)
        holdout_source = f"{part} {names}"
        holdout_descriptions = ()
    holdout_source += _repeated(training_streams, holdout_streams, is_given=bool(evaluation_files))
    training = [pack(*stream) for stream in training_streams]
    training, validation = _split_validation(training, file_weights, names=_names(files), has_validation=has_validation)
    holdout = [pack(*stream) for stream in holdout_streams]
    interleaved = holdout[0]
    if len(holdout) > 1:
        interleaved = _concatenate(holdout, folder)[_interleave(_sizes(holdout), file_weights)]
    return TextDataset(
        training=_concatenate(training, folder),
        validation=validation,
        holdout=interleaved,
        holdout_source=holdout_source,
        mixture=Mixture(sizes=tuple(_sizes(training)), weights=file_weights) if weights else None,
        descriptions=(*(line for _, stream in streams for line in stream.descriptions), *holdout_descriptions),
    )


def pack_text(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    *,
    sequence_length: int,
    text_key: str = "text",
) -> PackedSequences:
    """Tokenize text files and pack all of their text; for the arguments see `prepare_text`.

    Raises:
        SubquadError: A file cannot be read, or the text is shorter than one sequence.
    """
    stream = tokenize(tokenizer, list(files), text_key=text_key, train_on="all", quiet=True)
    return _pack(_names(files), stream, sequence_length=sequence_length)


def _repeated(training: Sequence[NamedStream], holdout: Sequence[NamedStream], *, is_given: bool) -> str:
    """Return how much of the held-out text is learned too, as the end of its description.

    Raises:
        SubquadError: At least half of a text that was given for evaluation is.
    """
    learned, names = [stream.ids for _, stream in training], ", ".join(name for name, _ in training)
    fractions = [repeated_fraction(stream.ids, learned) for _, stream in holdout]
    if is_given and fractions[0] >= MOST_REPEATED:
        raise SubquadError(f"{holdout[0][0]}: {fractions[0]:.0%} of this held-out text also stands in {names}")
    sizes = [len(stream) for _, stream in holdout]
    mean = sum(size * fraction for size, fraction in zip(sizes, fractions, strict=True)) / sum(sizes)
    return f", of which {mean:.0%} also stands in the training text" if mean >= MUCH_REPEATED else ""


def epoch_batches(
    sequences: int, *, batch_size: int, seed: int, epoch: int, mixture: Mixture | None = None
) -> list[Int[Tensor, " B"]]:
    """Return the batches of an epoch as indices of sequences, shuffled by seed and epoch alone.

    With a mixture, an epoch has as many sequences as without. The sequences of a file are repeated, or a part of them
    is sampled anew in each epoch, so that proportions hold over the epoch and nearly so in every part of it.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if mixture is None:
        shuffled = torch.randperm(sequences, generator=generator)
    else:
        shuffled = _sample_mixture(sequences, mixture, generator)
    batches = [shuffled[start : start + batch_size] for start in range(0, sequences, batch_size)]
    # in a short last batch each sequence would have a larger weight than in the others
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def _sample_mixture(sequences: int, mixture: Mixture, generator: torch.Generator) -> Int[Tensor, " N"]:
    weights = torch.tensor(mixture.weights, dtype=torch.float64)
    stops = (weights.cumsum(0) / weights.sum() * sequences).round().long().tolist()
    rows, positions, first, start = [], [], 0, 0
    for size, stop in zip(mixture.sizes, stops, strict=True):
        count, start = stop - start, stop
        rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
        rows.append(torch.cat(rounds)[:count] + first if rounds else torch.empty(0, dtype=torch.long))
        # one in each of `count` equal parts of the epoch, so that each file is spread evenly
        jitter = torch.rand(count, generator=generator, dtype=torch.float64)
        positions.append((torch.arange(count) + jitter) / count)
        first += size
    return torch.cat(rows)[torch.cat(positions).argsort(stable=True)]


def _interleave(sizes: Sequence[int], weights: Sequence[float]) -> Int[Tensor, " N"]:
    """Return indices of sequences that are stored file by file, interleaved by weight as long as each file lasts."""
    positions = [
        (torch.arange(size, dtype=torch.float64) + 0.5) / weight for size, weight in zip(sizes, weights, strict=True)
    ]
    return torch.cat(positions).argsort(stable=True)


def _split_validation(
    training: Sequence[PackedSequences], weights: Sequence[float], *, names: str, has_validation: bool
) -> tuple[list[PackedSequences], PackedSequences]:
    """Split validation sequences off the end of each file."""
    available = [len(packed) // 10 for packed in training]
    total = sum(_sizes(training))
    count = min(VALIDATION_SEQUENCES, total // 10) if has_validation else 0
    chosen = _interleave(available, weights)[:count]
    if has_validation and not len(chosen):
        raise SubquadError(f"{names}: {total} training sequences are too few to hold some out for validation")
    stops = torch.tensor(available).cumsum(0)
    counts = torch.bincount(torch.searchsorted(stops, chosen, right=True), minlength=len(available)).tolist()
    cuts = [len(packed) - number for packed, number in zip(training, counts, strict=True)]
    kept = [packed[:cut] for packed, cut in zip(training, cuts, strict=True)]
    return kept, _concatenate([packed[cut:] for packed, cut in zip(training, cuts, strict=True)])


def _split_holdout(streams: Sequence[NamedStream], sequence_length: int) -> tuple[list[NamedStream], list[NamedStream]]:
    """Split the last tenth off each stream, but no less than one sequence.

    Raises:
        SubquadError: A stream is shorter than two sequences.
    """
    before, after = [], []
    for names, tokens in streams:
        if len(tokens) < 2 * sequence_length:
            size = counted(len(tokens), "token")
            raise SubquadError(f"{names}: {size}, and two sequences of {sequence_length:,} are needed")
        tenth = int(len(tokens) * HOLDOUT_FRACTION)
        cut = len(tokens) - max(tenth, sequence_length)
        before.append((names, tokens.part(0, cut)))
        after.append((f"{LAST_TENTH if sequence_length <= tenth else END} {names}", tokens.part(cut, len(tokens))))
    return before, after


def _names(files: Sequence[Path]) -> str:
    return ", ".join(path.name for path in files)


def _sizes(parts: Sequence[PackedSequences]) -> list[int]:
    return [len(part) for part in parts]


def _pack(names: str, tokens: TokenStream, *, sequence_length: int, folder: Path | None = None) -> PackedSequences:
    if len(tokens) < sequence_length:
        size = counted(len(tokens), "token")
        raise SubquadError(f"{names}: {size}, shorter than one sequence of {sequence_length:,}; give more text")
    shape = (len(tokens) // sequence_length, sequence_length)
    used = shape[0] * sequence_length
    dtype = torch.int16 if sequence_length <= 2**15 else torch.int32
    return PackedSequences(
        ids=tokens.ids[:used].reshape(shape),
        documents=stored(_document_numbers(tokens.starts, shape, dtype), shape, dtype, folder=folder),
        loss_mask=tokens.loss_mask[:used].reshape(shape),
    )


def _document_numbers(starts: Int[Tensor, " D"], shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the number of each token's document within its sequence, in blocks of sequences."""
    rows, length = shape
    step = max(1, BLOCK_TOKENS // length)
    for row in range(0, rows, step):
        count = min(step, rows - row)
        first, last = torch.searchsorted(starts, torch.tensor([row * length, (row + count) * length])).tolist()
        is_start = torch.zeros(count * length, dtype=torch.bool)
        is_start[starts[first:last] - row * length] = True
        is_start = is_start.reshape(count, length)
        # a sequence begins with its document 0, whether that starts there or not
        is_start[:, 0] = False
        yield is_start.cumsum(1, dtype=dtype)


def _concatenate(parts: Sequence[PackedSequences], folder: Path | None = None) -> PackedSequences:
    if len(parts) == 1:
        return parts[0]

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        shape = (sum(map(len, tensors)), *tensors[0].shape[1:])
        return stored(tensors, shape, tensors[0].dtype, folder=folder)

    masks = [part.loss_mask for part in parts]
    # one value for all tokens stays one
    is_all = all(mask.untyped_storage().nbytes() == 1 and mask.all() for mask in masks)
    shape = (sum(map(len, parts)), parts[0].ids.shape[1])
    return PackedSequences(
        ids=joined([part.ids for part in parts]),
        documents=joined([part.documents for part in parts]),
        loss_mask=torch.ones(1, 1, dtype=torch.bool).expand(shape) if is_all else joined(masks),
    )
