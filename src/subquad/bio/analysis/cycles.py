r"""Double-mutant cycles: the epistasis $f_{ij} - f_i - f_j + f_{wt}$ of pairs of mutations.

Axes: n rows, L positions, c cycles. Measured cycles cost one pass over the table; predicted cycles one prediction each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.models.links import log_odds
from subquad.bio.models.scorer import Scorer
from subquad.bio.models.support import observed_letters, yes_no
from subquad.errors import SubquadError

__all__ = [
    "Cycles",
    "DoubleMutant",
    "additive_fit",
    "by_pair",
    "letters_of",
    "measured_cycles",
    "on_additive_scale",
    "predicted_cycles",
    "specific_epistasis",
]

DoubleMutant = tuple[tuple[int, str], tuple[int, str]]
"""Two positions, from 0, and their new letters."""
PENALTY = 1.0
"""Ridge penalty of the additive fit: each effect is shrunk towards the mean effect, as by one measurement."""
UNPENALIZED_SCALE = 30.0


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Double mutants with the values expected without epistasis."""

    frame: pd.DataFrame
    """`first`, `second` (A24G), `i`, `j` (positions, numbered as in the table), `f_ij`, `expected` (without epistasis)
    and `epistasis`; of predictions also `observed`, whether training sequences had both letters at their positions
    (`yes`, `no` or empty where unknown)."""
    single_effects: str
    """Source of the single-mutant effects."""


def letters_of(sequences: Sequence[str]) -> np.ndarray:
    """Return sequences of one length as `(n, L)` bytes.

    Raises:
        SubquadError: The sequences have different lengths.
    """
    lengths = np.unique([len(sequence) for sequence in sequences])
    if len(lengths) != 1:
        raise SubquadError(f"epistasis needs sequences of one length, and these have {lengths[0]} to {lengths[-1]}")
    joined = np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8)
    return joined.reshape(len(sequences), int(lengths[0]))


def measured_cycles(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray, *, offset: int = 0) -> Cycles:
    """Return the cycles of a table's double mutants.

    Single-mutant effects are measured ones if both are available for at least half of the double mutants; otherwise
    they come from a least-squares additive model of all rows with at most two mutations. If only the wild type is
    missing, its value is set so that half of the cycles are positive.

    Args:
        letters: `(n, L)` aligned sequences, as bytes.
        wild_type: `(L,)`.
        values: `(n,)` finite measurements.
        offset: Positions are numbered from 1 + `offset`.

    Raises:
        SubquadError: There are no double mutants.
    """
    is_mutated = letters != wild_type
    count = is_mutated.sum(1)
    doubles = np.flatnonzero(count == 2)
    if not len(doubles):
        raise SubquadError("the table has no double mutants of the wild type, which epistasis is estimated from")
    position = np.nonzero(is_mutated[doubles])[1].reshape(-1, 2)
    new = np.take_along_axis(letters[doubles], position, axis=1)
    effect = _measured_singles(letters, is_mutated, values, np.flatnonzero(count == 1))
    both = effect[position[:, 0], new[:, 0]] + effect[position[:, 1], new[:, 1]]
    f_ij = values[doubles]
    if np.isfinite(both).mean() >= 0.5:
        wild_type_value, source = _wild_type_value(values[count == 0], f_ij, both)
        expected = both - wild_type_value
    else:
        expected = additive_fit(letters, wild_type, values)[doubles]
        source = "a least-squares additive model, because most single mutants are missing from the table"
    known = np.isfinite(expected)
    frame = _frame(position[known], new[known], wild_type, f_ij=f_ij[known], expected=expected[known], offset=offset)
    # replicates of a double mutant form one cycle
    names = ["first", "second", "i", "j"]
    if frame.duplicated(names).any():
        frame = pd.DataFrame(frame.groupby(names, as_index=False, sort=False, observed=True).mean())
    return Cycles(frame=frame, single_effects=source)


def _measured_singles(
    letters: np.ndarray, is_mutated: np.ndarray, values: np.ndarray, singles: np.ndarray
) -> np.ndarray:
    """Return the mean value of each measured single mutant, `(L, 256)`; NaN where it is not measured."""
    shape = (letters.shape[1], 256)
    if not len(singles):
        return np.full(shape, np.nan)
    position = is_mutated[singles].argmax(1)
    key = position * 256 + letters[singles, position]
    total, times = (np.bincount(key, weight, shape[0] * shape[1]) for weight in (values[singles], None))
    return np.where(times > 0, total / np.maximum(times, 1), np.nan).reshape(shape)


