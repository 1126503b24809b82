r"""Variance of a fitness landscape by order of interaction: single substitutions, pairs, triples and so on.

Axes: n rows, S sites, o order. Complete combinatorial libraries are decomposed exactly by averaging over one site after
the other, in `S^2 n` steps. With two letters per site each term is available too, by the Walsh-Hadamard transform in
`S 2^S` steps (Weinreich et al. 2013; Poelwijk et al. 2016, "The context-dependence of mutations"). Incomplete libraries
are fitted by kernel least squares with all terms up to an order, on at most `MAX_ROWS` rows: `n^3` steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Library", "Orders", "by_order", "find_library", "order_kernels", "variance_by_order", "walsh"]

MAX_SITES = 16
MAX_ROWS = 1500
MAX_ORDER = 4
PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties of the fit, for kernels scaled to a diagonal of 1 per order."""
WEIGHTS = (0.1, 1.0)
"""Weights of an added order relative to the lower ones."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Variants that combine letters at a few sites."""

    choices: np.ndarray
    """`(n, S)` index of the letter of each variant at each site; 0 is the wild type's."""
    values: np.ndarray
    """`(n,)` measurements, one per combination."""
    sites: Sequence[str]
    """Site names: A24 where a site has several letters, A24G where it has one besides the wild type's."""
    letters: Sequence[int]
    """Number of letters at each site."""
    positions: Sequence[tuple[int, int, str]] = ()
    """Position from 0, site, and letters by choice, for each position that varies."""

    @property
    def combinations(self) -> int:
        """Number of possible combinations."""
        return math.prod(self.letters)

    @property
    def is_complete(self) -> bool:
        """All combinations are measured."""
        return len(self.values) == self.combinations

    def sequences(self, wild_type: str) -> list[str]:
        """Return the full sequence of each combination."""
        codes = np.repeat(np.frombuffer(wild_type.encode(), dtype=np.uint8)[None], len(self.choices), axis=0)
        for position, site, letters in self.positions:
            codes[:, position] = np.frombuffer(letters.encode(), dtype=np.uint8)[self.choices[:, site]]
        return [row.tobytes().decode() for row in codes]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """Variance explained by each order of interaction."""

    fraction: np.ndarray
    """`(o,)` fraction of the variance explained by each order: exact, or the gain in held-out R²."""
    heldout_r2: np.ndarray
    """`(o,)` leave-one-out R² of the fit of all terms up to each order; 0 is the mean of all other rows."""
    is_exact: bool
    rows: int
    """Number of variants used."""
    pairs: np.ndarray | None
    """`(S, S)` mean double-mutant cycle over all backgrounds, if exact and with two letters per site; NaN diagonal."""
    terms: list[tuple[tuple[str, ...], float, float]]
    """The largest terms, where `pairs` is known: sites, mean effect over all backgrounds (for two sites, the mean
    double-mutant cycle), and fraction of the variance."""


def find_library(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray, *, offset: int = 0) -> Library | None:
    """Return the variants as a combinatorial library, or None if they do not form one.

    They form one if at most `MAX_SITES` sites vary, some variants change three or all of them, and at least 1 % of the
    combinations are present. Positions that always change together are one site.

    Args:
        letters: `(n, L)` aligned sequences, as bytes.
        wild_type: `(L,)`.
        values: `(n,)` measurements; repeated variants are averaged.
        offset: Positions are numbered from 1 + `offset`.
    """
    varying = np.flatnonzero((letters != wild_type).any(0))
    if not 2 <= len(varying) <= 4 * MAX_SITES:
        return None
    names, columns, positions = [], [], []
    for position in varying:
        # the wild type's letter first, the others in alphabetical order
        others = [letter for letter in np.unique(letters[:, position]) if letter != wild_type[position]]
        index = np.searchsorted(others, letters[:, position]) + 1
        own = np.where(letters[:, position] == wild_type[position], 0, index)
        end = chr(others[0]) if len(others) == 1 else ""
        name = f"{chr(wild_type[position])}{position + 1 + offset}{end}"
        same = next((k for k, column in enumerate(columns) if np.array_equal(column, own)), None)
        if same is None:
            names.append(name)
            columns.append(own)
        else:
            names[same] += f"+{name}"
        known = "".join(map(chr, [wild_type[position], *others]))
        positions.append((int(position), len(columns) - 1 if same is None else same, known))
    if not 2 <= len(columns) <= MAX_SITES:
        return None
    distinct, index = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    index = index.ravel()
    library = Library(
        choices=distinct,
        values=np.bincount(index, values) / np.bincount(index),
        sites=names,
        letters=[int(column.max()) + 1 for column in distinct.T],
        positions=positions,
    )
    most_changed = int((distinct > 0).sum(1).max())
    is_one = most_changed >= min(3, len(columns)) and len(distinct) >= 0.01 * library.combinations
    return library if is_one else None


def walsh(values: np.ndarray) -> np.ndarray:
    r"""Return the Walsh coefficients $c_s = 2^{-S} \sum_x (-1)^{s \cdot x} y_x$ of `2^S` values in binary order."""
    c = np.array(values, dtype=np.float64)
    step = 1
    while step < len(c):
        pairs = c.reshape(-1, 2, step)
        c = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        step *= 2
    return c / len(c)


def order_kernels(choices: np.ndarray, others: np.ndarray, letters: Sequence[int], most: int) -> np.ndarray:
    r"""Return the kernel of each order between two sets of variants, `(most + 1, n, m)`.

    The kernel of one site with q letters is $q [x = x'] - 1$, which sums to zero over the letters; that of order o is
    the sum, over all sets of o sites, of their product, by the recurrence of elementary symmetric polynomials.
    """
    E = np.zeros((most + 1, len(choices), len(others)))
    E[0] = 1.0
    for site, q in enumerate(letters):
        k = q * (choices[:, site, None] == others[None, :, site]) - 1.0
        for order in range(most, 0, -1):
            E[order] += k * E[order - 1]
    return E


