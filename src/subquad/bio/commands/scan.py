"""What a fitted model says of a sequence: all single mutants, the letters it prefers, its profile or its base pairs.

One forward pass a mutant: `L (A - 1)` sequences in all. Axes: L positions, A letters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from subquad.bio.data.alphabet import normalise
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.data.fasta import read_sequence
from subquad.bio.plots import maps as pictures
from subquad.bio.plots.scan_page import write_profile, write_scan
from subquad.errors import SubquadError, raise_errors, unknown
from subquad.progress import track
from subquad.runs.folder import METRICS
from subquad.runs.storage import as_folder, read_json

__all__ = [
    "Model",
    "chosen_output",
    "fitted",
    "measurements",
    "offset_of",
    "outputs",
    "scan",
    "scan_table",
    "single_mutants",
    "values_of",
]

AT_ONCE = 4096
"""Sequences in one call of the model."""
SEPARATOR = "|"
"""Between the two channels of a pair of sequences."""


class Model(Protocol):
    """What is asked of a fitted model."""

    about: dict[str, Any]
    task_type: str
    alphabet: str
    """Its letters."""
    wild_type: str | None
    classes: Sequence[str]
    names: Sequence[str]

    def predict_sequences(self, sequences: list[str]) -> Any:
        """Return the predictions of sequences, as `Target.outputs` says."""

    def predict_each_of_sequences(self, sequences: list[str]) -> Any:
        """Return the predictions of each net, `(m, n, O)`."""


def scan(
    run: Path | str,
    *,
    out: Path | str,
    sequence: str | None = None,
    table: Path | str | None = None,
    of: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the predictions of all single mutants of a sequence as table, heat map, logo and page; return the table.

    Differences are those to the wild type, in units of the target; of classes, in probability. Positions have the
    numbers that the table of the fit gave them. A model that predicts one value a residue, or base pairs, shows its
    prediction along the sequence instead.

    Args:
        run: the folder that `fit` wrote.
        out: the folder to write: `scan.csv`, `scan.html` and the pictures as PNG and PDF.
        sequence: letters, or a FASTA file with one sequence; by default the wild type of the run.
        table: measurements to show beside the predictions, with the columns of the fit; by default the run's test rows.
        of: which target or class, where there are several; by default the first target, the second of two classes, or
            the likeliest class of the wild type.
        quiet: no progress.

    Raises:
        SubquadError: there is no such run or sequence, the sequence has letters that the model does not know, or `of`
            names nothing; nothing has been written then.
    """
    (model, places), out = fitted(run), as_folder(out)
    sequence = _given(sequence, model)
    if model.task_type not in ROW_TASK_TYPES:
        frame, figure, caption = (_draw_pairs if model.task_type == "pairs" else _draw_residues)(model, sequence)
        write_profile(frame, figure, out, caption=caption, length=len(sequence))
        return frame
    column = outputs(model).index(chosen_output(model, of, sequence))
    name = outputs(model)[column]
    measured = measurements(run, table, model, name)
    frame = scan_table(model, sequence, column=column, places=places, measured=measured, quiet=quiet)
    about = {"letters": model.alphabet, "name": name, "run": Path(run), "task_type": model.task_type, "caution": _caution(run)}
    write_scan(frame, sequence, out, offset=offset_of(model), **about)
    return frame


def fitted(run: Path | str) -> tuple[Model, list[int] | None]:
    """Return the model of a run, and the positions from 0 that it looks at; None where it looks at all.

    Raises:
        SubquadError: there is none.
    """
    from subquad.bio.models.fitted import BioModel

    model = BioModel.load(run)
    return model, None if model.nets.positions is None else model.nets.positions.tolist()


def single_mutants(sequence: str, letters: str, places: Sequence[int] | None = None) -> list[tuple[int, str]]:
    """Return place (from 0) and new letter of all single mutants, at some places or at all; a separator is no place."""
    return [
        (place, letter)
        for place, own in enumerate(sequence)
        if own != SEPARATOR and (places is None or place in places)
        for letter in letters
        if letter != own
    ]


def scan_table(
    model: Model,
    sequence: str,
    *,
    column: int = 0,
    places: Sequence[int] | None = None,
    measured: dict[str, float] | None = None,
    quiet: bool = True,
) -> pd.DataFrame:
    """Return a row for each single mutant, in the order of positions, at `places` (from 0) or at all.

    Columns: `mutant` (A24G, numbered as in the table of the fit), `position`, `from`, `to`, `prediction`, `difference`
    (to the wild type's prediction), `spread` (standard deviation of the difference over the model's nets; empty with
    one net) and `measured` (empty where the sequence was not measured).
    """
    mutants = single_mutants(sequence, model.alphabet, places)
    sequences = [sequence] + [sequence[:place] + letter + sequence[place + 1 :] for place, letter in mutants]
    predicted, spread = values_of(model, sequences, column=column, title="single mutants", quiet=quiet)
    known, first = measured or {}, 1 + offset_of(model)
    return pd.DataFrame(
        {
            "mutant": [f"{sequence[place]}{place + first}{letter}" for place, letter in mutants],
            "position": [place + first for place, _ in mutants],
            "from": [sequence[place] for place, _ in mutants],
            "to": [letter for _, letter in mutants],
            "prediction": predicted[1:],
            "difference": predicted[1:] - predicted[0],
            "spread": np.full(len(mutants), np.nan) if spread is None else spread[1:],
            "measured": [known.get(mutated, np.nan) for mutated in sequences[1:]],
        }
    )


