"""The search for good variants, and the choice of a batch of them that differ.

Costs one prediction a variant tried: all of them where there are few, else all single changes and then, each round,
three children a parent and the neighbours of the best. Axes: n variants, L positions, A letters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

from subquad.bio.design_search.constraints import Rules
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.scorer import Judge
from subquad.progress import track

__all__ = ["ALL", "Tried", "choose", "search"]

ALL = 20_000
"""Where there are no more variants than this, all are tried."""
NEIGHBOURS = 1_000
"""Of the best variant, tried in each round."""
PATIENCE = 6
"""Rounds without anything new among the best, after which the search ends."""


@dataclass
class Tried:
    """Variants that have been predicted."""

    rules: Rules
    judge: Judge
    sign: int
    """1 where high values are looked for, else -1."""
    beta: float
    codes: np.ndarray = field(init=False)
    """`(n, L)` int8."""
    mean: np.ndarray = field(init=False)
    """`(n,)` in units of the measurement."""
    spread: np.ndarray = field(init=False)
    """`(n,)` of the model's members; NaN with one member."""
    violations: np.ndarray = field(init=False)
    """`(n,)` 0 where the constraints are met."""

    def __post_init__(self) -> None:
        self.codes = np.empty((0, len(self.rules.start)), dtype=np.int8)
        self.mean = self.spread = self.violations = np.empty(0)
        # the start is no variant of itself
        self._known = {self.rules.start.tobytes()}

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def value(self) -> np.ndarray:
        """What is maximised."""
        return self.merit(self.mean, self.spread)

    def merit(self, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Return mean and spread as one number that is to be high."""
        return self.sign * mean + self.beta * np.nan_to_num(spread)

    def add(self, codes: np.ndarray) -> int:
        """Predict those that are new, and return how many."""
        fresh = []
        for row in codes:
            key = row.tobytes()
            if key not in self._known:
                self._known.add(key)
                fresh.append(row)
        if fresh:
            new = np.stack(fresh)
            mean, spread = self.judge.scores(self.rules.texts(new))
            self.codes = np.concatenate([self.codes, new])
            self.mean, self.spread = np.append(self.mean, mean), np.append(self.spread, spread)
            self.violations = np.append(self.violations, self.rules.violations(new))
        return len(fresh)

    def best(self, most: int) -> np.ndarray:
        """Return the rows of the best: those that meet the constraints, then those that nearly do."""
        return np.lexsort((-self.value, self.violations))[:most]


def search(rules: Rules, judge: Judge, settings: DesignSettings, *, seed: int, quiet: bool = True) -> Tried:
    """Return the variants that were tried on the way to the best ones; the same for the same seed."""
    tried = Tried(rules, judge, 1 if settings.goal == "max" else -1, settings.beta)
    total = rules.variants(ALL + 1)
    if total <= ALL:
        with track("all variants", total, quiet=quiet) as advance:
            for batch in _batches(_every(rules)):
                tried.add(batch)
                advance(len(batch))
        return tried
    random = np.random.default_rng(seed)
    singles = _singles(rules)
    if len(singles) > 5 * ALL:
        singles = singles[np.sort(random.choice(len(singles), 5 * ALL, replace=False))]
    tried.add(singles)
    weight = _weights(tried)
    if rules.max_mutations > 1:
        _evolve(tried, weight, settings, random, quiet=quiet)
    return tried


def _every(rules: Rules) -> Iterator[np.ndarray]:
    choices = {place: np.flatnonzero(rules.options[place]) for place in rules.places}
    for count in range(1, rules.max_mutations + 1):
        for places in combinations(choices, count):
            for letters in product(*(choices[place] for place in places)):
                row = rules.start.copy()
                row[list(places)] = letters
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


def _singles(rules: Rules) -> np.ndarray:
    places, letters = np.nonzero(rules.options)
    rows = np.repeat(rules.start[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = letters
    return rows


def _weights(tried: Tried) -> np.ndarray:
    """Return how often each change `(L, A)` is proposed: the better alone, the oftener, and each now and then."""
    rules = tried.rules
    weight = np.zeros(rules.options.shape)
    order = np.argsort(-tried.value, kind="stable")
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    place = (tried.codes != rules.start).argmax(1)
    weight[place, tried.codes[np.arange(len(place)), place]] = 1 / (10 + rank) + 1 / (10 * len(rank))
    return weight / weight.sum()


def _evolve(
    tried: Tried, weight: np.ndarray, settings: DesignSettings, random: np.random.Generator, *, quiet: bool
) -> None:
    rules = tried.rules
    expanded: set[bytes] = set()
    last, still = b"", 0
    with track("search", settings.rounds, quiet=quiet) as advance:
        for done in range(settings.rounds):
            parents = tried.codes[tried.best(settings.population)]
            children = _children(parents, rules, weight, 3 * settings.population, random)
            centre = next((row for row in parents if row.tobytes() not in expanded), parents[0])
            expanded.add(centre.tobytes())
            tried.add(np.concatenate([children, _neighbours(centre, rules, random)]))
            top = tried.best(settings.number)
            now = np.sort(top).tobytes()
            still = still + 1 if now == last else 0
            last = now
            if still >= PATIENCE:
                advance(settings.rounds - done)
                return
            advance(1, best=float(tried.mean[top[0]]))


def _children(
    parents: np.ndarray, rules: Rules, weight: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Return children: letters of two parents, most of them with one change more, cut to the most changes allowed."""
    # the better half of the parents, twice as often
    draws = np.minimum(random.integers(0, len(parents), (2, count)), random.integers(0, len(parents), (2, count)))
    first, second = parents[draws[0]], parents[draws[1]]
    takes_second = (random.random(first.shape) < 0.5) & (random.random((count, 1)) < 0.6)
    children = np.where(takes_second, second, first)
    changed = np.flatnonzero(random.random(count) < 0.8)
    picks = random.choice(weight.size, len(changed), p=weight.ravel())
    place, letter = np.divmod(picks, weight.shape[1])
    children[changed, place] = letter
    return _cut(children, rules, random, keep=(changed, place))


def _cut(
    rows: np.ndarray, rules: Rules, random: np.random.Generator, *, keep: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the rows with no more changes than allowed: the last to go are those to keep."""
    order = np.where(rows != rules.start, random.random(rows.shape), 2.0)
    order[keep] = np.where(order[keep] < 2, -1.0, 2.0)
    rank = order.argsort(1, kind="stable").argsort(1, kind="stable")
    return np.where((rank < rules.max_mutations) & (order < 2), rows, rules.start).astype(np.int8)


def _neighbours(centre: np.ndarray, rules: Rules, random: np.random.Generator) -> np.ndarray:
    """Return variants one step away: a change more, another or less, and where it is full one change for another."""
    options = rules.options.copy()
    options[np.arange(len(centre)), rules.start] = centre != rules.start
    options[np.arange(len(centre)), centre] = False
    places, letters = np.nonzero(options)
    if len(places) > NEIGHBOURS:
        some = np.sort(random.choice(len(places), NEIGHBOURS, replace=False))
        places, letters = places[some], letters[some]
    rows = np.repeat(centre[None], len(places), axis=0)
    each = np.arange(len(places))
    rows[each, places] = letters
    return _cut(rows, rules, random, keep=(each, places))


def choose(tried: Tried, rows: np.ndarray, settings: DesignSettings, *, start: float) -> np.ndarray:
    """Return the rows of the batch, best first: greedily, each one less good for its likeness to those taken before.

    The likeness of two variants is the part of their changes that they share (Jaccard). A candidate loses the sum of
    its greatest and its mean likeness to those taken, times `diversity`, times what the best one gains over the start.

    Args:
        tried: with values.
        rows: candidates.
        settings: number and diversity.
        start: the start's value.
    """
    most = max(5000, 50 * settings.number)
    rows = rows[np.argsort(-tried.value[rows], kind="stable")][:most]
    value, codes = tried.value[rows], tried.codes[rows]
    is_changed = codes != tried.rules.start
    count = is_changed.sum(1)
    # where nothing beats the start, the candidates' own range is the measure
    gain = value[0] - start if value[0] > start else np.ptp(value)
    greatest, total, taken = np.zeros(len(rows)), np.zeros(len(rows)), []
    is_left = np.ones(len(rows), dtype=bool)
    for _ in range(min(settings.number, len(rows))):
        loss = settings.diversity * gain * (greatest + total / max(len(taken), 1))
        pick = int(np.where(is_left, value - loss, -np.inf).argmax())
        taken.append(pick)
        is_left[pick] = False
        same = ((codes == codes[pick]) & is_changed & is_changed[pick]).sum(1)
        likeness = same / np.maximum(count + count[pick] - same, 1)
        greatest, total = np.maximum(greatest, likeness), total + likeness
    picked = rows[taken]
    return picked[np.argsort(-tried.value[picked], kind="stable")]
