"""Cards and patterns of extreme shapes, and paths of files that have no end: they are refused at once."""

import os

import pytest
from subquad.hep.data.path_patterns import check_path_pattern

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of, read_card

pytestmark = pytest.mark.timeout(30)


def options(count, *, is_reversed):
    chain = [(f"x{k + 1}", f"x{k} + 1") for k in range(count)]
    return {
        "new_variables": dict(reversed(chain) if is_reversed else chain),
        "inputs": {
            "pf_features": {"length": 7, "vars": [f"x{count}"]},
            "pf_vectors": {"length": 7, "vars": ["part_px", "part_py", "part_pz", "part_energy"]},
        },
        "labels": {"type": "simple", "value": ["label_a", "label_b"]},
    }


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("count", [101, 2000])
def test_variables_of_which_each_needs_the_next_are_limited(count, is_reversed):
    assert card_of(options(100, is_reversed=is_reversed), "card.yaml")
    with pytest.raises(SubquadError, match=r"new_variables: x\d+ depends on more than 100 variables, one on the other"):
        card_of(options(count, is_reversed=is_reversed), "card.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "device"])
def test_a_card_that_is_no_file_is_refused(tmp_path, make):
    path = tmp_path / "card.yaml"
    make(path)
    with pytest.raises(SubquadError, match=r"card.yaml: is a pipe or a device; --card must be a regular file"):
        read_card(path)


def test_a_long_pattern_of_paths_is_refused_at_once():
    check_path_pattern("a" * 10_000)
    with pytest.raises(SubquadError, match=r"a…' has 1,000,000 characters; at most 20,000 are allowed"):
        check_path_pattern("a" * 10**6)
