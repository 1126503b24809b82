"""The shape of the background's mass before and after cuts at fixed signal efficiency. Some ms per signal.

Axes: J jets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.hep.metrics.curves import MIN_JETS, density, distance, mass_edges
from subquad.hep.metrics.predictions import Predictions
from subquad.hep.metrics.rejection import discriminant, rejection, threshold_at

EFFICIENCIES = (0.5, 0.3)
"""Signal efficiencies of the cuts."""


def mass_shapes(one: Predictions, classes: Sequence[str], background: str) -> dict[str, list[dict[str, Any]]]:
    r"""Return, for each signal and each of `EFFICIENCIES`, how much a cut on its score changes the background's mass.

    The measure is the Jensen–Shannon divergence in bits of the histograms of all background jets and of those that
    pass, $(KL(p|m) + KL(q|m))/2$ with $m = (p+q)/2$, customarily given as its inverse.

    Args:
        one: Predictions of a training.
        classes: Names of the classes.
        background: Name of the background class.

    Returns:
        By signal a list of `efficiency`; `jets`, the number of background jets that pass; `jsd` and `inverse_jsd`;
        `by_chance`, the mean inverse of as many jets drawn at random, which no tagger exceeds but by chance; and
        `rejection` at this efficiency. Cuts that fewer than 10 background jets pass are left out, and those after which
        no bin has a sum of weights above 0. Empty without masses.
    """
    b = list(classes).index(background)
    edges = mass_edges(one, b)
    found = {}
    for i, name in enumerate(classes):
        if edges is not None and i != b and one.weights_of(one.labels == i)[0] > 0:
            cuts = (_cut(one, i, b, efficiency=efficiency, edges=edges) for efficiency in EFFICIENCIES)
            found[name] = [cut for cut in cuts if cut is not None]
    return found


def _cut(
    one: Predictions, signal: int, background: int, *, efficiency: float, edges: np.ndarray
) -> dict[str, Any] | None:
    assert one.sdmass is not None
    of, is_signal = one.labels == background, one.labels == signal
    score = discriminant(one.probabilities, signal, background)
    passes = score[of] >= threshold_at(score[is_signal], efficiency, one.weights_of(is_signal)[1])
    count, mass, weights = int(passes.sum()), one.sdmass[of].clip(0, edges[-1]), one.weights_of(of)[1]
    if count < MIN_JETS:
        return None

    def shape(rows: np.ndarray) -> np.ndarray:
        return density(mass[rows], edges, None if weights is None else weights[rows])

    before, after = shape(np.ones(len(mass), bool)), shape(passes)
    if not after.any():
        return None
    jsd, generator = distance(before, after) ** 2, np.random.default_rng(0)
    drawn = [generator.choice(len(mass), count, replace=False) for _ in range(20)]
    by_chance = float(np.mean([distance(before, shape(rows)) ** 2 for rows in drawn]))
    # sums of many single-precision weights would be rounded
    every = None if one.weights is None else one.weights.astype(np.float64)
    measured = rejection(one.probabilities, one.labels, signal, background, efficiency, weights=every)
    return {
        **{"efficiency": efficiency, "jets": count, "jsd": jsd},
        **{"inverse_jsd": _inverse(jsd), "by_chance": _inverse(by_chance)},
        "rejection": {name: measured[name] for name in ("value", "low", "high")},
    }


def _inverse(jsd: float) -> float | None:
    """Return 1/JSD; None for equal shapes, such as those of a cut that all jets pass."""
    return 1 / jsd if jsd > 0 else None


def inverse_jsd(trainings: Sequence[Mapping[str, Any]], signal: str, efficiency: float) -> list[float]:
    """Return 1/JSD of each training that has it."""
    cuts = [cut for one in trainings for cut in one["mass_shapes"].get(signal, ()) if cut["efficiency"] == efficiency]
    return [cut["inverse_jsd"] for cut in cuts if cut["inverse_jsd"] is not None]
