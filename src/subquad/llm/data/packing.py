"""Text files as sequences of tokens, packed end to end; memory is 6 bytes a token, 7 where answers are asked for.

Each sequence says which of its tokens belong to one document. Files given weights are drawn from in proportion.

Axes: N sequences, T positions, B sequences of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError, collect_errors
from subquad.llm.data.conversations import Rendered
from subquad.llm.data.readers import open_documents, read_documents
from subquad.llm.data.tokens import Learn, Tokens, tokenise

__all__ = ["Mixture", "Packed", "Text", "check", "order", "prepare", "read_documents"]

HELD_OUT = 0.1
VALIDATION_SEQUENCES = 8
REMEDY = "give more text, or a smaller --length"
LAST_TENTH = "the last tenth of"

Named = tuple[str, Tokens]
"""Tokens and the names of their files."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Sequences cut from documents that stand end to end."""

    ids: Int[Tensor, "N T"]
    """The tokens."""
    documents: Int[Tensor, "N T"]
    """The number of each token's document within its sequence: 0, 1, 2 and so on."""
    is_learnt: Bool[Tensor, "N T"]
    """Whether a token is one to be learnt: an answer, or any token where nobody asked for answers alone."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> "Packed":
        return Packed(ids=self.ids[rows], documents=self.documents[rows], is_learnt=self.is_learnt[rows])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """In what proportion the training sequences of several files are drawn."""

    sizes: tuple[int, ...]
    """Training sequences of each file; they stand one file after the other."""
    weights: tuple[float, ...]
    """Its share, in any unit."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Sequences to learn from, and sequences that are never learnt from."""

    training: Packed
    """Training sequences."""
    put_aside: Packed
    """Sequences put aside from the end of the training text; empty where nobody asked for them."""
    measured: Packed
    """Sequences that perplexities are measured on."""
    held_out_from: str
    """What the held-out text is, in words."""
    mixture: Mixture | None = None
    """How training sequences are drawn; all alike where there is none."""
    read_as: tuple[str, ...] = ()
    """How each file was read, in words."""

    @property
    def train(self) -> Int[Tensor, "N T"]:
        """Training sequences."""
        return self.training.ids

    @property
    def documents(self) -> Int[Tensor, "N T"]:
        """The documents of the training sequences."""
        return self.training.documents

    @property
    def is_learnt(self) -> Bool[Tensor, "N T"]:
        """Which tokens of the training sequences are to be learnt."""
        return self.training.is_learnt

    @property
    def validation(self) -> Int[Tensor, "M T"]:
        """Sequences put aside from the end of the training text."""
        return self.put_aside.ids

    @property
    def held_out(self) -> Int[Tensor, "K T"]:
        """Sequences that perplexities are measured on."""
        return self.measured.ids


def check(
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    text_key: str = "text",
    weights: Sequence[float] = (),
) -> None:
    """Look at the first row of each file, so that what cannot be used is said before a model is opened.

    Raises:
        SubquadError: there is no file, one cannot be used, or the weights are not one a file.
    """
    _check_weights(files, weights)
    collect_errors(*(partial(_begin, path, text_key) for path in (*files, *evaluation_files)))


def _check_weights(files: Sequence[Path], weights: Sequence[float]) -> None:
    if not files:
        raise SubquadError("--text: no file to learn from")
    if weights and len(weights) != len(files):
        names = ", ".join(path.name for path in files)
        raise SubquadError(
            f"--text-weights: {len(weights)} weights for {len(files)} files ({names}); give one for each file of --text"
        )


def _begin(path: Path, text_key: str) -> None:
    # roles are for the tokenizer to judge, which is not open yet
    nothing = Rendered(text="", answers=(), has_marks=False)
    next(open_documents(path, text_key, render=lambda messages: nothing).documents)


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    length: int,
    text_key: str = "text",
    has_validation: bool = False,
    weights: Sequence[float] = (),
    learn: Learn = "all",
    quiet: bool = True,
) -> Text:
    """Return the files' text as sequences of `length` tokens.

    Held out is the text of `evaluation_files`, else the last tenth of the text by position: of all files end to end, or
    of each file where they have weights.

    Args:
        tokenizer: The model's.
        files: Text to learn from.
        evaluation_files: Text to measure perplexity on.
        length: Tokens of a sequence.
        text_key: The key or column of the text.
        has_validation: Put some training sequences aside.
        weights: The share of each file in the tokens that are drawn; without them, its length.
        learn: `answers` marks the answers of conversations as what is to be learnt.
        quiet: No progress bar.

    Raises:
        SubquadError: a file cannot be used, a part is shorter than one sequence, or answers are asked for and there
            are none.
    """
    _check_weights(files, weights)
    read = partial(tokenise, tokenizer, text_key=text_key, learn=learn, quiet=quiet)
    # with weights each file is packed for itself, so that a sequence is of one file
    groups = [[path] for path in files] if weights else [list(files)]
    streams = [(_names(group), read(group)) for group in groups]
    shares = tuple(map(float, weights)) or (1.0,)
    if learn == "answers" and not any(stream.has_answers for _, stream in streams):
        raise SubquadError(f"--learn answers: {_names(files)} holds text alone, no questions with answers")
    if evaluation_files:
        learnt, held_out = streams, [(_names(evaluation_files), read(evaluation_files))]
        held_out_from, part = held_out[0][0], ""
    else:
        learnt, held_out = _divide(streams, length)
        names = f"each of {_names(files)}" if len(streams) > 1 else _names(files)
        held_out_from, part = f"{LAST_TENTH} {names}", " (after the last tenth was held out)"
    training = [_pack(*named, f"tokens to learn from{part}", length) for named in learnt]
    training, put_aside = _put_aside(training, shares, names=_names(files), has_validation=has_validation)
    measured = [_pack(*named, "held-out tokens", length) for named in held_out]
    read_as = [words for _, stream in streams for words in stream.words]
    return Text(
        training=_together(training),
        put_aside=put_aside,
        measured=_together(measured)[_in_turn(_sizes(measured), shares)] if len(measured) > 1 else measured[0],
        held_out_from=held_out_from,
        mixture=Mixture(sizes=tuple(_sizes(training)), weights=shares) if weights else None,
        read_as=(*read_as, *(held_out[0][1].words if evaluation_files else ())),
    )


