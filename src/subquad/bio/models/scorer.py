"""Scores of new sequences: one output of a fitted model, with the spread of its ensemble members.

Axes: m members, n sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subquad.bio.compared_models import COMPARED_MODELS
from subquad.bio.data.alphabet import is_nucleotide, normalize
from subquad.bio.data.dataset import ROW_TASK_TYPES, InputSchema, PartnerChain
from subquad.bio.data.fasta import read_sequence
from subquad.bio.models.members import Members, deviation
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, raise_errors, unknown
from subquad.progress import track
from subquad.runs.examples import run_folder

if TYPE_CHECKING:
    from subquad.bio.models.fitted import BioModel

__all__ = [
    "SEPARATOR",
    "Scorer",
    "folder_of",
    "input_sequence",
    "open_model",
    "open_scorer",
    "output_names",
    "partner_sequence",
]

BATCH = 4096
"""Sequences per call of the model."""
SEPARATOR = "|"
"""Stands between the two sequences of a pair, as in `partner|sequence`."""


@dataclass(frozen=True)
class Scorer:
    """One output of a model that predicts one value per sequence."""

    model: "BioModel"
    column: int
    """Index of the output."""
    name: str
    """Target column or class."""
    partner: str | None = None
    """Partner sequence of all sequences that are scored; None if each is given as `partner|sequence`, or has none."""

    @property
    def title(self) -> str:
        """Label of the score on plots and pages."""
        return f"probability of {self.name}" if self.is_probability else self.name

    @property
    def is_probability(self) -> bool:
        """Scores are probabilities of a class or label."""
        return self.model.task_type != "regression"

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of the `config.json` of the model."""
        return self.model.config

    @property
    def default(self) -> str:
        """Name of the model that predicts."""
        return self.model.default

    @property
    def schema(self) -> InputSchema:
        """How the inputs of the table of the fit were read."""
        return self.model.schema

    @property
    def offset(self) -> int:
        """Number of the first position less 1, as the table of the fit numbers positions."""
        return self.schema.offset

    @property
    def is_nucleotide(self) -> bool:
        """The model reads DNA or RNA."""
        return is_nucleotide(self.schema.alphabet)

    @property
    def positions(self) -> list[int] | None:
        """Positions (from 0) that varied in training and that the model reads; None: all."""
        positions, length = self.model.positions, self.schema.length
        if positions is None:
            return None
        # those of a partner chain follow
        return [int(position) for position in positions if length is None or position < length]

    @property
    def letters(self) -> str:
        """Letters that mutants may have: the alphabet, without a stop or a gap that no training sequence has."""
        observed = self.config.get("observed_letters")
        alphabet = self.model.alphabet
        if observed is None:
            return alphabet
        seen = {alphabet[code] for codes in observed for code in codes if code >= 0}
        return "".join(letter for letter in alphabet if letter not in "*-" or letter in seen)

    def normalized(self, sequence: str) -> str:
        """Return the sequence in upper case, with U or T as the model writes them."""
        return normalize([sequence.upper()], self.schema.alphabet)[0][0]

    def members(
        self, sequences: Sequence[str], *, title: str = "predictions", to_first: bool = False, quiet: bool = True
    ) -> Members:
        """Return the score of each sequence, `(n,)`, and the scores by each member of the model.

        Args:
            sequences: n sequences.
            title: Label of the progress bar.
            to_first: Prepare the deviations of differences to the first sequence; see `Members.std_to_first`.
            quiet: Show no progress.
        """
        means, parts, weights = [np.empty(0)], [], np.ones(1)
        relative: list[np.ndarray] = []
        with track(title, len(sequences), quiet=quiet) as advance:
            for start in range(0, len(sequences), BATCH):
                batch = list(sequences[start : start + BATCH])
                # the first sequence is the first one of each batch
                skipped = int(to_first and start > 0)
                batch = [*sequences[:skipped], *batch]
                if self.partner is not None:
                    batch = [f"{self.partner}{SEPARATOR}{sequence}" for sequence in batch]
                found = self.model.members_of_sequences(batch, to_first=to_first)
                means.append(self._column([found.mean], len(batch))[0, skipped:])
                parts.append(self._column(found.each, len(batch))[:, skipped:])
                if found.to_first is not None:
                    relative.append(self._column(found.to_first, len(batch))[:, skipped:])
                weights = found.weights
                advance(len(batch) - skipped)
        each = np.concatenate(parts, axis=1) if parts else np.empty((1, 0))
        return Members(
            mean=np.concatenate(means),
            each=list(each),
            weights=weights,
            to_first=list(np.concatenate(relative, axis=1)) if relative else None,
        )

    def _column(self, outputs: Sequence[Any], rows: int) -> np.ndarray:
        """Return the score in each of m outputs of the model, `(m, n)`."""
        return np.asarray(outputs, dtype=np.float64).reshape(len(outputs), rows, -1)[..., self.column]

    def scores(self, sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and standard deviations over the members, `(n,)` each; NaN deviations for one member."""
        members = self.members(sequences)
        return members.mean, deviation(members.each, members.weights)

    def posterior_draws(self, sequences: Sequence[str], count: int, *, seed: int) -> np.ndarray | None:
        """Return samples from the joint posterior of the scores, `(count, n)`; None if the model has no posterior.

        Costs the cube of n: pass a few thousand sequences at most.
        """
        if not COMPARED_MODELS[self.default].has_posterior:
            return None
        return self.model.posterior_draws(sequences, count, seed=seed)[..., self.column]


def folder_of(run: "BioModel | Path | str") -> Path:
    """Return the folder of a run or model.

    Raises:
        SubquadError: There is no such example.
    """
    return run_folder(run) if isinstance(run, str | Path) else run.directory


def open_model(run: "BioModel | Path | str") -> "BioModel":
    """Return the model in a run folder; a model is returned as it is.

    Args:
        run: Folder that `subquad bio fit` wrote, or a `BioModel`.

    Raises:
        SubquadError: The folder holds no fitted model.
    """
    if not isinstance(run, str | Path):
        return run
    from subquad.bio.models.fitted import BioModel

    return BioModel.load(run)


def output_names(model: "BioModel") -> list[str]:
    """Return the names of a model's outputs: target columns, labels or classes."""
    if model.task_type.endswith("multiclass"):
        return [str(name) for name in model.classes]
    # the one output of a binary model is the probability of its second class; residue classes may be bare numbers
    return [str(model.classes[1])] if model.task_type == "binary" else [str(name) for name in model.names]


def open_scorer(
    run: "BioModel | Path | str",
    *,
    target: str | None = None,
    wild_type: str | None = None,
    partner: str | None = None,
) -> Scorer:
    """Return the scorer of a model or of the folder that holds it.

    Args:
        run: Folder that `subquad bio fit` wrote, or a `BioModel`.
        target: Target column or class to score; by default the first target column, or the second of two classes.
        wild_type: Of several classes, select the likeliest class of this sequence where `target` is not given.
        partner: Partner sequence of all sequences that are scored; see `partner_sequence`.

    Raises:
        SubquadError: There is no model, it does not predict one value per sequence, it needs covariates or
            embeddings, or it has no such target.
    """
    model = open_model(run)
    if model.task_type not in ROW_TASK_TYPES:
        raise SubquadError(f"the model predicts {model.task_type.replace('_', ' ')}, not one value per sequence")
    embedding = model.schema.embedding
    also = [*model.schema.covariates, *([] if embedding is None else [embedding.title])]
    if also:
        raise SubquadError(f"the model also reads {', '.join(also)}, which new sequences do not have")
    names = output_names(model)
    if target is None:
        text = wild_type if wild_type is None or partner is None else f"{partner}{SEPARATOR}{wild_type}"
        return Scorer(model, *_default_output(model, names, text), partner=partner)
    if target not in names:
        raise unknown("target or class", target, names)
    return Scorer(model, names.index(target), target, partner=partner)


def _default_output(model: "BioModel", names: Sequence[str], wild_type: str | None) -> tuple[int, str]:
    if model.task_type != "multiclass":
        return 0, names[0]
    if wild_type is None:
        raise SubquadError(f"the model predicts {len(names)} classes; select one with --target ({', '.join(names)})")
    column = int(np.argmax(np.asarray(model.predict_sequences([wild_type]))[0]))
    return column, names[column]


def input_sequence(model: "BioModel", text: str | None, flag: str) -> str:
    """Return the sequence to mutate: the one in the text, or the wild type of the run.

    Args:
        model: The model that will read it.
        text: Letters, or the path of a FASTA file with one sequence; None: the wild type of the run.
        flag: Its flag, for messages.

    Raises:
        SubquadError: There is no wild type, or the sequence has other letters or another length than the model reads.
    """
    if text is None and model.wild_type is None:
        raise SubquadError(f"the run has no wild type; give the sequence with {flag}")
    what = "the wild type of the run" if text is None else flag
    sequence = str(model.wild_type) if text is None else read_sequence(text, flag)
    return _checked(sequence, what, model.schema, model.alphabet, first=1 + model.schema.offset)


def partner_sequence(model: "BioModel", text: str | None) -> str | None:
    """Return the partner sequence of all sequences that are scored; None if the model reads single sequences.

    Args:
        model: The model that will read it.
        text: Letters, or the path of a FASTA or text file with one sequence, from `--partner`.

    Raises:
        SubquadError: The model reads pairs and no partner is named, or it does not; or the partner has other letters or
            another length than the model reads.
    """
    schema = model.schema
    if (schema.partner is None) != (text is None):
        reads = "single sequences" if schema.partner is None else f"pairs with a partner {schema.partner!r}"
        raise SubquadError(f"--partner: {text or 'none'}, but the model reads {reads}")
    if text is None:
        return None
    chain = schema.partner_chain or replace(schema, length=None)
    return _checked(read_sequence(text, "--partner"), "--partner", chain, ALPHABETS[chain.alphabet])


def _checked(sequence: str, what: str, schema: InputSchema | PartnerChain, letters: str, first: int = 1) -> str:
    """Return a sequence with U or T as the model writes them, if the model can read it."""
    sequence = normalize([sequence], schema.alphabet)[0][0]
    if schema.length not in (None, len(sequence)):
        raise SubquadError(f"{what} has {len(sequence)} letters, but the model reads aligned ones of {schema.length}")
    raise_errors(
        f"{what} has letters outside the alphabet {schema.alphabet} ({letters}):",
        [f"{letter!r} at position {k}" for k, letter in enumerate(sequence, first) if letter not in letters],
    )
    return sequence
