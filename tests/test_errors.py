"""Messages for users."""

import pytest

from subquad.errors import MissingExtra, SubquadError, collect_errors, raise_errors, require, unknown


def test_an_unknown_name_is_answered_with_the_nearest():
    error = unknown("column", "sequnce", ["target", "sequence", "split"])
    assert str(error) == "no column 'sequnce'; did you mean 'sequence'? There are: sequence, target, split"


def test_a_name_near_to_none_lists_all():
    assert str(unknown("preset", "zzz", ["auto", "paper"])) == "no preset 'zzz' (there are: auto, paper)"


def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingExtra, match=r"no_such_package is not installed; .*pip install 'subquad\[hep\]'"):
        require("no_such_package", extra="hep")


def test_long_names_are_cut_and_found_all_the_same():
    error = str(unknown("column", "x" * 130_000, ["y", "x" * 120_000]))
    cut = f"{'x' * 99}…"
    assert error == f"no column '{cut}'; did you mean '{cut}'? There are: {cut}, y"


def test_all_mistakes_are_raised_at_once():
    with pytest.raises(SubquadError) as caught:
        raise_errors("a.csv:", [f"row {row}" for row in range(23)], most=3)
    assert str(caught.value) == "a.csv:\n  row 0\n  row 1\n  row 2\n  … and 20 more"
    raise_errors("a.csv:", [])


def test_what_several_checks_say_is_raised_together():
    def wrong(text):
        raise SubquadError(text)

    assert collect_errors(lambda: 3, lambda: 5) == [3, 5]
    with pytest.raises(SubquadError, match=r"^first\nthird$"):
        collect_errors(lambda: wrong("first"), lambda: 5, lambda: wrong("third"))
    with pytest.raises(SubquadError, match=r"^first\nrows are counted from 1$"):
        collect_errors(lambda: wrong("first"), note="rows are counted from 1")
