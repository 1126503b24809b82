r"""Double-mutant cycles: by how much a pair of changes differs from the sum of both, $f_{ij} - f_i - f_j + f_{wt}$.

Axes: n rows, L positions, c cycles. Measured cycles cost one pass over the table; predicted ones a forward pass each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from subquad.bio.commands.scan import Model, offset_of, values_of
from subquad.errors import SubquadError

__all__ = [
    "Cycles",
    "Double",
    "additive_fit",
    "beyond_curve",
    "letters_of",
    "measured_cycles",
    "predicted_cycles",
    "summary",
]

Double = tuple[tuple[int, str], tuple[int, str]]
"""Two places, from 0, and their new letters."""
DAMP = 1.0
"""Of the additive fit: each effect is pulled to the mean effect as by one measurement."""
FREE = 30.0


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Double mutants beside what their two changes would add up to."""

    frame: pd.DataFrame
    """`first`, `second` (A24G), `i`, `j` (positions, as the table numbers them), `f_ij`, `expected` (with no
    interaction), `epistasis`."""
    how: str
    """Where the single effects are from."""


def letters_of(sequences: Sequence[str]) -> np.ndarray:
    """Return sequences of one length as `(n, L)` bytes.

    Raises:
        SubquadError: their lengths differ, or they hold other than ASCII letters.
    """
    lengths = np.unique([len(sequence) for sequence in sequences])
    if len(lengths) != 1:
        raise SubquadError(
            f"pairs of positions need sequences of one length, and these have {lengths[0]} to {lengths[-1]} letters; "
            "give variants of one wild type"
        )
    joined = np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8)
    return joined.reshape(len(sequences), int(lengths[0]))


def measured_cycles(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray, *, offset: int = 0) -> Cycles:
    """Return the cycles of a table's double mutants.

    Single effects are the measured ones where both are there for at least half of the doubles. Else they are those of
    the least-squares fit of an additive model to all rows with at most two changes; epistasis is what it leaves.
    Where only the wild type itself is missing, its value is the one with which half of the cycles are above nought.

    Args:
        letters: `(n, L)` of the sequences.
        wild_type: `(L,)`.
        values: `(n,)` measurements, finite.
        offset: positions are numbered from 1 and this.

    Raises:
        SubquadError: no row has two changes.
    """
    is_changed = letters != wild_type
    count = is_changed.sum(1)
    doubles = np.flatnonzero(count == 2)
    if not len(doubles):
        raise SubquadError("no row has exactly two changes from the wild type, and cycles are made of those")
    place = np.nonzero(is_changed[doubles])[1].reshape(-1, 2)
    new = np.take_along_axis(letters[doubles], place, axis=1)
    singles = np.flatnonzero(count == 1)
    effect = np.full((len(wild_type), 256), np.nan)
    if len(singles):
        at = is_changed[singles].argmax(1)
        key = at * 256 + letters[singles, at]
        total, times = (np.bincount(key, weight, effect.size) for weight in (values[singles], None))
        effect = np.where(times > 0, total / np.maximum(times, 1), np.nan).reshape(effect.shape)
    both = effect[place[:, 0], new[:, 0]] + effect[place[:, 1], new[:, 1]]
    f_ij = values[doubles]
    if np.isfinite(both).mean() >= 0.5:
        zero, how = _wild_type_value(values[count == 0], f_ij, both)
        expected = both - zero
    else:
        expected = additive_fit(letters, wild_type, values)[doubles]
        how = "the least-squares fit of an additive model, as most singles are not in the table"
    known = np.isfinite(expected)
    frame = _frame(place[known], new[known], wild_type, f_ij=f_ij[known], expected=expected[known], offset=offset)
    # the same double measured twice is one cycle
    names = ["first", "second", "i", "j"]
    if frame.duplicated(names).any():
        frame = frame.groupby(names, as_index=False, sort=False, observed=True).mean()
    return Cycles(frame=frame, how=how)


