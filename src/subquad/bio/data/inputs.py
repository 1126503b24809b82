"""Reading of model inputs from the columns of a table: sequences, variants and partner sequences."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.alphabet import (
    TITLES,
    encode,
    has_gap,
    infer_alphabet,
    is_nucleotide,
    normalize,
)
from subquad.bio.data.consistency import check_aligned, check_mixed, check_same_type, few_other_lengths
from subquad.bio.data.dataset import PAD, ROW_TASK_TYPES, Inputs, InputSchema
from subquad.bio.data.fasta import read_sequence
from subquad.bio.data.files import column_of, naming
from subquad.bio.data.numbers import is_missing, rows_without
from subquad.bio.data.partner_sequences import Partners, joint_alphabet, pair
from subquad.bio.data.variants import Variants, check_unread, parse_variants
from subquad.bio.data.wild_type import SequenceSet, each_with_stop, from_both, from_sequences, from_variants, with_stops
from subquad.bio.settings import ALPHABETS, TaskType
from subquad.errors import SubquadError, collect_errors, raise_errors

__all__ = [
    "InputOptions",
    "ReadInputs",
    "check_strands",
    "check_task",
    "read_inputs",
]

NOT_ALIGNED = "sequences are not aligned, so positions are not used as features"
LONGEST = 4
"""Letters of the longest text, such as `null`, that stands for a missing sequence."""


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Columns of the inputs in a table, and how to read them."""

    sequence: str | None
    mutant: str | None
    partner: str | None
    alphabet: str
    ambiguity: str
    wild_type: str | None
    """Letters, or a file with one sequence."""
    offset: int | None
    partner_alphabet: str = "auto"
    """Name of the alphabet of the partner sequences, or `auto`."""
    pairing: str = "auto"
    """Form of the partner sequences: `aligned`, `chains` or `auto`."""
    is_mutant_named: bool = False
    """The user named the column of variants, so it must be readable."""
    schema: InputSchema | None = None
    """Schema of the training table; None if this is the training table, from which missing options are inferred."""

    @classmethod
    def of_schema(
        cls, schema: InputSchema, *, sequence: str | None, mutant: str | None = None, partner: str | None = None
    ) -> "InputOptions":
        """Return the options to read another table like the training table."""
        return cls(
            sequence=sequence,
            mutant=mutant,
            partner=partner,
            alphabet=schema.alphabet,
            ambiguity=schema.ambiguity,
            wild_type=schema.wild_type,
            # a table of sequences has not said how positions are numbered
            offset=None if schema.mutant is None else schema.offset,
            partner_alphabet=schema.alphabet if schema.partner_chain is None else schema.partner_chain.alphabet,
            schema=schema,
        )


@dataclass(frozen=True, kw_only=True)
class ReadInputs:
    """Inputs of a table without covariates, their sequences as text, and their schema."""

    inputs: Inputs
    sequences: SequenceSet
    schema: InputSchema
    remarks: list[str] = field(default_factory=list)


def read_inputs(path: Path | str, frame: pd.DataFrame, options: InputOptions) -> ReadInputs:
    """Read the inputs of all rows, without covariates.

    Raises:
        SubquadError: Invalid letters, variants that do not fit the wild type, missing partner sequences, guides longer
            than their contexts (with their rows), or no wild type.
    """
    wild, is_training = options.wild_type, options.schema is None
    if wild is not None and is_training:
        wild = read_sequence(wild, "--wild-type")
    texts, remarks = None, []
    if options.sequence is not None:
        column = column_of(frame, options.sequence)
        _check_present(path, column)
        texts, remarks = _upper_case(column)
    if texts is None and wild is None:
        raise SubquadError(
            f"{path}: column {options.mutant!r} has variants, whose wild type is unknown; give it, or full sequences"
        )
    alphabet, is_inferred = infer_alphabet(texts if texts is not None else [wild or ""], options.alphabet)
    partners, partner_alphabet = _partner_texts(path, frame, options)
    if partners is not None and options.partner_alphabet == "auto":
        joint = joint_alphabet(alphabet, partner_alphabet)
        alphabet, partner_alphabet = joint if joint and is_inferred else alphabet, joint or partner_alphabet
    if texts is not None and has_gap(alphabet) and is_training:
        check_aligned(path, texts, column=str(options.sequence))
    elif texts is not None and alphabet.startswith("protein") and is_training:
        texts, truncated = with_stops(texts, wild)
        alphabet = "protein_stop" if truncated else alphabet
        remarks = remarks + truncated
    elif texts is not None and options.schema and options.schema.completing:
        # each row by itself, whatever other rows are predicted with it
        texts, truncated = each_with_stop(texts, options.schema.completing)
        remarks = remarks + truncated
    if is_inferred and texts is not None:
        remarks = remarks + check_mixed(path, texts, alphabet)
    elif not is_training and texts is not None:
        check_same_type(path, texts, alphabet)
    if texts is None:
        found, notes = _sequence_set(path, frame, options, None, wild=wild, alphabet=alphabet)
        if is_inferred:
            # the variants may add a stop, and DNA may have been translated
            alphabet = infer_alphabet(found.sequences, "auto")[0]
        codes, paired, more = _codes(path, options, found.sequences, partners, alphabets=(alphabet, partner_alphabet))
    else:
        sequences, changed = normalize(texts, alphabet)
        (found, notes), (codes, paired, more) = collect_errors(
            lambda: _sequence_set(path, frame, options, sequences, wild=wild, alphabet=alphabet),
            lambda: _codes(path, options, sequences, partners, alphabets=(alphabet, partner_alphabet)),
        )
        notes = changed + notes
    if is_inferred:
        remarks.insert(0, f"alphabet: {alphabet} ({ALPHABETS[alphabet]}) (inferred; --alphabet overrides)")
    remarks += notes + found.remarks + more
    if partners is not None:
        texts = normalize(partners, partner_alphabet)[0]
        pairs = [f"{partner}|{sequence}" for partner, sequence in zip(texts, found.sequences, strict=True)]
        found = replace(found, sequences=pairs)
    return _assembled(options, found, codes, paired, alphabet=alphabet, remarks=remarks)


