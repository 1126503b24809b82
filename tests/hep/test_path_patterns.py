r"""Patterns of `file_magic`: ordinary ones are accepted, and those whose search could take very long are refused."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from subquad.hep.data.path_patterns import check_path_pattern

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of

CARD = Path(__file__).parent / "cards" / "JetClass_kin.yaml"


def card_with(patterns):
    options = yaml.safe_load(CARD.read_text())
    return card_of({**options, "file_magic": {"process": patterns}}, "card.yaml")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("HToBB", "/data/HToBB_120.root"),
        (r"(HToBB|HToCC)_\d+", "/data/HToCC_120.root"),
        (".*/train_.*", "/data/train_100M/HToBB.root"),
        (r".*/(ZJets|QCD)_\d+/.*\.root", "/data/QCD_500/a.root"),
        ("(?i)qcd(_ext|_v[0-9]{1,2})?", "/data/QCD_v2.root"),
        (r"(\d+_){2}\d", "/data/Run_3_2_1.root"),
        ("[*+|(]{2,}", "/data/a*+.root"),
        (r"\(a\|b\)\*", "/data/(a|b)*"),
        ("(?P<year>201[678])/(?P=year)", "/data/2016/2016.root"),
        ("(?#(a|b)x{}", "/data/x{}"),
        ("|".join(f"sample{k}" for k in range(500)), "/data/sample499.root"),
    ],
)
def test_an_ordinary_pattern_is_kept_as_it_is(pattern, path):
    assert card_with({pattern: 1}).file_magic == {"process": {pattern: 1}}
    assert re.search(pattern, path)


@pytest.mark.parametrize(
    "pattern",
    [
        "(.|.)*!", "(.*)*!", "(a+)+$", "(a|aa)+?$", "(?:x*)++!", "(a?){99}!", "(.|.)*", "(?i:(?:a|b|ab)*)c",
        "[](](.|.)*!", r"\((.|.)*\)", "(?#()(.|.)*!", "(.|.)(?#c)*!", "(?P<a>.|x)*(?P=a)", "(?=(.|.)*!)",
        "(.|.)" * 30 + "!", ".*.*.*.*!", "[^!]*" * 5, r"\S{1,}\S{1,}\S{1,}\S{1,}!", ".?" * 40 + "!",
        "(((.{0,99}){0,99}){0,99}){0,99}!",
    ],
)  # fmt: skip
def test_a_pattern_that_could_take_very_long_is_refused_with_the_card_the_key_and_the_remedy(pattern):
    with pytest.raises(SubquadError) as caught:
        card_with({pattern: 1})
    assert f"card.yaml: file_magic: process: {pattern!r} could take very long to search for" in str(caught.value)
    assert "repeat single characters only, such as [a-z]* instead of ([a-z]|_)*" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*QCD*", "is not a regular expression (nothing to repeat at position 0); write a part of the file name"),
        ("a{99999999999999999999}", "is not a regular expression (the repetition number is too large)"),
        ("(" * 5000 + ")" * 5000, "is not a regular expression (maximum recursion depth exceeded"),
        ("(?x)(.|.) *", "has the flag x, which is not supported; write it without spaces and comments"),
        ("(?ix:(.|.) *)", "has the flag x, which is not supported; write it without spaces and comments"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(pattern, message):
    with pytest.raises(SubquadError) as caught:
        card_with({pattern: 1})
    assert f"card.yaml: file_magic: process: {pattern!r} {message}" in str(caught.value)


@given(st.text(max_size=60))
def test_a_path_is_a_pattern_after_it_is_escaped(path):
    check_path_pattern(re.escape(path))