def additive_fit(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what a sum of single effects, fitted to the rows with at most two changes, says of all rows, `(n,)`."""
    from scipy import sparse
    from scipy.sparse.linalg import lsqr

    row, place = np.nonzero(letters != wild_type)
    key = place * 256 + letters[row, place]
    known, column = np.unique(key, return_inverse=True)
    ones = np.ones(len(row))
    X = sparse.csr_matrix((ones, (row, column.ravel())), shape=(len(letters), len(known)))
    few = np.diff(X.indptr) <= 2
    # the wild type's value and the mean effect are hardly pulled: large columns need small weights
    common = FREE * np.stack([np.ones(len(letters)), np.diff(X.indptr)], axis=1)
    X = sparse.hstack([X, sparse.csr_matrix(common)], format="csr")
    return X @ lsqr(X[few], values[few], damp=DAMP, atol=1e-10, btol=1e-10, iter_lim=5000)[0]


def predicted_cycles(
    model: Model,
    wild_type: str,
    *,
    column: int = 0,
    places: Sequence[int] | None = None,
    doubles: Sequence[Double] | None = None,
    most: int = 50_000,
    seed: int = 0,
    quiet: bool = True,
) -> Cycles:
    """Return cycles of a model's predictions around a wild type; of two classes, in log odds.

    All pairs of letters at each pair of positions where there are at most `most` in all; else the same number of pairs
    of letters at each pair of positions, at random, and at least one. Where there are more pairs of positions than
    `most`, those between the positions with the largest single effects.

    Args:
        model: a fitted model of one value a sequence.
        wild_type: letters.
        column: of the model's outputs.
        places: positions to look at, from 0; all by default.
        doubles: the double mutants to predict, of all positions, in place of all pairs of letters; `most` of them at
            random where there are more.
        most: double mutants to predict.
        seed: of the random letters.
        quiet: no progress.
    """
    places = list(range(len(wild_type))) if places is None else sorted(places)
    tried = {p: [c for c in model.alphabet if c != wild_type[p]] for p in places}
    if doubles is not None:
        full = len(doubles)
        chosen = np.sort(np.random.default_rng(seed).permutation(full)[:most])
        doubles = [doubles[k] for k in chosen]
        singles = sorted({single for double in doubles for single in double})
    else:
        singles = [(p, c) for p in places for c in tried[p]]
    texts = [wild_type] + [_changed(wild_type, (single,)) for single in singles]
    f = _on_scale(model, values_of(model, texts, column=column, title="singles", quiet=quiet)[0])
    effect = dict(zip(singles, f[1:] - f[0], strict=True))
    if doubles is None:
        places = _strongest(places, effect, most)
        pairs = [(i, j) for k, i in enumerate(places) for j in places[k + 1 :]]
        full = sum(len(tried[i]) * len(tried[j]) for i, j in pairs)
        doubles = _drawn(pairs, tried, most if full > most else None, seed)
    texts = [_changed(wild_type, double) for double in doubles]
    f_ij = _on_scale(model, values_of(model, texts, column=column, title="doubles", quiet=quiet)[0])
    expected = np.array([f[0] + effect[a] + effect[b] for a, b in doubles])
    place = np.array([[a[0], b[0]] for a, b in doubles]).reshape(-1, 2)
    new = np.array([[ord(a[1]), ord(b[1])] for a, b in doubles], dtype=np.uint8).reshape(-1, 2)
    own = np.frombuffer(wild_type.encode(), dtype=np.uint8)
    how = "the model's own predictions of the singles"
    if len(doubles) < full:
        how += f"; {len(doubles):,} of {full:,} doubles were predicted, drawn at random"
    frame = _frame(place, new, own, f_ij=f_ij, expected=expected, offset=offset_of(model))
    return Cycles(frame=frame, how=how)


def beyond_curve(cycles: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return what is left of each double beyond a rising curve of its expected value, and the curve at each of them.

    A floor, a ceiling or a logarithm bends all sums of effects alike, which is epistasis by the scale of the
    measurement (Otwinowski et al. 2018); what the curve, an isotonic regression, leaves belongs to the pair.
    """
    from sklearn.isotonic import IsotonicRegression

    expected, f_ij = cycles["expected"].to_numpy(), cycles["f_ij"].to_numpy()
    curve = IsotonicRegression(out_of_bounds="clip").fit(expected, f_ij).predict(expected)
    return f_ij - curve, curve


def summary(cycles: pd.DataFrame, values: str = "epistasis") -> pd.DataFrame:
    """Return a row for each pair of positions: `i`, `j`, `rms`, `max` (of the size), `mean`, `cycles`; by rms."""
    known = cycles[["i", "j"]].assign(value=cycles[values], square=cycles[values] ** 2, size=cycles[values].abs())
    by = known.groupby(["i", "j"])
    frame = pd.DataFrame(
        {
            "rms": np.sqrt(by["square"].mean()),
            "max": by["size"].max(),
            "mean": by["value"].mean(),
            "cycles": by["value"].size(),
        }
    )
    return frame.sort_values("rms", ascending=False).reset_index()


def _wild_type_value(measured: np.ndarray, f_ij: np.ndarray, both: np.ndarray) -> tuple[float, str]:
    if len(measured):
        return float(measured.mean()), "the measured singles and wild type"
    how = "the measured singles; the wild type is not in the table, and half of the cycles were put above nought"
    return float(np.nanmedian(both - f_ij)), how


def _frame(
    place: np.ndarray,
    new: np.ndarray,
    wild_type: np.ndarray,
    *,
    f_ij: np.ndarray,
    expected: np.ndarray,
    offset: int,
) -> pd.DataFrame:
    first = 1 + offset
    # names by category: there are few changes and many pairs of them
    own = [
        pd.Categorical.from_codes(
            code.ravel(), [f"{chr(wild_type[k // 256])}{k // 256 + first}{chr(k % 256)}" for k in keys]
        )
        for keys, code in (
            np.unique(place[:, side] * 256 + new[:, side].astype(np.int64), return_inverse=True) for side in (0, 1)
        )
    ]
    return pd.DataFrame(
        {
            "first": own[0],
            "second": own[1],
            "i": place[:, 0] + first,
            "j": place[:, 1] + first,
            "f_ij": f_ij,
            "expected": expected,
            "epistasis": f_ij - expected,
        }
    )


def _changed(sequence: str, changes: Sequence[tuple[int, str]]) -> str:
    letters = list(sequence)
    for place, letter in changes:
        letters[place] = letter
    return "".join(letters)


def _on_scale(model: Model, values: np.ndarray) -> np.ndarray:
    if model.kind == "regression":
        return values
    clipped = np.clip(values.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _strongest(places: list[int], effect: dict[tuple[int, str], float], most: int) -> list[int]:
    count = int((1 + np.sqrt(1 + 8 * most)) // 2)
    if len(places) <= count:
        return places
    size = dict.fromkeys(places, 0.0)
    for (place, _), value in effect.items():
        size[place] += float(value) ** 2
    return sorted(sorted(places, key=lambda p: -size[p])[:count])


def _drawn(pairs: list[tuple[int, int]], tried: dict[int, list[str]], most: int | None, seed: int) -> list[Double]:
    each = None if most is None else max(1, most // max(len(pairs), 1))
    random = np.random.default_rng(seed)
    doubles = []
    for i, j in pairs:
        count = len(tried[i]) * len(tried[j])
        own = np.arange(count) if each is None or each >= count else random.choice(count, each, replace=False)
        doubles += [((i, tried[i][k // len(tried[j])]), (j, tried[j][k % len(tried[j])])) for k in own]
    return doubles