def values_of(
    model: Model, sequences: Sequence[str], *, column: int = 0, title: str = "predictions", quiet: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return one output of each sequence, and the nets' spread of its difference to the first (one net: none)."""
    parts = []
    with track(title, len(sequences), quiet=quiet) as advance:
        for start in range(0, len(sequences), AT_ONCE):
            some = list(sequences[start : start + AT_ONCE])
            parts.append(np.atleast_3d(np.asarray(model.predict_each_of_sequences(some)))[:, :, column])
            advance(len(some))
    members = np.concatenate(parts, axis=1)
    if len(members) == 1:
        return members[0], None
    return members.mean(0), (members - members[:, :1]).std(0, ddof=1)


def offset_of(model: Model) -> int:
    """Return what the table of the fit adds to a position of the sequence, from 1."""
    return model.about.get("offset") or 0


def outputs(model: Model) -> list[str]:
    """Return the names of a model's outputs: targets, labels or classes."""
    if model.task_type.endswith("multiclass"):
        return list(model.classes)
    # residues may have a number as their class, whose name says nothing
    return [str(model.classes[1])] if model.task_type == "binary" else list(model.names)


def _caution(run: Path | str) -> str | None:
    """Return what to say where a run has seen nothing near its wild type."""
    counts = (read_json(Path(run) / METRICS).get("audit") or {}).get("mutations")
    if not counts or "0" in counts or "1" in counts:
        return None
    return (
        f"The table of the fit holds no single mutant and not the wild type: its variants have {min(map(int, counts))} "
        "changes or more. The prediction of the wild type, and so the place of the white colour, is extrapolated; "
        "compare mutants with each other rather than with the wild type."
    )


def _given(sequence: str | None, model: Model) -> str:
    if sequence is None:
        if model.wild_type is None:
            raise SubquadError("this run knows no wild type; name the sequence with --sequence LETTERS or a FASTA file")
        return model.wild_type
    letters = model.alphabet
    sequence = normalise([read_sequence(sequence, "--sequence")], model.about["alphabet"])[0][0]
    raise_errors(
        f"--sequence does not fit the model's alphabet, {model.about['alphabet']} ({letters}):",
        [
            f"{own!r} at position {place}"
            for place, own in enumerate(sequence, start=1)
            if own not in letters + SEPARATOR
        ],
    )
    return sequence


def chosen_output(model: Model, of: str | None, sequence: str) -> str:
    """Return the name of the output that is looked at: the one asked for, else the first, or the sequence's likeliest.

    Raises:
        SubquadError: there is no such output.
    """
    known = outputs(model)
    if of is not None:
        if of not in known:
            raise unknown("target or class", of, known)
        return of
    if model.task_type == "multiclass":
        return known[int(np.argmax(np.asarray(model.predict_sequences([sequence]))[0]))]
    return known[0]


def measurements(run: Path | str, table: Path | str | None, model: Model, name: str) -> dict[str, float]:
    """Return the mean measurement of each sequence that has one."""
    if table is None:
        if not (Path(run) / "test.csv").is_file():
            # an estimator that was saved keeps no rows
            return {}
        frame = pd.read_csv(Path(run) / "test.csv", dtype=str, keep_default_na=False, na_values=[""])
        column = "measured" if "measured" in frame.columns else f"measured:{name}"
        sequences, texts = frame["sequence"], frame[column]
    else:
        from subquad.bio.data.table import read_again

        read = read_again(Path(table), model.about)
        wanted = name if model.task_type in ("regression", "multilabel") else model.names[0]
        if wanted not in read.frame.columns:
            raise unknown(f"column of measurements in {table}", wanted, read.frame.columns)
        sequences, texts = pd.Series(read.sequences), read.frame[wanted].reset_index(drop=True)
    if model.task_type in ("binary", "multiclass"):
        values = (texts.astype(str).str.strip() == name).astype(float).where(texts.notna())
    else:
        values = pd.to_numeric(texts, errors="coerce")
    means = values.groupby(sequences.to_numpy()).mean().dropna()
    return dict(zip(means.index, means, strict=True))


def _draw_residues(model: Model, sequence: str) -> tuple[pd.DataFrame, Any, str]:
    names = outputs(model)
    values = np.asarray(model.predict_sequences([sequence]))[0][: len(sequence)].reshape(len(sequence), -1)
    frame = pd.DataFrame({"position": range(1, len(sequence) + 1), "letter": list(sequence)})
    for k, name in enumerate(names):
        frame[name] = values[:, k]
    is_class = model.task_type != "residue_regression"
    label = "probability" if is_class else names[0]
    figure = pictures.profile(values, sequence, names=names, label=label)
    said = f"The predicted probability of {names[0]}" if len(names) == 1 and is_class else "The predicted values"
    return frame, figure, f"{said} at each position of the sequence."


def _draw_pairs(model: Model, sequence: str) -> tuple[pd.DataFrame, Any, str]:
    from matplotlib.figure import Figure

    share = np.asarray(model.predict_sequences([sequence])[0])
    first, second = np.nonzero(np.triu(share >= 0.1, 1))
    frame = pd.DataFrame({"first": first + 1, "second": second + 1, "probability": share[first, second]})
    figure = Figure(figsize=(max(5.0, min(12.0, 0.12 * len(sequence))), 4.0))
    axes = figure.add_subplot()
    pictures.structure(axes, np.stack([first, second, share[first, second]], 1), length=len(sequence))
    return frame, figure, "Predicted base pairs as arcs, darker where they are likelier; below 0.1 they are not drawn."