def order(
    sequences: int, *, batch: int, seed: int, epoch: int, mixture: Mixture | None = None
) -> list[Int[Tensor, " B"]]:
    """Return an epoch's batches as indices of sequences: a shuffle that depends on seed and epoch alone.

    With a mixture, an epoch has as many sequences as without. A file's are repeated, or a part of them drawn anew in
    each epoch, so that its share is right in the epoch, and nearly so in any part of it.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if mixture is None:
        shuffled = torch.randperm(sequences, generator=generator)
    else:
        shuffled = _drawn(sequences, mixture, generator)
    whole = [shuffled[start : start + batch] for start in range(0, sequences, batch)]
    # a short last batch would weigh its sequences more than the others
    return whole[:-1] if len(whole) > 1 and len(whole[-1]) < batch else whole


def _drawn(sequences: int, mixture: Mixture, generator: torch.Generator) -> Int[Tensor, " N"]:
    weights = torch.tensor(mixture.weights, dtype=torch.float64)
    ends = (weights.cumsum(0) / weights.sum() * sequences).round().long().tolist()
    rows, places, first, begun = [], [], 0, 0
    for size, end in zip(mixture.sizes, ends, strict=True):
        count, begun = end - begun, end
        rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
        rows.append(torch.cat(rounds)[:count] + first if rounds else torch.empty(0, dtype=torch.long))
        # one in each of `count` equal parts of the epoch, so that no file comes in a heap
        places.append((torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count)
        first += size
    return torch.cat(rows)[torch.cat(places).argsort(stable=True)]


def _in_turn(sizes: Sequence[int], weights: Sequence[float]) -> Int[Tensor, " N"]:
    """Return indices of sequences that stand file after file, in turn by weight for as long as each file lasts."""
    places: list[Float[Tensor, " N"]] = [
        (torch.arange(size, dtype=torch.float64) + 0.5) / weight for size, weight in zip(sizes, weights, strict=True)
    ]
    return torch.cat(places).argsort(stable=True)


def _put_aside(
    training: Sequence[Packed], shares: Sequence[float], *, names: str, has_validation: bool
) -> tuple[list[Packed], Packed]:
    """Return training sequences without some at each file's end, and those."""
    sizes = [len(packed) // 10 for packed in training]
    total = sum(_sizes(training))
    most = min(VALIDATION_SEQUENCES, total // 10) if has_validation else 0
    taken = _in_turn(sizes, shares)[:most]
    if has_validation and not len(taken):
        raise SubquadError(
            f"{names}: {total} training sequences are too few to put some aside for --validate-every; {REMEDY}"
        )
    ends = torch.tensor(sizes).cumsum(0)
    counts = torch.bincount(torch.searchsorted(ends, taken, right=True), minlength=len(sizes)).tolist()
    cuts = [len(packed) - count for packed, count in zip(training, counts, strict=True)]
    kept = [packed[:cut] for packed, cut in zip(training, cuts, strict=True)]
    return kept, _together([packed[cut:] for packed, cut in zip(training, cuts, strict=True)])


def _divide(streams: Sequence[Named], length: int) -> tuple[list[Named], list[Named]]:
    """Return the beginning of each stream, and its last tenth but no less than a sequence."""
    before, after = [], []
    for names, tokens in streams:
        cut = len(tokens) - max(int(len(tokens) * HELD_OUT), min(length, len(tokens) // 2))
        before.append((names, tokens.part(0, cut)))
        after.append((f"{LAST_TENTH} {names}", tokens.part(cut, len(tokens))))
    return before, after


def _names(files: Sequence[Path]) -> str:
    return ", ".join(path.name for path in files)


def _sizes(parts: Sequence[Packed]) -> list[int]:
    return [len(part) for part in parts]


def _pack(names: str, tokens: Tokens, what: str, length: int) -> Packed:
    if len(tokens) < length:
        raise SubquadError(f"{names}: {len(tokens)} {what}, shorter than one sequence of {length}; {REMEDY}")
    count = len(tokens) // length
    whole = count * length
    is_start = torch.zeros(whole, dtype=torch.bool)
    is_start[tokens.starts[tokens.starts < whole]] = True
    is_start = is_start.reshape(count, length)
    # what a sequence begins with is its document 0
    is_start[:, 0] = False
    return Packed(
        ids=tokens.ids[:whole].reshape(count, length),
        documents=is_start.cumsum(1, dtype=torch.int16 if length <= 2**15 else torch.int32),
        is_learnt=tokens.is_learnt[:whole].reshape(count, length),
    )


def _together(parts: Sequence[Packed]) -> Packed:
    if len(parts) == 1:
        return parts[0]
    return Packed(
        ids=torch.cat([part.ids for part in parts]),
        documents=torch.cat([part.documents for part in parts]),
        is_learnt=torch.cat([part.is_learnt for part in parts]),
    )
