"""What the pages that compare runs have in common."""

import pytest

from subquad.reporting.run_comparison import seeds_text


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ((0, 0), "Training seeds were not varied."),
        ((0, 1), "The runs differ in their seed, with one training each."),
        ((3, 3, 4), "The runs differ in their seed, with one training each."),
    ],
)
def test_a_comparison_says_whether_runs_differ_in_their_seed(seeds, sentence):
    assert seeds_text([{"seed": seed, "epochs": place} for place, seed in enumerate(seeds)]) == sentence


def test_runs_that_do_not_record_a_seed_do_not_differ_in_it():
    assert seeds_text([{}, {}]) == "Training seeds were not varied."