def by_order(values: np.ndarray, letters: Sequence[int]) -> np.ndarray:
    r"""Return the components of a complete landscape by order, `(S + 1, *letters)`; they are orthogonal.

    Order o is $E_o y / n$ with the kernel of `order_kernels`. Site by site, the mean over its letters keeps its order
    and the deviation from the mean moves one order up.
    """
    parts = np.zeros((len(letters) + 1, *letters))
    parts[0] = values.reshape(letters)
    for site in range(len(letters)):
        mean = parts.mean(axis=site + 1, keepdims=True)
        up = (parts - mean)[:-1]
        parts = np.repeat(mean, letters[site], axis=site + 1)
        parts[1:] += up
    return parts


def variance_by_order(library: Library, *, seed: int = 0) -> Orders:
    """Return the variance explained by each order.

    Complete libraries give exact fractions for all orders, and leave-one-out R² up to order four. Incomplete libraries
    give leave-one-out R² only, which measurement noise cannot inflate.

    Args:
        library: The variants.
        seed: Seed of the subsample of `MAX_ROWS` variants of a larger incomplete library.
    """
    most = min(MAX_ORDER, len(library.sites))
    if library.is_complete:
        return _exact(library, most)
    rows = np.arange(len(library.values))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
    heldout_r2 = _leave_one_out(library.choices[rows], library.values[rows], library.letters, most)
    fraction = np.diff(heldout_r2, prepend=0.0)
    return Orders(fraction=fraction, heldout_r2=heldout_r2, is_exact=False, rows=len(rows), pairs=None, terms=[])


def _exact(library: Library, most: int) -> Orders:
    n, letters = library.combinations, tuple(library.letters)
    y = np.empty(n)
    y[np.ravel_multi_index(tuple(library.choices.T), letters)] = library.values
    variance = (by_order(y, letters)[1:].reshape(len(letters), n) ** 2).mean(1)
    fraction = variance / (variance.sum() or 1.0)
    # all terms are orthogonal, so the leverage of each row is the number of terms / rows
    leverage = np.cumsum(_terms_by_order(letters))[1 : most + 1] / n
    left = (1 - np.cumsum(fraction)[:most]) / _null_factor(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        heldout_r2 = np.where(leverage < 1, 1 - left / (1 - leverage) ** 2, np.nan)
    pairs, terms = _effects(library) if set(letters) == {2} else (None, [])
    return Orders(fraction=fraction, heldout_r2=heldout_r2, is_exact=True, rows=n, pairs=pairs, terms=terms)


def _terms_by_order(letters: Sequence[int]) -> np.ndarray:
    """Return the number of terms of each order, `(S + 1,)`: sums over sets of sites of the product of (letters - 1)."""
    count = np.zeros(len(letters) + 1)
    count[0] = 1.0
    for q in letters:
        count[1:] += (q - 1) * count[:-1]
    return count


def _effects(library: Library) -> tuple[np.ndarray, list[tuple[tuple[str, ...], float, float]]]:
    """Return `pairs` and `terms` of a complete library with two letters per site."""
    S = len(library.sites)
    y = np.empty(2**S)
    y[library.choices @ (1 << np.arange(S))] = library.values
    c = walsh(y)
    total = (c[1:] ** 2).sum() or 1.0
    pairs = np.full((S, S), np.nan)
    for i in range(S):
        for j in range(i):
            pairs[i, j] = pairs[j, i] = _effect(c[(1 << i) | (1 << j)], 2)
    strongest = [int(index) for index in np.argsort(-np.abs(c)) if index][:40]
    terms = [
        (
            tuple(library.sites[site] for site in range(S) if index >> site & 1),
            float(_effect(c[index], index.bit_count())),
            float(c[index] ** 2 / total),
        )
        for index in strongest
    ]
    return pairs, terms


def _effect(coefficient: float, order: int) -> float:
    # (-1)^x is 1 for the wild type: a single effect is -2c, a double-mutant cycle 4c, a triple-mutant cycle -8c
    return coefficient * (-2.0) ** order


def _leave_one_out(choices: np.ndarray, y: np.ndarray, letters: Sequence[int], most: int) -> np.ndarray:
    """Return the leave-one-out R² of the fit up to each order; an order that does not improve it is left out."""
    variance = ((y - y.mean()) ** 2).sum()
    null_error = (variance * _null_factor(len(y))) or 1.0
    E = order_kernels(choices, choices, letters, most)
    # a large constant kernel leaves the mean nearly unpenalised
    K, best, result = 100.0 * E[0], 0.0, []
    for order in range(1, most + 1):
        tried = [K + weight * E[order] / E[order].diagonal().mean() for weight in WEIGHTS]
        errors = [_loo_error(kernel, y) / null_error for kernel in tried]
        if 1 - min(errors) > best:
            best, K = 1 - min(errors), tried[int(np.argmin(errors))]
        result.append(best)
    return np.array(result)


def _null_factor(rows: int) -> float:
    """Return the leave-one-out squared error of the mean, as a multiple of the squared deviations from it."""
    return (rows / max(rows - 1, 1)) ** 2


def _loo_error(K: np.ndarray, y: np.ndarray) -> float:
    """Return the leave-one-out squared error of a kernel with the best of `PENALTIES`."""
    eigenvalues, vectors = np.linalg.eigh(K)
    rotated, squared = vectors.T @ y, vectors**2
    errors = []
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        residual = (vectors @ (inverse * rotated)) / np.maximum(squared @ inverse, 1e-300)
        errors.append(float((residual**2).sum()))
    return min(errors)
