"""Features of whole sequences: letters at positions, substitutions, k-mers, codons, covariates and embeddings.

Aligned sequences have one-hot letters at positions; aligned proteins also their substitutions. Sequences of varying
length, and aligned ones that are not variants of one reference, have composition and k-mers, and open reading frames
have codons. Cost: one pass over the letters.

Axes: n or B rows, T positions, A letters, E covariates, D numbers of an embedding, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from subquad.bio.data.alphabet import alphabet_of
from subquad.bio.data.dataset import Inputs
from subquad.bio.features.base import Features, common_fields, standardized
from subquad.bio.features.composition import (
    are_open,
    codons_of,
    ends_of,
    global_names,
    global_values,
    is_nucleic,
    kmer_name,
    kmers_of,
)
from subquad.bio.features.substitutions import Substitutions, reference_of
from subquad.bio.settings import ALPHABETS

__all__ = [
    "LETTERS",
    "PRODUCTS",
    "SequenceFeatures",
]

MAX_PAIR_POSITIONS = 120
"""Aligned DNA and RNA with at most this many varying positions also have dinucleotides at positions as features."""
MIN_DIVERSITY, MIN_KMER_POSITIONS = 0.25, 10
"""Fraction of letters that differ from the reference, and number of varying positions, from which aligned sequences
also have k-mers as features."""
ENDS = 5
"""Number of letters at either end that are features if lengths vary."""
CHUNK, MAX_DENSE = 1 << 14, 1 << 22
"""Rows at a time, and numbers of their embeddings."""
LETTERS, PRODUCTS = ("letters", "partner", "mismatch"), ("pairs", "type")
"""Blocks of one-hot letters at positions, and of features that are products of them."""

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row, column and value."""