def _assembled(
    options: InputOptions,
    found: SequenceSet,
    codes: np.ndarray,
    paired: Partners,
    *,
    alphabet: str,
    remarks: list[str],
) -> ReadInputs:
    """Return inputs and schema of codes."""
    is_aligned = bool((codes[:, -1] != PAD).all())
    if options.schema is None and not is_aligned:
        found_others = few_other_lengths((codes != PAD).sum(1))
        remarks = remarks + ([f"{found_others}: {NOT_ALIGNED}"] if found_others else [])
    schema = options.schema or InputSchema(
        sequence=options.sequence,
        mutant=options.mutant,
        partner=options.partner,
        alphabet=alphabet,
        ambiguity=options.ambiguity,
        wild_type=found.wild_type,
        offset=found.offset,
        is_aligned=is_aligned,
        length=codes.shape[1] if is_aligned else None,
        alignment=paired.alignment,
        partner_chain=paired.chain_schema,
    )
    inputs = Inputs(
        codes=codes,
        letters=len(ALPHABETS[alphabet]),
        partner=paired.aligned,
        partner_chain=paired.chain,
        covariates=np.zeros((len(codes), 0)),
        is_aligned=is_aligned,
    )
    return ReadInputs(inputs=inputs, sequences=found, schema=schema, remarks=remarks)


def _check_present(path: Path | str, column: pd.Series) -> None:
    """Check that no cell says that its sequence is missing: among longer sequences NA is no peptide."""
    text = column.str.strip()
    missing = np.flatnonzero(is_missing(column) & (text != "").to_numpy()) if text.str.len().median() > LONGEST else []
    raise_errors(
        f"{path}: {rows_without(len(missing))} sequence in column {column.name!r}; complete or remove them",
        [f"row {row + 1}: {column.iloc[row]!r}" for row in missing],
    )


def _partner_texts(path: Path | str, frame: pd.DataFrame, options: InputOptions) -> tuple[list[str] | None, str]:
    """Return the partner sequences in upper case, and the name of their alphabet; None without partner sequences."""
    if options.partner is None:
        return None, options.partner_alphabet
    column = column_of(frame, options.partner)
    missing = np.flatnonzero(is_missing(column))
    raise_errors(
        f"{path}: {rows_without(len(missing))} partner sequence in column {options.partner!r}",
        [f"row {row + 1}: {column.iloc[row]!r}" for row in missing],
    )
    texts = _upper_case(column)[0]
    alphabet, is_inferred = infer_alphabet(texts, options.partner_alphabet)
    if is_inferred:
        check_mixed(path, texts, alphabet)
    if has_gap(alphabet) and options.schema is None:
        check_aligned(path, texts, column=options.partner)
    return texts, alphabet


def _codes(
    path: Path | str,
    options: InputOptions,
    texts: list[str],
    partners: list[str] | None,
    *,
    alphabets: tuple[str, str],
) -> tuple[np.ndarray, Partners, list[str]]:
    """Return the codes of the sequences, the partner sequences, and remarks."""
    schema, (alphabet, partner_alphabet) = options.schema, alphabets

    def sequences() -> tuple[np.ndarray, list[str]]:
        length = None if schema is None else schema.length
        return encode(path, texts, alphabet, length=length, ambiguity=options.ambiguity)

    if partners is None:
        codes, remarks = sequences()
        return codes, Partners(), remarks
    chain, what = None if schema is None else schema.partner_chain, f"{options.partner} sequence"
    short, changed = normalize(partners, partner_alphabet)
    length = None if chain is None else chain.length
    (codes, remarks), (short, more) = collect_errors(
        sequences, lambda: encode(path, short, partner_alphabet, length=length, what=what, ambiguity=options.ambiguity)
    )
    paired = pair(path, codes, short, alphabets=alphabets, pairing=options.pairing, schema=schema)
    return codes, paired, [*remarks, *changed, *more, *paired.remarks]


