"""Settings of a fit on biological sequences. Imports nothing heavy, so that the command line starts fast."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from subquad.bio.compared_models import check_names
from subquad.errors import SubquadError
from subquad.runs.options import (
    Count,
    Distinct,
    Fraction,
    Ge,
    Gt,
    Input,
    Le,
    Model,
    MoreInput,
    MoreModel,
    MoreTraining,
    Natural,
    NonNegative,
    Positive,
    Settings,
    Training,
)

__all__ = ["ALPHABETS", "AMBIGUITY", "MIN_CURVE_ROWS", "AlphabetName", "Direction", "FitSettings", "TaskType"]

ALPHABETS = {
    "dna": "ACGT",
    "rna": "ACGU",
    "protein": "ACDEFGHIKLMNPQRSTVWY",
    "protein_stop": "ACDEFGHIKLMNPQRSTVWY*",
    "dna_gap": "ACGT-",
    "rna_gap": "ACGU-",
    "protein_gap": "ACDEFGHIKLMNPQRSTVWY*-",
}
"""Names and letters of the alphabets. `protein_stop` has the stop codon `*` as an additional letter; the alphabets of
alignments have the gap `-`, and that of proteins the stop too, so that its letters differ in number from all others."""

AMBIGUITY = {"A": "A", "C": "C", "G": "G", "T": "T", "N": "ACGT", "R": "AG", "Y": "CT", "S": "CG", "W": "AT"}
AMBIGUITY |= {"K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG"}
"""IUPAC codes of nucleotides, and the nucleotides that they stand for."""

MIN_CURVE_ROWS = 10
"""Minimum number of training rows for a point of a learning curve."""

AlphabetName = Literal["auto", "dna", "rna", "protein", "protein_stop", "dna_gap", "rna_gap", "protein_gap"]
"""Name of an alphabet; `auto` infers it."""

TaskType = Literal[
    "regression",
    "binary",
    "multiclass",
    "multilabel",
    "residue_regression",
    "residue_binary",
    "residue_multiclass",
    "pairs",
]
"""Type of the prediction task; see `subquad.bio.data.dataset.Target`."""

Direction = Literal["maximize", "minimize"]
"""Which direction of the target is better."""


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """Columns to read, train/validation/test split, model and training of a fit."""

    target: Input[tuple[str, ...]] = ()
    """Target columns: measurements, classes or labels. Several columns are learned jointly. Default: inferred."""
    sequence: Input[str | None] = None
    """Column with the sequences. With an aligned `--partner`, the longer sequence (target context). Default:
    inferred."""
    mutant: Input[str | None] = None
    """Column with variants (A24G:K30R, p.Ala24Gly …), for tables without full sequences. Default: inferred."""
    wild_type: Input[str | None] = None
    """Wild-type sequence of the variants: letters, a FASTA file or a text file with one sequence. Default: inferred
    from the full sequences, if the table has them."""
    offset: MoreInput[int | None] = None
    """Position in the table minus position in the wild type (counted from 1). Default: inferred from the variants."""
    partner: MoreInput[str | None] = None
    """Column with a second sequence that pairs with the first one: the guide of a target context, the light chain of a
    heavy chain, the epitope of a receptor."""
    pairing: MoreInput[Literal["auto", "aligned", "chains"]] = "auto"
    """How partner sequences are read: `aligned` to their sequences (guides), or as two `chains`, one after the other.
    `auto` aligns DNA and RNA if the partner lies within its sequence with few mismatches."""
    partner_alphabet: MoreInput[AlphabetName] = "auto"
    """Alphabet of the partner sequences. Default: that of the sequences if it contains all letters."""
    covariates: Input[tuple[str, ...]] = ()
    """Columns with additional numeric inputs, such as ESM or EVE scores; `*` matches any characters."""
    embeddings: MoreInput[Path | None] = None
    """File with embeddings of the rows by a language model, as additional inputs: written by `subquad bio embed`, or a
    matrix with one row per row of the table as .npy, .npz or .h5."""
    weight: MoreInput[str | None] = None
    """Column with the training weight of each row (above 0)."""
    error: MoreInput[str | None] = None
    """Column with the standard error of each measurement (above 0); rows are weighted by its inverse square, at most by
    10 times the median weight."""
    group: MoreInput[str | None] = None
    """Column with a group (gene, family) of each row; used by `--split-by group` and reported separately."""
    task_type: MoreInput[Literal["auto", TaskType]] = "auto"
    """Type of the prediction task. Default: inferred from the target column."""
    alphabet: MoreInput[AlphabetName] = "auto"
    """Alphabet of the sequences; `auto` takes the smallest one that contains all letters. In `protein_gap`, `dna_gap`
    and `rna_gap` the gap of an alignment is a letter."""
    ambiguity: MoreInput[Literal["any", "refuse"]] = "any"
    """Ambiguous letters (N, X, B …): `any` encodes them as equal parts of all letters, `refuse` reports them as
    errors."""
    lengths: MoreInput[Literal["auto", "vary"]] = "auto"
    """Sequences of different lengths, with one target value per row: `auto` reports an error if at most 5 % of them
    have another length than all others, since no model can then use positions; `vary` accepts them."""
    split: Input[str | None] = None
    """Column that assigns rows to train, validation and test, or to numbered folds. Default: a column named split or
    set, if there is one."""
    split_by: Input[
        Literal["random", "group", "sequence", "partner", "homology", "mutations", "position", "modulo", "contiguous"]
    ] = "random"
    """How to split if no column does: random rows; whole groups; whole sequences, or whole partner sequences, of pairs;
    clusters of similar sequences (MMseqs2); the variants with the most mutations as test; whole mutated positions; or
    the modulo or contiguous folds of ProteinGym."""
    identity: MoreInput[Annotated[float, Gt(0), Le(1)]] = 0.5
    """Minimum sequence identity (0 to 1) within a cluster of `--split-by homology`."""
    folds: MoreInput[Annotated[int, Ge(2)]] = 5
    """Number of folds in a cross-validation and in modulo or contiguous splits."""
    fold: MoreInput[Natural | None] = None
    """Fold that is the test set, counted from 0. Default: the first fold for `--split-by modulo` or `contiguous` and
    for a column of fold numbers; otherwise a test set of `--test-fraction`."""
    test_fraction: MoreInput[Fraction] = 0.15
    """Fraction of the rows in the test set."""
    validation_fraction: MoreInput[Fraction] = 0.1
    """Fraction of the rows used for model selection (early stopping, penalties, weights of the ensemble)."""
    train_rows: MoreInput[Annotated[int, Ge(10)] | None] = None
    """Maximum number of training rows, drawn at random; validation rows are then reduced to a quarter of this number,
    at least 10. Default: all."""
    leak_distance: MoreInput[Natural | None] = None
    """Remove test rows within this many substitutions of a training row (or one insertion or deletion, or its reverse
    complement); 0 keeps them. Default: 1, except that near-duplicates are only counted if a column gave the split or
    if the table is a library of variants."""
    keep_duplicates: MoreInput[bool] = False
    """Keep test rows whose sequence also occurs in training. By default they are counted, reported and removed."""
    strands: MoreInput[Literal["one", "both"]] = "one"
    """`both`: double-stranded DNA that is read from either side (enhancers, binding sites). All models then also train
    on the reverse complements and average their predictions over both strands."""
    models: Model[Annotated[tuple[str, ...], Distinct()]] = ()
    """Models to fit, such as ridge lyra. Two or more of the baselines and Lyra also form an ensemble, which then
    predicts; in a run without one the last model of the report's table predicts. Default: all that suit the task,
    without `cnn` (convolutions), `mlp-more` (more MLPs, which replace Lyra in the ensemble without it), `lyra-alone`
    (Lyra without its additive path) and `lyra-paper` (as published), which are compared on request."""
    ensemble_size: Model[Count | None] = None
    """Number of networks of `lyra` trained with different seeds; their predictions are averaged. Default: as many as
    `--tokens` allows, at most 5."""
    boosting_iterations: MoreModel[Count | None] = None
    """Maximum number of trees in gradient boosting. Default: as many as fit in 40 seconds or in the time of
    Lyra, if that is longer, at most 500."""
    transform: MoreModel[Literal["auto", "none", "rank"]] = "auto"
    """Transform of the measurements on which networks are trained: `none` standardises them, `rank` maps ranks to
    normal quantiles, `auto` uses ranks for columns with a skewness above 2 or below -2."""
    stack_folds: MoreModel[Count | None] = None
    """Number of cross-validation folds that determine the weights of the ensemble; 1 uses the validation set. Default:
    5 if the validation set has fewer than 30 rows, otherwise 1."""
    epochs: Training[Positive | None] = None
    """Number of passes of Lyra over the training set, and maximum number for the MLPs. Default: as many as `--tokens`
    allows, at most 40; if that is fewer than five, then five, or as many as fit in four times `--tokens`."""
    tokens: MoreTraining[Count] = 5_000_000
    """Training budget in tokens (letters of the sequences) if `--epochs` is not set; 5 million take about a minute."""
    batch_size: MoreTraining[Count | None] = None
    """Sequences per optimizer step. Default: small enough for 2,000 steps, at most 128."""
    learning_rate: MoreTraining[Positive] = 3e-3
    """Maximum learning rate of the one-cycle schedule."""
    weight_decay: MoreTraining[NonNegative] = 0.3
    """Weight decay of the network; the linear path decays towards ridge regression instead of zero."""
    learning_curve: MoreTraining[Natural] = 0
    """Number of points of a learning curve: also fit all models on a half, a quarter … of the training rows."""
    learning_sizes: MoreTraining[tuple[Annotated[int, Ge(MIN_CURVE_ROWS)], ...]] = ()
    """Training-set sizes of the learning curve, in rows, instead of halves, such as 24 48 96."""
    learning_repeats: MoreTraining[Count] = 1
    """Number of random subsets per size of the learning curve; their mean and standard deviation are reported."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_fraction + self.validation_fraction >= 0.9:
            raise SubquadError("--test-fraction and --validation-fraction leave less than a tenth of the rows to train")
        check_names(self.models)
        # a column of folds has its own number of them
        if self.fold is not None and self.split is None and self.fold >= self.folds:
            raise SubquadError(f"--fold must be below --folds ({self.folds}), got {self.fold}")
        if self.weight is not None and self.error is not None:
            raise SubquadError("--weight and --error both weight the rows; give one of them")
        if self.split is not None and self.split_by != "random":
            raise SubquadError("--split names a column and --split-by a method; give one of them")
        if self.split_by == "group" and self.group is None:
            raise SubquadError("--split-by group needs a group column; name it with --group")
        if self.partner is not None and self.partner == self.sequence:
            raise SubquadError(f"--sequence and --partner both name {self.partner!r}; name two columns")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitSettings":
        """Return the settings from a JSON object with some of the fields; other keys are ignored.

        JSON has lists and no tuples, and one text may stand for a list of one.
        """
        given = {}
        for field in fields(cls):
            if field.name in values:
                value = values[field.name]
                is_one = isinstance(value, str) and isinstance(field.default, tuple)
                given[field.name] = (value,) if is_one else tuple(value) if isinstance(value, list) else value
        return cls(**given)