def _wild_type_value(measured: np.ndarray, f_ij: np.ndarray, both: np.ndarray) -> tuple[float, str]:
    if len(measured):
        return float(measured.mean()), "measured single mutants and wild type"
    source = (
        "measured single mutants; the wild type is missing from the table, so its value was set such that half of the "
        "cycles are positive"
    )
    return float(np.nanmedian(both - f_ij)), source


def additive_fit(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the predictions `(n,)` of an additive model fitted to the rows with at most two mutations."""
    from scipy import sparse
    from scipy.sparse.linalg import lsqr

    row, position = np.nonzero(letters != wild_type)
    known, column = np.unique(position * 256 + letters[row, position], return_inverse=True)
    ones = np.ones(len(row))
    X = sparse.csr_matrix((ones, (row, column.ravel())), shape=(len(letters), len(known)))
    few = np.diff(X.indptr) <= 2
    # columns of large scale leave the wild type's value and the mean effect nearly unpenalised
    common = UNPENALIZED_SCALE * np.stack([np.ones(len(letters)), np.diff(X.indptr)], axis=1)
    X = sparse.csr_matrix(sparse.hstack([X, sparse.csr_matrix(common)]))
    return X @ lsqr(X[few], values[few], damp=PENALTY, atol=1e-10, btol=1e-10, iter_lim=5000)[0]


def predicted_cycles(
    scorer: Scorer,
    wild_type: str,
    *,
    doubles: Sequence[DoubleMutant] | None,
    max_double_mutants: int,
    seed: int,
    quiet: bool,
) -> Cycles:
    """Return the cycles of a model's predictions around a wild type; of class probabilities, in log odds.

    All double mutants are predicted if there are at most `max_double_mutants`; otherwise the same number of random
    substitutions at each pair of positions, at least one. If there are even more pairs of positions than that, only the
    positions with the largest single-mutant effects are paired.

    Args:
        scorer: Model and output.
        wild_type: Wild-type sequence.
        doubles: Double mutants to predict instead, or None; a random sample if there are more than
            `max_double_mutants`.
        max_double_mutants: Number of double mutants to predict.
        seed: Seed of the subsample.
        quiet: Show no progress.
    """
    positions = list(range(len(wild_type))) if scorer.positions is None else sorted(scorer.positions)
    letters = {p: [letter for letter in scorer.letters if letter != wild_type[p]] for p in positions}
    total = 0
    if doubles is not None:
        total = len(doubles)
        chosen = np.sort(np.random.default_rng(seed).permutation(total)[:max_double_mutants])
        doubles = [doubles[k] for k in chosen]
        singles = sorted({single for double in doubles for single in double})
    else:
        singles = [(p, letter) for p in positions for letter in letters[p]]
    source = "predicted single mutants"
    texts = [wild_type, *(_mutated(wild_type, (single,)) for single in singles)]
    f = on_additive_scale(scorer, scorer.members(texts, title="single mutants", quiet=quiet).mean)
    effect = dict(zip(singles, f[1:] - f[0], strict=True))
    if doubles is None:
        counts = np.array([len(letters[p]) for p in positions])
        # those of one position are not combined with each other
        total = int(counts.sum() ** 2 - (counts**2).sum()) // 2
        strongest = _strongest(positions, effect, max_double_mutants)
        if len(strongest) < len(positions):
            source += (
                f"; only the {len(strongest):,} of {len(positions):,} positions with the largest single-mutant effects "
                "were paired (a larger --max-double-mutants pairs more)"
            )
        pairs = [(i, j) for k, i in enumerate(strongest) for j in strongest[k + 1 :]]
        doubles = _sampled(pairs, letters, max_double_mutants if total > max_double_mutants else None, seed)
    texts = [_mutated(wild_type, double) for double in doubles]
    f_ij = on_additive_scale(scorer, scorer.members(texts, title="double mutants", quiet=quiet).mean)
    expected = np.array([f[0] + effect[a] + effect[b] for a, b in doubles])
    position = np.array([[a[0], b[0]] for a, b in doubles]).reshape(-1, 2)
    new = np.array([[ord(a[1]), ord(b[1])] for a, b in doubles], dtype=np.uint8).reshape(-1, 2)
    own = np.frombuffer(wild_type.encode(), dtype=np.uint8)
    if len(doubles) < total:
        source += f"; {len(doubles):,} of {total:,} double mutants were sampled at random and predicted"
    frame = _frame(position, new, own, f_ij=f_ij, expected=expected, offset=scorer.offset)
    observed = observed_letters(scorer, len(wild_type))
    frame["observed"] = yes_no(
        None if observed is None else [all(letter in observed[p] for p, letter in double) for double in doubles]
    )
    return Cycles(frame=frame, single_effects=source)


def specific_epistasis(cycles: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the epistasis that a monotonic curve of the expected value leaves, and the curve at each double mutant.

    A detection limit, saturation or a logarithm bends all sums of effects alike: global epistasis (Otwinowski et al.
    2018). An isotonic regression captures it; what it leaves is specific to the pair of mutations.
    """
    from sklearn.isotonic import IsotonicRegression

    expected, f_ij = cycles["expected"].to_numpy(), cycles["f_ij"].to_numpy()
    curve = IsotonicRegression(out_of_bounds="clip").fit(expected, f_ij).predict(expected)
    return f_ij - curve, curve


def by_pair(cycles: pd.DataFrame, values: str = "epistasis") -> pd.DataFrame:
    """Return one row per pair of positions, by rms: `i`, `j`, `rms`, `max` (absolute), `mean` and `double_mutants`.

    Of predictions also `observed_double_mutants`, those whose letters training sequences had at their positions.
    """
    known = cycles[["i", "j"]].assign(value=cycles[values], square=cycles[values] ** 2, size=cycles[values].abs())
    groups: Any = known.groupby(["i", "j"])
    frame = pd.DataFrame(
        {
            "rms": groups["square"].mean() ** 0.5,
            "max": groups["size"].max(),
            "mean": groups["value"].mean(),
            "double_mutants": groups["value"].size(),
        }
    )
    if "observed" in cycles and bool(cycles["observed"].notna().any()):
        frame["observed_double_mutants"] = (cycles["observed"] == "yes").groupby([cycles["i"], cycles["j"]]).sum()
    return frame.sort_values("rms", ascending=False).reset_index()


def _frame(
    position: np.ndarray, new: np.ndarray, wild_type: np.ndarray, *, f_ij: np.ndarray, expected: np.ndarray, offset: int
) -> pd.DataFrame:
    first = 1 + offset
    # categorical names: there are few single mutants and many pairs of them
    names = []
    for side in (0, 1):
        keys, code = np.unique(position[:, side] * 256 + new[:, side].astype(np.int64), return_inverse=True)
        mutants = [f"{chr(wild_type[k // 256])}{k // 256 + first}{chr(k % 256)}" for k in keys]
        names.append(pd.Categorical.from_codes(code.ravel(), mutants))
    return pd.DataFrame(
        {
            "first": names[0],
            "second": names[1],
            "i": position[:, 0] + first,
            "j": position[:, 1] + first,
            "f_ij": f_ij,
            "expected": expected,
            "epistasis": f_ij - expected,
        }
    )


def _mutated(sequence: str, mutations: Sequence[tuple[int, str]]) -> str:
    letters = list(sequence)
    for position, letter in mutations:
        letters[position] = letter
    return "".join(letters)


def on_additive_scale(scorer: Scorer, values: np.ndarray) -> np.ndarray:
    """Return predictions on the scale on which effects add up: probabilities become log odds."""
    return log_odds(values, 1e-6) if scorer.is_probability else values


def _strongest(positions: list[int], effect: dict[tuple[int, str], float], most: int) -> list[int]:
    """Return the positions with the largest effects, so few that they have at most `most` pairs."""
    count = int((1 + np.sqrt(1 + 8 * most)) // 2)
    if len(positions) <= count:
        return positions
    size = dict.fromkeys(positions, 0.0)
    for (position, _), value in effect.items():
        size[position] += float(value) ** 2
    return sorted(sorted(positions, key=lambda p: -size[p])[:count])


def _sampled(
    pairs: list[tuple[int, int]], letters: dict[int, list[str]], most: int | None, seed: int
) -> list[DoubleMutant]:
    per_pair = None if most is None else max(1, most // max(len(pairs), 1))
    random = np.random.default_rng(seed)
    doubles: list[DoubleMutant] = []
    for i, j in pairs:
        count = len(letters[i]) * len(letters[j])
        is_all = per_pair is None or per_pair >= count
        own = np.arange(count) if is_all else random.choice(count, per_pair, replace=False)
        doubles += [((i, letters[i][k // len(letters[j])]), (j, letters[j][k % len(letters[j])])) for k in own]
    return doubles
