"""What a model sees of a table: sequences, variants, a second channel, further numbers; read first, or read again.

Axes: n rows, T positions, E covariates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.alphabet import NAMES_OF, encode, letters_of, normalise, refuse_mixed
from subquad.bio.data.dataset import PAD, ROW_TASK_TYPES, Inputs
from subquad.bio.data.fasta import read_sequence
from subquad.bio.data.files import read_numbers
from subquad.bio.data.partner_sequences import align_guides
from subquad.bio.data.truncated import with_stops
from subquad.bio.data.variants import Variants, parse_variants, refuse_unread
from subquad.bio.data.wild_type import Construct, from_both, from_sequences, from_variants
from subquad.bio.settings import ALPHABETS, TaskType
from subquad.errors import SubquadError, collect_errors, raise_errors, unknown

__all__ = ["Ask", "Read", "fill_missing", "on_strands", "read_covariates", "read_inputs"]

FEW_OTHERS = 0.05
"""Of the sequences, that have another length than all others: rather a mistake, or a deletion, than a mixed library."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """How the inputs of a table are to be read."""

    sequence: str | None
    """Columns."""
    mutant: str | None
    partner: str | None
    alphabet: str
    ambiguity: str
    wild_type: str | None
    """Letters, or a FASTA file."""
    offset: int | None
    is_named: bool = False
    """The user named the column of variants."""
    is_again: bool = False
    """A model stands already: nothing new is found out of the table."""
    length: int | None = None
    """That all sequences must have."""
    laid: dict[str, Any] | None = None
    """How guides were laid on their contexts."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """The inputs of a table, what they were made of, and how to make them again."""

    inputs: Inputs
    construct: Construct
    about: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def read_inputs(path: Path | str, frame: pd.DataFrame, ask: Ask) -> Read:
    """Return the inputs of all rows, without covariates.

    Raises:
        SubquadError: wrong letters, variants that do not fit the wild type, guides longer than their context, or no
            wild type; each with its row.
    """
    wild = ask.wild_type
    if wild is not None and not ask.is_again:
        wild = read_sequence(wild, "--wild-type")
    texts, blanks = (None, []) if ask.sequence is None else _upper(frame[ask.sequence])
    if texts is None and wild is None:
        raise SubquadError(
            f"{path}: column {ask.mutant!r} holds variants; say of what, with --wild-type LETTERS or a FASTA file"
        )
    alphabet, is_guessed = letters_of(texts if texts is not None else [wild or ""], ask.alphabet)
    if texts is not None and alphabet.startswith("protein") and (alphabet == "protein_stop" or not ask.is_again):
        texts, ends = with_stops(texts, wild)
        alphabet = "protein_stop" if ends else alphabet
        blanks = blanks + ends
    remarks = blanks
    if is_guessed and texts is not None:
        remarks = blanks + refuse_mixed(path, texts, alphabet)
    if texts is None:
        construct, said = _construct(path, frame, ask, None, wild=wild, alphabet=alphabet)
        if is_guessed:
            # the variants may bring a stop, and DNA may have been translated
            alphabet = letters_of(construct.sequences, "auto")[0]
        codes, partner, laid, more = _codes(path, frame, ask, construct.sequences, alphabet)
    else:
        sequences, changed = normalise(texts, alphabet)
        (construct, said), (codes, partner, laid, more) = collect_errors(
            lambda: _construct(path, frame, ask, sequences, wild=wild, alphabet=alphabet),
            lambda: _codes(path, frame, ask, sequences, alphabet),
        )
        said = changed + said
    if is_guessed:
        remarks.insert(0, f"alphabet: {alphabet} ({ALPHABETS[alphabet]}) (guessed; --alphabet names another)")
    remarks += said + construct.remarks + more
    if partner is not None:
        guides = normalise(_upper(frame[ask.partner])[0], alphabet)[0]
        pairs = [f"{guide}|{context}" for guide, context in zip(guides, construct.sequences, strict=True)]
        construct = Construct(sequences=pairs)
    is_aligned = bool((codes[:, -1] != PAD).all())
    if not (is_aligned or ask.is_again):
        remarks += _few_of_another_length((codes != PAD).sum(1))
    about = {
        **{"sequence": ask.sequence, "mutant": ask.mutant, "partner": ask.partner},
        **{"alphabet": alphabet, "ambiguity": ask.ambiguity, "laid": laid},
        **{"wild_type": construct.wild_type, "offset": construct.offset},
        **{"is_aligned": is_aligned, "length": codes.shape[1] if is_aligned else None},
    }
    none = np.zeros((len(codes), 0))
    inputs = Inputs(codes=codes, letters=len(ALPHABETS[alphabet]), partner=partner, covariates=none, is_aligned=is_aligned)
    return Read(inputs=inputs, construct=construct, about=about, remarks=remarks)


def _few_of_another_length(lengths: np.ndarray) -> list[str]:
    """Return a remark where nearly all sequences have one length, and a few keep positions from being used."""
    most = int(np.bincount(lengths).argmax())
    others = np.flatnonzero(lengths != most)
    if len(others) > FEW_OTHERS * len(lengths):
        return []
    least, longest = lengths[others].min(), lengths[others].max()
    letters = f"{least:,}" if least == longest else f"{least:,} to {longest:,}"
    rows = ", ".join(f"{row + 1}" for row in others[:3]) + (", …" if len(others) > 3 else "")
    has, row, it = ("has", "row", "it") if len(others) == 1 else ("have", "rows", "them")
    return [
        f"{len(others):,} of {len(lengths):,} sequences {has} {letters} letters, the others {most:,} ({row} {rows}): "
        f"positions are not used; leave {it} out to have them"
    ]


def _codes(
    path: Path | str, frame: pd.DataFrame, ask: Ask, texts: list[str], alphabet: str
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any] | None, list[str]]:
    """Return the codes of both channels, how guides were laid, and remarks."""

    def sequences() -> tuple[np.ndarray, list[str]]:
        return encode(path, texts, alphabet, ambiguity=ask.ambiguity, length=ask.length)

    if ask.partner is None:
        codes, said = sequences()
        return codes, None, None, said
    guides = normalise(_upper(frame[ask.partner])[0], alphabet)[0]
    (codes, said), (short, more) = collect_errors(
        sequences, lambda: encode(path, guides, alphabet, ambiguity=ask.ambiguity, what=str(ask.partner))
    )
    if alphabet not in ("dna", "rna"):
        raise SubquadError(f"{path}: column {ask.partner!r} pairs with DNA or RNA only, but the sequences are proteins")
    partner, laid, how = align_guides(path, codes, short, known=ask.laid)
    return codes, partner, laid, said + more + how


def _construct(
    path: Path | str, frame: pd.DataFrame, ask: Ask, sequences: list[str] | None, *, wild: str | None, alphabet: str
) -> tuple[Construct, list[str]]:
    """Return the sequences with what they are variants of, and remarks; those of the construct stand in it."""
    wild = None if wild is None else normalise([wild], alphabet)[0][0]
    if sequences is not None and ask.partner is not None:
        return Construct(sequences=sequences), []
    variants, remarks = _variants(frame, ask, alphabet, is_needed=sequences is None or ask.is_named)
    if variants is not None:
        _, construct = collect_errors(
            lambda: refuse_unread(path, variants, str(ask.mutant)),
            lambda: _of_variants(path, ask, sequences, variants, wild=wild, alphabet=alphabet),
        )
        if construct.mutants is not None:
            return construct, remarks
        remarks += construct.remarks
    assert sequences is not None, "without sequences there are variants"
    if wild is None and ask.is_again:
        return Construct(sequences=sequences), remarks
    return from_sequences(sequences, wild_type=wild), remarks


def _of_variants(
    path: Path | str, ask: Ask, sequences: list[str] | None, variants: Variants, *, wild: str | None, alphabet: str
) -> Construct:
    if sequences is None:
        return from_variants(path, variants, wild or "", offset=ask.offset)
    return from_both(
        path,
        sequences,
        variants,
        wild_type=wild,
        offset=ask.offset,
        column=str(ask.mutant),
        is_named=ask.is_named,
        alphabet=alphabet,
        ambiguity=ask.ambiguity,
    )


def _variants(frame: pd.DataFrame, ask: Ask, alphabet: str, *, is_needed: bool) -> tuple[Variants | None, list[str]]:
    if ask.mutant is None:
        return None, []
    variants, said = parse_variants(frame[ask.mutant])
    if variants.unread and not is_needed:
        # full sequences stand without them
        return None, [f"column {ask.mutant!r} holds more than substitutions and is left aside (--mutant shows where)"]
    if alphabet in ("dna", "rna"):
        variants = variants.translated("U", "T") if alphabet == "dna" else variants.translated("T", "U")
    return variants, said


def _upper(column: pd.Series) -> tuple[list[str], list[str]]:
    """Return sequences in upper case, without the blanks of blocks of ten letters, and remarks."""
    texts = column.str.strip().str.upper().tolist()
    blocks = [row for row, text in enumerate(texts) if " " in text]
    for row in blocks:
        texts[row] = "".join(texts[row].split())
    remark = f"blanks inside {len(blocks):,} sequences of column {column.name!r} are left out"
    return texts, [remark] if blocks else []


def read_covariates(
    path: Path | str, frame: pd.DataFrame, names: tuple[str, ...], fill: dict[str, float] | None
) -> tuple[np.ndarray, dict[str, float], list[str]]:
    """Return the covariates `(n, E)`, what missing values of each are filled with, and remarks."""
    missing = [name for name in names if name not in frame.columns]
    raise_errors(
        f"{path}: the model also learned from columns that are not here; add them",
        [str(unknown("column", name, frame.columns)) for name in missing],
    )
    read = collect_errors(*(lambda name=name: read_numbers(path, frame[name], "covariates") for name in names))
    values = np.stack([numbers for numbers, _ in read], axis=1) if names else np.zeros((len(frame), 0))
    remarks = [remark for _, said in read for remark in said]
    values, fill, filled = fill_missing(path, values, names, fill, flag="--covariates")
    return values, fill, remarks + filled


def fill_missing(
    path: Path | str, values: np.ndarray, names: Sequence[str], fill: dict[str, float] | None, *, flag: str
) -> tuple[np.ndarray, dict[str, float], list[str]]:
    """Return numbers `(n, E)` with the gaps filled, what each column is filled with, and remarks.

    Args:
        path: the table, for messages.
        values: `(n, E)`, NaN where there is none.
        names: of the columns.
        fill: of the table that was learned from; None: this is it, and the median is taken.
        flag: that the columns were named with, for messages.

    Raises:
        SubquadError: columns without a number, where there is no other table.
    """
    if fill is None:
        is_empty = np.isnan(values).all(0)
        raise_errors(
            f"{path}: covariates without a number; leave them out of {flag}",
            [repr(name) for name, empty in zip(names, is_empty, strict=True) if empty],
        )
        fill = {name: float(np.nanmedian(values[:, k])) for k, name in enumerate(names)}
    values, remarks = values.copy(), []
    for k, name in enumerate(names):
        holes = np.isnan(values[:, k])
        if holes.any():
            values[holes, k] = fill[name]
            remarks.append(
                f"column {name!r}: {int(holes.sum()):,} missing values are filled with {fill[name]:.4g}, the median"
            )
    return values, fill, remarks


def on_strands(inputs: Inputs, strands: str, *, alphabet: str, task_type: TaskType) -> Inputs:
    """Return the inputs as those of one strand or of both.

    Raises:
        SubquadError: both are asked for, of what has one only.
    """
    why = None
    if alphabet != "dna":
        why = f"these are letters of the {NAMES_OF[alphabet]}"
    elif inputs.partner is not None:
        why = "a guide and its target have a strand each"
    elif task_type not in ROW_TASK_TYPES:
        why = "the target has values along the sequence"
    if strands == "both" and why:
        raise SubquadError(f"strands both: it is for double-stranded DNA, and {why}; leave it out")
    return replace(inputs, is_double=strands == "both")
