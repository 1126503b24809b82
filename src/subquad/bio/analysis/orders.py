r"""How much of a landscape single letters, pairs, triples … explain: its variance by order of interaction.

Axes: n rows, S sites, o order. Where all combinations are measured, the means over the letters of one site after the
other give it exactly, in `S^2 n` steps. With two letters a site each term is known too, by the Walsh-Hadamard
transform in `S 2^S` steps (Weinreich et al. 2013; Poelwijk et al. 2016, "The context-dependence of mutations"). Of
other libraries it is a least-squares fit of all terms up to an order, through a kernel, of at most `MOST_ROWS` rows:
`n^3` steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Library", "Orders", "by_order", "find_library", "order_kernels", "variance_by_order", "walsh"]

MOST_SITES = 16
MOST_ROWS = 1500
ORDERS = 4
PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the fit; on a kernel whose diagonal is 1 for each order."""
WEIGHTS = (0.1, 1.0)
"""Of a further order beside those before it."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Rows that combine letters at a few sites."""

    choices: np.ndarray
    """`(n, S)` which of its letters each row has at each site; 0 is the wild type's."""
    values: np.ndarray
    """`(n,)` measurements, one for each combination."""
    sites: Sequence[str]
    """Names of the sites: A24 where there are several letters, A24G where there is one besides the wild type's."""
    letters: Sequence[int]
    """Letters of each site."""
    places: Sequence[tuple[int, int, str]] = ()
    """Position from 0, site, and letters by choice, of each position that varies."""

    @property
    def combinations(self) -> int:
        """All that there could be."""
        return math.prod(self.letters)

    @property
    def is_complete(self) -> bool:
        """All combinations are measured."""
        return len(self.values) == self.combinations


@dataclass(frozen=True, kw_only=True)
class Orders:
    """Variance by order."""

    share: np.ndarray
    """`(o,)` of the variance that each order explains: exact, or what the held-out R² gains by it."""
    held_out: np.ndarray
    """`(o,)` leave-one-out R² of the fit of all terms up to each order."""
    is_exact: bool
    rows: int
    """That were looked at."""
    pairs: np.ndarray | None
    """`(S, S)` mean double-mutant cycle over all backgrounds, where exact and of two letters a site; NaN on the
    diagonal."""
    terms: list[tuple[tuple[str, ...], float, float]]
    """Single effects and interactions by size, where `pairs` are known: sites, mean effect over all backgrounds (of two
    sites, the mean double-mutant cycle), and share of the variance."""


def find_library(letters: np.ndarray, wild_type: np.ndarray, values: np.ndarray, *, offset: int = 0) -> Library | None:
    """Return rows as a combinatorial library, or None where they are not one.

    They are one where at most `MOST_SITES` sites vary, some rows change three of them or all, and at least one in a
    hundred of all combinations is there. Positions that always change together are one site.

    Args:
        letters: `(n, L)` of sequences of one length.
        wild_type: `(L,)`.
        values: `(n,)` measurements; of equal rows the mean is taken.
        offset: positions are numbered from 1 and this.
    """
    varying = np.flatnonzero((letters != wild_type).any(0))
    if not 2 <= len(varying) <= 4 * MOST_SITES:
        return None
    names, columns, places = [], [], []
    for position in varying:
        # the wild type's letter first, the others in the order of the alphabet
        others = [letter for letter in np.unique(letters[:, position]) if letter != wild_type[position]]
        place = np.searchsorted(others, letters[:, position]) + 1
        own = np.where(letters[:, position] == wild_type[position], 0, place)
        end = chr(others[0]) if len(others) == 1 else ""
        name = f"{chr(wild_type[position])}{position + 1 + offset}{end}"
        same = next((k for k, column in enumerate(columns) if np.array_equal(column, own)), None)
        if same is None:
            names.append(name)
            columns.append(own)
        else:
            names[same] += f"+{name}"
        known = "".join(map(chr, [wild_type[position], *others]))
        places.append((int(position), len(columns) - 1 if same is None else same, known))
    if not 2 <= len(columns) <= MOST_SITES:
        return None
    distinct, place = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    place = place.ravel()
    library = Library(
        choices=distinct,
        values=np.bincount(place, values) / np.bincount(place),
        sites=names,
        letters=[int(column.max()) + 1 for column in distinct.T],
        places=places,
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
    r"""Return `(most + 1, n, m)`: the inner product of all terms of each order, between two sets of rows.

    Of one site with q letters, it is $q [x = x'] - 1$, which sums to nought over its letters; of order o, the sum over
    all sets of o sites of the product of theirs, by the recurrence of elementary symmetric polynomials.
    """
    E = np.zeros((most + 1, len(choices), len(others)))
    E[0] = 1.0
    for site, q in enumerate(letters):
        k = q * (choices[:, site, None] == others[None, :, site]) - 1.0
        for order in range(most, 0, -1):
            E[order] += k * E[order - 1]
    return E


def by_order(values: np.ndarray, letters: Sequence[int]) -> np.ndarray:
    r"""Return what each order adds to a landscape of all combinations, `(S + 1, *letters)`; the orders are orthogonal.

    Order o is $E_o y / n$, with the kernel of `order_kernels`: site by site, the mean over its letters stays where it
    is, and what differs from the mean goes one order up.
    """
    parts = np.zeros((len(letters) + 1, *letters))
    parts[0] = values.reshape(letters)
    for site in range(len(letters)):
        mean = parts.mean(axis=site + 1, keepdims=True)
        up = (parts - mean)[:-1]
        parts = np.repeat(mean, letters[site], axis=site + 1)
        parts[1:] += up
    return parts


def variance_by_order(library: Library, *, most_rows: int = MOST_ROWS, seed: int = 0) -> Orders:
    """Return how much of the variance each order explains.

    Complete libraries: exact for all orders, with the R² of leaving one row out beside it up to order four. Others: by
    that R² alone, which measurement noise cannot raise, up to order four; of more than `most_rows` rows so many are
    drawn at random with `seed`.
    """
    most = min(ORDERS, len(library.sites))
    if library.is_complete:
        return _exact(library, most)
    rows = np.arange(len(library.values))
    if len(rows) > most_rows:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most_rows, replace=False))
    held_out = _leave_one_out(library.choices[rows], library.values[rows], library.letters, most)
    share = np.diff(held_out, prepend=0.0)
    return Orders(share=share, held_out=held_out, is_exact=False, rows=len(rows), pairs=None, terms=[])