@dataclass(frozen=True, kw_only=True)
class SequenceFeatures(Features):
    """Set of features of a sequence."""

    positions: int
    """Number of positions of aligned sequences; 0 if lengths vary."""
    has_pairs: bool = False
    """Dinucleotides at positions are features."""
    kmer: int = 0
    """Length of the longest k-mer whose frequency is a feature; 0: none."""
    has_codons: bool = False
    """Frequencies of codons are features, counted from the first letter."""
    reference: tuple[int, ...] = ()
    """Codes of the letters that substitutions are counted from; empty without substitution features."""
    has_several: bool = False
    """Rows may have several substitutions."""
    ends: int = 0
    """Number of letters at either end that are features, if lengths vary."""
    embedding_mean: tuple[float, ...] = ()
    embedding_scale: tuple[float, ...] = ()
    """Factor of the centred numbers of the embedding; 0 for constant ones."""
    kept: tuple[int, ...] | None = None
    """Columns that vary over the training rows; None keeps all."""
    widths: tuple[int, ...] = ()
    """Number of columns of each block of `layout` when the features were fitted."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SequenceFeatures":
        """Return the features that `as_dict` wrote.

        Raises:
            ValueError: This version has other columns, so that a model would read wrong ones; or entries contradict
                each other.
        """
        features = super().from_dict(values)
        # k-mers first, since each is a block
        if features.kmer > len(features.widths) or features.widths != tuple(features._widths):
            raise ValueError("its features have other columns than those of this version")
        for name in ("covariate", "embedding"):
            if len(getattr(features, f"{name}_mean")) != len(getattr(features, f"{name}_scale")):
                raise ValueError(f"its features have {name}s without a mean or scale")
        if features.kept and not 0 <= min(features.kept) <= max(features.kept) < features._width:
            raise ValueError(f"its features keep columns beyond the {features._width} that there are")
        return features

    @classmethod
    def for_inputs(cls, inputs: Inputs) -> "SequenceFeatures":
        """Return the features for training rows, without those that are constant."""
        is_dna_or_rna, codes = is_nucleic(inputs.letters), inputs.codes
        fields: dict[str, Any] = {"kmer": 2 + is_dna_or_rna, "ends": ENDS}
        if inputs.is_aligned:
            reference = reference_of(codes, inputs.letters)
            differs = (codes != reference) & (codes >= 0)
            varying = int(differs.any(0).sum())
            is_diverse = varying >= MIN_KMER_POSITIONS and differs.sum() > MIN_DIVERSITY * varying * len(codes)
            fields = {
                "has_pairs": is_dna_or_rna and varying <= MAX_PAIR_POSITIONS,
                "kmer": fields["kmer"] if is_diverse else 0,
            }
            if inputs.has_substitutions:
                fields |= {"reference": tuple(reference.tolist()), "has_several": bool((differs.sum(1) > 1).any())}
        if inputs.embedding is not None:
            fields |= dict(zip(("embedding_mean", "embedding_scale"), standardized(inputs.embedding), strict=True))
        whole = cls(
            **common_fields(inputs),
            **fields,
            positions=codes.shape[1] if inputs.is_aligned else 0,
            has_codons=is_dna_or_rna and are_open(inputs),
        )
        lowest, highest = np.inf, -np.inf
        for block in whole._blocks(inputs):
            lowest = np.minimum(lowest, block.min(0).toarray().ravel())
            highest = np.maximum(highest, block.max(0).toarray().ravel())
        varies = np.flatnonzero(np.broadcast_to(highest > lowest, whole.count))
        return replace(whole, kept=tuple(varies.tolist()), widths=tuple(whole._widths))

    def of_block(self, name: str) -> "SequenceFeatures":
        """Return the features of one block of `layout`."""
        return replace(self, kept=tuple(self.columns[self.blocks == name].tolist()))

    @property
    def count(self) -> int:
        """Number of features, F."""
        return self._width if self.kept is None else len(self.kept)

    @cached_property
    def is_unit(self) -> np.ndarray:
        """`(F,)` bool: the feature is one-hot (a letter at a position), so its scale is known."""
        return np.repeat([is_unit for _, _, is_unit in self.layout], self._widths)[self.columns]

    @cached_property
    def blocks(self) -> np.ndarray:
        """`(F,)` name of each feature's block in `layout`."""
        return np.repeat([kind for kind, _, _ in self.layout], self._widths)[self.columns]

    @cached_property
    def varying(self) -> np.ndarray:
        """Positions of aligned sequences at which the letters, or those of the partner, varied in training."""
        place, found = 0, []
        for kind, width, _ in self.layout:
            if kind in ("letters", "partner"):
                own = self.columns[(self.columns >= place) & (self.columns < place + width)]
                found.append((own - place) // self.letters)
            place += width
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def standardize_embedding(self, inputs: Inputs) -> np.ndarray:
        """Return the embeddings, centred and scaled by those of the training rows, `(n, D)`."""
        assert inputs.embedding is not None, "the inputs of a model with embeddings have some"
        return (inputs.embedding - np.array(self.embedding_mean)) * np.array(self.embedding_scale)

    def matrix(self, inputs: Inputs) -> sparse.csr_matrix:
        """Return the features of each row, `(n, F)` float32."""
        blocks = list(self._blocks(inputs))
        empty = sparse.csr_matrix((0, self.count), dtype=np.float32)
        return sparse.csr_matrix(sparse.vstack([empty, *blocks], format="csr"))

    def names(self, alphabet: str | None = None, covariates: Sequence[str] | None = None) -> list[str]:
        """Return the names of the features: A24 (from 1), mismatch A24G, GC, dipeptide KR, a covariate, embedding 17.

        Args:
            alphabet: The letters; by default DNA or protein, depending on their number.
            covariates: Names of the covariates.
        """
        alphabet = alphabet or ALPHABETS[alphabet_of(self.letters)]
        covariates = covariates or [f"covariate {k + 1}" for k in range(len(self.covariate_mean))]
        everything = [name for kind, _, _ in self.layout for name in _names(self, kind, alphabet, covariates)]
        return [everything[k] for k in self.columns]

    @cached_property
    def columns(self) -> np.ndarray:
        """Indices of the features among all columns of the blocks in `layout`."""
        return np.arange(self._width) if self.kept is None else np.array(self.kept, dtype=np.int64)

    @cached_property
    def layout(self) -> list[tuple[str, int, bool]]:
        """Blocks of features in order: name, number of columns, and whether they are one-hot."""
        A, T = self.letters, self.positions
        layout = []
        if T:
            layout += [("letters", T * A, True)]
            layout += [("pairs", (T - 1) * A**2, True)] if self.has_pairs else []
            if self.has_partner:
                layout += [("partner", T * A, True), ("mismatch", T, True)]
                layout += [("type", T * A**2, True)] if is_nucleic(A) else []
        layout += [(f"kmer {k}", A**k, False) for k in range(1, self.kmer + 1)]
        layout += [("global", len(global_names(A)), False)] if self.kmer else []
        layout += [("first", self.ends * A, True), ("last", self.ends * A, True)] if self.ends else []
        layout += [("codons", A**3, False)] if self.has_codons else []
        layout += [("mismatches", 1, False)] if self.has_partner else []
        if self.substitutions is not None:
            layout += [("substitutions", len(self.substitutions.names), False)]
        layout += [("covariates", len(self.covariate_mean), False)]
        return [*layout, ("embedding", len(self.embedding_mean), False)] if self.embedding_mean else layout

    @cached_property
    def substitutions(self) -> Substitutions | None:
        """The features of substitutions; None without them."""
        if not self.reference:
            return None
        reference = np.array(self.reference, dtype=np.int64)
        return Substitutions(reference=reference, letters=self.letters, has_several=self.has_several)

    @cached_property
    def _widths(self) -> list[int]:
        return [width for _, width, _ in self.layout]

    @cached_property
    def _width(self) -> int:
        return sum(self._widths)

    def _blocks(self, inputs: Inputs) -> Iterator[sparse.csr_matrix]:
        place = np.full(self._width, -1)
        place[self.columns] = np.arange(self.count)
        chunk = min(CHUNK, max(1, MAX_DENSE // max(len(self.embedding_mean), 1)))
        for begin in range(0, len(inputs), chunk):
            some = inputs.take(np.arange(begin, min(begin + chunk, len(inputs))))
            parts, offset = [], 0
            for kind, width, _ in self.layout:
                rows, columns, values = _entries(self, kind, some) if width else (np.zeros(0, int),) * 3
                columns = place[offset + columns]
                is_kept = columns >= 0
                parts.append((rows[is_kept], columns[is_kept], values[is_kept].astype(np.float32)))
                offset += width
            rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
            # float32 suffices: a sum of duplicates is a small integer or a frequency
            yield sparse.csr_matrix((values, (rows, columns)), shape=(len(some), self.count), dtype=np.float32)


def _entries(features: SequenceFeatures, kind: str, inputs: Inputs) -> Entries:
    A, codes = features.letters, inputs.codes
    match kind:
        case "letters" | "partner":
            rows, positions, kmer, weight = kmers_of(
                inputs.channels[:1] if kind == "letters" else inputs.channels[1:], A
            )
            return rows, positions * A + kmer, weight
        case "pairs":
            rows, positions, kmer, weight = kmers_of([codes[:, :-1], codes[:, 1:]], A)
            return rows, positions * A**2 + kmer, weight
        case "mismatch" | "type" | "mismatches":
            rows, positions, kmer, weight = kmers_of(inputs.channels, A)
            differs = kmer // A != kmer % A
            rows, positions, kmer, weight = rows[differs], positions[differs], kmer[differs], weight[differs]
            column = {"mismatch": positions, "type": positions * A**2 + kmer, "mismatches": np.zeros_like(rows)}
            return rows, column[kind], weight
        case "first" | "last":
            rows, positions, kmer, weight = kmers_of([ends_of(inputs, features.ends, kind)], A)
            return rows, positions * A + kmer, weight
        case "global":
            return _dense(global_values(inputs))
        case "covariates":
            return _dense(features.standardize(inputs))
        case "embedding":
            return _dense(features.standardize_embedding(inputs))
        case "substitutions":
            assert features.substitutions is not None
            return _dense(features.substitutions.matrix(codes))
        case "codons":
            rows, _, codon, weight = kmers_of(codons_of(codes), A)
            return rows, codon, weight / np.maximum(inputs.lengths // 3, 1)[rows]
    length = int(kind.removeprefix("kmer "))
    T = codes.shape[1]
    rows, _, kmer, weight = kmers_of([codes[:, k : max(T - length + 1 + k, k)] for k in range(length)], A)
    return rows, kmer, weight / np.maximum(inputs.lengths - length + 1, 1)[rows]


def _dense(values: np.ndarray) -> Entries:
    rows, columns = np.nonzero(values)
    return rows, columns, values[rows, columns]


def _names(features: SequenceFeatures, kind: str, alphabet: str, covariates: Sequence[str]) -> list[str]:
    places = range(1, features.positions + 1)
    A = len(alphabet)
    what = {2: "dinucleotide", 3: "trinucleotide"} if is_nucleic(A) else {2: "dipeptide", 3: "tripeptide"}
    match kind:
        case "letters":
            return [f"{letter}{t}" for t in places for letter in alphabet]
        case "pairs":
            return [f"{kmer_name(kmer, 2, alphabet)}{t}" for t in places[:-1] for kmer in range(A**2)]
        case "partner":
            return [f"partner {letter}{t}" for t in places for letter in alphabet]
        case "mismatch":
            return [f"mismatch {t}" for t in places]
        case "type":
            return [f"mismatch {a}{t}{b}" for t in places for a in alphabet for b in alphabet]
        case "mismatches":
            return ["mismatches"]
        case "global":
            return global_names(A)
        case "first":
            return [f"{letter}{t}" for t in range(1, features.ends + 1) for letter in alphabet]
        case "last":
            return [f"{letter}-{t}" for t in range(1, features.ends + 1) for letter in alphabet]
        case "covariates":
            return list(covariates)
        case "embedding":
            return [f"embedding {k + 1}" for k in range(len(features.embedding_mean))]
        case "codons":
            return [f"codon {kmer_name(kmer, 3, alphabet)}" for kmer in range(A**3)]
        case "substitutions":
            return [] if features.substitutions is None else features.substitutions.names
    length = int(kind.removeprefix("kmer "))
    kmers = [kmer_name(kmer, length, alphabet) for kmer in range(A**length)]
    return kmers if length == 1 else [f"{what[length]} {kmer}" for kmer in kmers]
