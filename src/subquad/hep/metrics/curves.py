"""Curves of taggers as arrays: ROC, dependence on pT, mass sculpting, reliability. They are free of NaN.

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr

from subquad.hep.metrics.predictions import Predictions
from subquad.hep.metrics.rejection import CONFIDENCE, discriminant, inverse, rejection_at, threshold_at
from subquad.hep.metrics.weighting import passed_and_total
from subquad.reporting.statistics import calibration_bins, clopper_pearson, wilson

GRID = np.arange(1, 201) / 200
"""Signal efficiencies of a ROC curve; 0.5, 0.99 and 0.995 are among them."""

CUTS = (0.5, 0.1, 0.01)
"""Background efficiencies at which the mass is compared."""

MIN_JETS = 10
"""Smallest number of jets in a bin or sample that is drawn."""

MAX_BINS, JETS_PER_BIN = 8, 50
"""Largest number of bins of pT, and the jets of the smallest class per bin."""


@dataclass(frozen=True)
class Curve:
    """Values with intervals; infinite where a rejection has no upper limit."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Sculpted:
    """Mass of the background after a cut on the score."""

    efficiency: float
    """Fraction of the background that passes."""
    jets: int
    """Number of jets that pass."""
    density: np.ndarray
    """[bins], sums to 1."""
    distance: float
    """Jensen–Shannon distance to the mass before the cut."""
    by_chance: float
    """Mean distance for as many jets drawn at random."""


def roc(trainings: Sequence[Predictions], signal: int, background: int) -> Curve | None:
    r"""Return the rejection $1/\varepsilon_B$ at the signal efficiencies of `GRID`; None if a class has no jets.

    Of one training with its interval by `rejection_at`; of several the median with the range.
    """
    found = []
    for one in trainings:
        score = discriminant(one.probabilities, signal, background)
        is_signal, is_background = one.labels == signal, one.labels == background
        (signals, of_signal), (backgrounds, of_background) = (one.weights_of(of) for of in (is_signal, is_background))
        if not signals > 0 or not backgrounds > 0:
            return None
        found.append(rejection_at(score[is_signal], score[is_background], GRID, of_signal, of_background))
    if len(found) == 1:
        return Curve(GRID, *found[0])
    values = np.stack([value for value, _, _ in found])
    return Curve(GRID, np.median(values, axis=0), values.min(0), values.max(0))


