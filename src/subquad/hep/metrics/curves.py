"""What the pictures of a tagger show, as arrays: nothing in them is nan, and what has no jets is left out.

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subquad.hep.metrics.predictions import Predictions
from subquad.hep.metrics.scores import calibration_error, clopper_pearson, discriminant, threshold_at, wilson

__all__ = ["GRID", "Curve", "Sculpted", "against_pt", "mass_edges", "pt_edges", "reliability", "roc", "sculpting"]

GRID = np.arange(1, 201) / 200
"""Signal efficiencies at which a ROC curve is taken; 0.5, 0.99 and 0.995 are among them."""

CUTS = (0.5, 0.1, 0.01)
"""Parts of the background that pass, at which its mass is looked at."""

LEAST_JETS = 10
"""Fewer are not drawn."""


@dataclass(frozen=True)
class Curve:
    """Values with their intervals; infinite where a rejection has no upper limit."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Sculpted:
    """The background's mass after a cut."""

    part: float
    """Of the background that passes."""
    jets: int
    """How many that are."""
    density: np.ndarray
    """[bins], adding up to 1."""
    distance: float
    """Jensen-Shannon distance from the mass before the cut."""
    by_chance: float
    """The distance that as many jets have that are drawn without looking at the score."""


def _inverse(part: np.ndarray) -> np.ndarray:
    return np.divide(1.0, part, out=np.full(np.shape(part), np.inf), where=np.asarray(part) > 0)


def roc(trainings: Sequence[Predictions], signal: int, background: int) -> Curve | None:
    r"""Return $1/\varepsilon_B$ at the efficiencies of `GRID`; None where a class has no jets.

    Of one training with the Clopper-Pearson interval; of several the median, from the least to the most.
    """
    found = []
    for one in trainings:
        score = discriminant(one.probabilities, signal, background)
        of_signal, of_background = score[one.labels == signal], np.sort(score[one.labels == background])
        if not len(of_signal) or not len(of_background):
            return None
        passed = len(of_background) - np.searchsorted(of_background, threshold_at(of_signal, GRID), side="left")
        found.append((passed, len(of_background)))
    values = np.stack([_inverse(passed / total) for passed, total in found])
    if len(found) == 1:
        low, high = clopper_pearson(*found[0])
        return Curve(GRID, values[0], _inverse(high), _inverse(low))
    return Curve(GRID, np.median(values, axis=0), values.min(0), values.max(0))


def pt_edges(scored: Sequence[Predictions], *, most: int = 8, jets_per_bin: int = 50) -> np.ndarray:
    """Return edges of bins of pT [GeV] with about as many jets each; all jets of all the trainings lie inside."""
    pts = [one.pt for one in scored if one.pt is not None]
    pt = np.concatenate(pts)
    fewest = min(np.bincount(one.labels)[np.unique(one.labels)].min() for one in scored if one.pt is not None)
    bins = int(np.clip(fewest // jets_per_bin, 1, most))
    edges = np.unique(np.quantile(pt.astype(np.float64), np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return np.array([edges[0] - 0.5, edges[0] + 0.5])
    return edges


def against_pt(
    scored: Predictions, signal: int, background: int, *, efficiency: float, edges: np.ndarray
) -> tuple[Curve, Curve] | None:
    """Return signal efficiency and background rejection in bins of pT at one threshold, with their intervals.

    The threshold is that of `efficiency` over all jets. Bins without jets are left out; None where a class has none.
    """
    score = discriminant(scored.probabilities, signal, background)
    is_signal, is_background = scored.labels == signal, scored.labels == background
    if scored.pt is None or not is_signal.any() or not is_background.any():
        return None
    passes = score >= threshold_at(score[is_signal], efficiency)
    bins, place = len(edges) - 1, np.searchsorted(edges[1:-1], scored.pt, side="right")
    curves = []
    for of in (is_signal, is_background):
        total = np.bincount(place[of], minlength=bins)
        passed = np.bincount(place[of & passes], minlength=bins)
        has_jets = total > 0
        low, high = clopper_pearson(passed[has_jets], total[has_jets])
        middle = ((edges[1:] + edges[:-1]) / 2)[has_jets]
        curves.append(Curve(middle, passed[has_jets] / total[has_jets], low, high))
    of_signal, of_background = curves
    return of_signal, Curve(
        of_background.x,
        *(_inverse(part) for part in (of_background.value, of_background.high, of_background.low)),
    )


def mass_edges(scored: Predictions, background: int) -> np.ndarray | None:
    """Return edges from 0 to the mass [GeV] that 1 in 200 background jets exceeds; None where there are too few."""
    count = int((scored.labels == background).sum())
    if scored.sdmass is None or count < LEAST_JETS:
        return None
    # fewer jets, wider bins: one part in a hundred of them is to fill some still
    bins = int(np.clip(count**0.4, 8, 30))
    high = float(np.quantile(scored.sdmass[scored.labels == background].astype(np.float64), 0.995))
    return np.linspace(0, high if high > 0 else 1.0, bins + 1)


def sculpting(
    scored: Predictions, signal: int, background: int, *, edges: np.ndarray
) -> tuple[np.ndarray, list[Sculpted]]:
    """Return the background's mass before any cut, and after cuts that leave the parts `CUTS` of it.

    Jets beyond the last edge are counted in the last bin. Cuts that leave fewer than `LEAST_JETS` are left out.
    """
    of = scored.labels == background
    score, mass = discriminant(scored.probabilities, signal, background)[of], scored.sdmass[of].clip(0, edges[-1])
    before = _density(mass, edges)
    generator = np.random.default_rng(0)
    after = []
    for part in CUTS:
        is_left = score >= threshold_at(score, part)
        count = int(is_left.sum())
        if count < LEAST_JETS:
            continue
        density = _density(mass[is_left], edges)
        drawn = [_density(generator.choice(mass, count, replace=False), edges) for _ in range(20)]
        by_chance = float(np.mean([distance(before, one) for one in drawn]))
        after.append(Sculpted(part, count, density, distance(before, density), by_chance))
    return before, after


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.histogram(values, edges)[0]
    return counts / max(1, counts.sum())


def distance(p: np.ndarray, q: np.ndarray) -> float:
    r"""Return the Jensen-Shannon distance, $\sqrt{(KL(p|m) + KL(q|m))/2}$ in bits with $m = (p + q)/2$: from 0 to 1."""
    middle = (p + q) / 2
    bits = [part[part > 0] @ np.log2(part[part > 0] / middle[part > 0]) for part in (p, q)]
    return float(np.sqrt(max(0.0, sum(bits) / 2)))


def reliability(scored: Predictions, label: int, *, bins: int = 10) -> tuple[Curve, float]:
    """Return the part of the jets that are of a class against the probability that was given, and the error.

    Bins have equal width; `x` is the mean probability of a bin's jets, the interval Wilson's. Bins with fewer than
    `LEAST_JETS` are left out of the curve, not of the error.
    """
    given, is_so = scored.probabilities[:, label].astype(np.float64), scored.labels == label
    place = (given * bins).astype(np.int64).clip(0, bins - 1)
    total = np.bincount(place, minlength=bins)
    kept = total >= LEAST_JETS
    right, total_given = (np.bincount(place, weights=values, minlength=bins) for values in (is_so, given))
    low, high = wilson(right[kept], total[kept])
    curve = Curve(total_given[kept] / total[kept], right[kept] / total[kept], low, high)
    return curve, calibration_error(given, is_so, bins)
