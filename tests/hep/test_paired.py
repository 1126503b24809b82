"""Paired differences of taggers: between equals they are clear in 5 % of the cases, by simulation."""

import numpy as np
import pytest

from subquad.hep.metrics.paired import accuracy_difference, auc_difference
from subquad.hep.metrics.predictions import Predictions


@pytest.mark.long
@pytest.mark.parametrize(("difference", "accepted"), [(accuracy_difference, (5, 32)), (auc_difference, (8, 34))])
def test_differences_of_equal_taggers_are_clear_in_5_percent(difference, accepted):
    # of 400, 20 with a standard deviation of 4.4; intervals of accuracies are not narrower than the exact ones
    random, found = np.random.default_rng(4), 0
    labels = np.arange(300) % 2
    for _ in range(400):
        truth = 1.5 * labels + random.normal(size=300)
        pair = []
        for name in ("one", "other"):
            score = 1 / (1 + np.exp(0.75 - truth - 0.7 * random.normal(size=300)))
            pair.append(
                Predictions(model=name, source=name, probabilities=np.stack([1 - score, score], 1), labels=labels)
            )
        between = difference(*pair)
        found += between.low > 0 or between.high < 0
    assert accepted[0] <= found <= accepted[1]
