"""Search for the best variants under constraints.

Scores all variants if there are few. Otherwise it scores all single mutants and runs an evolutionary search: in each
generation three children per parent and the neighbours of the best variant. Axes: n variants, L positions, A letters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

from subquad.bio.design_search.acquisition import Acquisition
from subquad.bio.design_search.constraints import Constraints
from subquad.bio.design_search.settings import SearchSettings
from subquad.bio.models.members import deviation
from subquad.bio.models.scorer import Scorer
from subquad.progress import track

__all__ = ["EXHAUSTIVE", "ScoredVariants", "search"]

EXHAUSTIVE = 20_000
"""Up to this number of variants, all are scored."""
NEIGHBOURS = 1_000
"""Largest number of neighbours of the best variant scored per generation."""
PATIENCE = 6
"""Generations without a change among the best variants after which the search stops."""


@dataclass
class ScoredVariants:
    """Variants scored so far."""

    constraints: Constraints
    scorer: Scorer
    acquisition: Acquisition
    """What the variants are ranked by."""
    codes: np.ndarray = field(init=False)
    """`(n, L)` int8."""
    mean: np.ndarray = field(init=False)
    """`(n,)` prediction, in units of the target."""
    std: np.ndarray = field(init=False)
    """`(n,)` standard deviation over the ensemble members; NaN for a single member."""
    each: np.ndarray = field(init=False)
    """`(m, n)` predictions of the members."""
    weights: np.ndarray = field(init=False)
    """`(m,)` weights of the members."""
    violations: np.ndarray = field(init=False)
    """`(n,)` 0 where the constraints are satisfied."""

    def __post_init__(self) -> None:
        self.codes = np.empty((0, len(self.constraints.start)), dtype=np.int8)
        self.mean = self.std = self.violations = np.empty(0)
        self.each, self.weights = np.empty((0, 0)), np.empty(0)
        # the start itself is not a variant
        self._known = {self.constraints.start.tobytes()}

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def value(self) -> np.ndarray:
        """Acquisition function, `(n,)`; higher is better."""
        return self.acquisition.value(self.mean, self.std)

    def add(self, codes: np.ndarray) -> int:
        """Score the new ones among the variants, and return their number."""
        fresh = []
        for row in codes:
            key = row.tobytes()
            if key not in self._known:
                self._known.add(key)
                fresh.append(row)
        if fresh:
            new = np.stack(fresh)
            members = self.scorer.members(self.constraints.sequences(new))
            each = np.asarray(members.each)
            self.each = np.concatenate([self.each, each], axis=1) if len(self) else each
            self.weights = members.weights
            self.codes = np.concatenate([self.codes, new])
            self.mean = np.append(self.mean, members.mean)
            self.std = np.append(self.std, deviation(each, members.weights))
            self.violations = np.append(self.violations, self.constraints.violations(new))
        return len(fresh)

    def best(self, most: int) -> np.ndarray:
        """Return the rows of the best variants: first those that satisfy the constraints, then those that nearly do."""
        return np.lexsort((-self.value, self.violations))[:most]


def search(
    constraints: Constraints,
    scorer: Scorer,
    acquisition: Acquisition,
    settings: SearchSettings,
    *,
    number: int,
    seed: int,
    quiet: bool = True,
) -> ScoredVariants:
    """Return all variants scored during the search for the best ones; deterministic for a seed.

    Args:
        constraints: Which variants are allowed.
        scorer: Model and output.
        acquisition: What the variants are ranked by.
        settings: Size of the evolutionary search.
        number: Number of variants to find; the search ends when the best ones do not change.
        seed: Seed of the search.
        quiet: Show no progress.
    """
    scored = ScoredVariants(constraints, scorer, acquisition)
    total = constraints.count_variants(EXHAUSTIVE + 1)
    if total <= EXHAUSTIVE:
        with track("all variants", total, quiet=quiet) as advance:
            for batch in _batches(_every(constraints)):
                scored.add(batch)
                advance(len(batch))
        return scored
    random = np.random.default_rng(seed)
    singles = _singles(constraints)
    if len(singles) > 5 * EXHAUSTIVE:
        singles = singles[np.sort(random.choice(len(singles), 5 * EXHAUSTIVE, replace=False))]
    scored.add(singles)
    weight = _weights(scored)
    if constraints.max_mutations > 1:
        _evolve(scored, weight, settings, random, number=number, quiet=quiet)
    return scored


def _every(constraints: Constraints) -> Iterator[np.ndarray]:
    choices = {position: np.flatnonzero(constraints.allowed[position]) for position in constraints.positions}
    for count in range(1, constraints.max_mutations + 1):
        for positions in combinations(choices, count):
            for letters in product(*(choices[position] for position in positions)):
                row = constraints.start.copy()
                row[list(positions)] = letters
                yield row


def _batches(rows: Iterator[np.ndarray], size: int = 4096) -> Iterator[np.ndarray]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _singles(constraints: Constraints) -> np.ndarray:
    positions, letters = np.nonzero(constraints.allowed)
    rows = np.repeat(constraints.start[None], len(positions), axis=0)
    rows[np.arange(len(positions)), positions] = letters
    return rows


def _weights(scored: ScoredVariants) -> np.ndarray:
    """Return the probability of proposing each substitution, `(L, A)`: higher for better single mutants."""
    constraints = scored.constraints
    weight = np.zeros(constraints.allowed.shape)
    order = np.argsort(-scored.value, kind="stable")
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    position = (scored.codes != constraints.start).argmax(1)
    weight[position, scored.codes[np.arange(len(position)), position]] = 1 / (10 + rank) + 1 / (10 * len(rank))
    return weight / weight.sum()


def _evolve(
    scored: ScoredVariants,
    weight: np.ndarray,
    settings: SearchSettings,
    random: np.random.Generator,
    *,
    number: int,
    quiet: bool,
) -> None:
    constraints = scored.constraints
    expanded: set[bytes] = set()
    last, still = b"", 0
    with track("search", settings.generations, quiet=quiet) as advance:
        for done in range(settings.generations):
            parents = scored.codes[scored.best(settings.population)]
            children = _children(parents, constraints, weight, 3 * settings.population, random)
            centre = next((row for row in parents if row.tobytes() not in expanded), parents[0])
            expanded.add(centre.tobytes())
            scored.add(np.concatenate([children, _neighbours(centre, constraints, random)]))
            top = scored.best(number)
            now = np.sort(top).tobytes()
            still = still + 1 if now == last else 0
            last = now
            if still >= PATIENCE:
                advance(settings.generations - done)
                return
            # the acquisition and not the prediction: it only rises, whichever direction is better
            advance(1, best_acquisition=float(scored.value[top[0]]))


def _children(
    parents: np.ndarray, constraints: Constraints, weight: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Return recombinants of two parents, most of them with a further mutation."""
    # the minimum of two draws favours the better parents
    draws = np.minimum(random.integers(0, len(parents), (2, count)), random.integers(0, len(parents), (2, count)))
    first, second = parents[draws[0]], parents[draws[1]]
    takes_second = (random.random(first.shape) < 0.5) & (random.random((count, 1)) < 0.6)
    children = np.where(takes_second, second, first)
    changed = np.flatnonzero(random.random(count) < 0.8)
    picks = random.choice(weight.size, len(changed), p=weight.ravel())
    position, letter = np.divmod(picks, weight.shape[1])
    children[changed, position] = letter
    return _cut(children, constraints, random, keep=(changed, position))


