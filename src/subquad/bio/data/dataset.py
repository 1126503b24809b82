"""Containers between a table and the models: inputs, target, dataset with its split, and the schema of the inputs.

Axes: n rows, T positions, A letters, E covariates, D numbers of an embedding, K target columns, O outputs. `codes` are
indices into the alphabet; `PAD` follows the end of a sequence, and `ANY` stands for an ambiguous letter (N, X), encoded
as equal parts of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from subquad.bio.data.residue_vectors import ResidueVectors
from subquad.bio.settings import ALPHABETS, TaskType

__all__ = [
    "ANY",
    "PAD",
    "PARTS",
    "ROW_TASK_TYPES",
    "TASK_TYPES",
    "Dataset",
    "EmbeddingSchema",
    "InputSchema",
    "Inputs",
    "PartnerAlignment",
    "PartnerChain",
    "Target",
    "TaskType",
    "reverse_complement",
    "with_both_strands",
]

PAD, ANY = -1, -2
PARTS = ("train", "validation", "test")

TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)
ROW_TASK_TYPES: tuple[TaskType, ...] = ("regression", "binary", "multiclass", "multilabel")
"""Task types with one prediction per row; the others predict one value per residue, or base pairs."""


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Return the reverse complements of DNA or RNA codes `(n, T)`, left-aligned."""
    place = (codes != PAD).sum(1)[:, None] - 1 - np.arange(codes.shape[1])
    turned = np.take_along_axis(codes, np.maximum(place, 0), axis=1)
    # in ACGT and ACGU the complement of code k is 3 - k; ambiguous letters stay ambiguous, and gaps gaps
    turned = np.where((turned >= 0) & (turned < 4), 3 - turned, turned)
    return np.where(place >= 0, turned, PAD).astype(codes.dtype)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Model inputs of all rows."""

    codes: np.ndarray
    """`(n, T)` int8. T is 0 if there are no sequences."""
    letters: int
    """Number of letters in the alphabet, A."""
    partner: np.ndarray | None = None
    """`(n, T)` int8: the partner sequence (a guide on its target context), aligned with `codes`; `PAD` outside it."""
    partner_chain: "Inputs | None" = None
    """The partner sequences as a second chain (VL of VH, epitope of a receptor), which is not aligned with `codes` and
    may have another alphabet; without covariates."""
    covariates: np.ndarray
    """`(n, E)` float64, finite: additional numeric inputs, not standardised."""
    is_aligned: bool
    """All rows have T letters, and position t corresponds between rows. Says nothing about a partner chain."""
    embedding: np.ndarray | None = None
    """`(n, D)` float32, finite: vector of each row by a language model, not standardised."""
    vectors: ResidueVectors | None = None
    """Vectors of each letter by a language model, not standardised."""
    is_double_stranded: bool = False
    """Double-stranded DNA that is read from either side: predictions are averaged over both strands."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def lengths(self) -> np.ndarray:
        """Number of letters in each row, in both chains if there are two, `(n,)`."""
        return np.sum([(chain.codes != PAD).sum(1) for chain in self.chains], axis=0)

    @property
    def channels(self) -> list[np.ndarray]:
        """Codes of the sequences and, if there are any, of the partner sequences, `(n, T)` each."""
        return [self.codes] if self.partner is None else [self.codes, self.partner]

    @property
    def chains(self) -> "list[Inputs]":
        """The inputs without the partner chain and, if there is one, the partner chain."""
        return [self] if self.partner_chain is None else [replace(self, partner_chain=None), self.partner_chain]

    @property
    def are_aligned(self) -> bool:
        """Each chain is aligned."""
        return all(chain.is_aligned for chain in self.chains)

    @property
    def has_substitutions(self) -> bool:
        """Aligned proteins, whose substitutions have features."""
        return all(chain.is_aligned and chain.partner is None and chain.letters >= 20 for chain in self.chains)

    @property
    def all_positions(self) -> int:
        """Number of positions, T; of two chains together."""
        return sum(chain.codes.shape[1] for chain in self.chains)

    @property
    def all_codes(self) -> np.ndarray:
        """Codes of sequences and partner sequences side by side, which are equal for equal pairs."""
        parts = [codes for chain in self.chains for codes in chain.channels]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def take(self, rows: np.ndarray) -> "Inputs":
        """Return the inputs of the given rows."""
        partner, embedding = (None if own is None else own[rows] for own in (self.partner, self.embedding))
        chain, vectors = (None if own is None else own.take(rows) for own in (self.partner_chain, self.vectors))
        own = replace(self, codes=self.codes[rows], covariates=self.covariates[rows], partner=partner)
        return replace(own, partner_chain=chain, embedding=embedding, vectors=vectors)

    def reverse_complement(self) -> "Inputs":
        """Return the reverse complements of DNA, left-aligned, as single strands."""
        vectors = None if self.vectors is None else self.vectors.reversed()
        return replace(self, codes=reverse_complement(self.codes), vectors=vectors, is_double_stranded=False)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Values to predict, for all rows."""

    task_type: TaskType
    y: Any
    """Depends on the task type:

    - regression: `(n, K)` float64, NaN where not measured
    - binary, multiclass: `(n,)` int64, index into `classes`
    - multilabel: `(n, K)` float64, 0, 1 or NaN
    - residue_binary, residue_multiclass: `(n, T)` int16, -1 where unknown and in the padding
    - residue_regression: `(n, T)` float64, NaN where unknown and in the padding
    - pairs: list of n int64 arrays `(p, 2)`: paired positions from 0, the smaller one first
    """
    classes: Sequence[str] = ()
    """Class names of binary, multiclass, residue_binary and residue_multiclass; the second one of two is the positive
    class."""
    names: Sequence[str] = ("target",)
    """Target columns of the table: K for regression and multilabel, otherwise one."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def outputs(self) -> int:
        """Number of outputs of a prediction, O.

        Predictions are `(n, O)` for rows, `(n, T, O)` for residues (undefined in the padding), and a list of n
        symmetric `(L, L)` arrays for pairs. They are measurements, or probabilities: of the positive class (binary), of
        each class (multiclass), of each label (multilabel) and of each pair.
        """
        if self.task_type in ("multiclass", "residue_multiclass"):
            return len(self.classes)
        return len(self.names) if self.task_type in ("regression", "multilabel") else 1

    @property
    def is_residue(self) -> bool:
        """Whether there is one value per residue."""
        return self.task_type.startswith("residue")

    @property
    def is_row(self) -> bool:
        """Whether there are values of whole sequences, and not of residues or pairs."""
        return self.task_type in ROW_TASK_TYPES

    @property
    def is_known(self) -> np.ndarray:
        """Which values were measured, of the shape of `y`; not defined for pairs."""
        return np.isfinite(self.y) if self.y.dtype.kind == "f" else self.y >= 0

    def take(self, rows: np.ndarray) -> "Target":
        """Return the targets of the given rows."""
        return replace(self, y=[self.y[row] for row in rows] if self.task_type == "pairs" else self.y[rows])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Inputs and targets of all rows, and their split into training, validation and test set."""

    inputs: Inputs
    target: Target
    split: dict[str, np.ndarray]
    """Row numbers of `train`, `validation` and `test`; other rows are not used."""
    weight: np.ndarray | None = None
    """`(n,)` training weights with mean 1 over the training rows."""
    units: np.ndarray | None = None
    """`(n,)` index of the unit (sequence, group, cluster or position) that the split keeps together."""

    def part(self, name: str) -> tuple[Inputs, Target]:
        """Return the inputs and targets of `train`, `validation` or `test`."""
        return self.inputs.take(self.split[name]), self.target.take(self.split[name])


def with_both_strands(dataset: Dataset) -> Dataset:
    """Return the dataset with the reverse complement of each training row as an additional row of the same unit."""
    inputs, rows, n = dataset.inputs, dataset.split["train"], len(dataset.inputs)
    other = inputs.take(rows).reverse_complement()

    def extend(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.concatenate([values, values[rows]])

    codes, covariates = (
        np.concatenate([getattr(own, key) for own in (inputs, other)]) for key in ("codes", "covariates")
    )
    vectors = inputs.vectors
    if vectors is not None and other.vectors is not None:
        vectors = vectors.followed_by(other.vectors)
    embedding = extend(inputs.embedding)
    return Dataset(
        inputs=replace(inputs, codes=codes, covariates=covariates, embedding=embedding, vectors=vectors),
        target=replace(dataset.target, y=np.concatenate([dataset.target.y, dataset.target.y[rows]])),
        split={**dataset.split, "train": np.concatenate([rows, n + np.arange(len(rows))])},
        weight=extend(dataset.weight),
        units=extend(dataset.units),
    )


@dataclass(frozen=True, kw_only=True)
class PartnerAlignment:
    """Where partner sequences (guides) lie on their sequences (target contexts)."""

    offset: int | None
    """Position of all guides, from 0; None: each guide lies where it has the fewest mismatches."""
    most_common: int
    """Most common position in the training table; breaks ties."""
    is_reversed: bool
    """The guides are the reverse complements of their targets."""


@dataclass(frozen=True, kw_only=True)
class PartnerChain:
    """How partner sequences that are a second chain were read."""

    alphabet: str
    """Name of the alphabet; see `ALPHABETS`."""
    is_aligned: bool
    """All training sequences of the chain have the same length."""
    length: int | None
    """That length; None if lengths vary."""

    @property
    def letters(self) -> str:
        """Letters of the alphabet."""
        return ALPHABETS[self.alphabet]


@dataclass(frozen=True, kw_only=True)
class EmbeddingSchema:
    """Which embeddings the inputs of a model have."""

    model: str | None
    """Name of the language model; None for an array that does not say."""
    dimensions: int
    """Numbers of a vector, D."""
    has_vectors: bool = False
    """Each letter has a vector too."""
    median_score: float | None = None
    """If the score of each row is the last covariate: the one of rows without a score, the median of the training
    table."""

    @property
    def has_scores(self) -> bool:
        """Whether the score of each row is the last covariate."""
        return self.median_score is not None

    @property
    def title(self) -> str:
        """What the embeddings are, in messages and reports."""
        parts = [f"{self.dimensions:,} numbers", *(["of each letter too"] if self.has_vectors else [])]
        parts += ["with scores"] if self.has_scores else []
        return f"embeddings by {self.model or 'another program'} ({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True)
class InputSchema:
    """How the inputs of the training table were read; another table read with it gives the same inputs."""

    source: Literal["table", "sequences", "numbers", "inputs"] = "table"
    """A file, or what an estimator was given: sequences (with or without covariates), numbers alone, or `Inputs`."""
    sequence: str | None = None
    """Column with the sequences."""
    mutant: str | None = None
    """Column with the variants."""
    partner: str | None = None
    """Column with the partner sequences."""
    covariates: Mapping[str, float] = field(default_factory=dict)
    """Covariate columns, and the training median that replaces missing values."""
    group: str | None = None
    """Column with the groups."""
    alphabet: str
    """Name of the alphabet; see `ALPHABETS`."""
    ambiguity: str = "any"
    """Ambiguous letters are encoded (`any`) or reported as errors (`refuse`)."""
    wild_type: str | None = None
    """Sequence that the variants are substitutions of."""
    offset: int = 0
    """Position in the table minus position in the wild type."""
    is_aligned: bool
    """All training sequences have the same length."""
    length: int | None
    """That length; None if lengths vary."""
    alignment: PartnerAlignment | None = None
    """Where aligned partner sequences lie; None without them."""
    partner_chain: PartnerChain | None = None
    """How partner sequences that are a second chain were read; None without them."""
    strands: Literal["one", "both"] = "one"
    """Strands that predictions are averaged over."""
    embedding: EmbeddingSchema | None = None
    """Embeddings of the rows; None without them."""

    @property
    def letters(self) -> str:
        """Letters of the alphabet."""
        return ALPHABETS[self.alphabet]

    @property
    def completing(self) -> str | None:
        """Wild type that completes truncated proteins, of which the model knows the stop; None without one."""
        is_full = self.wild_type is not None and self.length == len(self.wild_type)
        return self.wild_type if is_full and self.alphabet == "protein_stop" else None

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self) | {"covariates": dict(self.covariates)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSchema":
        """Return the schema that `as_dict` wrote; KeyError or TypeError is raised if it is damaged."""
        ALPHABETS[values["alphabet"]]
        parts = {"alignment": PartnerAlignment, "partner_chain": PartnerChain, "embedding": EmbeddingSchema}
        made = {key: make(**values[key]) for key, make in parts.items() if values.get(key) is not None}
        return cls(**{**values, **made})