def pt_edges(scored: Sequence[Predictions]) -> np.ndarray:
    """Return bin edges of pT in GeV with about equally many jets per bin, which contain all jets."""
    pts = [one.pt for one in scored if one.pt is not None]
    pt = np.concatenate(pts)
    fewest = min(np.bincount(one.labels)[np.unique(one.labels)].min() for one in scored if one.pt is not None)
    bins = int(np.clip(fewest // JETS_PER_BIN, 1, MAX_BINS))
    edges = np.unique(np.quantile(pt.astype(np.float64), np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return np.array([edges[0] - 0.5, edges[0] + 0.5])
    return edges


def against_pt(
    scored: Predictions, signal: int, background: int, *, efficiency: float, edges: np.ndarray
) -> tuple[Curve, Curve] | None:
    """Return signal efficiency and background rejection in bins of pT at one threshold, with their intervals.

    Args:
        scored: Predictions with pT.
        signal: Index of the signal class.
        background: Index of the background class.
        efficiency: Signal efficiency of the threshold over all jets.
        edges: Bin edges of pT in GeV; bins without jets are omitted.

    Returns:
        None if a class has no jets.
    """
    score = discriminant(scored.probabilities, signal, background)
    is_signal, is_background = scored.labels == signal, scored.labels == background
    (signals, of_signal), (backgrounds, _) = (scored.weights_of(of) for of in (is_signal, is_background))
    if scored.pt is None or not signals > 0 or not backgrounds > 0:
        return None
    passes = score >= threshold_at(score[is_signal], efficiency, of_signal)
    bins, place = len(edges) - 1, np.searchsorted(edges[1:-1], scored.pt, side="right")
    curves = []
    for of in (is_signal, is_background):
        in_bins = [of & (place == i) for i in range(bins)]
        counts = [passed_and_total(passes[rows], scored.weights_of(rows)[1]) for rows in in_bins]
        passed, total = np.array(counts).T
        has_jets = total > 0
        low, high = clopper_pearson(passed[has_jets], total[has_jets], CONFIDENCE)
        middle = ((edges[1:] + edges[:-1]) / 2)[has_jets]
        curves.append(Curve(middle, passed[has_jets] / total[has_jets], low, high))
    of_signal, of_background = curves
    return of_signal, Curve(
        of_background.x,
        *(inverse(rate) for rate in (of_background.value, of_background.high, of_background.low)),
    )


def mass_edges(scored: Predictions, background: int) -> np.ndarray | None:
    """Return bin edges from 0 to the mass in GeV that 1 in 200 background jets exceeds; None if there are too few.

    They are too few as well if their weights do not add up to more than 0.
    """
    of = scored.labels == background
    count = int(of.sum())
    if scored.sdmass is None or count < MIN_JETS or not scored.weights_of(of)[0] > 0:
        return None
    # wider bins for fewer jets, so that 1 % of them still fill some bins
    bins = int(np.clip(count**0.4, 8, 30))
    high = float(np.quantile(scored.sdmass[of].astype(np.float64), 0.995))
    return np.linspace(0, high if high > 0 else 1.0, bins + 1)


def sculpting(
    scored: Predictions, signal: int, background: int, *, edges: np.ndarray
) -> tuple[np.ndarray, list[Sculpted]]:
    """Return the mass of the background before any cut, and after cuts with the background efficiencies `CUTS`.

    Jets beyond the last edge are counted in the last bin. Cuts that leave fewer than `MIN_JETS` are omitted.
    """
    of = scored.labels == background
    assert scored.sdmass is not None
    score, mass = discriminant(scored.probabilities, signal, background)[of], scored.sdmass[of].clip(0, edges[-1])
    weights = scored.weights_of(of)[1]
    before = density(mass, edges, weights)
    generator = np.random.default_rng(0)
    after = []
    for efficiency in CUTS:
        passes = score >= threshold_at(score, efficiency, weights)
        count = int(passes.sum())
        if count < MIN_JETS:
            continue
        passed = density(mass[passes], edges, None if weights is None else weights[passes])
        rows = [generator.choice(len(mass), count, replace=False) for _ in range(20)]
        drawn = [density(mass[own], edges, None if weights is None else weights[own]) for own in rows]
        by_chance = float(np.mean([distance(before, one) for one in drawn]))
        after.append(Sculpted(efficiency, count, passed, distance(before, passed), by_chance))
    return before, after


def density(values: np.ndarray, edges: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the histogram of values [J] with weights [J], scaled to a sum of 1."""
    # a density has no negative bins
    counts = np.histogram(values, edges, weights=weights)[0].clip(0)
    return counts / (counts.sum() or 1)


def distance(p: np.ndarray, q: np.ndarray) -> float:
    r"""Return the Jensen–Shannon distance, $\sqrt{(KL(p|m) + KL(q|m))/2}$ in bits with $m = (p + q)/2$: from 0 to 1.

    An empty histogram, as of jets whose weights cancel, is as far from any other as a disjoint one.
    """
    if not p.any() or not q.any():
        return 1.0
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum() / 2 / np.log(2)
    # of equal histograms, rounding can make it negative
    return float(np.sqrt(max(divergence, 0.0)))


def reliability(scored: Predictions, label: int, *, bins: int = 10) -> tuple[Curve, float]:
    """Return the reliability curve of a class and its calibration error.

    Bins have equal width; `x` is the mean predicted probability of a bin, `value` the observed fraction with Wilson's
    interval. Bins with fewer than `MIN_JETS` are omitted from the curve, but count in the error.
    """
    found = calibration_bins(
        scored.probabilities[:, label].astype(np.float64), scored.labels == label, bins, weights=scored.weights
    )
    kept = found.effective >= MIN_JETS
    predicted, observed, total = found.predicted[kept], found.observed[kept].clip(0, 1), found.effective[kept]
    return Curve(predicted, observed, *wilson(observed * total, total, CONFIDENCE)), found.error