def _exact(library: Library, most: int) -> Orders:
    n, letters = library.combinations, tuple(library.letters)
    y = np.empty(n)
    y[np.ravel_multi_index(tuple(library.choices.T), letters)] = library.values
    variance = (by_order(y, letters)[1:].reshape(len(letters), n) ** 2).mean(1)
    share = variance / (variance.sum() or 1.0)
    # all terms are orthogonal, so that each row's leverage is terms / rows
    leverage = np.cumsum(_terms_by_order(letters))[1 : most + 1] / n
    left = 1 - np.cumsum(share)[:most]
    with np.errstate(divide="ignore", invalid="ignore"):
        held_out = np.where(leverage < 1, 1 - left / (1 - leverage) ** 2, np.nan)
    pairs, terms = _effects(library) if set(letters) == {2} else (None, [])
    return Orders(share=share, held_out=held_out, is_exact=True, rows=n, pairs=pairs, terms=terms)


def _terms_by_order(letters: Sequence[int]) -> np.ndarray:
    """Return how many terms each order has, `(S + 1,)`: one less than its letters for each site in it, multiplied."""
    count = np.zeros(len(letters) + 1)
    count[0] = 1.0
    for q in letters:
        count[1:] += (q - 1) * count[:-1]
    return count


def _effects(library: Library) -> tuple[np.ndarray, list[tuple[tuple[str, ...], float, float]]]:
    """Return the pairs and terms of `Orders`, of a complete library of two letters a site."""
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
    # (-1)^x is 1 for the wild type: a single effect is -2c, a double-mutant cycle 4c, a triple one -8c, the mean of all
    return coefficient * (-2.0) ** order


def _leave_one_out(choices: np.ndarray, y: np.ndarray, letters: Sequence[int], most: int) -> np.ndarray:
    """Return the R² of each row predicted from all others up to each order; an order that does not help is left out."""
    variance = ((y - y.mean()) ** 2).sum()
    # what the mean of all other rows would reach is the nought of this scale
    nought = (variance * (len(y) / max(len(y) - 1, 1)) ** 2) or 1.0
    E = order_kernels(choices, choices, letters, most)
    # the constant stands for the mean, which is hardly pulled to zero
    K, best, result = 100.0 * E[0], 0.0, []
    for order in range(1, most + 1):
        tried = [K + weight * E[order] / E[order].diagonal().mean() for weight in WEIGHTS]
        reached = [_reached(kernel, y) / nought for kernel in tried]
        if 1 - min(reached) > best:
            best, K = 1 - min(reached), tried[int(np.argmin(reached))]
        result.append(best)
    return np.array(result)


def _reached(K: np.ndarray, y: np.ndarray) -> float:
    """Return the squared error of each row predicted from all others, with the best of `PENALTIES`."""
    eigenvalues, vectors = np.linalg.eigh(K)
    rotated, squared = vectors.T @ y, vectors**2
    errors = []
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        residual = (vectors @ (inverse * rotated)) / np.maximum(squared @ inverse, 1e-300)
        errors.append(float((residual**2).sum()))
    return min(errors)
