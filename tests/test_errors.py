"""Messages for users."""

import errno
import sys

import pytest

from subquad.errors import MissingExtra, SubquadError, collect_errors, raise_errors, reading, require, unknown


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


def test_the_errors_of_an_input_are_raised_at_once_and_ten_are_listed():
    with pytest.raises(SubquadError) as caught:
        raise_errors("a.csv:", [f"row {row}" for row in range(23)])
    lines = str(caught.value).splitlines()
    assert lines == ["a.csv:", *(f"  row {row}" for row in range(10)), "  … and 13 more"]
    raise_errors("a.csv:", [])


def test_what_several_checks_say_is_raised_together():
    def wrong(text):
        raise SubquadError(text)

    assert collect_errors(lambda: 3, lambda: 5) == [3, 5]
    with pytest.raises(SubquadError, match=r"^first\nthird$"):
        collect_errors(lambda: wrong("first"), lambda: 5, lambda: wrong("third"))


def test_what_is_raised_while_a_file_is_read_is_one_sentence_about_it(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(SubquadError, match=r"a\.csv: cannot be read as a table \(pandas: .*line 3, saw 3\)$"):
        read(tmp_path / "a.csv")
    with pytest.raises(SubquadError, match=r"b\.csv: no such file$"):
        read(tmp_path / "b.csv")
    with pytest.raises(SubquadError, match=r"is a folder; give a file$"):
        read(tmp_path)


def read(path):
    import pandas as pd

    with reading(path, "a table"):
        return pd.read_csv(path)


@pytest.mark.parametrize(
    "error", [SubquadError("own words"), KeyboardInterrupt(), SystemExit(3), OSError(errno.ENOSPC, "full")]
)
def test_errors_that_are_not_about_the_content_of_a_file_pass(error, tmp_path):
    with pytest.raises(type(error)) as caught, reading(tmp_path, "a table"):
        raise error
    assert caught.value is error


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_a_file_takes_no_more_memory_than_is_plausible(tmp_path):
    import numpy as np

    with pytest.raises(SubquadError, match="too much memory"), reading(tmp_path / "a.npy"):
        np.ones(2**40, dtype=np.uint8)