def _sequence_set(
    path: Path | str,
    frame: pd.DataFrame,
    options: InputOptions,
    sequences: list[str] | None,
    *,
    wild: str | None,
    alphabet: str,
) -> tuple[SequenceSet, list[str]]:
    """Return the sequences with the variants that they are, and remarks beside those of the set."""
    wild = None if wild is None else normalize([wild], alphabet)[0][0]
    if sequences is not None and options.partner is not None:
        return SequenceSet(sequences=sequences), []
    is_needed = sequences is None or options.is_mutant_named
    variants, remarks = _variants(frame, options, alphabet, is_needed=is_needed)
    if variants is not None:
        _, found = collect_errors(
            lambda: check_unread(path, variants, str(options.mutant)),
            lambda: _from_variants(path, options, sequences, variants, wild=wild, alphabet=alphabet),
        )
        if found.mutants is not None:
            return found, remarks
        remarks += found.remarks
    assert sequences is not None, "without sequences there are variants"
    if options.schema is not None and (wild is None or all(len(text) != len(wild) for text in sequences)):
        # sequences of another length than in training are reported where they are encoded
        return SequenceSet(sequences=sequences), remarks
    with naming(path):
        return from_sequences(sequences, wild_type=wild), remarks


def _from_variants(
    path: Path | str,
    options: InputOptions,
    sequences: list[str] | None,
    variants: Variants,
    *,
    wild: str | None,
    alphabet: str,
) -> SequenceSet:
    if sequences is None:
        return from_variants(path, variants, wild or "", offset=options.offset)
    return from_both(
        path,
        sequences,
        variants,
        wild_type=wild,
        offset=options.offset,
        column=str(options.mutant),
        is_named=options.is_mutant_named,
        alphabet=alphabet,
        ambiguity=options.ambiguity,
    )


def _variants(
    frame: pd.DataFrame, options: InputOptions, alphabet: str, *, is_needed: bool
) -> tuple[Variants | None, list[str]]:
    if options.mutant is None:
        return None, []
    variants, remarks = parse_variants(column_of(frame, options.mutant))
    if variants.unread and not is_needed:
        # the full sequences suffice
        return None, [f"column {options.mutant!r} has values that are not substitutions and is ignored"]
    letters = set(np.unique([variants.old, variants.new]).tolist())
    # of a coding sequence they can be those of the protein
    if is_nucleotide(alphabet) and letters <= set(b"ACGTUN"):
        variants = variants.translated("U", "T") if alphabet.startswith("dna") else variants.translated("T", "U")
    return variants, remarks


def _upper_case(column: pd.Series) -> tuple[list[str], list[str]]:
    """Return sequences in upper case, without the spaces of blocks of ten letters, and remarks."""
    texts = column.str.strip().str.upper().tolist()
    blocks = [row for row, text in enumerate(texts) if len(text.split()) > 1]
    for row in blocks:
        texts[row] = "".join(texts[row].split())
    remark = f"spaces inside {len(blocks):,} sequences of column {column.name!r} are removed"
    return texts, [remark] if blocks else []


def check_task(inputs: Inputs, *, alphabet: str, task_type: TaskType) -> None:
    """Check that the inputs suit the type of the task.

    Raises:
        SubquadError: Values along the sequence of pairs of chains, or base pairs of an alignment with gaps.
    """
    is_chains, is_gapped = inputs.partner_chain is not None, task_type == "pairs" and has_gap(alphabet)
    if is_gapped or (is_chains and task_type not in ROW_TASK_TYPES):
        what = "base pairs need sequences without gaps" if is_gapped else "two chains need one value per row"
        raise SubquadError(f"{what}; the task is {task_type}")


def check_strands(inputs: Inputs, strands: str, *, alphabet: str, task_type: TaskType) -> Inputs:
    """Return the inputs as single- or double-stranded ones.

    Raises:
        SubquadError: `strands` is `both`, but the inputs are not double-stranded DNA.
    """
    reason = None
    if alphabet != "dna":
        reason = f"these sequences are of the {TITLES[alphabet]}"
    elif inputs.partner is not None or inputs.partner_chain is not None:
        reason = "the two sequences of a pair each have their own strand"
    elif task_type not in ROW_TASK_TYPES:
        reason = "the target has values along the sequence"
    if strands == "both" and reason:
        raise SubquadError(f"strands both needs double-stranded DNA, but {reason}; leave it out")
    return replace(inputs, is_double_stranded=strands == "both")