def _cut(
    rows: np.ndarray, constraints: Constraints, random: np.random.Generator, *, keep: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the rows with excess mutations reverted at random; those in `keep` are reverted last."""
    order = np.where(rows != constraints.start, random.random(rows.shape), 2.0)
    order[keep] = np.where(order[keep] < 2, -1.0, 2.0)
    rank = order.argsort(1, kind="stable").argsort(1, kind="stable")
    return np.where((rank < constraints.max_mutations) & (order < 2), rows, constraints.start).astype(np.int8)


def _neighbours(centre: np.ndarray, constraints: Constraints, random: np.random.Generator) -> np.ndarray:
    """Return variants one step away: a mutation added, replaced, reverted, or at the limit exchanged for another."""
    allowed = constraints.allowed.copy()
    allowed[np.arange(len(centre)), constraints.start] = centre != constraints.start
    allowed[np.arange(len(centre)), centre] = False
    positions, letters = np.nonzero(allowed)
    if len(positions) > NEIGHBOURS:
        some = np.sort(random.choice(len(positions), NEIGHBOURS, replace=False))
        positions, letters = positions[some], letters[some]
    rows = np.repeat(centre[None], len(positions), axis=0)
    each = np.arange(len(positions))
    rows[each, positions] = letters
    return _cut(rows, constraints, random, keep=(each, positions))
